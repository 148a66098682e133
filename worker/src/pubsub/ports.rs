//! What a replica needs of a message service.

use std::fmt;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::{self, BoxFuture};
use tokio::sync::watch;

use crate::job::Received;

use super::{IntakeError, Outgoing, PublishError, Settings, Unseen};

/// Ends a delivery. Dropping it gives the message back.
pub trait Settle: Send + fmt::Debug {
    /// Acknowledges. The message counts as acknowledged from this call on; the future
    /// tells whether the service has confirmed it, where it confirms
    /// (exactly-once subscriptions), and is ready at once elsewhere.
    fn ack(self: Box<Self>) -> BoxFuture<'static, bool>;

    /// Gives the message back; the service redelivers it by its retry policy.
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

/// How much a stream may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Window {
    /// What the settings allow.
    #[default]
    Full,
    /// One message, to try whether jobs can be done again.
    One,
}

/// Where jobs come from.
///
/// A source is open from the first [`next`](Self::next) to the next
/// [`pause`](Self::pause) or error, and receives all the while, whether it is asked or
/// not: a stream that is open and not read uses up the delivery attempts of its messages.
pub trait Source: Send + fmt::Debug {
    /// The next message. Opens the source when it is closed. Dropping the future loses
    /// nothing.
    ///
    /// # Errors
    /// [`IntakeError`]: the source has closed, and the next call tries to open it again.
    /// The caller pauses in between.
    fn next(&mut self) -> BoxFuture<'_, Result<Delivery, IntakeError>>;

    /// Closes the source: takes what comes out at once and drops the stream. Deliveries
    /// that were handed out live on. Dropping the future loses nothing.
    fn pause(&mut self) -> BoxFuture<'_, Vec<Delivery>>;

    /// How much the streams that are opened from now on may hold. One that is open stays
    /// as it is; [`pause`](Self::pause) it first.
    fn set_window(&mut self, window: Window);

    /// Why the service cannot be reached, as far as the source has looked; `None` while it
    /// can.
    fn trouble(&self) -> watch::Receiver<Option<Arc<str>>> {
        watch::Sender::new(None).subscribe()
    }

    /// The settings of the subscription; `None` where there is none behind this source.
    ///
    /// # Errors
    /// [`Unseen`].
    fn settings(&self) -> BoxFuture<'_, Result<Option<Settings>, Unseen>> {
        future::ready(Ok(None)).boxed()
    }

    /// Stops receiving: what was fetched and not handed out goes back at once. The
    /// deliveries that were handed out can still be ended; the returned future is
    /// ready when the last of them is and the service knows.
    fn stop(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// Where messages go.
pub trait Topic: Send + Sync + fmt::Debug {
    /// Its full name.
    fn name(&self) -> &str;

    /// Publishes a message, batched with others; its ID. The message is queued when this
    /// is called, in the order of the calls; the future waits for the service's word.
    /// Dropping it does not unpublish.
    fn publish(&self, message: Outgoing) -> BoxFuture<'static, Result<String, PublishError>>;

    /// Publishes a message in a request of its own, so that a refusal is about this message
    /// alone. Otherwise like [`publish`](Self::publish).
    fn publish_alone(&self, message: Outgoing) -> BoxFuture<'static, Result<String, PublishError>> {
        self.publish(message)
    }

    /// Whether this process may publish to it.
    ///
    /// # Errors
    /// [`Unseen`].
    fn look(&self) -> BoxFuture<'_, Result<(), Unseen>> {
        future::ready(Ok(())).boxed()
    }

    /// Whether a subscription keeps its messages. Without one, what is published is lost.
    ///
    /// # Errors
    /// [`Unseen`].
    fn is_kept(&self) -> BoxFuture<'_, Result<bool, Unseen>> {
        future::ready(Ok(true)).boxed()
    }
}
