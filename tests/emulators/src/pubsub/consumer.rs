//! A consumer: an open stream or a waiting `Pull`, and its flow control.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::lane::DeliveryId;
use super::message::Message;
use super::queue::Queue;

/// Names a consumer within its subscription; never used twice.
pub(super) type ConsumerId = u64;

/// Messages that may wait for the transport. Their leases run already, so a
/// slow reader must not collect more than it reads soon.
const OUTBOX_MESSAGES: usize = 1_000;
/// Bytes that may wait for the transport.
const OUTBOX_BYTES: u64 = 4 << 20;

/// How much a consumer takes, as its request said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Outstanding messages; `None` for no limit.
    pub(super) messages: Option<u64>,
    /// Outstanding bytes; the message that crosses the limit is still sent.
    pub(super) bytes: Option<u64>,
    /// Ack deadline of what is delivered here.
    pub(super) ack_deadline: Duration,
}

/// One message on its way to a consumer.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    pub(super) id: DeliveryId,
    pub(super) message: Arc<Message>,
    /// 1 + failures so far; `None` without a dead-letter policy.
    pub(super) attempt: Option<u32>,
}

/// See the module page.
#[derive(Debug)]
pub(super) struct Consumer {
    pub(super) limits: Limits,
    outstanding_messages: u64,
    outstanding_bytes: u64,
    outbox: VecDeque<Delivery>,
    outbox_bytes: u64,
    /// Lanes that only this consumer may take from.
    pub(super) own: Queue,
}

impl Consumer {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            outstanding_messages: 0,
            outstanding_bytes: 0,
            outbox: VecDeque::new(),
            outbox_bytes: 0,
            own: Queue::default(),
        }
    }

    /// Whether flow control lets another message through.
    pub(super) fn has_room(&self) -> bool {
        let below = |count: u64, limit: Option<u64>| limit.is_none_or(|limit| count < limit);
        below(self.outstanding_messages, self.limits.messages)
            && below(self.outstanding_bytes, self.limits.bytes)
            && self.outbox.len() < OUTBOX_MESSAGES
            && self.outbox_bytes < OUTBOX_BYTES
    }

    /// Queues a delivery; true if the outbox was empty and its reader must be woken.
    pub(super) fn push(&mut self, delivery: Delivery) -> bool {
        let wake = self.outbox.is_empty();
        self.outstanding_messages += 1;
        self.outstanding_bytes += delivery.message.size;
        self.outbox_bytes += delivery.message.size;
        self.outbox.push_back(delivery);
        wake
    }

    /// The next delivery for the transport, if it has at most `bytes`.
    pub(super) fn pop(&mut self, bytes: u64) -> Option<Delivery> {
        let delivery = self.outbox.pop_front_if(|delivery| delivery.message.size <= bytes)?;
        self.outbox_bytes -= delivery.message.size;
        Some(delivery)
    }

    /// A delivery of `bytes` is no longer outstanding.
    pub(super) fn release(&mut self, bytes: u64) {
        self.outstanding_messages -= 1;
        self.outstanding_bytes -= bytes;
    }

    /// What never left the server, in order.
    pub(super) fn into_outbox(self) -> impl Iterator<Item = DeliveryId> {
        self.outbox.into_iter().map(|delivery| delivery.id)
    }
}

#[cfg(test)]
mod tests {
    use googleapis_tonic_google_pubsub_v1::google::pubsub::v1::PubsubMessage;

    use super::*;

    fn consumer(messages: Option<u64>, bytes: Option<u64>) -> Consumer {
        Consumer::new(Limits { messages, bytes, ack_deadline: Duration::from_secs(10) })
    }

    fn delivery(id: DeliveryId, size: usize) -> Delivery {
        let content = PubsubMessage { data: vec![0; size], ..PubsubMessage::default() };
        Delivery { id, message: Arc::new(Message::new(content)), attempt: None }
    }

    #[test]
    fn messages_are_limited_until_one_is_released() {
        let mut consumer = consumer(Some(2), None);
        assert!(consumer.push(delivery(1, 1)));
        assert!(!consumer.push(delivery(2, 1)));
        assert!(!consumer.has_room());
        let taken = consumer.pop(u64::MAX).expect("queued");
        assert!(!consumer.has_room(), "sending is not acknowledging");
        consumer.release(taken.message.size);
        assert!(consumer.has_room());
    }

    #[test]
    fn the_message_that_crosses_the_byte_limit_is_sent() {
        let mut consumer = consumer(None, Some(1_000));
        consumer.push(delivery(1, 900));
        assert!(consumer.has_room());
        consumer.push(delivery(2, 900));
        assert!(!consumer.has_room());
    }

    #[test]
    fn an_unread_outbox_stops_even_an_unlimited_consumer() {
        let mut consumer = consumer(None, None);
        for id in 0..1_000 {
            assert!(consumer.has_room());
            consumer.push(delivery(id, 1));
        }
        assert!(!consumer.has_room());
        consumer.pop(u64::MAX);
        assert!(consumer.has_room());
    }

    #[test]
    fn a_message_over_the_byte_budget_stays() {
        let mut consumer = consumer(None, None);
        consumer.push(delivery(1, 500));
        assert!(consumer.pop(400).is_none());
        assert!(consumer.pop(1_000).is_some());
    }
}
