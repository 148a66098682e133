//! Who a user is, as the provider says.

use std::time::Duration;

use reqwest::IntoUrl;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::adapters::SystemClock;
use crate::endpoint_answer::{LONGEST_WAIT, retry_after};
use crate::error::Error;
use crate::ports::Clock as _;
use crate::secret::Secret;
use crate::store::TokenStore;
use crate::user_id::UserId;

/// Google's OpenID Connect userinfo endpoint.
pub const GOOGLE_USERINFO_URL: &str = "https://openidconnect.googleapis.com/v1/userinfo";

/// A profile is small; more than this is not one.
const MAX_PROFILE_BYTES: usize = 256 * 1024;
/// How long the endpoint has to answer, in full.
pub const LIMIT: Duration = Duration::from_secs(15);

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// No fresh credential of the user.
    #[error(transparent)]
    Credentials(#[from] Error),
    /// The endpoint answered with a failure; `status` as HTTP names it.
    #[error("the userinfo endpoint answered with HTTP status {status}")]
    Status {
        /// The HTTP status.
        status: u16,
        /// How long it asked to wait (`Retry-After`), if it did.
        retry_after: Option<Duration>,
    },
    /// No answer, or none that is a JSON object.
    #[error("the userinfo endpoint {0}")]
    NoAnswer(String),
}

/// Fetches the profile (OpenID Connect Core 1.0, section 5.3) of `user` from
/// `userinfo_url`, which the operator configured, with a fresh credential. If
/// the endpoint rejects the credential it is renewed once.
///
/// Cancelling it is harmless.
///
/// # Errors
/// [`ProfileError`]. No text holds a part of the answer.
pub async fn get_profile(
    store: &TokenStore,
    http: &reqwest::Client,
    userinfo_url: &str,
    user: &UserId,
) -> Result<Map<String, Value>, ProfileError> {
    let credentials = store.get_credentials(user).await?;
    match fetch_in_time(http, userinfo_url, credentials.access_token()).await {
        Err(ProfileError::Status { status: 401, .. }) => {
            let renewed = store.renew(&credentials).await?;
            fetch_in_time(http, userinfo_url, renewed.access_token()).await
        }
        other => other,
    }
}

/// Fetches the profile with a bare access token, as a login has one before it is stored, and
/// no longer than [`LIMIT`].
pub(crate) async fn fetch_in_time<T: DeserializeOwned>(
    http: &reqwest::Client,
    url: impl IntoUrl,
    access_token: &Secret,
) -> Result<T, ProfileError> {
    let fetching = fetch(http, url, access_token);
    let ended = tokio::time::timeout(LIMIT, fetching).await;
    ended.unwrap_or_else(|_late| {
        Err(ProfileError::NoAnswer(format!("gave no answer within {LIMIT:?}")))
    })
}

async fn fetch<T: DeserializeOwned>(
    http: &reqwest::Client,
    url: impl IntoUrl,
    access_token: &Secret,
) -> Result<T, ProfileError> {
    let no_answer =
        |e: reqwest::Error| ProfileError::NoAnswer(format!("gave no answer: {}", e.without_url()));
    let mut response =
        http.get(url).bearer_auth(access_token.expose()).send().await.map_err(no_answer)?;
    let status = response.status().as_u16();
    if status != 200 {
        let now = SystemClock::default().wall();
        let retry_after = retry_after(response.headers(), LONGEST_WAIT, Some(now));
        return Err(ProfileError::Status { status, retry_after });
    }
    // The announced length is no more than a hint: it only sizes the buffer, up to the limit.
    let announced = response.content_length().and_then(|bytes| usize::try_from(bytes).ok());
    let mut body = Vec::with_capacity(announced.unwrap_or_default().min(MAX_PROFILE_BYTES));
    while let Some(chunk) = response.chunk().await.map_err(no_answer)? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_PROFILE_BYTES {
            return Err(ProfileError::NoAnswer("gave an answer that is too large".into()));
        }
    }
    serde_json::from_slice(&body)
        .map_err(|_| ProfileError::NoAnswer("gave an answer that is no JSON object".into()))
}
