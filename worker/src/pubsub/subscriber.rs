//! The official client behind the reader: one subscriber with a connection of its own, and
//! the look at the service.

use std::fmt;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{self, BoxFuture};
use futures_util::stream::{self, BoxStream};
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use google_cloud_auth::credentials::Credentials;
use google_cloud_gax::error::rpc::Code;
use google_cloud_gax::options::RequestOptionsBuilder as _;
use google_cloud_gax::retry_policy::NeverRetry;
use google_cloud_pubsub::client::{SchemaService, Subscriber as Client};
use google_cloud_pubsub::model::Message;
use google_cloud_pubsub::subscriber::handler::Handler;
use jiff::Timestamp;
use shared::innermost;

use crate::job::Received;

use super::in_hand::Amount;
use super::silence::LOOK_LIMIT;
use super::{Connection, Delivery, IntakeError, IntakeSettings, Settle};

/// How long a message may be held at most, counted from its receipt: an outage
/// may last, and giving messages back would burn their delivery attempts.
const MAX_HOLD: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a confirmed acknowledgement may take. On a useless connection it would never end.
const CONFIRM_LIMIT: Duration = Duration::from_secs(60);
/// Any permission would do: the answer itself is what the look is for.
const PERMISSION: &str = "pubsub.subscriptions.consume";

/// Where a reader gets its subscribers from.
pub(super) trait Service: Send + Sync + fmt::Debug + 'static {
    /// A subscriber with a connection of its own that holds at most so much. Its stream
    /// opens when it is read first.
    fn subscribe(&self, window: Amount) -> BoxFuture<'_, Result<Subscriber, IntakeError>>;

    /// Asks the service something on a fresh connection. Any answer is `Ok`; else the text
    /// says why there was none.
    fn look(&self) -> BoxFuture<'static, Result<(), String>>;
}

/// An open subscriber.
pub(super) struct Subscriber {
    messages: BoxStream<'static, Result<Delivery, IntakeError>>,
    /// Asks for the end of the stream; ready when its deliveries are settled and the
    /// service knows.
    released: BoxFuture<'static, ()>,
}

impl Subscriber {
    pub(super) fn new(
        messages: impl Stream<Item = Result<Delivery, IntakeError>> + Send + 'static,
        released: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self { messages: messages.boxed(), released: released.boxed() }
    }

    /// The next message or the error that ended the stream for good; `None` when the stream
    /// woke the task without a message.
    pub(super) async fn next_or_stir(&mut self) -> Option<Result<Delivery, IntakeError>> {
        let mut polled = false;
        poll_fn(|cx| match self.messages.poll_next_unpin(cx) {
            Poll::Ready(Some(next)) => Poll::Ready(Some(next)),
            // A stream that ended for good says so once and then nothing.
            Poll::Ready(None) => Poll::Ready(Some(Err(IntakeError::Closed))),
            Poll::Pending if polled => Poll::Ready(None),
            Poll::Pending => {
                polled = true;
                Poll::Pending
            }
        })
        .await
    }

    /// Takes what comes out at once.
    pub(super) fn empty(&mut self) -> Vec<Delivery> {
        let mut out = Vec::new();
        while let Some(Some(Ok(delivery))) = self.messages.next().now_or_never() {
            out.push(delivery);
        }
        out
    }

    /// Drops the stream. What it has fetched and not handed out goes back. The future is
    /// ready when every delivery is settled and the service knows: on a useless connection
    /// never. Dropping the future changes nothing.
    pub(super) fn close(mut self) -> BoxFuture<'static, ()> {
        // Asking for the shutdown and then dropping the stream releases what
        // it has prefetched; keeping the stream would delay that by its leases.
        let is_released = (&mut self.released).now_or_never().is_some();
        drop(self.messages);
        if is_released { future::ready(()).boxed() } else { self.released }
    }
}

/// Google's Pub/Sub, or an emulator.
pub(super) struct PubSub {
    connection: Connection,
    credentials: Credentials,
    settings: IntakeSettings,
}

