//! Retry policies and dead-letter policies.

use super::*;

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
