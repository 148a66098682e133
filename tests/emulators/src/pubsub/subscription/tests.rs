//! The state machine in virtual time: no test here waits.

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
fn flow_control_holds_messages_back_until_acks() {
    let mut bench = Bench::plain();
    let consumer = bench.open(2);
    bench.publish("a1 b1 c1 d1");
    let first = bench.take(consumer);
    assert_eq!(first.texts, ["a1", "b1"]);
    bench.ack(&first.ids[..1]);
    assert_eq!(bench.take(consumer).texts, ["c1"]);
    bench.nack(&first.ids[1..]);
    assert_eq!(bench.take(consumer).texts.len(), 1);
    assert_eq!(bench.stats().outstanding, 2);
}

#[test]
fn flow_control_counts_bytes() {
    let mut bench = Bench::plain();
    let consumer =
        bench.open_with(Limits { messages: None, bytes: Some(1), ack_deadline: ACK_DEADLINE });
    bench.publish("a1 b1");
    let first = bench.take(consumer);
    assert_eq!(first.texts, ["a1"]);
    bench.ack(&first.ids);
    assert_eq!(bench.take(consumer).texts, ["b1"]);
}

#[test]
fn an_expired_message_makes_room() {
    let mut bench = Bench::plain();
    let slow = bench.open(1);
    bench.publish("a1");
    bench.take(slow);
    bench.publish("b1");
    assert!(bench.take(slow).texts.is_empty());
    bench.pass(ACK_DEADLINE);
    assert_eq!(bench.take(slow).texts.len(), 1);
}

#[test]
fn consumers_are_served_in_turn() {
    let mut bench = Bench::plain();
    let consumers = [bench.open(0), bench.open(0), bench.open(0)];
    bench.publish("a1 b1 c1 d1 e1 f1");
    let shares: Vec<Vec<String>> =
        consumers.iter().map(|consumer| bench.take(*consumer).texts).collect();
    assert_eq!(shares, [["a1", "d1"], ["b1", "e1"], ["c1", "f1"]]);
}

#[test]
fn a_full_consumer_does_not_hold_up_another() {
    let mut bench = Bench::plain();
    let (small, large) = (bench.open(1), bench.open(0));
    bench.publish("a1 b1 c1 d1");
    assert_eq!(bench.take(small).texts, ["a1"]);
    assert_eq!(bench.take(large).texts, ["b1", "c1", "d1"]);
}

