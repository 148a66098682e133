//! Messages that were given back or ran into their deadline: who is blamed, what comes again.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{DeadLetter, Note, Subscription, Timer};
use crate::pubsub::lane::{DeliveryId, LaneId, Position};

/// Leases of one key that end within this time of its first end with it. The service
/// promises deadlines to no millisecond, and messages that were sent together are held,
/// and lost, together.
const TOGETHER: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug)]
pub(super) enum Failure {
    Nack,
    Expiry,
}

/// A message whose delivery has failed.
#[derive(Clone, Copy, Debug)]
struct Failed {
    lane: LaneId,
    position: Position,
    /// Whether the delivery left the outbox. What did not cannot have failed.
    sent: bool,
}

impl Subscription {
    /// The deadline of a delivery has passed, and with it those that are due together.
    pub(super) fn lapse(&mut self, delivery: DeliveryId, now: Instant) {
        let mut due = vec![delivery];
        if let Some(lease) = self.leases.get(&delivery)
            && let Some(lane) = self.lanes.get(&lease.lane)
        {
            due.extend(lane.leased_after(lease.position).filter(|later| {
                let later = self.leases.get(later);
                later.is_some_and(|later| later.deadline <= now + TOGETHER)
            }));
        }
        self.fail(&due, Failure::Expiry, now);
    }

    /// Ends deliveries that failed, given in the order of delivery. Each one is blamed for
    /// itself, also when an earlier one of its key fails beside it.
    pub(super) fn fail(&mut self, deliveries: &[DeliveryId], failure: Failure, now: Instant) {
        // All leases end before any message comes again: a message that comes again takes
        // the later ones of its key along, and those would be blamed no more.
        let failed: Vec<Failed> =
            deliveries.iter().filter_map(|delivery| self.end(*delivery)).collect();
        for failed in failed {
            self.blame(failed, failure, now);
        }
    }

    fn end(&mut self, delivery: DeliveryId) -> Option<Failed> {
        if let Some(lease) = self.release(delivery) {
            return Some(Failed { lane: lease.lane, position: lease.position, sent: lease.sent });
        }
        if self.settings.exactly_once {
            return None;
        }
        let (lane, position) = self.voided.remove(&delivery)?;
        if let Some(entry) = self.lanes.get_mut(&lane).and_then(|lane| lane.entry_mut(position)) {
            entry.voided = None;
        }
        Some(Failed { lane, position, sent: true })
    }

    fn blame(&mut self, failed: Failed, failure: Failure, now: Instant) {
        let Failed { lane: id, position, sent } = failed;
        if !sent {
            self.rewind(id, position);
            self.place(id);
            return;
        }
        match failure {
            Failure::Nack => self.stats.nacked += 1,
            Failure::Expiry => self.stats.expired += 1,
        }
        let lane = self.lanes.get_mut(&id);
        let Some(entry) = lane.and_then(|lane| lane.entry_mut(position)) else {
            return;
        };
        entry.failures += 1;
        let failures = entry.failures;
        let dead = self.dead_letter_open
            && self
                .settings
                .dead_letter
                .as_ref()
                .is_some_and(|policy| failures >= policy.max_attempts);
        if dead {
            self.dead.push(DeadLetter { message: Arc::clone(&entry.message), attempts: failures });
            self.stats.dead_lettered += 1;
            self.give_up(id, position);
            return;
        }
        let number = entry.message.number();
        self.note(|| Note::Failed(number, failures));
        self.rewind(id, position);
        if let Some(retry) = &self.settings.retry {
            let delay = retry.delay(failures);
            if !delay.is_zero() {
                self.hold(id, now + delay);
            }
        }
        self.place(id);
    }

    /// The message of a failed delivery is never delivered again. The later ones of its
    /// key stay where they are.
    fn give_up(&mut self, id: LaneId, position: Position) {
        self.stats.backlog -= 1;
        self.note_over(id, position);
        if let Some(lane) = self.lanes.get_mut(&id)
            && let Some(delivery) = lane.give_up(position)
        {
            // It was on its way again, in the outbox.
            self.release(delivery);
        }
        self.place(id);
    }

    /// Delivers a message and the later ones of its key again, those that were
    /// acknowledged included.
    pub(super) fn rewind(&mut self, id: LaneId, position: Position) {
        let Some(lane) = self.lanes.get_mut(&id) else {
            return;
        };
        let rewound = lane.rewind(position);
        self.stats.backlog += rewound.unacknowledged;
        if rewound.unacknowledged > 0 {
            self.note_open(id);
        }
        for (position, delivery) in rewound.voided {
            if self.release(delivery).is_some_and(|lease| lease.sent) {
                self.note_voided(id, position, delivery);
            }
        }
    }

    fn note_voided(&mut self, id: LaneId, position: Position, delivery: DeliveryId) {
        let lane = self.lanes.get_mut(&id);
        if let Some(entry) = lane.and_then(|lane| lane.entry_mut(position)) {
            if let Some(older) = entry.voided.replace(delivery) {
                self.voided.remove(&older);
            }
            self.voided.insert(delivery, (id, position));
        }
    }

    /// Delivers nothing of a lane before `until`.
    fn hold(&mut self, id: LaneId, until: Instant) {
        let Some(lane) = self.lanes.get_mut(&id) else {
            return;
        };
        if lane.held_until.is_some_and(|held| held >= until) {
            return;
        }
        if let Some(held) = lane.held_until.replace(until) {
            self.timers.remove(&(held, Timer::Hold(id)));
        }
        self.timers.insert((until, Timer::Hold(id)));
    }
}
