//! Writing an end: its parts in order, and what happens when one is not taken.

use shared::Schedule;
use shared::ports::Monotonic;

use crate::outcome::Status;

use super::pauses::{OUTBOX_AFTER, write_pauses};
use super::{Ending, Facts, Step};

/// What belongs to an end, in the order in which it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// Note the end where later deliveries of the job look (`--dedupe`).
    Remember,
    /// Publish the message to the dead topic.
    DeadLetter,
    /// Store the message under `parked/`.
    Park,
    /// Publish the outcome.
    Outcome,
}

/// A set of parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Parts(u8);

/// How much of a message is left out because the topic refused it with that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Cut {
    /// Nothing is.
    #[default]
    Whole,
    /// The result is, and of a dead letter all attributes but ours.
    WithoutResult,
    /// Everything but `job`, `status` and `effect`.
    Bare,
}

/// An end that is being written.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Writing {
    pub(super) ending: Ending,
    pub(super) rest: Parts,
    /// Parts that their topic refuses whatever is left out of them. They are kept for people
    /// to look at, and hold up no other part.
    refused: Parts,
    cut: Cut,
    /// The first try since the last that succeeded; `None` while writes succeed.
    stuck_since: Option<Monotonic>,
    pub(super) pauses: Schedule,
    publishes_outcomes: bool,
}

impl Part {
    const ALL: [Self; 4] = [Self::Remember, Self::DeadLetter, Self::Park, Self::Outcome];

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl Parts {
    /// The set of these.
    pub fn of(parts: &[Part]) -> Self {
        Self(parts.iter().fold(0, |set, part| set | part.bit()))
    }

    /// Whether `part` belongs to it.
    pub fn has(self, part: Part) -> bool {
        self.0 & part.bit() != 0
    }

    /// Whether no part belongs to it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn with(self, part: Part) -> Self {
        Self(self.0 | part.bit())
    }

    /// The same without `part`.
    #[must_use]
    pub fn without(self, part: Part) -> Self {
        Self(self.0 & !part.bit())
    }

    /// Those that belong to it, in the order in which they are written.
    pub fn iter(self) -> impl Iterator<Item = Part> {
        Part::ALL.into_iter().filter(move |part| self.has(*part))
    }

    /// The part that is written next.
    pub fn first(self) -> Option<Part> {
        self.iter().next()
    }
}

impl Writing {
    /// The end of this delivery's own run. Remembered are jobs that are done or spent: any
    /// other may run again, by a redrive or a resume.
    pub(super) fn first(ending: Ending, facts: &Facts) -> Self {
        let mut writing = Self::again(ending, facts.publishes_outcomes);
        if facts.remembers && (ending.status == Status::Done || ending.known.is_spent()) {
            writing.rest = writing.rest.with(Part::Remember);
        }
        writing
    }

    /// An end that is remembered already.
    pub(super) fn again(ending: Ending, publishes_outcomes: bool) -> Self {
        Self {
            ending,
            rest: parts_of(ending.status, publishes_outcomes),
            refused: Parts::default(),
            cut: Cut::Whole,
            stuck_since: None,
            pauses: write_pauses(),
            publishes_outcomes,
        }
    }

    /// What to do next, and what remains after that.
    pub(super) fn next(self) -> (Step, Option<Self>) {
        match self.rest.first() {
            Some(part) => (Step::Write(part, self.ending, self.cut), Some(self)),
            None if self.refused.is_empty() => (Step::Acknowledge(self.ending), None),
            None => (self.store(), Some(self)),
        }
    }

    pub(super) fn store(&self) -> Step {
        let Self { ending, rest, refused, .. } = *self;
        Step::Store { ending, rest, refused }
    }

    pub(super) fn written(&mut self) {
        if let Some(part) = self.rest.first() {
            self.rest = self.rest.without(part);
        }
        self.cut = Cut::Whole;
        self.stuck_since = None;
        self.pauses.reset();
    }

    /// The part is refused with whatever is left out: the others go on.
    pub(super) fn refused(&mut self) {
        if let Some(part) = self.rest.first() {
            self.refused = self.refused.with(part);
        }
        self.written();
    }

    /// Another delivery of the same job was remembered first: its end is told.
    pub(super) fn replace(&mut self, ending: Ending) {
        *self = Self::again(ending, self.publishes_outcomes);
    }

    /// Whether nothing was taken for so long that the outbox is to keep the end. A job that
    /// is being parked has no other place than the bucket.
    pub(super) fn is_stuck(&mut self, now: Monotonic) -> bool {
        let since = *self.stuck_since.get_or_insert(now);
        now.since(since) >= OUTBOX_AFTER && !self.is_parking()
    }

    /// Leaves out more; whether anything was left to leave out.
    pub(super) fn leave_out_more(&mut self) -> bool {
        let less = match self.cut {
            Cut::Whole => Cut::WithoutResult,
            Cut::WithoutResult => Cut::Bare,
            Cut::Bare => return false,
        };
        self.cut = less;
        true
    }

    /// The job did nothing, and nothing of its end is written.
    pub(super) fn is_parking(&self) -> bool {
        self.rest.has(Part::Park)
    }
}

fn parts_of(status: Status, publishes_outcomes: bool) -> Parts {
    let own = match status {
        Status::Done | Status::Retry => Parts::default(),
        Status::Parked => Parts::of(&[Part::Park]),
        Status::Rejected => Parts::of(&[Part::DeadLetter]),
    };
    let told = if publishes_outcomes { Part::Outcome.bit() } else { 0 };
    Parts(own.0 | told)
}