#[test]
fn redelivery_and_backlog_take_turns() {
    let mut bench = Bench::plain();
    let consumer = bench.open(1);
    bench.publish("p1 b1 c1 d1");
    let mut seen = Vec::new();
    for _ in 0..6 {
        let got = bench.take(consumer);
        seen.extend(got.texts.clone());
        if got.texts == ["p1"] {
            bench.nack(&got.ids);
        } else {
            bench.ack(&got.ids);
        }
    }
    assert_eq!(seen, ["p1", "p1", "b1", "p1", "c1", "p1"]);
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
fn without_ordering_a_key_means_nothing() {
    let mut bench = Bench::plain();
    let (one, two) = (bench.open(0), bench.open(0));
    bench.publish("a1 a2");
    assert_eq!(bench.take(one).texts, ["a1"]);
    assert_eq!(bench.take(two).texts, ["a2"]);
}

#[test]
fn messages_of_a_key_are_outstanding_together_and_in_order() {
    let mut bench = Bench::ordered();
    let consumer = bench.open(0);
    bench.publish("a1 a2 a3");
    assert_eq!(bench.take(consumer).texts, ["a1", "a2", "a3"]);
}

#[test]
fn a_key_stays_with_its_stream_while_messages_are_outstanding() {
    let mut bench = Bench::ordered();
    let (one, two) = (bench.open(0), bench.open(0));
    bench.publish("a1 b1");
    let (a, b) = (bench.take(one), bench.take(two));
    assert_eq!((&a.texts[..], &b.texts[..]), (&["a1".into()][..], &["b1".into()][..]));
    bench.publish("b2 a2 b3 a3");
    let a2 = bench.take(one);
    assert_eq!(a2.texts, ["a2", "a3"]);
    assert_eq!(bench.take(two).texts, ["b2", "b3"]);

    bench.ack(&a.ids);
    bench.ack(&a2.ids);
    bench.close(one);
    bench.publish("a4");
    assert_eq!(bench.take(two).texts, ["a4"], "free once nothing is outstanding");
}

#[test]
fn a_key_waits_for_its_full_stream() {
    let mut bench = Bench::ordered();
    let (one, two) = (bench.open(1), bench.open(0));
    bench.publish("a1 a2");
    let got = bench.take(one);
    assert!(bench.take(two).texts.is_empty());
    bench.ack(&got.ids);
    let one_then = bench.take(one).texts;
    let two_then = bench.take(two).texts;
    assert_eq!([one_then, two_then].concat(), ["a2"]);
}

#[test]
fn a_key_of_a_closed_stream_waits_for_its_leases() {
    let mut bench = Bench::ordered();
    let gone = bench.open(1);
    bench.publish("a1 a2");
    let got = bench.take(gone);
    bench.close(gone);
    let next = bench.open(0);
    assert!(bench.take(next).texts.is_empty(), "a2 must not overtake a1");
    bench.ack(&got.ids);
    assert_eq!(bench.take(next).texts, ["a2"]);
}

#[test]
fn a_nack_redelivers_the_message_and_all_later_ones() {
    let mut bench = Bench::ordered();
    let consumer = bench.open(0);
    bench.publish("a1 a2 a3 a4");
    let first = bench.take(consumer);
    bench.ack(&first.ids[2..3]);
    assert_eq!(bench.stats().backlog, 3);
    bench.nack(&first.ids[1..2]);
    assert_eq!(bench.stats().backlog, 4, "the ack of a3 is void");

    let second = bench.take(consumer);
    assert_eq!(second.texts, ["a2", "a3", "a4"]);
    bench.ack(&first.ids);
    assert_eq!(bench.stats().backlog, 3, "of the old ack IDs only a1's holds");
    bench.ack(&second.ids);
    bench.assert_clean();
    let stats = bench.stats();
    assert_eq!((stats.deliveries, stats.redeliveries), (7, 3));
    assert_eq!((stats.acknowledged, stats.nacked), (5, 1));
}

#[test]
fn an_expiry_redelivers_the_message_and_all_later_ones() {
    let mut bench = Bench::ordered();
    let consumer = bench.open(0);
    bench.publish("a1 a2 a3");
    let first = bench.take(consumer);
    bench.modify(&first.ids[..1], Duration::from_mins(1));
    bench.ack(&first.ids[2..]);
    bench.pass(ACK_DEADLINE);
    assert_eq!(bench.take(consumer).texts, ["a2", "a3"]);
    assert_eq!(bench.stats().expired, 1);
}

#[test]
fn other_keys_do_not_notice_a_nack() {
    let mut bench = Bench::ordered();
    let consumer = bench.open(0);
    bench.publish("a1 b1 a2 b2");
    let first = bench.take(consumer);
    assert_eq!(first.texts, ["a1", "b1", "a2", "b2"]);
    bench.nack(&first.ids[..1]);
    assert_eq!(bench.take(consumer).texts, ["a1", "a2"]);
}

#[test]
fn a_batch_of_nacks_counts_for_each_of_its_messages_in_any_order() {
    let mut bench = Bench::new(with_dead_letter(true));
    let consumer = bench.open(0);
    bench.publish("a1 a2 a3 a4");
    let mut first = bench.take(consumer);
    first.ids.truncate(3);
    first.ids.reverse();
    bench.nack(&first.ids);
    let second = bench.take(consumer);
    assert_eq!(second.texts, ["a1", "a2", "a3", "a4"]);
    assert_eq!(second.attempts, [Some(2), Some(2), Some(2), Some(1)], "a4 was not given back");
    assert_eq!(bench.stats().nacked, 3);
    bench.ack(&second.ids);
    bench.assert_clean();
}

#[test]
fn a_nack_counts_after_an_earlier_one_of_its_key_until_the_message_leaves_again() {
    let mut bench = Bench::new(Settings {
        dead_letter: with_dead_letter(true).dead_letter,
        ..with_retry(true)
    });
    let consumer = bench.open(0);
    bench.publish("a1 a2 a3");
    let first = bench.take(consumer);
    bench.nack(&first.ids[..1]);
    bench.nack(&first.ids[1..2]);
    bench.nack(&first.ids[1..2]);
    bench.pass(Duration::from_secs(2));
    let second = bench.take(consumer);
    assert_eq!(second.attempts, [Some(2), Some(2), Some(1)], "once for each ack ID");
    bench.nack(&first.ids[2..]);
    assert_eq!(bench.stats().nacked, 2, "a3 has left again, under another ack ID");
    bench.ack(&second.ids);
    bench.assert_clean();
}

#[test]
fn a_key_whose_attempts_end_together_is_given_up_together() {
    let mut bench = Bench::new(with_dead_letter(true));
    let consumer = bench.open(0);
    bench.publish("a1 a2 a3");
    for _ in 0..5 {
        let got = bench.take(consumer);
        assert_eq!(got.texts, ["a1", "a2", "a3"]);
        bench.nack(&got.ids);
    }
    let dead: Vec<_> = bench.subscription.take_dead();
    let texts: Vec<_> = dead.iter().map(|dead| &dead.message.content.data[..]).collect();
    assert_eq!(texts, [b"a1", b"a2", b"a3"]);
    bench.assert_clean();
}

#[test]
fn a_message_that_is_on_its_way_again_is_given_up_by_its_old_ack_id() {
    let mut bench = Bench::new(with_dead_letter(true));
    let consumer = bench.open(0);
    bench.publish("a1 a2 a3");
    let first = bench.take(consumer);
    bench.nack(&first.ids[1..2]);
    for _ in 0..3 {
        let got = bench.take(consumer);
        assert_eq!(got.texts, ["a2", "a3"]);
        bench.nack(&got.ids[..1]);
    }
    let got = bench.take(consumer);
    bench.nack(&first.ids[..1]);
    bench.nack(&got.ids[..1]);
    assert_eq!(bench.subscription.take_dead().len(), 1, "a2's fifth failure");
    let last = bench.take(consumer);
    assert_eq!(last.texts, ["a1", "a3"]);
    bench.ack(&last.ids);
    bench.assert_clean();
}

#[test]
fn a_key_that_was_sent_together_expires_together() {
    let mut bench = Bench::new(with_dead_letter(true));
    let consumer = bench.open(0);
    bench.publish("a1 a2");
    bench.take(consumer);
    bench.pass(Duration::from_millis(900));
    bench.publish("a3");
    bench.take(consumer);
    bench.pass(Duration::from_secs(2));
    bench.publish("a4");
    bench.take(consumer);
    bench.pass(Duration::from_millis(7_100));
    let again = bench.take(consumer);
    assert_eq!(again.texts, ["a1", "a2", "a3", "a4"]);
    assert_eq!(again.attempts, [Some(2), Some(2), Some(2), Some(1)], "a4 had seconds left");
    assert_eq!(bench.stats().expired, 3);
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

#[test]
fn a_retry_policy_delays_redelivery_ever_longer() {
    let mut bench = Bench::new(with_retry(false));
    let consumer = bench.open(0);
    bench.publish("a1");
    for delay in [2, 4, 5, 5] {
        let got = bench.take(consumer);
        assert_eq!(got.texts, ["a1"]);
        bench.nack(&got.ids);
        bench.pass(just_before(Duration::from_secs(delay)));
        assert!(bench.take(consumer).texts.is_empty(), "before {delay} s");
        bench.pass(TICK);
    }
}

#[test]
fn a_retry_policy_holds_the_whole_key() {
    let mut bench = Bench::new(with_retry(true));
    let consumer = bench.open(0);
    bench.publish("a1 a2 b1");
    let first = bench.take(consumer);
    bench.nack(&first.ids[..1]);
    bench.publish("a3 b2");
    assert_eq!(bench.take(consumer).texts, ["b2"]);
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.take(consumer).texts, ["a1", "a2", "a3"]);
}

#[test]
fn an_expiry_is_delayed_like_a_nack() {
    let mut bench = Bench::new(with_retry(false));
    let consumer = bench.open(0);
    bench.publish("a1");
    bench.take(consumer);
    bench.pass(ACK_DEADLINE);
    assert!(bench.take(consumer).texts.is_empty());
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.take(consumer).texts, ["a1"]);
}

