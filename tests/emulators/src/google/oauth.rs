//! The token endpoint and the revocation endpoint.

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CACHE_CONTROL, PRAGMA};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::time::Instant;
use url::form_urlencoded;

use super::consent::CodeRequest;
use super::core::{Core, Shared, text, user_agent};
use super::exchange::{Fresh, RefreshRequest, TokenError};
use super::faults::{self, Operation};
use super::id_token::id_token;
use super::ledger::RefreshOutcome;
use super::token::{Fingerprint, Secret};
use crate::connection::Cut;

/// `POST /token`.
pub(super) fn token_routes() -> Router<Arc<Shared>> {
    Router::new().route("/token", post(token))
}

/// `POST /revoke`.
pub(super) fn revoke_routes() -> Router<Arc<Shared>> {
    Router::new().route("/revoke", post(revoke))
}

/// Decides when the request arrives; whatever delays the answer comes after, so that
/// a caller that goes away before it has spent its refresh token all the same.
async fn token(
    State(shared): State<Arc<Shared>>,
    cut: Cut,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let (grant_type, request) = parse(&headers, &body);
    let presented = request.refresh_token.as_ref().map(Secret::expose);
    let decide = || decide(&shared, grant_type.as_deref(), &request, &headers, &body);
    faults::at_endpoint(&shared, Operation::Token, presented, &body, cut, decide).await
}

fn decide(
    shared: &Shared,
    grant_type: Option<&str>,
    request: &RefreshRequest,
    headers: &HeaderMap,
    body: &[u8],
) -> Response {
    if grant_type == Some("authorization_code") {
        let exchanged =
            shared.step(|core, now| exchange_code(core, now, &shared.origin, request, body));
        return answered(exchanged);
    }
    let answer = shared.step(|core, now| {
        let (answer, outcome) = match grant_type {
            Some("refresh_token") => core.identity.refresh(now, request),
            Some(_) => (Err(TokenError::UnsupportedGrantType), RefreshOutcome::Malformed),
            None => (
                Err(TokenError::InvalidRequest("Missing required parameter: grant_type")),
                RefreshOutcome::Malformed,
            ),
        };
        let presented = request.refresh_token.as_ref().map(Secret::expose);
        let sub = presented.and_then(|token| core.identity.owner(token));
        core.ledger.refresh(
            now,
            user_agent(headers),
            sub.map(ToOwned::to_owned),
            presented.map(Fingerprint::of),
            outcome,
        );
        answer
    });
    answered(answer.map(|fresh| fresh_json(&fresh)))
}

fn answered(answer: Result<Value, TokenError>) -> Response {
    let (status, body) = match answer {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => error_json(error),
    };
    let uncached = [(CACHE_CONTROL, "no-store"), (PRAGMA, "no-cache")];
    (status, uncached, Json(body)).into_response()
}

fn exchange_code(
    core: &mut Core,
    now: Instant,
    issuer: &str,
    request: &RefreshRequest,
    body: &[u8],
) -> Result<Value, TokenError> {
    core.identity.check_client(request)?;
    let mut presented = CodeRequest::default();
    for (name, value) in form_urlencoded::parse(body) {
        let value = value.into_owned();
        match &*name {
            "code" => presented.code = Some(Secret::new(value)),
            "redirect_uri" => presented.redirect_uri = Some(value),
            "code_verifier" => presented.verifier = Some(Secret::new(value)),
            _ => {}
        }
    }
    let (fresh, sub, nonce) = core.consents.exchange(now, &mut core.identity, &presented)?;
    core.ledger.count(Some(&sub), |stats| stats.exchanged += 1);
    let mut json = fresh_json(&fresh);
    if fresh.scopes.iter().any(|scope| scope == "openid")
        && let Some(user) = core.identity.user(&sub)
    {
        let audience = &core.identity.client().id;
        let nonce = nonce.as_deref();
        json["id_token"] = id_token(issuer, audience, user, nonce, fresh.expires_in).into();
    }
    Ok(json)
}

