//! Where faults strike: at the token endpoint, the revocation endpoint and the APIs.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::header::AUTHORIZATION;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use url::form_urlencoded;

use super::core::{Shared, bearer, text};
use super::refusal::Refusal;
use crate::connection::Cut;
use crate::faults::{Answer, Fault, Instead};

/// A larger answer is none of the token endpoint's.
const LARGEST: usize = 1024 * 1024;

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// `POST /token`.
    Token,
    /// `POST /revoke`.
    Revoke,
    /// The profile, by any of its paths.
    Userinfo,
    /// Every other API.
    Api,
}

/// An error of an API in the shape that Google's clients read: 429 or 403 with the reason
/// `rateLimitExceeded`, `userRateLimitExceeded`, `quotaExceeded` or `dailyLimitExceeded`, 503 with
/// `backendError`, or any other. Whole seconds of `retry_after` are told.
/// It is to be narrowed to [`Operation::Api`] and [`Operation::Userinfo`], or one of them.
pub fn api_error(
    status: StatusCode,
    reason: &str,
    retry_after: Option<Duration>,
) -> Fault<Operation> {
    let message = match reason {
        "rateLimitExceeded" => "Rate Limit Exceeded",
        "userRateLimitExceeded" => "User Rate Limit Exceeded",
        "quotaExceeded" => "Quota Exceeded",
        "dailyLimitExceeded" => "Daily Limit Exceeded",
        "backendError" => "Backend Error",
        _ => "A fault was injected.",
    };
    let refusal = Refusal::new(status, reason, message);
    let refusal = match retry_after {
        Some(wait) => refusal.retry_after(wait),
        None => refusal,
    };
    Fault::answer(refusal.to_answer())
}

/// Lets a request to the token or revocation endpoint meet its fault. `token` is what it
/// presents: a refresh token, or whatever is to be revoked; `form` is what it sends.
pub(super) async fn at_endpoint(
    shared: &Shared,
    operation: Operation,
    token: Option<&str>,
    form: &[u8],
    cut: Cut,
    work: impl FnOnce() -> Response,
) -> Response {
    let sub = token.and_then(|token| {
        shared.step(|core, _| core.identity.holder(token).map(ToOwned::to_owned))
    });
    match shared.faults.enter(operation, sub.as_deref(), cut).await {
        Err(Instead::Answer(answer)) => made_up(&answer, &said_in(form)),
        Err(Instead::Refusal(status)) => {
            let body = json!({
                "error": if status == StatusCode::TOO_MANY_REQUESTS {
                    "rate_limit_exceeded"
                } else {
                    "temporarily_unavailable"
                },
                "error_description": "A fault was injected.",
            });
            (status, Json(body)).into_response()
        }
        Ok(passage) => {
            let response = work();
            instead(passage.leave(response.status().is_success()).await, response).await
        }
    }
}

/// Lets requests to the APIs meet their faults, as a layer around them.
pub(super) async fn at_apis(
    State(shared): State<Arc<Shared>>,
    cut: Cut,
    request: Request,
    next: Next,
) -> Response {
    let operation = if request.uri().path().ends_with("/userinfo") {
        Operation::Userinfo
    } else {
        Operation::Api
    };
    let armed = shared.faults.are_armed();
    let sub = bearer(request.headers()).filter(|_| armed).and_then(|token| {
        shared.step(|core, _| core.identity.holder(token).map(ToOwned::to_owned))
    });
    match shared.faults.enter(operation, sub.as_deref(), cut).await {
        Err(Instead::Answer(answer)) => {
            let authorization = text(request.headers(), AUTHORIZATION.as_str());
            made_up(
                &answer,
                &json!({"authorization": authorization, "sent": sent(request.headers())}),
            )
        }
        Err(Instead::Refusal(status)) => {
            let reason = if status == StatusCode::TOO_MANY_REQUESTS {
                "rateLimitExceeded"
            } else {
                "backendError"
            };
            Refusal::new(status, reason, "A fault was injected.").into_response()
        }
        Ok(passage) => {
            let response = next.run(request).await;
            instead(passage.leave(response.status().is_success()).await, response).await
        }
    }
}

/// The fields of a form, and all of it as it came.
fn said_in(form: &[u8]) -> Value {
    let sent = String::from_utf8_lossy(form).into_owned();
    let fields = form_urlencoded::parse(form)
        .map(|(name, value)| (name.into_owned(), value.into_owned().into()))
        .chain([("sent".to_owned(), sent.into())]);
    Value::Object(fields.collect())
}

/// A request's headers, one behind the other.
pub(super) fn sent(headers: &HeaderMap) -> String {
    let shown = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())));
    shown.collect::<Vec<_>>().join("; ")
}

/// The real answer, or the made-up one that takes its place.
async fn instead(answer: Option<Arc<Answer>>, real: Response) -> Response {
    let Some(answer) = answer else {
        return real;
    };
    let body = axum::body::to_bytes(real.into_body(), LARGEST).await.unwrap_or_default();
    made_up(&answer, &serde_json::from_slice(&body).unwrap_or_default())
}

fn made_up(answer: &Answer, texts: &Value) -> Response {
    answer.response(texts).map(axum::body::Body::from)
}
