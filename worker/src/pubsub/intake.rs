//! Receives messages: a [`Source`] over a reader of the official client.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use shared::adapters::SystemClock;
use shared::ports::Randomness;
use tokio::sync::{oneshot, watch};

use super::in_hand::Amount;
use super::reader::{Ends, Order, Reader};
use super::subscriber::PubSub;
use super::{Cause, Connection, Delivery, Inspector, Settings, Source, Unseen, Window};

/// How many bytes of messages may be held at once, unless something else is said.
pub const OUTSTANDING_BYTES: usize = 64 * 1024 * 1024;

/// How messages are received.
#[derive(Debug, Clone)]
pub struct IntakeSettings {
    /// Full name of the subscription.
    pub subscription: String,
    /// How many messages may be held at once.
    pub max_outstanding: usize,
    /// How many bytes of messages may be held at once; see [`OUTSTANDING_BYTES`].
    pub max_outstanding_bytes: usize,
    /// How long the messages of a dead replica stay unseen.
    pub ack_extension: Duration,
}

/// Why no more messages come.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IntakeError {
    /// The client cannot be built.
    #[error("the Pub/Sub client cannot be built: {0}")]
    Client(#[source] Cause),
    /// There is no such subscription.
    #[error(
        "{0} does not exist; create it (`fleet setup`, or Terraform) or correct --subscription"
    )]
    NoSubscription(String),
    /// Not allowed to read from it.
    #[error(
        "{subscription}: permission denied; grant this process roles/pubsub.subscriber on it, or correct --subscription"
    )]
    Denied {
        /// The subscription.
        subscription: String,
        /// What the service said.
        source: Cause,
    },
    /// The service ended the stream for another reason.
    #[error("the stream of {subscription} ended: {why}")]
    Ended {
        /// The subscription.
        subscription: String,
        /// In short.
        why: String,
        /// What the service said.
        source: Cause,
    },
    /// The stream was closed without a reason.
    #[error("the stream was closed")]
    Closed,
}

/// A subscription of Pub/Sub.
///
/// While nothing comes it looks every ten seconds whether the service can be reached, on a
/// fresh connection; [`trouble`](Source::trouble) tells what it has found. While the service
/// cannot be reached the stream is closed, and looks follow each other after 1 s … 30 s; a
/// subscriber that has been silent for three minutes is replaced by one with a new connection.
///
/// An acknowledgement that was handed to a useless connection is lost, and nobody is told:
/// the message is redelivered when its lease has ended.
pub struct Intake {
    connection: Connection,
    settings: IntakeSettings,
    ends: Ends,
    window: Window,
    is_open: bool,
}

impl Intake {
    /// Prepares the intake; it opens with the first [`Source::next`]. Must be called inside
    /// a tokio runtime, where it starts the task that reads.
    ///
    /// # Errors
    /// [`IntakeError::Client`].
    pub async fn open(
        connection: &Connection,
        settings: IntakeSettings,
    ) -> Result<Self, IntakeError> {
        let service = PubSub::new(connection, settings.clone()).await?;
        let most =
            Amount { messages: settings.max_outstanding, bytes: settings.max_outstanding_bytes };
        let clock = Arc::new(SystemClock::default());
        let (reader, ends) = Reader::new(service, most, clock, Randomness::from_system());
        tokio::spawn(reader.run());
        Ok(Self {
            connection: connection.clone(),
            settings,
            ends,
            window: Window::Full,
            is_open: false,
        })
    }

    /// Tells the reader, which lives as long as this.
    fn order(&self, order: Order) {
        _ = self.ends.orders.send(order);
    }
}

impl Source for Intake {
    fn next(&mut self) -> BoxFuture<'_, Result<Delivery, IntakeError>> {
        async move {
            if !self.is_open {
                self.is_open = true;
                self.order(Order::Open(self.window));
            }
            let next = self.ends.deliveries.recv().await.unwrap_or(Err(IntakeError::Closed));
            self.is_open = next.is_ok();
            next
        }
        .boxed()
    }

    fn pause(&mut self) -> BoxFuture<'_, Vec<Delivery>> {
        async move {
            self.is_open = false;
            let (emptied, last) = oneshot::channel();
            self.order(Order::Pause(emptied));
            let last = last.await.unwrap_or_default();
            let mut out = Vec::new();
            // An error that ended the stream meanwhile is met again by whoever opens it.
            while let Ok(next) = self.ends.deliveries.try_recv() {
                out.extend(next);
            }
            out.extend(last);
            out
        }
        .boxed()
    }

    fn set_window(&mut self, window: Window) {
        self.window = window;
    }

    fn trouble(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.ends.trouble.clone()
    }

    fn settings(&self) -> BoxFuture<'_, Result<Option<Settings>, Unseen>> {
        async move {
            let inspector = Inspector::new(&self.connection);
            inspector.subscription(&self.settings.subscription).await.map(Some)
        }
        .boxed()
    }

    fn stop(self: Box<Self>) -> BoxFuture<'static, ()> {
        let (stopped, over) = oneshot::channel();
        self.order(Order::Stop(stopped));
        // What was read and not handed out goes back.
        drop(self.ends.deliveries);
        async move { over.await.unwrap_or_default() }.boxed()
    }
}

impl fmt::Debug for Intake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Intake").field("settings", &self.settings).finish_non_exhaustive()
    }
}