impl PubSub {
    /// Sees that a client can be built.
    ///
    /// # Errors
    /// [`IntakeError::Client`].
    pub(super) async fn new(
        connection: &Connection,
        settings: IntakeSettings,
    ) -> Result<Self, IntakeError> {
        let credentials = connection.credentials().map_err(|e| IntakeError::Client(Arc::new(e)))?;
        let this = Self { connection: connection.clone(), credentials, settings };
        this.client().await?;
        Ok(this)
    }

    async fn client(&self) -> Result<Client, IntakeError> {
        let mut builder = Client::builder().with_credentials(self.credentials.clone());
        if let Some(endpoint) = self.connection.endpoint() {
            builder = builder.with_endpoint(endpoint);
        }
        builder.build().await.map_err(|e| IntakeError::Client(Arc::new(e)))
    }

    fn permanent(subscription: &str, error: google_cloud_pubsub::Error) -> IntakeError {
        let subscription = subscription.to_owned();
        match error.status().map(|status| status.code) {
            Some(Code::NotFound) => IntakeError::NoSubscription(subscription),
            Some(Code::PermissionDenied | Code::Unauthenticated) => {
                IntakeError::Denied { subscription, source: Arc::new(error) }
            }
            _ => IntakeError::Ended {
                subscription,
                why: innermost(&error).to_string(),
                source: Arc::new(error),
            },
        }
    }
}

impl Service for PubSub {
    fn subscribe(&self, window: Amount) -> BoxFuture<'_, Result<Subscriber, IntakeError>> {
        async move {
            let client = self.client().await?;
            let subscription = &self.settings.subscription;
            let wire = |limit: usize| i64::try_from(limit).unwrap_or(i64::MAX);
            let stream = client
                .subscribe(subscription)
                .set_max_lease(MAX_HOLD)
                .set_max_lease_extension(self.settings.ack_extension)
                .set_max_outstanding_messages(wire(window.messages))
                .set_max_outstanding_bytes(wire(window.bytes))
                .build();
            let token = stream.shutdown_token();
            let subscription = subscription.clone();
            let messages = stream::unfold(stream, |mut stream| async move {
                stream.next().await.map(|next| (next, stream))
            });
            let messages = messages.map(move |next| match next {
                Ok((message, handler)) => Ok(delivery(message, handler)),
                Err(error) => Err(Self::permanent(&subscription, error)),
            });
            Ok(Subscriber::new(messages, async move { token.shutdown().await }))
        }
        .boxed()
    }

    fn look(&self) -> BoxFuture<'static, Result<(), String>> {
        let builder = self.connection.of_here(SchemaService::builder());
        let builder =
            builder.with_retry_policy(NeverRetry).with_credentials(self.credentials.clone());
        let subscription = self.settings.subscription.clone();
        let asked = async move {
            let client = builder.build().await.map_err(|e| innermost(&e).to_string())?;
            let call = client.test_iam_permissions().set_resource(subscription);
            let call = call.set_permissions([PERMISSION]).with_attempt_timeout(LOOK_LIMIT);
            match call.send().await {
                Ok(_) => Ok(()),
                // Any answer shows that the service is reached, a refusal too.
                Err(error) if error.http_status_code().is_some() || error.status().is_some() => {
                    Ok(())
                }
                Err(error) => Err(innermost(&error).to_string()),
            }
        };
        async move {
            match tokio::time::timeout(LOOK_LIMIT, asked).await {
                Ok(answer) => answer,
                Err(_late) => Err(format!("no answer within {LOOK_LIMIT:?}")),
            }
        }
        .boxed()
    }
}

impl fmt::Debug for PubSub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PubSub").field("settings", &self.settings).finish_non_exhaustive()
    }
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
    fn ack(self: Box<Self>) -> BoxFuture<'static, bool> {
        match self.0 {
            Handler::ExactlyOnce(handler) => {
                let confirmed = tokio::time::timeout(CONFIRM_LIMIT, handler.confirmed_ack());
                async move { matches!(confirmed.await, Ok(Ok(()))) }.boxed()
            }
            other => {
                other.ack();
                future::ready(true).boxed()
            }
        }
    }

    fn nack(self: Box<Self>) {
        self.0.nack();
    }
}
