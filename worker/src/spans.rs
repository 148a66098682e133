//! The spans of a delivery: receive → token → API → acknowledge, under the trace
//! that the publisher began.

use tracing::{Span, field, info_span};

use crate::job::Received;
use crate::outcome::Status;

/// The whole delivery (OpenTelemetry's messaging conventions: `process`).
pub(crate) fn delivery(received: &Received, subscription: &str) -> Span {
    info_span!(
        "process",
        "otel.kind" = "consumer",
        "otel.status_code" = field::Empty,
        "messaging.system" = "gcp_pubsub",
        "messaging.operation.type" = "process",
        "messaging.destination.subscription.name" = subscription,
        "messaging.message.id" = received.message_id,
        "messaging.gcp_pubsub.message.delivery_attempt" = received.delivery_attempt,
        "fleet.job.kind" = field::Empty,
        "fleet.job.status" = field::Empty,
    )
}

/// Waiting for a credential.
pub(crate) fn token() -> Span {
    info_span!("token", "otel.kind" = "internal", "fleet.credential.result" = field::Empty)
}

/// The acknowledgement, or the giving back.
pub(crate) fn settle(status: Status) -> Span {
    let operation = if status == Status::Retry { "nack" } else { "ack" };
    info_span!(
        "settle",
        "otel.name" = operation,
        "otel.kind" = "client",
        "messaging.system" = "gcp_pubsub",
        "messaging.operation.type" = "settle",
        "messaging.operation.name" = operation,
    )
}

/// One request to an API (OpenTelemetry's HTTP client conventions). The URL's
/// path and query may hold personal data and stay out.
pub(crate) fn api(method: &str, host: &str) -> Span {
    info_span!(
        "api",
        "otel.name" = method,
        "otel.kind" = "client",
        "otel.status_code" = field::Empty,
        "http.request.method" = method,
        "server.address" = host,
        "http.response.status_code" = field::Empty,
    )
}
