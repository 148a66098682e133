//! The token endpoint port over HTTP: `oauth2` builds the requests, `reqwest` carries
//! them, and what comes back is read by [`crate::endpoint_answer`].

use std::fmt;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use oauth2::basic::BasicClient;
use oauth2::{
    AuthType, ClientId, ClientSecret, EndpointNotSet, EndpointSet, RefreshToken, RequestTokenError,
    TokenUrl,
};
use tracing::warn;

use super::http_exchange::{Ended, exchange_for_oauth2};
use crate::endpoint_answer::{Granted, classify};
use crate::oauth_client::OAuthClient;
use crate::ports::{Answer, EndpointError, Limits, TokenEndpoint};
use crate::secret::Secret;

/// `oauth2`'s client with a token endpoint, as it builds requests.
pub(super) type RequestBuilder =
    BasicClient<EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet>;

/// A token endpoint as the OAuth client's file names it.
pub struct HttpTokenEndpoint {
    requests: RequestBuilder,
    client: OAuthClient,
    http: reqwest::Client,
    long_tokens: bool,
}

/// Builds the requests of `client`.
pub(super) fn request_builder(client: &OAuthClient) -> Result<RequestBuilder, url::ParseError> {
    let mut requests = BasicClient::new(ClientId::new(client.client_id().to_owned()))
        .set_auth_type(AuthType::RequestBody)
        .set_token_uri(TokenUrl::new(client.token_uri().to_owned())?);
    if let Some(secret) = client.client_secret() {
        requests = requests.set_client_secret(ClientSecret::new(secret.expose().to_owned()));
    }
    Ok(requests)
}

/// What came of a request that `oauth2` built. It is always an error to `oauth2`, so that
/// it parses no answer.
pub(super) fn ended<T, R: oauth2::ErrorResponse + 'static>(
    result: Result<T, RequestTokenError<Ended, R>>,
) -> Ended {
    match result {
        Err(RequestTokenError::Request(ended)) => ended,
        Ok(_) | Err(_) => Ended::NotReached("the request cannot be built".to_owned()),
    }
}

/// Says that an access token was left out of a grant that is kept otherwise.
pub(super) fn note_left_out(granted: &Granted, token_uri: &str) {
    if let Some(why) = granted.left_out {
        warn!(%token_uri, "an access token was granted that cannot be used: {why}");
    }
}

impl HttpTokenEndpoint {
    /// The endpoint of `client`, over `http` (see [`http_client`](super::http_client)).
    ///
    /// # Errors
    /// When the client's `token_uri` is not a URL.
    pub fn new(client: &OAuthClient, http: reqwest::Client) -> Result<Self, url::ParseError> {
        let requests = request_builder(client)?;
        Ok(Self { requests, client: client.clone(), http, long_tokens: false })
    }

    /// Believes a lifetime above 24 h, for a provider whose access tokens live that long.
    #[must_use]
    pub fn long_tokens(mut self, long_tokens: bool) -> Self {
        self.long_tokens = long_tokens;
        self
    }

    async fn send(&self, token: &Secret, limits: Limits) -> Result<Answer, EndpointError> {
        let refresh_token = RefreshToken::new(token.expose().to_owned());
        let http = |request| exchange_for_oauth2(self.http.clone(), request, limits);
        let ended =
            ended(self.requests.exchange_refresh_token(&refresh_token).request_async(&http).await);
        let reply = ended.reply(self.client.token_uri())?;
        let secrets: Vec<&Secret> =
            [token].into_iter().chain(self.client.client_secret()).collect();
        let granted = classify(&reply, &secrets, self.long_tokens)?;
        note_left_out(&granted, self.client.token_uri());
        Ok(granted.answer)
    }
}

impl TokenEndpoint for HttpTokenEndpoint {
    fn refresh<'a>(
        &'a self,
        refresh_token: &'a Secret,
        limits: Limits,
    ) -> BoxFuture<'a, Result<Answer, EndpointError>> {
        self.send(refresh_token, limits).boxed()
    }

    fn client_id(&self) -> &str {
        self.client.client_id()
    }

    fn token_uri(&self) -> &str {
        self.client.token_uri()
    }
}

impl fmt::Debug for HttpTokenEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTokenEndpoint")
            .field("token_uri", &self.client.token_uri())
            .finish_non_exhaustive()
    }
}
