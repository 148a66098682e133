//! Unary `Pull`: a consumer that takes once.

use std::sync::Arc;
use std::time::Duration;

use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use tokio::time::{Instant, sleep_until};
use tonic::Status;

use super::broker::{SubscriptionId, ack_id};
use super::consumer::{Delivery, Limits};
use super::engine::Engine;
use super::error::Error;

/// How long a `Pull` waits for a first message. Production waits longer; clients
/// ask again in any case.
const WAIT: Duration = Duration::from_secs(3);
/// Bytes of one response, unless one message alone is larger. Generic gRPC
/// clients refuse more than 4 MiB.
pub(super) const RESPONSE_BYTES: u64 = 3 << 20;

/// Up to `max_messages` that wait now, or else what comes first within [`WAIT`].
pub(super) async fn pull(
    engine: &Arc<Engine>,
    request: &proto::PullRequest,
) -> Result<Vec<proto::ReceivedMessage>, Status> {
    let max = usize::try_from(request.max_messages)
        .ok()
        .filter(|max| *max > 0)
        .ok_or_else(|| Error::Invalid("max_messages must be positive".to_owned()))?;
    let session = engine.open(&request.subscription, |settings| Limits {
        messages: Some(max as u64),
        bytes: None,
        ack_deadline: settings.ack_deadline,
    })?;
    #[expect(deprecated, reason = "clients still send it")]
    let patience = if request.return_immediately { Duration::ZERO } else { WAIT };
    let until = Instant::now() + patience;
    loop {
        let taken = session.take(max, RESPONSE_BYTES)?;
        if !taken.is_empty() || Instant::now() >= until {
            return Ok(received(session.attachment.subscription, taken));
        }
        tokio::select! {
            () = session.ready() => {}
            () = sleep_until(until) => {}
            () = engine.stop.cancelled() => return Err(Status::unavailable("the emulator stops")),
        }
    }
}

/// Deliveries as they go over the wire.
pub(super) fn received(
    subscription: SubscriptionId,
    deliveries: Vec<Delivery>,
) -> Vec<proto::ReceivedMessage> {
    deliveries
        .into_iter()
        .map(|delivery| proto::ReceivedMessage {
            ack_id: ack_id(subscription, delivery.id),
            message: Some(delivery.message.content.clone()),
            delivery_attempt: delivery
                .attempt
                .map_or(0, |attempt| i32::try_from(attempt).unwrap_or(i32::MAX)),
        })
        .collect()
}
