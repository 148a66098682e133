//! The identity provider over HTTP.

use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use oauth2::basic::{
    BasicErrorResponse, BasicErrorResponseType, BasicRevocationErrorResponse,
    BasicTokenIntrospectionResponse, BasicTokenType,
};
use oauth2::{
    AuthType, AuthorizationCode, ClientId, ClientSecret, EndpointNotSet, EndpointSet,
    ExtraTokenFields, PkceCodeVerifier, RedirectUrl, RequestTokenError, StandardRevocableToken,
    StandardTokenResponse, TokenResponse as _, TokenUrl,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::form_urlencoded;

use super::token_http::{Exchange, exchange, said};
use crate::oauth_client::OAuthClient;
use crate::ports::{CodeAnswer, EndpointError, Limits, Provider, Revocation};
use crate::profile::{ProfileError, fetch_in_time};
use crate::secret::Secret;

/// Google's revocation endpoint.
pub const GOOGLE_REVOKE_URL: &str = "https://oauth2.googleapis.com/revoke";

#[derive(Clone, Serialize, Deserialize)]
struct IdToken {
    id_token: Option<String>,
}

impl fmt::Debug for IdToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl ExtraTokenFields for IdToken {}

type Client<TokenEndpoint = EndpointNotSet> = oauth2::Client<
    BasicErrorResponse,
    StandardTokenResponse<IdToken, BasicTokenType>,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    TokenEndpoint,
>;

/// The provider of an OAuth client's file.
pub struct HttpProvider {
    oauth: Client<EndpointSet>,
    client: OAuthClient,
    http: reqwest::Client,
    userinfo_url: String,
    revoke_url: String,
}

impl HttpProvider {
    /// The provider of `client`, over `http` (see
    /// [`http_client`](super::http_client)). Both URLs are the operator's and get
    /// secrets.
    ///
    /// # Errors
    /// When the client's `token_uri` is not a URL.
    pub fn new(
        client: &OAuthClient,
        http: reqwest::Client,
        userinfo_url: impl Into<String>,
        revoke_url: impl Into<String>,
    ) -> Result<Self, url::ParseError> {
        let mut oauth = <Client>::new(ClientId::new(client.client_id().to_owned()))
            .set_auth_type(AuthType::RequestBody)
            .set_token_uri(TokenUrl::new(client.token_uri().to_owned())?);
        if let Some(secret) = client.client_secret() {
            oauth = oauth.set_client_secret(ClientSecret::new(secret.expose().to_owned()));
        }
        Ok(Self {
            oauth,
            client: client.clone(),
            http,
            userinfo_url: userinfo_url.into(),
            revoke_url: revoke_url.into(),
        })
    }

    fn revocation_form(&self, token: &Secret) -> String {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("token", token.expose())
            .append_pair("token_type_hint", "refresh_token")
            .append_pair("client_id", self.client.client_id());
        if let Some(secret) = self.client.client_secret() {
            form.append_pair("client_secret", secret.expose());
        }
        form.finish()
    }

    async fn send_revocation(
        &self,
        token: &Secret,
        limits: Limits,
    ) -> Result<Revocation, EndpointError> {
        let body = self.revocation_form(token);
        let request = self
            .http
            .post(&self.revoke_url)
            .header(http::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .timeout(limits.answer)
            .body(body);
        let answer = request.send().await.map_err(|e| {
            EndpointError::NotReached(format!("{} {}", self.revoke_url, e.without_url()).into())
        })?;
        let text =
            |status| Arc::from(format!("{} answered with HTTP status {status}", self.revoke_url));
        match answer.status().as_u16() {
            200..=299 => Ok(Revocation::Revoked),
            // Google's word for a token that is dead already.
            400 => Ok(Revocation::AlreadyInvalid),
            status @ (401 | 403 | 404 | 405) => {
                Err(EndpointError::Refused { code: "".into(), why: text(status) })
            }
            status => {
                Err(EndpointError::NotNow { code: None, why: text(status), retry_after: None })
            }
        }
    }
}

impl Provider for HttpProvider {
    fn exchange<'a>(
        &'a self,
        code: &'a Secret,
        verifier: &'a Secret,
        redirect_uri: &'a str,
        limits: Limits,
    ) -> BoxFuture<'a, Result<CodeAnswer, EndpointError>> {
        async move {
            let wrong = |what: &str| {
                let why = format!("{} {what}", self.client.token_uri()).into();
                EndpointError::Refused { code: "".into(), why }
            };
            let redirect = RedirectUrl::new(redirect_uri.to_owned())
                .map_err(|_| wrong("cannot be asked: the redirect URI is not a URL"))?;
            let http = |request| exchange(self.http.clone(), request, limits.answer);
            let answer = self
                .oauth
                .exchange_code(AuthorizationCode::new(code.expose().to_owned()))
                .set_pkce_verifier(PkceCodeVerifier::new(verifier.expose().to_owned()))
                .set_redirect_uri(std::borrow::Cow::Borrowed(&redirect))
                .request_async(&http)
                .await;
            let answer = match answer {
                Ok(answer) => answer,
                Err(RequestTokenError::ServerResponse(refusal)) => {
                    let text = said(&refusal);
                    return Err(match refusal.error() {
                        BasicErrorResponseType::InvalidGrant => {
                            EndpointError::InvalidGrant(text.into())
                        }
                        BasicErrorResponseType::Extension(code)
                            if code == "redirect_uri_mismatch" =>
                        {
                            EndpointError::InvalidGrant(text.into())
                        }
                        _ => wrong(&format!("refused the client: {text}")),
                    });
                }
                Err(RequestTokenError::Request(failure @ Exchange::Nonsense(_))) => {
                    return Err(wrong(&failure.to_string()));
                }
                Err(RequestTokenError::Request(failure)) => {
                    let text = format!("{} {failure}", self.client.token_uri());
                    return Err(EndpointError::NotReached(text.into()));
                }
                // The parser's text may quote the answer.
                Err(RequestTokenError::Parse(..) | RequestTokenError::Other(_)) => {
                    return Err(wrong("gave an answer that is not RFC 6749 JSON"));
                }
            };
            let scopes: Option<Vec<String>> = answer.scopes().map(|scopes| {
                let mut scopes: Vec<String> =
                    scopes.iter().map(|scope| scope.as_str().to_owned()).collect();
                scopes.sort();
                scopes.dedup();
                scopes
            });
            let text = |text: &String| Some(Secret::new(text.clone())).filter(|_| !text.is_empty());
            Ok(CodeAnswer {
                access_token: text(answer.access_token().secret())
                    .ok_or_else(|| wrong("granted an empty access token"))?,
                refresh_token: answer.refresh_token().and_then(|token| text(token.secret())),
                id_token: answer.extra_fields().id_token.as_ref().and_then(text),
                expires_in: answer.expires_in(),
                scopes: scopes.filter(|scopes| !scopes.is_empty()),
            })
        }
        .boxed()
    }

    fn profile<'a>(
        &'a self,
        access_token: &'a Secret,
    ) -> BoxFuture<'a, Result<Map<String, Value>, ProfileError>> {
        fetch_in_time(&self.http, &self.userinfo_url, access_token).boxed()
    }

    fn revoke<'a>(
        &'a self,
        refresh_token: &'a Secret,
        limits: Limits,
    ) -> BoxFuture<'a, Result<Revocation, EndpointError>> {
        self.send_revocation(refresh_token, limits).boxed()
    }
}

impl fmt::Debug for HttpProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpProvider")
            .field("client", &self.client)
            .field("userinfo_url", &self.userinfo_url)
            .finish_non_exhaustive()
    }
}