fn parse(headers: &HeaderMap, body: &[u8]) -> (Option<String>, RefreshRequest) {
    let mut grant_type = None;
    let mut request = RefreshRequest::default();
    for (name, value) in form_urlencoded::parse(body) {
        let value = value.into_owned();
        match &*name {
            "grant_type" => grant_type = Some(value),
            "client_id" => request.client_id = Some(value),
            "client_secret" => request.client_secret = Some(Secret::new(value)),
            "refresh_token" => request.refresh_token = Some(Secret::new(value)),
            "scope" => request.scope = Some(value),
            _ => {}
        }
    }
    if let Some((id, secret)) = basic(headers) {
        request.client_id = Some(id);
        request.client_secret = Some(Secret::new(secret));
    }
    (grant_type, request)
}

/// Client ID and secret, each form-encoded before they were joined (RFC 6749, 2.3.1).
fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let (scheme, credentials) = text(headers, AUTHORIZATION.as_str())?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let credentials = BASE64_STANDARD.decode(credentials.trim()).ok()?;
    let credentials = String::from_utf8(credentials).ok()?;
    let (id, secret) = credentials.split_once(':')?;
    let decode = |part: &str| {
        let pair = format!("part={part}");
        let mut decoded = form_urlencoded::parse(pair.as_bytes());
        decoded.next().map(|(_, value)| value.into_owned())
    };
    Some((decode(id)?, decode(secret)?))
}

fn fresh_json(fresh: &Fresh) -> Value {
    let mut json = json!({
        "access_token": fresh.access_token.expose(),
        "expires_in": fresh.expires_in,
        "scope": fresh.scopes.join(" "),
        "token_type": "Bearer",
    });
    if let Some(refresh_token) = &fresh.refresh_token {
        json["refresh_token"] = refresh_token.expose().into();
    }
    json
}

fn error_json(error: TokenError) -> (StatusCode, Value) {
    let bad = StatusCode::BAD_REQUEST;
    let unauthorized = StatusCode::UNAUTHORIZED;
    let (status, code, description) = match error {
        TokenError::InvalidRequest(description) => (bad, "invalid_request", description),
        TokenError::UnsupportedGrantType => (bad, "unsupported_grant_type", "Invalid grant_type"),
        TokenError::UnknownClient => {
            (unauthorized, "invalid_client", "The OAuth client was not found.")
        }
        TokenError::WrongSecret => (unauthorized, "invalid_client", "Unauthorized"),
        TokenError::UnknownToken => (bad, "invalid_grant", "Bad Request"),
        TokenError::EndedGrant | TokenError::SpentToken => {
            (bad, "invalid_grant", "Token has been expired or revoked.")
        }
        TokenError::UnknownCode => (bad, "invalid_grant", "Malformed auth code."),
        TokenError::RedirectMismatch => (bad, "redirect_uri_mismatch", "Bad Request"),
        TokenError::WrongVerifier => (bad, "invalid_grant", "Invalid code verifier."),
        TokenError::InvalidScope => {
            (bad, "invalid_scope", "Some requested scopes were not granted.")
        }
    };
    let body = json!({"error": code, "error_description": description});
    (status, body)
}

async fn revoke(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
    cut: Cut,
    body: Bytes,
) -> Response {
    let query = query.unwrap_or_default();
    let mut fields = form_urlencoded::parse(&body).chain(form_urlencoded::parse(query.as_bytes()));
    let Some((_, token)) = fields.find(|(name, _)| name == "token") else {
        let body = json!({
            "error": "invalid_request",
            "error_description": "Missing required parameter: token",
        });
        return (StatusCode::BAD_REQUEST, Json(body)).into_response();
    };
    let revoke = || revoked(&shared, &token);
    faults::at_endpoint(&shared, Operation::Revoke, Some(&token), &body, cut, revoke).await
}

fn revoked(shared: &Shared, token: &str) -> Response {
    let revoked = shared.step(|core, now| {
        let sub = core.identity.revoke(now, token);
        if let Some(sub) = &sub {
            core.ledger.count(Some(sub), |stats| stats.revocations += 1);
        }
        sub.is_some()
    });
    if revoked {
        return Json(json!({})).into_response();
    }
    let body = json!({
        "error": "invalid_token", "error_description": "Token expired or revoked",
    });
    (StatusCode::BAD_REQUEST, Json(body)).into_response()
}
