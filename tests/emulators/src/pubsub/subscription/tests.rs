//! The state machine in virtual time: no test here waits.

mod flow_control;
mod ordering;
mod policies;
mod schedules;

use std::time::Duration;

use googleapis_tonic_google_pubsub_v1::google::pubsub::v1::PubsubMessage;

use super::*;
use crate::pubsub::settings::{DeadLetterPolicy, Retry};

const ACK_DEADLINE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_nanos(1);

/// A subscription and its time. Every operation is followed by what the broker
/// does after it.
struct Bench {
    subscription: Subscription,
    now: Instant,
}

/// What a consumer got: the texts and the deliveries.
#[derive(Debug)]
struct Got {
    texts: Vec<String>,
    ids: Vec<DeliveryId>,
    attempts: Vec<Option<u32>>,
}

impl Bench {
    fn new(settings: Settings) -> Self {
        Self { subscription: Subscription::new(settings), now: Instant::now() }
    }

    fn plain() -> Self {
        Self::new(settings())
    }

    fn ordered() -> Self {
        Self::new(Settings { ordered: true, ..settings() })
    }

    /// Publishes each word; the ordering key is its first letter.
    fn publish(&mut self, words: &str) {
        for word in words.split_whitespace() {
            let message = Message::new(PubsubMessage {
                data: word.into(),
                ordering_key: word[..1].to_owned(),
                ..PubsubMessage::default()
            });
            self.subscription.enqueue(Arc::new(message));
        }
        self.subscription.dispatch(self.now);
    }

    fn open(&mut self, messages: u64) -> ConsumerId {
        self.open_with(Limits {
            messages: (messages > 0).then_some(messages),
            bytes: None,
            ack_deadline: ACK_DEADLINE,
        })
    }

    fn open_with(&mut self, limits: Limits) -> ConsumerId {
        let id = self.subscription.open(limits);
        self.subscription.dispatch(self.now);
        id
    }

    fn close(&mut self, consumer: ConsumerId) {
        self.subscription.close(consumer);
        self.subscription.dispatch(self.now);
    }

    fn take(&mut self, consumer: ConsumerId) -> Got {
        let taken = self.subscription.take(consumer, usize::MAX, u64::MAX);
        self.subscription.dispatch(self.now);
        let taken = taken.expect("the consumer is open");
        let text = |delivery: &Delivery| {
            String::from_utf8(delivery.message.content.data.clone()).expect("text")
        };
        Got {
            texts: taken.iter().map(text).collect(),
            ids: taken.iter().map(|delivery| delivery.id).collect(),
            attempts: taken.iter().map(|delivery| delivery.attempt).collect(),
        }
    }

    fn ack(&mut self, ids: &[DeliveryId]) {
        self.subscription.acknowledge(ids, |_| false);
        self.subscription.dispatch(self.now);
    }

    fn modify(&mut self, ids: &[DeliveryId], extension: Duration) {
        self.subscription.modify(ids, extension, self.now);
        self.subscription.dispatch(self.now);
    }

    fn nack(&mut self, ids: &[DeliveryId]) {
        self.modify(ids, Duration::ZERO);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.subscription.advance(self.now);
        self.subscription.dispatch(self.now);
    }

    fn stats(&self) -> Stats {
        self.subscription.stats()
    }

    /// Nothing is left of any message.
    fn assert_clean(&self) {
        let subscription = &self.subscription;
        assert_eq!((self.stats().backlog, self.stats().outstanding), (0, 0));
        assert!(subscription.lanes.is_empty());
        assert!(subscription.keys.is_empty());
        assert!(subscription.leases.is_empty());
        assert!(subscription.voided.is_empty());
        assert!(subscription.timers.is_empty());
        assert!(subscription.shared.is_empty());
    }
}

fn just_before(time: Duration) -> Duration {
    time.saturating_sub(TICK)
}

fn settings() -> Settings {
    Settings {
        ack_deadline: ACK_DEADLINE,
        ordered: false,
        exactly_once: false,
        retry: None,
        dead_letter: None,
        filter: None,
    }
}

fn with_retry(ordered: bool) -> Settings {
    Settings {
        ordered,
        retry: Some(Retry { minimum: Duration::from_secs(2), maximum: Duration::from_secs(5) }),
        ..settings()
    }
}

fn with_dead_letter(ordered: bool) -> Settings {
    Settings {
        ordered,
        dead_letter: Some(DeadLetterPolicy {
            topic: "projects/p/topics/dead".to_owned(),
            max_attempts: 5,
        }),
        ..settings()
    }
}

