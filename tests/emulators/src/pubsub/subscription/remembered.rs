//! What was acknowledged lately.

use std::collections::{HashSet, VecDeque};

use crate::pubsub::lane::DeliveryId;

/// How many are remembered. A client that repeats a request does so within seconds.
const KEPT: usize = 10_000;

/// Deliveries that were acknowledged, so that a repeated request is told the same.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    set: HashSet<DeliveryId>,
    order: VecDeque<DeliveryId>,
}

impl Remembered {
    pub(super) fn add(&mut self, delivery: DeliveryId) {
        if self.order.len() == KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
        self.set.insert(delivery);
        self.order.push_back(delivery);
    }

    pub(super) fn contains(&self, delivery: DeliveryId) -> bool {
        self.set.contains(&delivery)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten() {
        let mut remembered = Remembered::default();
        for delivery in 0..=KEPT as u64 {
            remembered.add(delivery);
        }
        assert!(!remembered.contains(0));
        assert!(remembered.contains(1) && remembered.contains(KEPT as u64));
        assert_eq!((remembered.set.len(), remembered.order.len()), (KEPT, KEPT));
    }
}
