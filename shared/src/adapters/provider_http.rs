//! The identity provider over HTTP.

use std::borrow::Cow;
use std::fmt;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use oauth2::{AuthorizationCode, PkceCodeVerifier, RedirectUrl};
use serde_json::{Map, Value};
use url::form_urlencoded;

use super::http_exchange::{exchange, exchange_for_oauth2};
use super::token_http::{RequestBuilder, ended, note_left_out, request_builder};
use crate::endpoint_answer::{Granted, classify, classify_revocation};
use crate::oauth_client::OAuthClient;
use crate::ports::{CodeAnswer, EndpointError, Limits, Provider, Revocation};
use crate::profile::{ProfileError, fetch_in_time};
use crate::secret::Secret;

/// Google's revocation endpoint.
pub const GOOGLE_REVOKE_URL: &str = "https://oauth2.googleapis.com/revoke";

/// The provider of an OAuth client's file.
pub struct HttpProvider {
    requests: RequestBuilder,
    client: OAuthClient,
    http: reqwest::Client,
    userinfo_url: String,
    revoke_url: Option<String>,
}

impl HttpProvider {
    /// The provider of `client`, over `http` (see
    /// [`http_client`](super::http_client)). Both URLs are the operator's and get
    /// secrets. Without a `revoke_url` every revocation fails before anything is sent.
    ///
    /// # Errors
    /// When the client's `token_uri` is not a URL.
    pub fn new(
        client: &OAuthClient,
        http: reqwest::Client,
        userinfo_url: impl Into<String>,
        revoke_url: Option<String>,
    ) -> Result<Self, url::ParseError> {
        Ok(Self {
            requests: request_builder(client)?,
            client: client.clone(),
            http,
            userinfo_url: userinfo_url.into(),
            revoke_url,
        })
    }

    async fn exchange_code(
        &self,
        code: &Secret,
        verifier: &Secret,
        redirect_uri: &str,
        limits: Limits,
    ) -> Result<CodeAnswer, EndpointError> {
        let redirect = RedirectUrl::new(redirect_uri.to_owned())
            .map_err(|_| EndpointError::NotReached("the redirect URI is not a URL".into()))?;
        let http = |request| exchange_for_oauth2(self.http.clone(), request, limits);
        let request = self
            .requests
            .exchange_code(AuthorizationCode::new(code.expose().to_owned()))
            .set_pkce_verifier(PkceCodeVerifier::new(verifier.expose().to_owned()))
            .set_redirect_uri(Cow::Borrowed(&redirect));
        let ended = ended(request.request_async(&http).await);
        let reply = ended.reply(self.client.token_uri())?;
        let secrets: Vec<&Secret> =
            [code, verifier].into_iter().chain(self.client.client_secret()).collect();
        let granted = classify(&reply, &secrets, false)?;
        note_left_out(&granted, self.client.token_uri());
        let Granted { answer, id_token, .. } = granted;
        Ok(CodeAnswer { answer, id_token })
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
        let Some(revoke_url) = &self.revoke_url else {
            let why = "the revocation endpoint of this provider is not known; set FLEET_REVOKE_URL";
            return Err(EndpointError::NotReached(why.into()));
        };
        let request = http::Request::post(revoke_url)
            .header(http::header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(http::header::ACCEPT, "application/json")
            .body(self.revocation_form(token).into_bytes());
        let request = request
            .map_err(|error| EndpointError::NotReached(format!("{revoke_url}: {error}").into()))?;
        let ended = exchange(self.http.clone(), request, limits).await;
        let secrets: Vec<&Secret> =
            [token].into_iter().chain(self.client.client_secret()).collect();
        classify_revocation(&ended.reply(revoke_url)?, &secrets)
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
        self.exchange_code(code, verifier, redirect_uri, limits).boxed()
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
