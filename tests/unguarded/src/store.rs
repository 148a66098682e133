//! Load, refresh if it has expired, save.

use std::fmt;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use google_cloud_auth::credentials::anonymous;
use google_cloud_storage::client::Storage;
use jiff::{SignedDuration, Timestamp};
use oauth2::basic::BasicClient;
use oauth2::{
    AuthType, ClientId, ClientSecret, HttpRequest, HttpResponse, RefreshToken, RequestTokenError,
    TokenResponse as _, TokenUrl,
};

use super::Error;
use super::credential::Credential;
use super::error::innermost;

/// Where a worker gets a user's access token from.
pub trait Tokens: Send + Sync + fmt::Debug + 'static {
    /// An access token of `user` that has not expired.
    ///
    /// # Errors
    /// A text for the log; the job then fails.
    fn token<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<String, String>>;
}

/// Credentials in a bucket, unguarded.
pub struct Store {
    objects: Storage,
    bucket: String,
    http: reqwest::Client,
    early: Duration,
}

impl Store {
    /// The credentials in `bucket`, at the origin of an emulator's JSON API. A token that
    /// has less than `early` left counts as expired.
    ///
    /// # Errors
    /// [`Error::Client`].
    pub async fn connect(
        origin: &str,
        bucket: &str,
        http: reqwest::Client,
        early: Duration,
    ) -> Result<Self, Error> {
        let objects = Storage::builder()
            .with_endpoint(origin)
            .with_credentials(anonymous::Builder::new().build())
            .build()
            .await
            .map_err(|e| Error::Client("Cloud Storage", innermost(&e)))?;
        Ok(Self { objects, bucket: format!("projects/_/buckets/{bucket}"), http, early })
    }

    /// A credential of `user` that has not expired. Dropping the future may lose what the
    /// provider has issued meanwhile.
    ///
    /// # Errors
    /// [`Error::Load`], [`Error::Refresh`], [`Error::Save`].
    pub async fn credential(&self, user: &str) -> Result<Credential, Error> {
        let mut credential = self.load(user).await?;
        if credential.has_expired(now(), self.early) {
            self.refresh(&mut credential).await?;
            self.save(user, &credential).await?;
        }
        Ok(credential)
    }

    async fn load(&self, user: &str) -> Result<Credential, Error> {
        let object = object_of(user);
        let failed = |why| Error::Load { object: object.clone(), why };
        let read = self.objects.read_object(&self.bucket, &object).send();
        let mut answer = Box::pin(read).await.map_err(|e| failed(said(&e)))?;
        let mut content = Vec::new();
        while let Some(chunk) = answer.next().await {
            content.extend_from_slice(&chunk.map_err(|e| failed(said(&e)))?);
        }
        serde_json::from_slice(&content).map_err(|_| failed("not an authorized_user file".into()))
    }

    async fn refresh(&self, credential: &mut Credential) -> Result<(), Error> {
        let token_uri = TokenUrl::new(credential.token_uri.clone())
            .map_err(|_| Error::Refresh("its token_uri is not a URL".to_owned()))?;
        let client = BasicClient::new(ClientId::new(credential.client_id.clone()))
            .set_client_secret(ClientSecret::new(credential.client_secret.clone()))
            .set_auth_type(AuthType::RequestBody)
            .set_token_uri(token_uri);
        let answer = client
            .exchange_refresh_token(&RefreshToken::new(credential.refresh_token.clone()))
            .request_async(&|request| exchange(self.http.clone(), request))
            .await
            .map_err(|error| {
                Error::Refresh(match error {
                    RequestTokenError::ServerResponse(answer) => answer.error().to_string(),
                    RequestTokenError::Request(error) => innermost(&error),
                    _ => "not an answer of a token endpoint".to_owned(),
                })
            })?;
        let life = answer.expires_in().unwrap_or_default();
        credential.token = Some(answer.access_token().secret().clone());
        credential.expiry = SignedDuration::try_from(life).ok().map(|life| now() + life);
        if let Some(successor) = answer.refresh_token() {
            credential.refresh_token.clone_from(successor.secret());
        }
        Ok(())
    }

    /// Overwrites what is stored for `user`, whatever it is. A dropped future may have
    /// done so.
    ///
    /// # Errors
    /// [`Error::Save`].
    pub async fn save(&self, user: &str, credential: &Credential) -> Result<(), Error> {
        let object = object_of(user);
        let failed = |why| Error::Save { object: object.clone(), why };
        let content = serde_json::to_vec(credential).map_err(|e| failed(e.to_string()))?;
        let write = self
            .objects
            .write_object(&self.bucket, &object, bytes::Bytes::from(content))
            .set_content_type("application/json")
            .send_buffered();
        Box::pin(write).await.map_err(|e| failed(said(&e)))?;
        Ok(())
    }
}

impl Tokens for Store {
    fn token<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<String, String>> {
        async move {
            let credential = self.credential(user).await.map_err(|e| e.to_string())?;
            credential.token.ok_or_else(|| "no access token".to_owned())
        }
        .boxed()
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}

/// Where a user's credential is.
pub(crate) fn object_of(user: &str) -> String {
    format!("users/{user}.json")
}

#[expect(clippy::disallowed_methods, reason = "this way of doing it asks the system's clock")]
fn now() -> Timestamp {
    Timestamp::now()
}

async fn exchange(
    http: reqwest::Client,
    request: HttpRequest,
) -> Result<HttpResponse, reqwest::Error> {
    let answer = http.execute(request.try_into()?).await?;
    let (status, headers) = (answer.status(), answer.headers().clone());
    let mut whole = HttpResponse::new(answer.bytes().await?.to_vec());
    *whole.status_mut() = status;
    *whole.headers_mut() = headers;
    Ok(whole)
}

/// The status or the innermost cause; never a body.
fn said(error: &google_cloud_storage::Error) -> String {
    match error.http_status_code() {
        Some(status) => format!("HTTP status {status}"),
        None => innermost(error),
    }
}
