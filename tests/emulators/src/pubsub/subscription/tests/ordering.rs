//! Messages that share an ordering key.

use super::*;

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
