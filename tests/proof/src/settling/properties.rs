//! The properties, held against every effect.

use worker::outcome::Status;
use worker::settlement::{Ending, Part, Parts};

use super::setup::{Dedupe, Setup};
use super::world::{Delivery, World};

/// What holds of every delivery.
pub const PROPERTIES: [&str; 8] = [
    "a spent job runs again only after a crash, a lapsed lease or a lost acknowledgement",
    "a message is acknowledged when its end is written or in the outbox",
    "a message is never both acknowledged and given back",
    "a job that is not spent can run again by redrive or resume",
    "everything ends and every gate opens once faults are over",
    "nothing begins at a replica between a refused end and the next that is taken",
    "dead letters and outcomes say what is known of the effect",
    "a stored end is written once unless a process died or an answer was lost",
];

/// What the properties need to know of the past.
#[expect(clippy::struct_excessive_bools, reason = "they are independent of each other")]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub(super) struct Watch {
    /// Broken properties, as bits.
    pub(super) broken: u8,
    /// Something happened after which a spent job may run again.
    pub(super) excused: bool,
    /// Something happened after which a stored end may be written again.
    pub(super) stored_again: bool,
    /// A run of the job was spent.
    pub(super) spent: bool,
    /// A run of the job was done.
    pub(super) done: bool,
    /// What sweeps have written, by message ID.
    pub(super) swept: Vec<(u8, Part)>,
}

impl Watch {
    pub(super) fn require(&mut self, property: usize, holds: bool) {
        if !holds {
            self.broken |= 1 << property;
        }
    }
}

impl World {
    /// Whether a property holds so far.
    pub(super) fn keeps(&self, property: usize) -> bool {
        self.watch.broken & 1 << property == 0
    }

    /// A run is about to begin.
    pub(super) fn watch_run(&mut self, setup: &Setup, h: usize, knows: bool) {
        let clean = (!self.watch.spent || self.watch.excused) && !knows;
        self.watch.require(0, clean);
        self.watch_begin(setup, h);
    }

    /// A message is received, or a run begins.
    pub(super) fn watch_begin(&mut self, setup: &Setup, h: usize) {
        let r = h / setup.hands;
        let own = &self.hands[r * setup.hands..(r + 1) * setup.hands];
        let refused = own.iter().flatten().any(|delivery| delivery.refused_last != 0);
        let kept = self.replicas[r].kept;
        self.watch.require(5, !refused && kept == 0);
    }

    /// A message is acknowledged.
    pub(super) fn watch_acknowledge(
        &mut self,
        setup: &Setup,
        r: usize,
        delivery: &Delivery,
        ending: Ending,
    ) {
        let written = self.written[usize::from(delivery.id)];
        let stored = self.endings.iter().find(|stored| stored.id == delivery.id);
        let is_kept = |part: Part| match part {
            Part::Remember => self.recall(setup, r).is_some(),
            part => written.has(part),
        };
        let is_stored = |part: Part| {
            stored.is_some_and(|stored| stored.rest.has(part) || stored.refused.has(part))
        };
        let complete = parts(setup, ending).iter().all(|part| is_kept(part) || is_stored(part));
        self.watch.require(1, complete);
    }

    /// A sweep has written a part of a stored end.
    pub(super) fn watch_swept(&mut self, id: u8, part: Part) {
        let again = self.watch.swept.contains(&(id, part));
        self.watch.require(7, !again || self.watch.excused || self.watch.stored_again);
        if !again {
            self.watch.swept.push((id, part));
        }
    }
}

/// What belongs to an end, by the specification.
fn parts(setup: &Setup, ending: Ending) -> Parts {
    let mut parts = Vec::new();
    let worth = ending.status == Status::Done || ending.known.is_spent();
    if setup.dedupe != Dedupe::Off && worth {
        parts.push(Part::Remember);
    }
    match ending.status {
        Status::Rejected => parts.push(Part::DeadLetter),
        Status::Parked => parts.push(Part::Park),
        Status::Done | Status::Retry => {}
    }
    if setup.outcomes {
        parts.push(Part::Outcome);
    }
    Parts::of(&parts)
}