#[test]
fn a_message_is_given_up_after_its_last_attempt() {
    let mut bench = Bench::new(with_dead_letter(false));
    let consumer = bench.open(0);
    bench.publish("a1");
    for attempt in 1..=5 {
        assert!(bench.subscription.take_dead().is_empty());
        let got = bench.take(consumer);
        assert_eq!(got.attempts, [Some(attempt)]);
        bench.nack(&got.ids);
    }
    let dead = bench.subscription.take_dead();
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].attempts, 5);
    assert_eq!(dead[0].message.content.data, b"a1");
    bench.assert_clean();
    assert_eq!(bench.stats().dead_lettered, 1);
}

#[test]
fn a_message_given_up_lets_the_later_ones_of_its_key_be() {
    let mut bench = Bench::new(with_dead_letter(true));
    let consumer = bench.open(0);
    bench.publish("a1 a2");
    for _ in 1..5 {
        let got = bench.take(consumer);
        assert_eq!(got.texts, ["a1", "a2"]);
        bench.nack(&got.ids[..1]);
    }
    let last = bench.take(consumer);
    bench.nack(&last.ids[..1]);
    assert!(bench.take(consumer).texts.is_empty(), "a2 is still out");
    bench.ack(&last.ids[1..]);
    bench.assert_clean();
}

