//! `StreamingPull`: a consumer for as long as the stream is open.
//!
//! There is no task behind a stream. Whoever sends the responses polls for the
//! next one, and each poll first reads what the client sent meanwhile. So the
//! transport's own back pressure decides how much leaves the server.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::{FutureExt as _, Stream, stream};
use googleapis_tonic_google_pubsub_v1::google::pubsub::v1 as proto;
use proto::streaming_pull_response::SubscriptionProperties;
use tonic::{Status, Streaming};

use super::consumer::Limits;
use super::engine::{Engine, Session};
use super::error::Error;
use super::pull::{RESPONSE_BYTES, received};
use super::settings;

/// Messages of one response.
const RESPONSE_MESSAGES: usize = 500;

/// The response side of a stream.
pub(super) type Responses =
    Pin<Box<dyn Stream<Item = Result<proto::StreamingPullResponse, Status>> + Send>>;

struct Open {
    subscription: String,
    ordered: bool,
    session: Session,
    requests: Streaming<proto::StreamingPullRequest>,
}

/// Reads the first request and opens the stream it asks for.
pub(super) async fn open(
    engine: &Arc<Engine>,
    mut requests: Streaming<proto::StreamingPullRequest>,
) -> Result<Responses, Status> {
    let first = tokio::select! {
        first = requests.message() => first?,
        () = engine.stop.cancelled() => return Err(stopping()),
    };
    let first = first
        .ok_or_else(|| Error::Invalid("the stream ended before its first request".to_owned()))?;
    let ack_deadline = settings::ack_deadline(first.stream_ack_deadline_seconds)?;
    let mut ordered = false;
    let session = engine.open(&first.subscription, |settings| {
        ordered = settings.ordered;
        Limits {
            messages: limit(first.max_outstanding_messages),
            bytes: limit(first.max_outstanding_bytes),
            ack_deadline,
        }
    })?;
    let open = Open { subscription: first.subscription.clone(), ordered, session, requests };
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
            if !taken.is_empty() {
                return Ok(Some(proto::StreamingPullResponse {
                    received_messages: received(self.session.attachment.subscription, taken),
                    subscription_properties: Some(SubscriptionProperties {
                        exactly_once_delivery_enabled: false,
                        message_ordering_enabled: self.ordered,
                    }),
                    ..proto::StreamingPullResponse::default()
                }));
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.session.ready() => {}
                request = self.requests.message() => {
                    if !self.heard(request)? {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// Handles what was read; false at the end of the stream.
    fn heard(
        &self,
        request: Result<Option<proto::StreamingPullRequest>, Status>,
    ) -> Result<bool, Status> {
        let Some(request) = request? else {
            return Ok(false);
        };
        if !request.subscription.is_empty()
            || request.max_outstanding_messages != 0
            || request.max_outstanding_bytes != 0
        {
            return Err(Status::invalid_argument(
                "subscription and flow control belong in the first request only",
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
    fn apply(&self, request: &proto::StreamingPullRequest) -> Result<(), Status> {
        let engine = &self.session.engine;
        if !request.ack_ids.is_empty() {
            engine
                .run(|broker, now| broker.acknowledge(&self.subscription, &request.ack_ids, now))?;
        }
        let (ids, seconds) = (&request.modify_deadline_ack_ids, &request.modify_deadline_seconds);
        if ids.len() != seconds.len() {
            return Err(Status::invalid_argument(
                "modify_deadline_ack_ids and modify_deadline_seconds differ in length",
            ));
        }
        for (id, seconds) in ids.iter().zip(seconds) {
            let extension = settings::extension(*seconds)?;
            engine.run(|broker, now| {
                broker.modify(&self.subscription, std::slice::from_ref(id), extension, now)
            })?;
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
