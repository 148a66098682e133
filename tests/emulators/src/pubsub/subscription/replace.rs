//! Seeking: what a subscription has to deliver is replaced as a whole.

use std::sync::Arc;

use super::{Note, Subscription, Timer};
use crate::pubsub::lane::{DeliveryId, Lane, LaneId};
use crate::pubsub::message::Message;

impl Subscription {
    /// Every message that is not acknowledged, those under lease included.
    pub(in crate::pubsub) fn unacknowledged(&self) -> impl Iterator<Item = &Arc<Message>> {
        self.lanes.values().flat_map(Lane::unacknowledged).map(|entry| &entry.message)
    }

    /// Forgets all messages and leases, and takes these in as new ones. Ack IDs of before
    /// are void.
    pub(in crate::pubsub) fn replace(&mut self, messages: impl IntoIterator<Item = Arc<Message>>) {
        let leased: Vec<DeliveryId> = self.leases.keys().copied().collect();
        for delivery in leased {
            self.release(delivery);
        }
        let lanes: Vec<LaneId> = self.lanes.keys().copied().collect();
        for lane in lanes {
            self.unqueue(lane);
        }
        self.lanes.clear();
        self.keys.clear();
        self.voided.clear();
        self.timers.retain(|(_, timer)| !matches!(timer, Timer::Hold(_)));
        self.stats.backlog = 0;
        self.note(|| Note::AllOver);
        let published = self.stats.published;
        for message in messages {
            self.enqueue(message);
        }
        self.stats.published = published;
    }
}