#[test]
fn an_acknowledged_message_is_gone() {
    let mut bench = Bench::plain();
    let consumer = bench.open(0);
    bench.publish("a1 a2");
    let got = bench.take(consumer);
    assert_eq!(got.texts, ["a1", "a2"]);
    assert_eq!(got.attempts, [None, None]);
    bench.ack(&got.ids);
    bench.assert_clean();
    bench.pass(Duration::from_hours(1));
    assert!(bench.take(consumer).texts.is_empty());
}

#[test]
fn a_message_without_consumer_waits() {
    let mut bench = Bench::plain();
    bench.publish("a1");
    bench.pass(Duration::from_hours(1));
    assert_eq!(bench.stats().backlog, 1);
    let consumer = bench.open(0);
    assert_eq!(bench.subscription.take_woken(), [consumer]);
    assert_eq!(bench.take(consumer).texts, ["a1"]);
}

#[test]
fn a_nacked_message_comes_again_at_once_with_a_new_ack_id() {
    let mut bench = Bench::plain();
    let consumer = bench.open(0);
    bench.publish("a1");
    let first = bench.take(consumer);
    bench.nack(&first.ids);
    let second = bench.take(consumer);
    assert_eq!(second.texts, ["a1"]);
    assert_ne!(first.ids, second.ids);
    bench.ack(&first.ids);
    assert_eq!(bench.stats().backlog, 1, "the old ack ID is void");
    bench.ack(&second.ids);
    bench.assert_clean();
    let stats = bench.stats();
    assert_eq!((stats.deliveries, stats.redeliveries), (2, 1));
    assert_eq!((stats.nacked, stats.acknowledged), (1, 1));
}

#[test]
fn a_deadline_passes_exactly_when_it_is_due() {
    let mut bench = Bench::plain();
    let consumer = bench.open(0);
    bench.publish("a1");
    bench.take(consumer);
    assert_eq!(bench.subscription.next_wakeup(), Some(bench.now + ACK_DEADLINE));
    bench.pass(just_before(ACK_DEADLINE));
    assert!(bench.take(consumer).texts.is_empty());
    bench.pass(TICK);
    assert_eq!(bench.take(consumer).texts, ["a1"]);
    assert_eq!(bench.stats().expired, 1);
}

#[test]
fn an_extension_counts_from_when_it_is_asked_for() {
    let mut bench = Bench::plain();
    let consumer = bench.open(0);
    bench.publish("a1");
    let got = bench.take(consumer);
    bench.pass(Duration::from_secs(9));
    bench.modify(&got.ids, Duration::from_secs(30));
    bench.pass(Duration::from_secs(29));
    assert!(bench.take(consumer).texts.is_empty());
    bench.pass(Duration::from_secs(1));
    assert_eq!(bench.take(consumer).texts, ["a1"]);
    bench.modify(&got.ids, Duration::from_secs(30));
    assert_eq!(
        bench.subscription.next_wakeup(),
        Some(bench.now + ACK_DEADLINE),
        "the old ack ID extends nothing"
    );
}

#[test]
fn a_closed_stream_keeps_its_leases_until_the_deadline() {
    let mut bench = Bench::plain();
    let gone = bench.open(0);
    bench.publish("a1 b1");
    let got = bench.take(gone);
    bench.close(gone);
    let next = bench.open(0);
    assert!(bench.take(next).texts.is_empty());
    bench.ack(&got.ids[..1]);
    bench.pass(ACK_DEADLINE);
    assert_eq!(bench.take(next).texts, ["b1"]);
    assert!(bench.subscription.take(gone, 1, 1).is_none());
}

#[test]
fn what_never_left_a_closed_stream_is_available_at_once() {
    let mut bench = Bench::ordered();
    let gone = bench.open(0);
    bench.publish("a1 a2 b1");
    bench.close(gone);
    let next = bench.open(0);
    let got = bench.take(next);
    assert_eq!(got.texts.len(), 3);
    assert_eq!(bench.stats().redeliveries, 0);
    bench.ack(&got.ids);
    bench.assert_clean();
}

#[test]
fn a_message_that_never_left_is_not_blamed_for_its_deadline() {
    let mut bench = Bench::new(with_dead_letter(false));
    let stalled = bench.open(0);
    bench.publish("a1");
    bench.pass(ACK_DEADLINE);
    let got = bench.take(stalled);
    assert_eq!(got.texts, ["a1"], "once, not for each lease");
    assert_eq!(got.attempts, [Some(1)]);
    assert_eq!(bench.stats().expired, 0);
}

#[test]
fn a_voided_delivery_does_not_leave_the_outbox() {
    let mut bench = Bench::ordered();
    let consumer = bench.open(0);
    bench.publish("a1");
    let first = bench.take(consumer);
    bench.publish("a2");
    bench.nack(&first.ids);
    assert_eq!(bench.take(consumer).texts, ["a1", "a2"]);
}