#[test]
fn without_its_dead_letter_topic_a_message_goes_on() {
    let mut bench = Bench::new(with_dead_letter(false));
    bench.subscription.dead_letter_open = false;
    let consumer = bench.open(0);
    bench.publish("a1");
    for attempt in 1..=7 {
        let got = bench.take(consumer);
        assert_eq!(got.attempts, [Some(attempt)]);
        bench.nack(&got.ids);
    }
    assert!(bench.subscription.take_dead().is_empty());
}

#[test]
fn a_batch_is_limited_by_count_and_bytes_but_never_empty() {
    let mut bench = Bench::plain();
    let consumer = bench.open(0);
    bench.publish("a1 b1 c1");
    let take = |bench: &mut Bench, messages, bytes| {
        let taken = bench.subscription.take(consumer, messages, bytes);
        taken.expect("open").len()
    };
    assert_eq!(take(&mut bench, 1, u64::MAX), 1);
    assert_eq!(take(&mut bench, 9, 1), 1);
    assert_eq!(take(&mut bench, 9, u64::MAX), 1);
    assert_eq!(take(&mut bench, 9, u64::MAX), 0);
}

/// A simple generator is enough to shuffle the operations below.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        usize::try_from(self.0 >> 33).expect("31 bits") % sides
    }
}

/// Whatever happens: a key's messages are first delivered in order, so is every
/// batch, flow control holds, and in the end nothing is lost or left behind.
#[test]
fn order_and_completeness_survive_any_schedule() {
    const ROOM: u64 = 5;
    for seed in 0..200 {
        let mut dice = Dice(seed);
        let mut bench = Bench::ordered();
        let mut consumers = Vec::new();
        let mut held: Vec<DeliveryId> = Vec::new();
        let mut published = HashMap::from([('a', 0), ('b', 0), ('c', 0)]);
        let mut delivered = published.clone();
        let mut check = |texts: &[String]| {
            let mut last = HashMap::new();
            for text in texts {
                let key = text.chars().next().expect("a key");
                let number: u32 = text[1..].parse().expect("a number");
                let before = last.insert(key, number);
                assert!(before < Some(number), "seed {seed}: {texts:?}");
                let next = delivered.get_mut(&key).expect("a known key");
                assert!(number <= *next, "seed {seed}: {text} skips {key}{next}");
                *next = (*next).max(number + 1);
            }
        };
        for _ in 0..300 {
            match dice.roll(9) {
                0 if consumers.len() < 3 => consumers.push(bench.open(ROOM)),
                1 if consumers.len() > 1 => {
                    let gone = consumers.swap_remove(dice.roll(consumers.len()));
                    bench.close(gone);
                }
                2 | 3 => {
                    let key = ['a', 'b', 'c'][dice.roll(3)];
                    let number = published.get_mut(&key).expect("a known key");
                    bench.publish(&format!("{key}{number}"));
                    *number += 1;
                }
                4 if !consumers.is_empty() => {
                    let got = bench.take(consumers[dice.roll(consumers.len())]);
                    check(&got.texts);
                    held.extend(got.ids);
                }
                5 | 6 if !held.is_empty() => {
                    let id = held.swap_remove(dice.roll(held.len()));
                    bench.ack(&[id]);
                }
                7 if !held.is_empty() => {
                    let id = held.swap_remove(dice.roll(held.len()));
                    bench.nack(&[id]);
                }
                8 => bench.pass(Duration::from_secs(1)),
                _ => {}
            }
            for consumer in &consumers {
                let leases = bench.subscription.leases.values();
                let outstanding = leases.filter(|lease| lease.consumer == *consumer);
                assert!(outstanding.count() as u64 <= ROOM, "seed {seed}");
            }
        }
        for consumer in consumers {
            bench.close(consumer);
        }
        bench.pass(ACK_DEADLINE);
        let last = bench.open(0);
        loop {
            let got = bench.take(last);
            if got.ids.is_empty() {
                break;
            }
            check(&got.texts);
            bench.ack(&got.ids);
        }
        bench.assert_clean();
        assert_eq!(delivered, published, "seed {seed}");
    }
}
