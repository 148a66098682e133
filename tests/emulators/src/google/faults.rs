//! Where faults strike: at the token endpoint, the revocation endpoint and the APIs.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};

use super::core::{Shared, bearer};
use super::refusal::Refusal;
use crate::connection::Cut;
use crate::faults::{Answer, Instead};

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

/// Lets a request to the token or revocation endpoint meet its fault. `token` is what it
/// presents: a refresh token, or whatever is to be revoked.
pub(super) async fn at_endpoint(
    shared: &Shared,
    operation: Operation,
    token: Option<&str>,
    cut: Cut,
    work: impl FnOnce() -> Response,
) -> Response {
    let sub = token.and_then(|token| {
        shared.step(|core, _| core.identity.holder(token).map(ToOwned::to_owned))
    });
    match shared.faults.enter(operation, sub.as_deref(), cut).await {
        Err(Instead::Answer(answer)) => made_up(&answer, &Value::Null),
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
        Err(Instead::Answer(answer)) => made_up(&answer, &Value::Null),
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

/// The real answer, or the made-up one that takes its place.
async fn instead(answer: Option<Arc<Answer>>, real: Response) -> Response {
    let Some(answer) = answer else {
        return real;
    };
    let body = axum::body::to_bytes(real.into_body(), LARGEST).await.unwrap_or_default();
    made_up(&answer, &serde_json::from_slice(&body).unwrap_or_default())
}

fn made_up(answer: &Answer, real: &Value) -> Response {
    answer.response(real).map(axum::body::Body::from)
}
