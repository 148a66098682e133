//! The token endpoint port over HTTP: `oauth2` speaks the protocol, `reqwest`
//! carries it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use oauth2::basic::{BasicClient, BasicErrorResponse, BasicErrorResponseType, BasicTokenResponse};
use oauth2::{
    AuthType, ClientId, ClientSecret, EndpointNotSet, EndpointSet, HttpRequest, HttpResponse,
    RefreshToken, RequestTokenError, TokenResponse as _, TokenUrl,
};

use crate::oauth_client::OAuthClient;
use crate::ports::{Answer, EndpointError, Limits, Resend, TokenEndpoint};
use crate::secret::Secret;

/// An answer of a token endpoint is small; more than this is not one.
const MAX_ANSWER_BYTES: usize = 256 * 1024;

type Client =
    BasicClient<EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet>;

/// A token endpoint as the OAuth client's file names it.
pub struct HttpTokenEndpoint {
    client: Client,
    http: reqwest::Client,
    client_id: String,
    token_uri: String,
}

/// The HTTP client for token endpoints and APIs: follows no redirect (a redirect
/// must not carry a secret elsewhere) and identifies itself as `user_agent`.
///
/// # Errors
/// When the TLS configuration of the system cannot be loaded.
pub fn http_client(user_agent: &str) -> Result<reqwest::Client, reqwest::Error> {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(5))
        .user_agent(user_agent)
        .build()
}

impl HttpTokenEndpoint {
    /// The endpoint of `client`, over `http` (see [`http_client`]).
    ///
    /// # Errors
    /// When the client's `token_uri` is not a URL.
    pub fn new(client: &OAuthClient, http: reqwest::Client) -> Result<Self, url::ParseError> {
        let mut oauth = BasicClient::new(ClientId::new(client.client_id().to_owned()))
            .set_auth_type(AuthType::RequestBody)
            .set_token_uri(TokenUrl::new(client.token_uri().to_owned())?);
        if let Some(secret) = client.client_secret() {
            oauth = oauth.set_client_secret(ClientSecret::new(secret.expose().to_owned()));
        }
        Ok(Self {
            client: oauth,
            http,
            client_id: client.client_id().to_owned(),
            token_uri: client.token_uri().to_owned(),
        })
    }
}

/// One HTTP exchange. Only answers that RFC 6749 defines go on to `oauth2`.
pub(super) async fn exchange(
    http: reqwest::Client,
    request: HttpRequest,
    timeout: Duration,
) -> Result<HttpResponse, Exchange> {
    let (parts, body) = request.into_parts();
    let sending = http
        .request(parts.method, parts.uri.to_string())
        .headers(parts.headers)
        .timeout(timeout)
        .body(body);
    let mut response = sending.send().await.map_err(Exchange::from_reqwest)?;
    let status = response.status();
    let mut content = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(Exchange::from_reqwest)? {
        content.extend_from_slice(&chunk);
        if content.len() > MAX_ANSWER_BYTES {
            return Err(Exchange::Nonsense(status.as_u16()));
        }
    }
    match status.as_u16() {
        200 | 400 | 401 => {
            let mut answer = HttpResponse::new(content);
            *answer.status_mut() = status;
            *answer.headers_mut() = response.headers().clone();
            Ok(answer)
        }
        // It says that it did not carry the request out.
        code @ (429 | 503) => Err(Exchange::NotCarriedOut(code)),
        code @ (408 | 500..=599) => Err(Exchange::Lost(format!("HTTP status {code}"))),
        code => Err(Exchange::Nonsense(code)),
    }
}

/// Why an exchange gave no answer of the protocol.
#[derive(Debug, thiserror::Error)]
pub(super) enum Exchange {
    #[error("cannot be reached: {0}")]
    NotSent(String),
    #[error("HTTP status {0}")]
    NotCarriedOut(u16),
    #[error("{0}")]
    Lost(String),
    #[error("answered with HTTP status {0}, which no token endpoint does")]
    Nonsense(u16),
}

impl Exchange {
    fn from_reqwest(error: reqwest::Error) -> Self {
        // The URL is the operator's own; it is left out since the caller names it.
        let error = error.without_url();
        let mut cause: &dyn std::error::Error = &error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        if error.is_connect() || error.is_builder() {
            Self::NotSent(cause.to_string())
        } else if error.is_timeout() {
            Self::Lost("no answer in time".to_owned())
        } else {
            Self::Lost(cause.to_string())
        }
    }
}

