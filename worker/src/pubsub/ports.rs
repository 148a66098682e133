//! What a replica needs of a message service.

use std::fmt;
use std::future::poll_fn;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;

use super::{Delivery, IntakeError, Outgoing, PublishError};

/// Where jobs come from.
pub trait Source: Send + fmt::Debug {
    /// The next message, or whom to wake when it has come. After an error the next call
    /// tries to open the source again.
    ///
    /// It is polled and not awaited so that nothing is lost or begun anew when the caller
    /// turns to something else meanwhile, and a message costs no future of its own.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Delivery, IntakeError>>;

    /// Stops receiving: what was fetched and not handed out goes back at once. The
    /// deliveries that were handed out can still be ended; the returned future is
    /// ready when the last of them is and the service knows.
    fn stop(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// The next delivery. Dropping the future loses nothing.
///
/// # Errors
/// Those of [`Source::poll_next`].
pub async fn next_delivery(source: &mut dyn Source) -> Result<Delivery, IntakeError> {
    poll_fn(|cx| source.poll_next(cx)).await
}

/// Where messages go.
pub trait Topic: Send + Sync + fmt::Debug {
    /// Publishes a message; its ID. The message is queued when this is called, in
    /// the order of the calls; the future waits for the service's word. Dropping
    /// it does not unpublish.
    fn publish(&self, message: Outgoing) -> BoxFuture<'static, Result<String, PublishError>>;
}
