//! Refusals of the APIs, in the shape that Google's clients parse.

use std::time::Duration;

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};

use super::exchange::AccessError;
use crate::faults::Answer;
use crate::front_end::Garbled;

/// An error answer of an API.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    status: StatusCode,
    message: String,
    /// The legacy reason, such as `rateLimitExceeded`.
    reason: String,
    /// The reason of the `ErrorInfo` detail.
    info: Option<&'static str>,
    challenge: Option<String>,
    /// Whole seconds.
    retry_after: Option<u64>,
}

impl Refusal {
    /// An error with this status and reason, and nothing special about it.
    pub(super) fn new(
        status: StatusCode,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            status,
            message: message.into(),
            reason: reason.into(),
            info: None,
            challenge: None,
            retry_after: None,
        }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "badRequest", message)
    }

    pub(super) fn not_found(what: &str) -> Self {
        let message = format!("{what} not found.");
        Self::new(StatusCode::NOT_FOUND, "notFound", message)
    }

    /// A call that production answers and the emulator does not.
    pub(super) fn unimplemented(what: &str) -> Self {
        let message = format!("{what} is not implemented by this emulator.");
        Self::new(StatusCode::NOT_IMPLEMENTED, "notImplemented", message)
    }

    /// With a `Retry-After` of whole seconds, rounded up.
    pub(super) fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait.as_secs() + u64::from(wait.subsec_nanos() > 0));
        self
    }

    /// With a challenge; `parameters` come after the realm.
    pub(super) fn challenge(mut self, parameters: &str) -> Self {
        self.challenge = Some(format!("Bearer realm=\"https://accounts.google.com/\"{parameters}"));
        self
    }

    fn info(mut self, reason: &'static str) -> Self {
        self.info = Some(reason);
        self
    }

    fn domain(&self) -> &'static str {
        match self.reason.as_str() {
            "rateLimitExceeded"
            | "userRateLimitExceeded"
            | "quotaExceeded"
            | "dailyLimitExceeded" => "usageLimits",
            "timeRangeEmpty" => "calendar",
            _ => "global",
        }
    }

    fn headers(&self) -> HeaderMap {
        let challenge = self.challenge.as_ref();
        let challenge = challenge.and_then(|text| HeaderValue::try_from(text).ok());
        let challenge = challenge.map(|value| (WWW_AUTHENTICATE, value));
        let retry_after = self.retry_after.map(|seconds| (RETRY_AFTER, seconds.into()));
        challenge.into_iter().chain(retry_after).collect()
    }

    fn body(&self) -> Value {
        let mut error = json!({
            "code": self.status.as_u16(),
            "message": self.message,
            "errors": [{
                "message": self.message, "domain": self.domain(), "reason": self.reason,
            }],
            "status": status_name(self.status),
        });
        if self.status == StatusCode::UNAUTHORIZED {
            error["errors"][0]["location"] = "Authorization".into();
            error["errors"][0]["locationType"] = "header".into();
        }
        if let Some(reason) = self.info {
            error["details"] = json!([{
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": reason,
                "domain": "googleapis.com",
            }]);
        }
        json!({"error": error})
    }

    /// As an answer that a fault gives.
    pub(super) fn to_answer(&self) -> Answer {
        let answer = Answer::new(self.status, self.body().to_string())
            .header("content-type", "application/json; charset=UTF-8");
        match self.retry_after {
            Some(seconds) => answer.header(RETRY_AFTER.as_str(), seconds.to_string()),
            None => answer,
        }
    }

    /// As the OpenID endpoints answer 401; other statuses look as everywhere.
    pub(super) fn into_openid_response(self) -> Response {
        if self.status != StatusCode::UNAUTHORIZED {
            return self.into_response();
        }
        let body = json!({
            "error": "invalid_request", "error_description": "Invalid Credentials",
        });
        (self.status, self.headers(), Json(body)).into_response()
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, self.headers(), Json(self.body())).into_response()
    }
}

impl From<Garbled> for Refusal {
    fn from(garbled: Garbled) -> Self {
        let message = garbled.to_string();
        match garbled {
            Garbled::TooLarge => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "uploadTooLarge", message)
            }
            Garbled::NotGzip | Garbled::Override => Self::invalid(message),
        }
    }
}

impl From<AccessError> for Refusal {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::MissingToken => Self::new(
                StatusCode::UNAUTHORIZED,
                "required",
                "Request is missing required authentication credential.",
            )
            .info("CREDENTIALS_MISSING")
            .challenge(""),
            AccessError::InvalidToken => Self::new(
                StatusCode::UNAUTHORIZED,
                "authError",
                "Request had invalid authentication credentials.",
            )
            .info("ACCESS_TOKEN_INVALID")
            .challenge(", error=\"invalid_token\""),
            AccessError::MissingScope(scope) => Self::new(
                StatusCode::FORBIDDEN,
                "insufficientPermissions",
                "Request had insufficient authentication scopes.",
            )
            .info("ACCESS_TOKEN_SCOPE_INSUFFICIENT")
            .challenge(&format!(", error=\"insufficient_scope\", scope=\"{scope}\"")),
            AccessError::Limited(wait) => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "rateLimitExceeded", "Rate Limit Exceeded")
                    .info("RATE_LIMIT_EXCEEDED")
                    .retry_after(wait)
            }
        }
    }
}

/// The name that Google's API design gives to a status.
pub(super) fn status_name(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 | 416 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        409 => "ABORTED",
        412 => "FAILED_PRECONDITION",
        429 => "RESOURCE_EXHAUSTED",
        499 => "CANCELLED",
        500 => "INTERNAL",
        501 => "UNIMPLEMENTED",
        503 => "UNAVAILABLE",
        504 => "DEADLINE_EXCEEDED",
        _ => "UNKNOWN",
    }
}
