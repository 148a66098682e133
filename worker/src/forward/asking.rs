//! Asking a broker for a token, as `fleet token` does.

use std::time::Duration;

use http::StatusCode;
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use serde::Deserialize;
use shared::{Reason, Secret, UserId};
use url::form_urlencoded;

use super::event::CLIENT_ID;
use super::target::Target;

/// Longer than a broker takes for an answer.
const LIMIT: Duration = Duration::from_secs(60);

/// What a broker gave.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) token: Secret,
    pub(crate) expires_in: Duration,
    pub(crate) scopes: Vec<String>,
}

/// Why it gave nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BrokerError {
    /// Start it, or correct its address.
    #[error("the broker at {0} cannot be reached; start it (`fleet broker`), or name another")]
    Unreachable(Target, #[source] reqwest::Error),
    /// Ask with another.
    #[error("the broker at {0} knows none of the keys in --key")]
    WrongKey(Target),
    /// Only the user can help.
    #[error("the user must consent: {reason}: {}", .reason.for_operator())]
    NeedsConsent {
        /// Why.
        reason: Reason,
    },
    /// Have its operator allow the user.
    #[error("the broker at {0} gives no tokens of this user; its --users says whose it does")]
    NotGiven(Target),
    /// Ask again after so many seconds.
    #[error("no token can be had at the moment; ask again in {0} s")]
    Later(u64),
    /// It is no broker, or of another version.
    #[error("what answers at {0} is no broker: HTTP status {1}")]
    NoBroker(Target, u16),
}

#[derive(Deserialize)]
struct Success {
    access_token: String,
    expires_in: u64,
    #[serde(default)]
    scope: String,
}

#[derive(Deserialize)]
struct Refusal {
    error: String,
    reason: Option<String>,
}

/// Asks the broker at `target` for a token of `user` that is good for `min_ttl` yet, with each
/// of these keys until it knows one: while keys are changed, a file has a newer one that the
/// broker may not have read.
pub(crate) async fn ask(
    target: &Target,
    keys: &[Secret],
    user: &UserId,
    min_ttl: Option<Duration>,
) -> Result<Given, BrokerError> {
    let unreachable = |error| BrokerError::Unreachable(target.clone(), error);
    let client = target.client().map_err(unreachable)?;
    let mut url = target.url();
    url.set_path("/token");
    for key in keys {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "refresh_token")
            .append_pair("client_id", CLIENT_ID)
            .append_pair("client_secret", key.expose())
            .append_pair("refresh_token", user.as_str());
        if let Some(min_ttl) = min_ttl {
            let seconds = min_ttl.as_secs() + u64::from(min_ttl.subsec_nanos() > 0);
            form.append_pair("min_ttl", &seconds.to_string());
        }
        let request = client.post(url.clone()).timeout(LIMIT).body(form.finish());
        let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        let response = request.send().await.map_err(unreachable)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await.map_err(unreachable)?;
        let no_broker = |_| BrokerError::NoBroker(target.clone(), status.as_u16());
        if status == StatusCode::OK {
            let given: Success = serde_json::from_slice(&body).map_err(no_broker)?;
            return Ok(Given {
                token: given.access_token.into(),
                expires_in: Duration::from_secs(given.expires_in),
                scopes: given.scope.split_whitespace().map(str::to_owned).collect(),
            });
        }
        let Refusal { error, reason } = serde_json::from_slice(&body).map_err(no_broker)?;
        let reason = reason.as_deref().and_then(Reason::named);
        let after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        return Err(match (&*error, reason) {
            ("invalid_client", _) => continue,
            ("invalid_grant", Some(reason)) => BrokerError::NeedsConsent { reason },
            ("invalid_grant", None) => BrokerError::NotGiven(target.clone()),
            ("temporarily_unavailable", _) => BrokerError::Later(after.unwrap_or(1)),
            _ => BrokerError::NoBroker(target.clone(), status.as_u16()),
        });
    }
    Err(BrokerError::WrongKey(target.clone()))
}
