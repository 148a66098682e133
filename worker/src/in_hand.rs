//! The message whose delivery is under way, for what is logged meanwhile.
//!
//! A span could carry it too. One that nobody exports costs a job more than its decoding.

use std::sync::Arc;

use tokio::task::futures::TaskLocalFuture;

use crate::job::Received;

tokio::task_local! {
    static IN_HAND: Arc<Received>;
}

/// Runs `delivery` with its message in hand. Tasks that it spawns have none.
pub(crate) fn while_in_hand<F: Future>(
    received: Arc<Received>,
    delivery: F,
) -> TaskLocalFuture<Arc<Received>, F> {
    IN_HAND.scope(received, delivery)
}

/// What `look` finds in the message in hand, if there is one.
pub(crate) fn in_hand<T>(look: impl FnOnce(&Received) -> T) -> Option<T> {
    IN_HAND.try_with(|received| look(received)).ok()
}

#[cfg(test)]
pub(crate) fn with_in_hand<T>(received: Received, work: impl FnOnce() -> T) -> T {
    IN_HAND.sync_scope(Arc::new(received), work)
}
