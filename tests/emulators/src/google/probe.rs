//! Endpoints that Google does not have: any answer on demand, and what a request says.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use axum::{Json, Router};
use bytes::Bytes;
use http::header::{AUTHORIZATION, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use url::form_urlencoded;

use super::core::{Shared, bearer};
use super::faults::sent;
use super::params::Params;
use super::refusal::Refusal;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/v1/status/{code}", any(status))
        .route("/v1/echo", any(echo))
        .route("/v1/mirror/{code}", any(mirror))
}

#[derive(Debug, Deserialize)]
struct StatusParams {
    /// Seconds for `Retry-After`.
    retry_after: Option<u64>,
    /// The reason in an error's body.
    reason: Option<String>,
    /// Where a redirect leads.
    location: Option<String>,
}

/// Answers with the status that the path names and, wherever an answer can say something, with
/// what the request said, its `Authorization` included: no API should, and some do.
async fn mirror(
    State(shared): State<Arc<Shared>>,
    Path(code): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    shared.authorize(&headers, &[])?;
    let status = named(&code)?;
    let (said, token) = (sent(&headers), bearer(&headers).unwrap_or_default());
    let body = json!({
        "error": {
            "code": status.as_u16(), "message": said, "status": token,
            "errors": [{"message": said, "reason": token, "domain": said}],
        },
        "title": said,
        "detail": token,
    });
    let location = format!("https://mirror.example/{token}?token={token}");
    let text = |text: &str| HeaderValue::try_from(text).map_err(|_| Refusal::invalid("No text."));
    let headers = [
        ("x-mirror", text(&said)?),
        ("location", text(&location)?),
        ("www-authenticate", text(&format!("Bearer realm=\"{token}\""))?),
    ];
    Ok((status, headers, Json(body)).into_response())
}

/// Answers with the status that the path names: an error of Google's shape from 400 on.
async fn status(
    State(shared): State<Arc<Shared>>,
    Path(code): Path<String>,
    Params(params): Params<StatusParams>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    shared.authorize(&headers, &[])?;
    let status = named(&code)?;
    if status.is_client_error() || status.is_server_error() {
        let reason = params.reason.unwrap_or_else(|| "requested".to_owned());
        let mut refusal = Refusal::new(status, reason, format!("As requested: {status}"));
        if status == StatusCode::UNAUTHORIZED {
            refusal = refusal.challenge(", error=\"invalid_token\"");
        }
        if let Some(seconds) = params.retry_after {
            refusal = refusal.retry_after(Duration::from_secs(seconds));
        }
        return Ok(refusal.into_response());
    }
    let mut headers = HeaderMap::new();
    if let Some(location) = params.location {
        let location =
            HeaderValue::try_from(location).map_err(|_| Refusal::invalid("Not a location."))?;
        headers.insert(LOCATION, location);
    }
    if matches!(
        status,
        StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED
    ) {
        return Ok((status, headers).into_response());
    }
    let body = Json(json!({"status": status.as_u16()}));
    Ok((status, headers, body).into_response())
}

fn named(code: &str) -> Result<StatusCode, Refusal> {
    code.parse()
        .ok()
        .and_then(|code: u16| StatusCode::from_u16(code).ok())
        // Informational statuses are no answers, and a body is not to follow some others.
        .filter(|status| (200..600).contains(&status.as_u16()))
        .ok_or_else(|| Refusal::invalid("Not the status of an answer."))
}

/// Answers with the request: method, headers without `Authorization`, query and body.
async fn echo(
    State(shared): State<Arc<Shared>>,
    method: Method,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, Refusal> {
    shared.authorize(&headers, &[])?;
    let query = query.unwrap_or_default();
    let query: Map<String, Value> = form_urlencoded::parse(query.as_bytes())
        .map(|(name, value)| (name.into_owned(), value.into_owned().into()))
        .collect();
    let shown = headers.iter().filter(|(name, _)| *name != AUTHORIZATION);
    let shown: Map<String, Value> = shown
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.as_str().to_owned(), value.into())
        })
        .collect();
    Ok(Json(json!({
        "method": method.as_str(),
        "headers": shown,
        "query": query,
        "body": String::from_utf8_lossy(&body),
    })))
}
