//! Receives messages: one StreamingPull, rebuilt when it dies for good.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::future::{self, BoxFuture, Either, Ready};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, StreamExt as _};
use google_cloud_gax::error::rpc::Code;
use google_cloud_pubsub::client::Subscriber;
use google_cloud_pubsub::model::Message;
use google_cloud_pubsub::subscriber::ShutdownToken;
use google_cloud_pubsub::subscriber::handler::Handler;
use jiff::Timestamp;

use crate::job::Received;

use super::{Connection, Source, no_credentials};

/// An acknowledgement: at once, or when it is confirmed.
pub type Acknowledged = Either<Ready<bool>, BoxFuture<'static, bool>>;

/// Ends a delivery. Dropping it gives the message back.
pub trait Settle: Send + fmt::Debug {
    /// Acknowledges. With an exactly-once subscription the future ends when
    /// Pub/Sub has confirmed; `false` when it did not. Others need no future of their own.
    fn ack(self: Box<Self>) -> Acknowledged;

    /// Gives the message back; Pub/Sub redelivers it by its retry policy.
    fn nack(self: Box<Self>);
}

/// A message and the way to end its delivery.
#[derive(Debug)]
pub struct Delivery {
    /// The message.
    pub received: Arc<Received>,
    /// Ends the delivery.
    pub settle: Box<dyn Settle>,
}

/// How messages are received.
#[derive(Debug, Clone)]
pub struct IntakeSettings {
    /// Full name of the subscription.
    pub subscription: String,
    /// How many messages may be held at once.
    pub max_outstanding: usize,
    /// How long the messages of a dead replica stay unseen.
    pub ack_extension: Duration,
}

/// How long a message may be held at most, counted from its receipt: an outage
/// may last, and giving messages back would burn their delivery attempts.
const MAX_HOLD: Duration = Duration::from_secs(24 * 60 * 60);

/// Why no more messages come.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IntakeError {
    /// The client cannot be built.
    #[error("the Pub/Sub client cannot be built: {0}")]
    Client(String),
    /// There is no such subscription.
    #[error(
        "{0} does not exist; create it (`fleet setup`, or Terraform) or correct --subscription"
    )]
    NoSubscription(String),
    /// Not allowed to read from it.
    #[error(
        "{0}: permission denied; grant this process roles/pubsub.subscriber on it, or correct --subscription"
    )]
    Denied(String),
    /// The stream ended with another permanent error.
    #[error("the stream of {subscription} ended: {why}")]
    Ended {
        /// The subscription.
        subscription: String,
        /// What the service said.
        why: String,
    },
}

/// One StreamingPull.
pub struct Intake {
    subscriber: Subscriber,
    settings: IntakeSettings,
    messages: Messages,
    token: ShutdownToken,
}

/// What the official client hands out, until it says for good that there is no more. Its
/// errors are boxed: every message would be moved with room for one.
type Messages = BoxStream<'static, Result<Delivery, Box<google_cloud_pubsub::Error>>>;

impl Intake {
    /// Prepares the stream; it opens with the first [`Source::poll_next`].
    ///
    /// # Errors
    /// [`IntakeError::Client`].
    pub async fn open(
        connection: &Connection,
        settings: IntakeSettings,
    ) -> Result<Self, IntakeError> {
        let mut builder = Subscriber::builder();
        if let Some(endpoint) = connection.endpoint() {
            builder = builder.with_endpoint(endpoint).with_credentials(no_credentials());
        }
        let subscriber =
            builder.build().await.map_err(|e| IntakeError::Client(innermost(&e).to_string()))?;
        let (messages, token) = start(&subscriber, &settings);
        Ok(Self { subscriber, settings, messages, token })
    }

    fn permanent(&self, error: &google_cloud_pubsub::Error) -> IntakeError {
        let subscription = self.settings.subscription.clone();
        match error.status().map(|s| s.code) {
            Some(Code::NotFound) => IntakeError::NoSubscription(subscription),
            Some(Code::PermissionDenied | Code::Unauthenticated) => {
                IntakeError::Denied(subscription)
            }
            _ => IntakeError::Ended { subscription, why: innermost(error).to_string() },
        }
    }
}

impl Source for Intake {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Delivery, IntakeError>> {
        let error = match ready!(self.messages.poll_next_unpin(cx)) {
            Some(Ok(delivery)) => return Poll::Ready(Ok(delivery)),
            Some(Err(error)) => self.permanent(&error),
            None => IntakeError::Ended {
                subscription: self.settings.subscription.clone(),
                why: "it was closed".to_owned(),
            },
        };
        // A stream that ended for good says so once and then nothing.
        (self.messages, self.token) = start(&self.subscriber, &self.settings);
        Poll::Ready(Err(error))
    }

    fn stop(self: Box<Self>) -> BoxFuture<'static, ()> {
        let token = self.token.clone();
        // Asking for the shutdown and then dropping the stream releases what
        // it has prefetched; keeping the stream would delay that by its leases.
        let done = async move { token.shutdown().await }.boxed().shared();
        let waiting = tokio::spawn(done.clone());
        drop(self.messages);
        async move {
            drop(waiting);
            done.await;
        }
        .boxed()
    }
}

fn start(subscriber: &Subscriber, settings: &IntakeSettings) -> (Messages, ShutdownToken) {
    let mut stream = subscriber
        .subscribe(&settings.subscription)
        .set_max_lease(MAX_HOLD)
        .set_max_lease_extension(settings.ack_extension)
        .set_max_outstanding_messages(i64::try_from(settings.max_outstanding).unwrap_or(i64::MAX))
        .build();
    let token = stream.shutdown_token();
    let messages = async_stream::stream! {
        while let Some(next) = stream.next().await {
            yield next.map(|(message, handler)| delivery(message, handler)).map_err(Box::new);
        }
    };
    (messages.boxed(), token)
}

fn delivery(message: Message, handler: Handler) -> Delivery {
    let publish_time =
        message.publish_time.and_then(|t| Timestamp::new(t.seconds(), t.nanos()).ok());
    Delivery {
        received: Arc::new(Received {
            data: message.data,
            attributes: message.attributes,
            ordering_key: message.ordering_key,
            message_id: message.message_id,
            publish_time,
            delivery_attempt: handler.delivery_attempt(),
        }),
        settle: Box::new(PubSubSettle(handler)),
    }
}

#[derive(Debug)]
struct PubSubSettle(Handler);

impl Settle for PubSubSettle {
    fn ack(self: Box<Self>) -> Acknowledged {
        match self.0 {
            Handler::ExactlyOnce(handler) => {
                Either::Right(async move { handler.confirmed_ack().await.is_ok() }.boxed())
            }
            other => {
                other.ack();
                Either::Left(future::ready(true))
            }
        }
    }

    fn nack(self: Box<Self>) {
        self.0.nack();
    }
}

fn innermost(error: &dyn std::error::Error) -> &dyn std::error::Error {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intake").field("settings", &self.settings).finish_non_exhaustive()
    }
}
