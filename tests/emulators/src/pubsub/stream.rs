//! `StreamingPull`: a consumer for as long as the stream is open.
//!
//! There is no task behind a stream. Whoever sends the responses polls for the
//! next one, and each poll first reads what the client sent meanwhile. So the
//! transport's own back pressure decides how much leaves the server.

use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt as _, Stream, stream};
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use proto::streaming_pull_response::SubscriptionProperties;
use tokio::time::{Instant, sleep_until};
use tonic::{Status, Streaming};

use super::broker::Settlement;
use super::consumer::{Delivery, Limits};
use super::engine::{Engine, Session};
use super::error::Error;
use super::fault::{Operation, pass};
use super::pull::{RESPONSE_BYTES, received};
use super::settings;
use crate::connection::Cut;

/// Messages of one response.
const RESPONSE_MESSAGES: usize = 500;
/// After so long without a response an empty one is sent, to clients that know it.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// The response side of a stream.
pub(super) type Responses =
    Pin<Box<dyn Stream<Item = Result<proto::StreamingPullResponse, Status>> + Send>>;

struct Open {
    subscription: String,
    session: Session,
    requests: Streaming<proto::StreamingPullRequest>,
    /// Results that the client is to be told.
    acknowledged: Settlement,
    modified: Settlement,
    /// Whether the client wants to hear that the stream lives.
    heartbeats: bool,
    /// When the last response left.
    last: Instant,
}

/// Reads the first request and opens the stream it asks for.
pub(super) async fn open(
    engine: &Arc<Engine>,
    mut requests: Streaming<proto::StreamingPullRequest>,
    cut: Cut,
) -> Result<Responses, Status> {
    let first = tokio::select! {
        first = requests.message() => first?,
        () = engine.stop.cancelled() => return Err(stopping()),
    };
    let first = first
        .ok_or_else(|| Error::Invalid("the stream ended before its first request".to_owned()))?;
    let ack_deadline = settings::ack_deadline(first.stream_ack_deadline_seconds)?;
    pass(engine, (Operation::Receive, first.subscription.as_str()), cut, || Ok(())).await?;
    let session = engine.open(&first.subscription, |_| Limits {
        messages: limit(first.max_outstanding_messages),
        bytes: limit(first.max_outstanding_bytes),
        ack_deadline,
    })?;
    let mut open = Open {
        subscription: first.subscription.clone(),
        session,
        requests,
        acknowledged: Settlement::default(),
        modified: Settlement::default(),
        heartbeats: first.protocol_version >= 1,
        last: Instant::now(),
    };
    open.apply(&first)?;
    let responses = stream::unfold(Some(open), async |open| {
        let mut open = open?;
        match open.next().await {
            Ok(Some(response)) => Some((Ok(response), Some(open))),
            Ok(None) => None,
            Err(status) => Some((Err(status), None)),
        }
    });
    Ok(Box::pin(responses))
}

impl Open {
    /// The next response; `None` when the client has ended the stream.
    async fn next(&mut self) -> Result<Option<proto::StreamingPullResponse>, Status> {
        let stop = self.session.engine.stop.clone();
        loop {
            if stop.is_cancelled() {
                return Err(stopping());
            }
            // Not only when there is nothing to send: a client without flow
            // control would otherwise never be heard.
            while let Some(request) = self.requests.message().now_or_never() {
                if !self.heard(request)? {
                    return Ok(None);
                }
            }
            let taken = self.session.take(RESPONSE_MESSAGES, RESPONSE_BYTES)?;
            let due = self.last + HEARTBEAT;
            let beats = self.heartbeats && Instant::now() >= due;
            if !taken.is_empty() || !self.confirmed() || beats {
                if !self.confirmed() {
                    self.session.engine.kept().await?;
                }
                return Ok(Some(self.response(taken)));
            }
            let heartbeat = async {
                if self.heartbeats {
                    sleep_until(due).await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.session.ready() => {}
                () = heartbeat => {}
                request = self.requests.message() => {
                    if !self.heard(request)? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Messages, what is to be confirmed, and how the subscription is set now.
    fn response(&mut self, taken: Vec<Delivery>) -> proto::StreamingPullResponse {
        self.last = Instant::now();
        let attachment = self.session.attachment;
        let properties = self.session.engine.read(|broker| {
            broker.settings(attachment).map(|settings| SubscriptionProperties {
                exactly_once_delivery_enabled: settings.exactly_once,
                message_ordering_enabled: settings.ordered,
            })
        });
        let acknowledged = mem::take(&mut self.acknowledged);
        let modified = mem::take(&mut self.modified);
        proto::StreamingPullResponse {
            received_messages: received(attachment.subscription, taken),
            acknowledge_confirmation: (!acknowledged.is_empty())
                .then(|| acknowledged.into_acknowledged()),
            modify_ack_deadline_confirmation: (!modified.is_empty())
                .then(|| modified.into_modified()),
            subscription_properties: properties,
        }
    }

    fn confirmed(&self) -> bool {
        self.acknowledged.is_empty() && self.modified.is_empty()
    }

    /// Handles what was read; false at the end of the stream.
    fn heard(
        &mut self,
        request: Result<Option<proto::StreamingPullRequest>, Status>,
    ) -> Result<bool, Status> {
        let Some(request) = request? else {
            return Ok(false);
        };
        if !request.subscription.is_empty()
            || request.protocol_version != 0
            || request.max_outstanding_messages != 0
            || request.max_outstanding_bytes != 0
        {
            return Err(Status::invalid_argument(
                "subscription, protocol version and flow control belong in the first request only",
            ));
        }
        if request.stream_ack_deadline_seconds != 0 {
            let ack_deadline = settings::ack_deadline(request.stream_ack_deadline_seconds)?;
            let attachment = self.session.attachment;
            self.session.engine.run(|broker, _| broker.set_ack_deadline(attachment, ack_deadline));
        }
        self.apply(&request)?;
        Ok(true)
    }

    /// Carries out acknowledgements and new deadlines.
    fn apply(&mut self, request: &proto::StreamingPullRequest) -> Result<(), Status> {
        let engine = Arc::clone(&self.session.engine);
        if !request.ack_ids.is_empty() {
            let settlement = engine
                .run(|broker, now| broker.acknowledge(&self.subscription, &request.ack_ids, now))?;
            self.acknowledged.extend(settlement);
        }
        let (ids, seconds) = (&request.modify_deadline_ack_ids, &request.modify_deadline_seconds);
        if ids.len() != seconds.len() {
            return Err(Status::invalid_argument(
                "modify_deadline_ack_ids and modify_deadline_seconds differ in length",
            ));
        }
        let mut ids = ids.as_slice();
        for same in seconds.chunk_by(|one, next| one == next) {
            let (together, rest) = ids.split_at(same.len());
            ids = rest;
            let extension = settings::extension(same.first().copied().unwrap_or_default())?;
            let settlement = engine
                .run(|broker, now| broker.modify(&self.subscription, together, extension, now))?;
            self.modified.extend(settlement);
        }
        Ok(())
    }
}

/// A limit as the client states it: nothing up to 0 limits.
fn limit(limit: i64) -> Option<u64> {
    u64::try_from(limit).ok().filter(|limit| *limit > 0)
}

fn stopping() -> Status {
    Status::unavailable("the emulator stops")
}
