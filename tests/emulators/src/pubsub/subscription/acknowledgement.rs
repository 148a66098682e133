//! Acknowledgements and new deadlines, and what is said of each.

use std::time::Duration;

use googleapis_tonic_google_pubsub_v1::google::pubsub::v1::PubsubMessage;
use tokio::time::Instant;

use super::failure::Failure;
use super::{Subscription, Timer};
use crate::pubsub::lane::DeliveryId;
use crate::pubsub::message::Message;

/// What became of one ID of a request. Without exactly-once delivery nobody is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::pubsub) enum Verdict {
    /// It took effect, now or before.
    Done,
    /// Its lease has ended: given back, run into its deadline, or void.
    Invalid,
    /// An earlier message of its key is not acknowledged yet.
    Unordered,
}

impl Subscription {
    /// Acknowledges. Unknown and void deliveries change nothing, as in production.
    ///
    /// With exactly-once delivery, messages of a key are acknowledged in order. An
    /// acknowledgement of which `forgets` is true is answered and changes nothing.
    pub(in crate::pubsub) fn acknowledge(
        &mut self,
        deliveries: &[DeliveryId],
        forgets: impl Fn(&PubsubMessage) -> bool,
    ) -> Vec<Verdict> {
        let exactly_once = self.settings.exactly_once;
        let mut verdicts = vec![Verdict::Invalid; deliveries.len()];
        let mut in_order: Vec<usize> = (0..deliveries.len()).collect();
        if exactly_once {
            // Of one key, in the order of delivery, however the request lists them.
            in_order.sort_unstable_by_key(|index| deliveries[*index]);
        }
        for index in in_order {
            let delivery = deliveries[index];
            let message = self.message(delivery);
            verdicts[index] = if message.is_some_and(|message| forgets(&message.content)) {
                Verdict::Done
            } else if exactly_once && !self.is_next(delivery) {
                Verdict::Unordered
            } else if let Some(lease) = self.release(delivery) {
                self.stats.acknowledged += 1;
                self.finish(&lease);
                if exactly_once {
                    self.acknowledged.add(delivery);
                }
                Verdict::Done
            } else {
                self.past(delivery)
            };
        }
        verdicts
    }

    /// Sets the deadline of deliveries to `now` + `extension`; zero gives the
    /// messages back. Unknown and void deliveries change nothing.
    pub(in crate::pubsub) fn modify(
        &mut self,
        deliveries: &[DeliveryId],
        extension: Duration,
        now: Instant,
    ) -> Vec<Verdict> {
        let mut verdicts = vec![Verdict::Invalid; deliveries.len()];
        let mut in_order: Vec<usize> = (0..deliveries.len()).collect();
        if extension.is_zero() {
            // In order of delivery, so that of one key the first comes first again,
            // however the request lists them.
            in_order.sort_unstable_by_key(|index| deliveries[*index]);
        }
        // What is given back takes the rest of its key along: those are not refused.
        let live: Vec<bool> =
            deliveries.iter().map(|delivery| self.leases.contains_key(delivery)).collect();
        if extension.is_zero() {
            let given_back: Vec<DeliveryId> =
                in_order.iter().map(|index| deliveries[*index]).collect();
            self.fail(&given_back, Failure::Nack, now);
        }
        for index in in_order {
            let delivery = deliveries[index];
            if let Some(lease) = self.leases.get_mut(&delivery) {
                self.timers.remove(&(lease.deadline, Timer::Deadline(delivery)));
                lease.deadline = now + extension;
                self.timers.insert((lease.deadline, Timer::Deadline(delivery)));
            }
            verdicts[index] = if live[index] { Verdict::Done } else { self.past(delivery) };
        }
        verdicts
    }

    /// The message of a delivery that is under lease.
    fn message(&mut self, delivery: DeliveryId) -> Option<&Message> {
        let lease = self.leases.get(&delivery)?;
        let entry = self.lanes.get_mut(&lease.lane)?.entry_mut(lease.position)?;
        Some(&entry.message)
    }

    /// Whether nothing that must be acknowledged before a delivery is left.
    fn is_next(&self, delivery: DeliveryId) -> bool {
        let lease = self.leases.get(&delivery);
        lease.is_none_or(|lease| {
            self.lanes.get(&lease.lane).is_none_or(|lane| lane.begins_at(lease.position))
        })
    }

    /// What is said of a delivery that is not under lease.
    fn past(&self, delivery: DeliveryId) -> Verdict {
        if self.acknowledged.contains(delivery) { Verdict::Done } else { Verdict::Invalid }
    }
}
