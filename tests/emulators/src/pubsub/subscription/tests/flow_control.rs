//! What a stream is given, and when it is full.

use super::*;

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