impl TokenEndpoint for HttpTokenEndpoint {
    fn refresh<'a>(
        &'a self,
        refresh_token: &'a Secret,
        limits: Limits,
    ) -> BoxFuture<'a, Result<Answer, EndpointError>> {
        async move {
            let token = RefreshToken::new(refresh_token.expose().to_owned());
            let client = self.http.clone();
            let http = move |request| exchange(client.clone(), request, limits.answer);
            let answer = self.client.exchange_refresh_token(&token).request_async(&http).await;
            match answer {
                Ok(answer) => self.granted(&answer),
                Err(error) => Err(self.refused(error)),
            }
        }
        .boxed()
    }

    fn client_id(&self) -> &str {
        &self.client_id
    }

    fn token_uri(&self) -> &str {
        &self.token_uri
    }
}

impl HttpTokenEndpoint {
    fn granted(&self, answer: &BasicTokenResponse) -> Result<Answer, EndpointError> {
        if answer.access_token().secret().is_empty() {
            return Err(self.refused_with("", "granted an empty access token"));
        }
        let mut scopes: Option<Vec<String>> =
            answer.scopes().map(|s| s.iter().map(|s| s.as_str().to_owned()).collect());
        if let Some(scopes) = &mut scopes {
            scopes.sort();
            scopes.dedup();
        }
        Ok(Answer {
            access_token: Some(Secret::new(answer.access_token().secret().clone())),
            refresh_token: answer
                .refresh_token()
                .filter(|t| !t.secret().is_empty())
                .map(|t| Secret::new(t.secret().clone())),
            expires_in: answer.expires_in().filter(|life| !life.is_zero()),
            scopes: scopes.filter(|s| !s.is_empty()),
        })
    }

    fn refused(&self, error: RequestTokenError<Exchange, BasicErrorResponse>) -> EndpointError {
        match error {
            RequestTokenError::ServerResponse(answer) => {
                let said = said(&answer);
                match answer.error() {
                    BasicErrorResponseType::InvalidGrant => {
                        EndpointError::InvalidGrant(said.into())
                    }
                    BasicErrorResponseType::Extension(code)
                        if matches!(
                            code.as_str(),
                            "temporarily_unavailable"
                                | "server_error"
                                | "internal_failure"
                                | "rate_limit_exceeded"
                                | "slow_down"
                        ) =>
                    {
                        EndpointError::NotNow {
                            code: Some(code.as_str().into()),
                            why: said.into(),
                            retry_after: None,
                        }
                    }
                    code => {
                        self.refused_with(code.as_ref(), &format!("refused the client: {said}"))
                    }
                }
            }
            RequestTokenError::Request(failure) => {
                let text = format!("{} {failure}", self.token_uri);
                match failure {
                    Exchange::NotSent(_) => EndpointError::NotReached(text.into()),
                    Exchange::NotCarriedOut(_) => {
                        EndpointError::NotNow { code: None, why: text.into(), retry_after: None }
                    }
                    Exchange::Lost(_) => {
                        EndpointError::Ambiguous { why: text.into(), resend_after: Resend::Soon }
                    }
                    Exchange::Nonsense(_) => {
                        EndpointError::Refused { code: "".into(), why: text.into() }
                    }
                }
            }
            // The parser's text may quote the answer.
            RequestTokenError::Parse(..) | RequestTokenError::Other(_) => {
                self.refused_with("", "gave an answer that is not RFC 6749 JSON")
            }
        }
    }

    fn refused_with(&self, code: &str, what: &str) -> EndpointError {
        let why = Arc::from(format!("{} {what}", self.token_uri));
        EndpointError::Refused { code: code.into(), why }
    }
}

/// The error fields of RFC 6749, section 5.2, shortened and in one line.
pub(super) fn said(answer: &BasicErrorResponse) -> String {
    const LONGEST: usize = 200;
    let code = answer.error().as_ref();
    let text = match answer.error_description() {
        Some(description) => format!("{code}: {description}"),
        None => code.to_owned(),
    };
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
}

impl fmt::Debug for HttpTokenEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTokenEndpoint")
            .field("token_uri", &self.token_uri)
            .finish_non_exhaustive()
    }
}
