//! What changes of the messages that a subscription has, for whoever keeps them.
//!
//! A message is kept from when it is taken in until it is acknowledged or given up, with the
//! times that it failed. Leases are not: they end with the process, and nobody is blamed.

use std::sync::Arc;

use super::{Lane, LaneId, Subscription};
use crate::pubsub::lane::{Entry, Position};
use crate::pubsub::message::Message;

/// Above the ack IDs of one run of the emulator.
const DELIVERIES_OF_A_RUN: u64 = 1 << 40;

#[derive(Debug)]
pub(in crate::pubsub) enum Note {
    /// It is to be delivered.
    Open(Arc<Message>),
    /// The message of this number has failed so often.
    Failed(u64, u32),
    /// The message of this number is not to be delivered any more.
    Over(u64),
    /// So are all that there were.
    AllOver,
}

impl Subscription {
    /// From now on changes are noted.
    pub(in crate::pubsub) fn note_changes(&mut self) {
        self.notes = Some(Vec::new());
    }

    pub(in crate::pubsub) fn take_notes(&mut self) -> Vec<Note> {
        self.notes.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Takes in what was kept, in the order of publishing. This is the `run`th time that it
    /// begins anew: ack IDs of before are not given out again.
    pub(in crate::pubsub) fn resume(
        &mut self,
        run: u64,
        messages: impl IntoIterator<Item = (Arc<Message>, u32)>,
    ) {
        self.next_delivery = run * DELIVERIES_OF_A_RUN;
        let published = self.stats.published;
        for (message, failures) in messages {
            self.take_in(message, failures);
        }
        self.stats.published = published;
    }

    /// Messages that are not acknowledged, by number, and how often each has failed.
    #[cfg(test)]
    pub(in crate::pubsub) fn open_messages(&self) -> std::collections::BTreeMap<u64, u32> {
        let open = self.lanes.values().flat_map(Lane::unacknowledged);
        open.map(|entry| (entry.message.number(), entry.failures)).collect()
    }

    pub(super) fn note(&mut self, note: impl FnOnce() -> Note) {
        if let Some(notes) = &mut self.notes {
            notes.push(note());
        }
    }

    /// The message there is not to be delivered any more.
    pub(super) fn note_over(&mut self, lane: LaneId, position: Position) {
        if self.notes.is_some()
            && let Some(entry) = self.lanes.get_mut(&lane).and_then(|lane| lane.entry_mut(position))
        {
            let number = entry.message.number();
            self.note(|| Note::Over(number));
        }
    }

    /// Acknowledgements of a lane are void: what is open there is so again.
    pub(super) fn note_open(&mut self, lane: LaneId) {
        let Some(notes) = &mut self.notes else { return };
        for entry in self.lanes.get(&lane).into_iter().flat_map(Lane::unacknowledged) {
            let Entry { message, failures, .. } = entry;
            notes.push(Note::Open(Arc::clone(message)));
            if *failures > 0 {
                notes.push(Note::Failed(message.number(), *failures));
            }
        }
    }
}
