//! A lane: messages that must be delivered in order.
//!
//! In a subscription with message ordering there is one lane for each ordering
//! key that has messages; any other message has a lane of its own. That makes
//! order one rule instead of two code paths.
//!
//! ```text
//!   first            cursor
//!     │                 │
//!     ▼                 ▼
//!   [leased][acked][leased][waiting][waiting]
//! ```
//!
//! Everything before the cursor was delivered in the present run, everything
//! after waits. When a delivered message has to be delivered again, the cursor
//! goes back to it: what came after it is delivered again too, acknowledged or
//! not. Acknowledged messages are therefore kept until everything before them
//! is acknowledged as well.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

use tokio::time::Instant;

use super::consumer::ConsumerId;
use super::message::Message;
use super::queue::{Class, Ticket};

/// Names a lane within its subscription.
pub(super) type LaneId = u64;
/// Names one delivery of one message within its subscription; grows.
pub(super) type DeliveryId = u64;
/// Counts the messages of a lane since the lane exists.
pub(super) type Position = u64;

/// A message in a lane.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) message: Arc<Message>,
    /// How often it left the server.
    pub(super) deliveries: u32,
    /// How often it was given back or ran into its deadline.
    pub(super) failures: u32,
    /// The last delivery that left the server and lost its lease to an earlier message,
    /// until the message leaves again.
    pub(super) voided: Option<DeliveryId>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Leased(DeliveryId),
    Acknowledged,
    /// Given up: no rewind brings it back.
    Gone,
}

/// Where a lane stands in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Nowhere,
    Queued {
        /// The only consumer that may take from the lane, if there is one.
        owner: Option<ConsumerId>,
        class: Class,
        ticket: Ticket,
    },
}

/// What a rewind undid.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rewound {
    /// Deliveries that are void now, and of which messages.
    pub(super) voided: Vec<(Position, DeliveryId)>,
    /// Acknowledgements that are void now.
    pub(super) unacknowledged: u64,
}

/// See the module page.
#[derive(Debug)]
pub(super) struct Lane {
    /// The ordering key; `None` for a message on its own.
    pub(super) key: Option<Arc<str>>,
    entries: VecDeque<Entry>,
    first: Position,
    cursor: Position,
    /// Entries under lease.
    pub(super) outstanding: usize,
    /// Who holds the leases, while there are any.
    pub(super) consumer: Option<ConsumerId>,
    /// Nothing is delivered before this time.
    pub(super) held_until: Option<Instant>,
    pub(super) place: Place,
}

impl Lane {
    pub(super) fn new(key: Option<Arc<str>>) -> Self {
        Self {
            key,
            entries: VecDeque::new(),
            first: 0,
            cursor: 0,
            outstanding: 0,
            consumer: None,
            held_until: None,
            place: Place::Nowhere,
        }
    }

    /// Adds a message that has failed so often before.
    pub(super) fn push(&mut self, message: Arc<Message>, failures: u32) {
        self.entries.push_back(Entry {
            message,
            deliveries: 0,
            failures,
            voided: None,
            state: State::Waiting,
        });
    }

