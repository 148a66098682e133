//! Operations in any order.

use super::*;

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
