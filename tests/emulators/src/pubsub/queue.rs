//! Lanes waiting for a subscriber, first come first served.
//!
//! Lanes whose next message was delivered before stand in a line of their own.
//! The dispatcher alternates between the two, so a redelivery does not wait
//! behind the whole backlog and a message that always fails cannot starve it.

use std::collections::BTreeMap;

use super::lane::LaneId;

/// Which of the two lines a lane stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// Its next message was never delivered.
    Fresh,
    /// Its next message is a redelivery.
    Again,
}

impl Class {
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Fresh => Self::Again,
            Self::Again => Self::Fresh,
        }
    }
}

/// A place in a line. Tickets grow, so the smallest is next.
pub(super) type Ticket = u64;

/// Two lines of lanes, from which any lane can also step out.
#[derive(Debug, Default)]
pub(super) struct Queue {
    fresh: BTreeMap<Ticket, LaneId>,
    again: BTreeMap<Ticket, LaneId>,
}

impl Queue {
    pub(super) fn insert(&mut self, class: Class, ticket: Ticket, lane: LaneId) {
        self.line_mut(class).insert(ticket, lane);
    }

    pub(super) fn remove(&mut self, class: Class, ticket: Ticket) {
        self.line_mut(class).remove(&ticket);
    }

    pub(super) fn front(&self, class: Class) -> Option<(Ticket, LaneId)> {
        let line = match class {
            Class::Fresh => &self.fresh,
            Class::Again => &self.again,
        };
        line.first_key_value().map(|(ticket, lane)| (*ticket, *lane))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fresh.is_empty() && self.again.is_empty()
    }

    /// Every lane, in no useful order.
    pub(super) fn lanes(&self) -> impl Iterator<Item = LaneId> {
        self.fresh.values().chain(self.again.values()).copied()
    }

    fn line_mut(&mut self, class: Class) -> &mut BTreeMap<Ticket, LaneId> {
        match class {
            Class::Fresh => &mut self.fresh,
            Class::Again => &mut self.again,
        }
    }
}

/// The lane that comes next for a subscriber that may take from both queues:
/// from the preferred class if any, and within a class the smaller ticket.
pub(super) fn next_of(own: &Queue, shared: &Queue, preferred: Class) -> Option<(Class, LaneId)> {
    [preferred, preferred.other()].into_iter().find_map(|class| {
        let candidates = [own.front(class), shared.front(class)];
        let (_, lane) = candidates.into_iter().flatten().min()?;
        Some((class, lane))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_ticket_of_the_preferred_class_is_next() {
        let (mut own, mut shared) = (Queue::default(), Queue::default());
        assert_eq!(next_of(&own, &shared, Class::Fresh), None);
        shared.insert(Class::Fresh, 1, 10);
        own.insert(Class::Fresh, 2, 20);
        own.insert(Class::Again, 3, 30);
        assert_eq!(next_of(&own, &shared, Class::Fresh), Some((Class::Fresh, 10)));
        assert_eq!(next_of(&own, &shared, Class::Again), Some((Class::Again, 30)));
        shared.remove(Class::Fresh, 1);
        assert_eq!(next_of(&own, &shared, Class::Fresh), Some((Class::Fresh, 20)));
        own.remove(Class::Again, 3);
        assert_eq!(next_of(&own, &shared, Class::Again), Some((Class::Fresh, 20)));
    }
}
