//! Counts the deliveries of a subscriber that are in hand, so that the next subscriber does
//! not fetch as many again.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::BoxFuture;

use super::{Delivery, Settle};

/// How many messages and how many of their bytes are or may be in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) messages: usize,
    pub(super) bytes: usize,
}

/// What is in hand of one subscriber. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct InHand(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    messages: AtomicUsize,
    bytes: AtomicUsize,
}

impl InHand {
    pub(super) fn amount(&self) -> Amount {
        Amount {
            messages: self.0.messages.load(Ordering::Relaxed),
            bytes: self.0.bytes.load(Ordering::Relaxed),
        }
    }

    /// Counts a delivery until it is settled.
    pub(super) fn count(&self, delivery: Delivery) -> Delivery {
        let Delivery { received, settle } = delivery;
        let bytes = received.data.len();
        self.0.messages.fetch_add(1, Ordering::Relaxed);
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
        let counts = Arc::clone(&self.0);
        Delivery { received, settle: Box::new(Counted { settle, _one: One { counts, bytes } }) }
    }
}

#[derive(Debug)]
struct Counted {
    settle: Box<dyn Settle>,
    _one: One,
}

/// One delivery, counted until this is dropped.
#[derive(Debug)]
struct One {
    counts: Arc<Counts>,
    bytes: usize,
}

impl Drop for One {
    fn drop(&mut self) {
        self.counts.messages.fetch_sub(1, Ordering::Relaxed);
        self.counts.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Settle for Counted {
    fn ack(self: Box<Self>) -> BoxFuture<'static, bool> {
        self.settle.ack()
    }

    fn nack(self: Box<Self>) {
        self.settle.nack();
    }
}