    /// The messages that still have to be acknowledged, in order.
    pub(super) fn unacknowledged(&self) -> impl Iterator<Item = &Entry> {
        let left = |entry: &&Entry| !matches!(entry.state, State::Acknowledged | State::Gone);
        self.entries.iter().filter(left)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The class of the next message; `None` if nothing waits.
    pub(super) fn next_class(&self) -> Option<Class> {
        self.get(self.cursor).map(|entry| match entry.deliveries {
            0 => Class::Fresh,
            _ => Class::Again,
        })
    }

    /// Leases the next message: its position and the entry.
    pub(super) fn lease(
        &mut self,
        delivery: DeliveryId,
        consumer: ConsumerId,
    ) -> Option<(Position, &Entry)> {
        let position = self.cursor;
        let index = self.index(position)?;
        self.entries.get_mut(index)?.state = State::Leased(delivery);
        self.outstanding += 1;
        self.consumer = Some(consumer);
        self.move_cursor(position + 1);
        Some((position, self.get(position)?))
    }

    /// Puts the cursor at a position, or behind it where nothing is to be delivered.
    fn move_cursor(&mut self, position: Position) {
        self.cursor = position.max(self.first);
        while self.get(self.cursor).is_some_and(|entry| entry.state == State::Gone) {
            self.cursor += 1;
        }
    }

    /// The deliveries under lease of what comes after a position.
    pub(super) fn leased_after(&self, position: Position) -> impl Iterator<Item = DeliveryId> {
        (position + 1..self.cursor).filter_map(|position| match self.get(position)?.state {
            State::Leased(delivery) => Some(delivery),
            _ => None,
        })
    }

    /// Ends a lease without deciding what becomes of the message.
    pub(super) fn unlease(&mut self) {
        self.outstanding -= 1;
        if self.outstanding == 0 {
            self.consumer = None;
        }
    }

    /// Whether everything before a position is done.
    pub(super) fn begins_at(&self, position: Position) -> bool {
        self.first == position
    }

    /// Marks a message as done and drops what no rewind can reach any more.
    pub(super) fn finish(&mut self, position: Position) {
        if let Some(entry) = self.entry_mut(position) {
            entry.state = State::Acknowledged;
        }
        self.drop_front();
    }

    /// Marks a message as given up, and tells under which delivery it is leased, if it is.
    pub(super) fn give_up(&mut self, position: Position) -> Option<DeliveryId> {
        let state =
            self.entry_mut(position).map(|entry| mem::replace(&mut entry.state, State::Gone));
        self.drop_front();
        match state {
            Some(State::Leased(delivery)) => Some(delivery),
            _ => None,
        }
    }

    /// Drops what no rewind can reach any more.
    fn drop_front(&mut self) {
        let done = |entry: &Entry| matches!(entry.state, State::Acknowledged | State::Gone);
        while self.entries.front().is_some_and(done) {
            self.entries.pop_front();
            self.first += 1;
        }
        self.move_cursor(self.cursor);
    }

    /// Moves the cursor back to `position`.
    ///
    /// The caller ends the leases of the deliveries that this voids; the entry
    /// at `position` itself may have lost its lease before.
    pub(super) fn rewind(&mut self, position: Position) -> Rewound {
        let mut rewound = Rewound::default();
        for position in position..self.cursor {
            let Some(entry) = self.entry_mut(position) else {
                continue;
            };
            match entry.state {
                State::Waiting => {}
                State::Gone => continue,
                State::Leased(delivery) => rewound.voided.push((position, delivery)),
                State::Acknowledged => rewound.unacknowledged += 1,
            }
            entry.state = State::Waiting;
        }
        self.move_cursor(self.cursor.min(position));
        rewound
    }

    pub(super) fn entry_mut(&mut self, position: Position) -> Option<&mut Entry> {
        let index = self.index(position)?;
        self.entries.get_mut(index)
    }

    fn get(&self, position: Position) -> Option<&Entry> {
        self.entries.get(self.index(position)?)
    }

    fn index(&self, position: Position) -> Option<usize> {
        usize::try_from(position.checked_sub(self.first)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use googleapis_tonic_google_pubsub_v1::google::pubsub::v1::PubsubMessage;

    use super::*;

    fn lane(messages: usize) -> Lane {
        let mut lane = Lane::new(Some("k".into()));
        for _ in 0..messages {
            lane.push(Arc::new(Message::new(PubsubMessage::default())), 0);
        }
        lane
    }

    fn lease(lane: &mut Lane, delivery: DeliveryId) -> Position {
        lane.lease(delivery, 1).expect("a message waits").0
    }

    #[test]
    fn acknowledged_messages_stay_behind_an_unacknowledged_one() {
        let mut lane = lane(3);
        for delivery in 0..3 {
            lease(&mut lane, delivery);
        }
        lane.finish(1);
        lane.finish(2);
        assert_eq!(lane.entries.len(), 3);
        lane.finish(0);
        assert!(lane.is_empty());
    }

    #[test]
    fn a_rewind_undoes_leases_and_acknowledgements_after_the_message() {
        let mut lane = lane(5);
        for delivery in 10..14 {
            lease(&mut lane, delivery);
        }
        lane.finish(2);
        assert_eq!(lane.rewind(1), Rewound { voided: vec![(1, 11), (3, 13)], unacknowledged: 1 });
        assert_eq!(lease(&mut lane, 20), 1);
        assert_eq!(lease(&mut lane, 21), 2);
    }

    #[test]
    fn a_rewind_behind_the_cursor_changes_nothing() {
        let mut lane = lane(3);
        lease(&mut lane, 1);
        lease(&mut lane, 2);
        lane.rewind(0);
        assert_eq!(lane.rewind(1), Rewound::default());
        assert_eq!(lease(&mut lane, 3), 0);
    }

    #[test]
    fn positions_survive_the_removal_of_the_front() {
        let mut lane = lane(3);
        lease(&mut lane, 1);
        lane.finish(0);
        assert_eq!(lease(&mut lane, 2), 1);
        lane.rewind(1);
        assert_eq!(lease(&mut lane, 3), 1);
        assert_eq!(lease(&mut lane, 4), 2);
        assert!(lane.lease(5, 1).is_none());
    }

    #[test]
    fn what_was_given_up_is_never_delivered_again() {
        let mut lane = lane(4);
        for delivery in 10..13 {
            lease(&mut lane, delivery);
        }
        assert_eq!(lane.give_up(1), Some(11));
        assert_eq!(lane.rewind(0), Rewound { voided: vec![(0, 10), (2, 12)], unacknowledged: 0 });
        assert_eq!(lane.give_up(3), None, "it waited");
        assert_eq!(lease(&mut lane, 20), 0);
        assert_eq!(lease(&mut lane, 21), 2, "without the one given up");
        assert!(lane.lease(22, 1).is_none());
        lane.finish(2);
        lane.finish(0);
        assert!(lane.is_empty());
    }

    #[test]
    fn the_class_follows_the_next_message() {
        let mut lane = lane(2);
        assert_eq!(lane.next_class(), Some(Class::Fresh));
        lane.entry_mut(0).expect("first").deliveries = 1;
        assert_eq!(lane.next_class(), Some(Class::Again));
        lease(&mut lane, 1);
        lease(&mut lane, 2);
        assert_eq!(lane.next_class(), None);
    }
}
