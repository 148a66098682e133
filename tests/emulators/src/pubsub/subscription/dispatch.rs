//! Who is served next: lanes in line, consumers in turn.

use std::mem;
use std::ops::Bound;
use std::sync::Arc;

use tokio::time::Instant;

use super::{Lease, Subscription, Timer};
use crate::pubsub::consumer::{Consumer, ConsumerId, Delivery};
use crate::pubsub::lane::{LaneId, Place};
use crate::pubsub::queue::{self, Queue};

impl Subscription {
    /// Hands waiting messages to consumers with room, in turn.
    pub(in crate::pubsub) fn dispatch(&mut self, now: Instant) {
        while let Some(id) = self.consumer_in_turn() {
            let Some(consumer) = self.consumers.get(&id) else {
                break;
            };
            let Some((class, lane)) = queue::next_of(&consumer.own, &self.shared, self.preferred)
            else {
                break;
            };
            self.preferred = class.other();
            self.last_consumer = id;
            self.deliver(lane, id, now);
        }
    }

    /// The next consumer after the last one that has room and may take something.
    fn consumer_in_turn(&self) -> Option<ConsumerId> {
        let candidates = if self.shared.is_empty() { &self.served } else { &self.roomy };
        candidates
            .range((Bound::Excluded(self.last_consumer), Bound::Unbounded))
            .next()
            .or_else(|| candidates.first())
            .copied()
    }

    fn deliver(&mut self, lane_id: LaneId, consumer_id: ConsumerId, now: Instant) {
        self.unqueue(lane_id);
        let (Some(lane), Some(consumer)) =
            (self.lanes.get_mut(&lane_id), self.consumers.get_mut(&consumer_id))
        else {
            return;
        };
        self.next_delivery += 1;
        let id = self.next_delivery;
        let Some((position, entry)) = lane.lease(id, consumer_id) else {
            return;
        };
        let deadline = now + consumer.limits.ack_deadline;
        self.timers.insert((deadline, Timer::Deadline(id)));
        self.leases.insert(
            id,
            Lease {
                lane: lane_id,
                position,
                consumer: consumer_id,
                deadline,
                bytes: entry.message.size,
                sent: false,
            },
        );
        let attempt = self.settings.dead_letter.as_ref();
        let wake = consumer.push(Delivery {
            id,
            message: Arc::clone(&entry.message),
            attempt: attempt.map(|_| entry.failures + 1),
        });
        if wake {
            self.woken.push(consumer_id);
        }
        self.place(lane_id);
        self.refresh(consumer_id);
    }

    /// Puts a lane in the line where it belongs now, or removes it when empty.
    pub(super) fn place(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get(&id) else {
            return;
        };
        if lane.is_empty() {
            self.unqueue(id);
            if let Some(key) = self.lanes.remove(&id).and_then(|lane| lane.key) {
                self.keys.remove(&key);
            }
            return;
        }
        let owner = lane.consumer;
        let gone = owner.is_some_and(|owner| !self.consumers.contains_key(&owner));
        let wanted = if lane.held_until.is_some() || gone { None } else { lane.next_class() };
        if let (Some(wanted), Place::Queued { owner: at, class, .. }) = (wanted, lane.place)
            && (wanted, owner) == (class, at)
        {
            return;
        }
        self.unqueue(id);
        let Some(class) = wanted else { return };
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        self.queue_mut(owner).insert(class, ticket, id);
        if let Some(lane) = self.lanes.get_mut(&id) {
            lane.place = Place::Queued { owner, class, ticket };
        }
        self.refresh_owner(owner);
    }

    pub(super) fn unqueue(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(&id) else {
            return;
        };
        let place = mem::replace(&mut lane.place, Place::Nowhere);
        if let Place::Queued { owner, class, ticket } = place {
            self.queue_mut(owner).remove(class, ticket);
            self.refresh_owner(owner);
        }
    }

    fn queue_mut(&mut self, owner: Option<ConsumerId>) -> &mut Queue {
        match owner.and_then(|owner| self.consumers.get_mut(&owner)) {
            Some(consumer) => &mut consumer.own,
            None => &mut self.shared,
        }
    }

    fn refresh_owner(&mut self, owner: Option<ConsumerId>) {
        if let Some(owner) = owner {
            self.refresh(owner);
        }
    }

    /// Brings the sets of consumers up to date with one of them.
    pub(super) fn refresh(&mut self, id: ConsumerId) {
        let consumer = self.consumers.get(&id);
        let roomy = consumer.is_some_and(Consumer::has_room);
        let served = roomy && consumer.is_some_and(|consumer| !consumer.own.is_empty());
        for (set, belongs) in [(&mut self.roomy, roomy), (&mut self.served, served)] {
            if belongs {
                set.insert(id);
            } else {
                set.remove(&id);
            }
        }
    }
}
