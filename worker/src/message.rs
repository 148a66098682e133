//! The messages that a replica has in hand: each once, however often it is delivered.
//!
//! Pub/Sub delivers at least once, and may deliver a message again to the replica that
//! holds it. Such a redelivery runs nothing: its handle joins the delivery in hand, and
//! all handles of a message are settled alike.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::job::Received;
use crate::pubsub::{Delivery, Settle};

type Handles = Vec<Box<dyn Settle>>;

/// The handles of every message in hand, by message ID.
#[derive(Debug, Default)]
pub(crate) struct InHand(Mutex<HashMap<String, Handles>>);

/// A message in hand. Dropping it gives the message back.
pub(crate) struct Message {
    /// As it was delivered first.
    pub(crate) received: Arc<Received>,
    in_hand: Arc<InHand>,
}

impl InHand {
    /// Takes a delivery in; `None` when its message is in hand already.
    pub(crate) fn take(self: &Arc<Self>, delivery: Delivery) -> Option<Message> {
        let Delivery { received, settle } = delivery;
        let mut messages = self.lock();
        match messages.entry(received.message_id.clone()) {
            Entry::Occupied(mut handles) => {
                handles.get_mut().push(settle);
                None
            }
            Entry::Vacant(place) => {
                place.insert(vec![settle]);
                drop(messages);
                Some(Message { received, in_hand: Arc::clone(self) })
            }
        }
    }

    /// How many messages are in hand.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Handles>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Message {
    /// From here on the message may be delivered anew.
    fn let_go(&self) -> Handles {
        self.in_hand.lock().remove(&self.received.message_id).unwrap_or_default()
    }

    /// Acknowledges every delivery of it. Whether the service confirmed, where it does.
    ///
    /// Cancelling it may leave the service without the acknowledgement.
    pub(crate) async fn acknowledge(self) -> bool {
        let acknowledged = self.let_go().into_iter().map(Settle::ack);
        futures_util::future::join_all(acknowledged).await.into_iter().all(|confirmed| confirmed)
    }

    /// Gives every delivery of it back.
    pub(crate) fn give_back(self) {
        for handle in self.let_go() {
            handle.nack();
        }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        for handle in self.let_go() {
            handle.nack();
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Message").field(&self.received).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;
    use futures_util::future::{BoxFuture, ready};

    use super::*;

    #[derive(Debug, Default)]
    struct Counts {
        acks: AtomicUsize,
        nacks: AtomicUsize,
    }

    #[derive(Debug)]
    struct Handle(Arc<Counts>);

    impl Settle for Handle {
        fn ack(self: Box<Self>) -> BoxFuture<'static, bool> {
            self.0.acks.fetch_add(1, Ordering::Relaxed);
            ready(true).boxed()
        }

        fn nack(self: Box<Self>) {
            self.0.nacks.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn delivery(id: &str, counts: &Arc<Counts>) -> Delivery {
        let received = Received { message_id: id.to_owned(), ..Received::default() };
        Delivery { received: Arc::new(received), settle: Box::new(Handle(Arc::clone(counts))) }
    }

    #[test]
    fn every_delivery_of_a_message_is_settled_alike_and_once() {
        let counts = Arc::new(Counts::default());
        let in_hand = Arc::new(InHand::default());
        let told = || {
            let count = |n: &AtomicUsize| n.load(Ordering::Relaxed);
            (count(&counts.acks), count(&counts.nacks))
        };
        let first = in_hand.take(delivery("1", &counts)).unwrap();
        assert!(in_hand.take(delivery("1", &counts)).is_none(), "it is in hand");
        let other = in_hand.take(delivery("2", &counts)).unwrap();
        assert_eq!(in_hand.len(), 2);
        assert_eq!(first.acknowledge().now_or_never(), Some(true));
        assert_eq!((told(), in_hand.len()), ((2, 0), 1));
        let again = in_hand.take(delivery("1", &counts)).unwrap();
        again.give_back();
        drop(other);
        assert_eq!((told(), in_hand.len()), ((2, 2), 0));
    }
}
