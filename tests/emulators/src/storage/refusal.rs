//! Why a request was not carried out, and how each protocol says so.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::json;

use crate::front_end::Garbled;

/// A request that changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("The specified bucket does not exist.")]
    NoBucket,
    #[error("No such object: {bucket}/{object}")]
    NoObject { bucket: String, object: String },
    #[error("No such upload session")]
    NoUpload,
    #[error("At least one of the pre-conditions you specified did not hold.")]
    Precondition,
    /// A read whose `NotMatch` condition names what is there.
    #[error("Not modified")]
    NotModified,
    #[error(
        "The object {bucket}/{object} exceeded the rate limit for object mutation operations \
         (create, update, and delete). Please reduce your request rate."
    )]
    Pace { bucket: String, object: String },
    #[error("Your previous request to create the named bucket succeeded and you already own it.")]
    BucketExists,
    #[error("The bucket you tried to delete is not empty.")]
    BucketNotEmpty,
    #[error("There were concurrent policy changes; read the policy again and retry.")]
    PolicyChanged,
    #[error("The requested range cannot be satisfied.")]
    Range { size: usize },
    #[error("{0}")]
    Invalid(String),
    /// A hold or a retention policy keeps the version.
    #[error("Object '{bucket}/{object}' is {why} and cannot be deleted or overwritten.")]
    Kept { bucket: String, object: String, why: &'static str },
    /// Production can do this, the emulator cannot: which call it was.
    #[error("the Storage emulator does not implement {0}")]
    Unimplemented(String),
    /// As a test wants.
    #[error("{0}, by a fault that was injected")]
    Injected(StatusCode),
    #[error("The request body exceeds what this emulator holds in memory.")]
    TooLarge,
}

impl Refusal {
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::NoBucket | Self::NoObject { .. } | Self::NoUpload => StatusCode::NOT_FOUND,
            Self::Precondition => StatusCode::PRECONDITION_FAILED,
            Self::NotModified => StatusCode::NOT_MODIFIED,
            Self::Pace { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::BucketExists | Self::BucketNotEmpty | Self::PolicyChanged => StatusCode::CONFLICT,
            Self::Range { .. } => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Invalid(_) => StatusCode::BAD_REQUEST,
            Self::Kept { .. } => StatusCode::FORBIDDEN,
            Self::Unimplemented(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Injected(status) => *status,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }

    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::NoBucket | Self::NoObject { .. } | Self::NoUpload => "notFound",
            Self::Precondition => "conditionNotMet",
            Self::NotModified => "notModified",
            Self::Pace { .. } | Self::Injected(StatusCode::TOO_MANY_REQUESTS) => {
                "rateLimitExceeded"
            }
            Self::BucketExists | Self::BucketNotEmpty | Self::PolicyChanged => "conflict",
            Self::Range { .. } => "requestedRangeNotSatisfiable",
            Self::Invalid(_) => "invalid",
            Self::Kept { .. } => "retentionPolicyNotMet",
            Self::Unimplemented(_) => "notImplemented",
            Self::Injected(_) => "backendError",
            Self::TooLarge => "uploadTooLarge",
        }
    }

    fn domain(&self) -> &'static str {
        match self {
            Self::Pace { .. } | Self::Injected(StatusCode::TOO_MANY_REQUESTS) => "usageLimits",
            _ => "global",
        }
    }
}

impl From<Garbled> for Refusal {
    fn from(garbled: Garbled) -> Self {
        match garbled {
            Garbled::TooLarge => Self::TooLarge,
            Garbled::NotGzip | Garbled::Override => Self::invalid(garbled.to_string()),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = self.status();
        if self == Self::NotModified {
            return status.into_response();
        }
        let message = self.to_string();
        let mut error = json!({
            "domain": self.domain(), "reason": self.reason(), "message": message,
        });
        if self == Self::Precondition {
            error["locationType"] = "header".into();
            error["location"] = "If-Match".into();
        }
        let body = Json(json!({
            "error": {"code": status.as_u16(), "message": message, "errors": [error]},
        }));
        match self {
            Self::Range { size } => {
                let range = [(http::header::CONTENT_RANGE, format!("bytes */{size}"))];
                (status, range, body).into_response()
            }
            _ => (status, body).into_response(),
        }
    }
}

impl From<Refusal> for tonic::Status {
    fn from(refusal: Refusal) -> Self {
        use tonic::Code;
        let code = match &refusal {
            Refusal::NoBucket | Refusal::NoObject { .. } | Refusal::NoUpload => Code::NotFound,
            Refusal::Precondition | Refusal::BucketNotEmpty => Code::FailedPrecondition,
            // gRPC has no 304; this is what Google's own test bench answers.
            Refusal::NotModified | Refusal::PolicyChanged => Code::Aborted,
            Refusal::Pace { .. }
            | Refusal::TooLarge
            | Refusal::Injected(StatusCode::TOO_MANY_REQUESTS) => Code::ResourceExhausted,
            Refusal::BucketExists => Code::AlreadyExists,
            Refusal::Range { .. } => Code::OutOfRange,
            Refusal::Invalid(_) => Code::InvalidArgument,
            Refusal::Kept { .. } => Code::PermissionDenied,
            Refusal::Unimplemented(_) => Code::Unimplemented,
            Refusal::Injected(StatusCode::GATEWAY_TIMEOUT) => Code::DeadlineExceeded,
            Refusal::Injected(StatusCode::SERVICE_UNAVAILABLE) => Code::Unavailable,
            Refusal::Injected(status) if status.is_server_error() => Code::Internal,
            Refusal::Injected(_) => Code::Unknown,
        };
        Self::new(code, refusal.to_string())
    }
}
