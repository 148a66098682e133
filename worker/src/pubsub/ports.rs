//! What a replica needs of a message service.

use std::fmt;

use futures_util::future::BoxFuture;

use super::{Delivery, IntakeError, Outgoing, PublishError};

/// Where jobs come from.
pub trait Source: Send + fmt::Debug {
    /// The next message. After an error the next call tries to open the source
    /// again. Dropping the future before it is ready may delay messages that were
    /// about to come by as long as Pub/Sub leases them, so callers keep it.
    fn next(&mut self) -> BoxFuture<'_, Result<Delivery, IntakeError>>;

    /// Stops receiving: what was fetched and not handed out goes back at once. The
    /// deliveries that were handed out can still be ended; the returned future is
    /// ready when the last of them is and the service knows.
    fn stop(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// Where messages go.
pub trait Topic: Send + Sync + fmt::Debug {
    /// Publishes a message; its ID. The message is queued when this is called, in
    /// the order of the calls; the future waits for the service's word. Dropping
    /// it does not unpublish.
    fn publish(&self, message: Outgoing) -> BoxFuture<'static, Result<String, PublishError>>;
}
