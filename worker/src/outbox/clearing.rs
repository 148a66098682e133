//! Writing what is left of one stored end: pure decisions, no I/O, no clock, no runtime.
//!
//! ```text
//!   Read ──claimed by another──▶ End(Held)
//!     │
//!     ▼
//!   Claim ──another was faster──▶ End(Lost)
//!     │ ◀─────────────────────────────────┐
//!     ▼                                   │
//!   Write the first part ──more are left──▶ Wait, Rewrite without it
//!     │  │ none is left
//!     │  └──▶ Wait, Delete ──▶ End(Cleared)
//!     └ not taken: Wait, Release ──▶ End(Unwritten), or End(Refused)
//! ```
//!
//! Each write of the object, the last one included, is on the condition that it is still the
//! one that this process wrote before. So of two processes that claim one end, one goes on;
//! and whoever finds the object changed stops there.
//!
//! Once the claim is written, no write of the object is given up before the process ends:
//! whoever takes the claim over would publish again what this process has published.

use std::time::Duration;

use shared::ports::{Generation, Monotonic};

use crate::claim::{Judged, STOP_AFTER, Sighting, judge};

/// One object may change once a second.
pub const PAUSE: Duration = Duration::from_secs(1);
/// The pauses between tries to write the object double up to this many times.
const DOUBLINGS: u32 = 5;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// It begins.
    Start,
    /// To [`Step::Read`]: the object as it is.
    Found {
        /// Its generation.
        generation: Generation,
        /// Some process claims it.
        claimed: bool,
        /// How many parts are left.
        parts: usize,
        /// It may be written: its topics are this worker's own and do not refuse it.
        may_be_written: bool,
    },
    /// To [`Step::Read`]: there is no such object, or it cannot be read.
    NotFound,
    /// To [`Step::Claim`], [`Step::Rewrite`], [`Step::Release`]: it is written. The time is
    /// that before the write was sent: the claim counts from there.
    Saved(Generation, Monotonic),
    /// To those and to [`Step::Delete`]: it is at another generation.
    Conflict,
    /// To all of these: the bucket did not take it, or its answer was lost.
    NotSaved,
    /// To [`Step::Write`]: it is written.
    Written,
    /// To [`Step::Write`]: nothing is taken at the moment.
    Unwritten,
    /// To [`Step::Write`]: this very message is refused.
    Refused,
    /// To [`Step::Wait`]: the time has passed.
    Waited,
    /// To a [`Step::Wait`] that is longer than [`PAUSE`]: the process ends.
    Stopped,
    /// To [`Step::Delete`]: it is deleted.
    Deleted,
}

/// What the driver is to do next; [`Step::End`] ends it, every other step is answered by one
/// [`Event`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Read the object.
    Read,
    /// Write the object with one's own claim, if it is at this generation.
    Claim(Generation),
    /// Write the first part that is left.
    Write,
    /// Let time pass.
    Wait(Duration),
    /// Write the object without its first part, if it is at this generation.
    Rewrite(Generation),
    /// Write the object without the claim, if it is at this generation.
    Release {
        /// The generation.
        expected: Generation,
        /// Note that its topic refuses it.
        refused: bool,
    },
    /// Delete the object, if it is at this generation.
    Delete(Generation),
    /// It is over.
    End(Ended),
}

/// What became of the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ended {
    /// Everything is written and the object is gone.
    Cleared,
    /// There is no such object any more, or none that this process writes.
    Skipped,
    /// Another process claims it; this is what to remember of that claim.
    Held(Sighting),
    /// Another process was faster, or has taken it over.
    Lost,
    /// A topic or the bucket took nothing; the object stays.
    Unwritten,
    /// A topic refuses this very message; the object stays and is not tried again.
    Refused,
}

/// What comes after a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Save {
    Rewrite,
    Release { refused: bool },
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    New,
    Reading,
    Claiming { parts: usize },
    Writing { parts: usize },
    Waiting { parts: usize, save: Save },
    Saving { parts: usize, save: Save },
    Over,
}

/// One process that writes what is left of one stored end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Clearing {
    seen: Option<Sighting>,
    state: State,
    /// The object as this process wrote it last, and when.
    saved: Generation,
    saved_at: Monotonic,
    /// How often a write of the object failed in a row.
    failures: u32,
}

impl Clearing {
    /// Begins; `seen` is what this process remembers of another's claim to it.
    pub fn new(seen: Option<Sighting>) -> Self {
        let saved_at = Monotonic(Duration::ZERO);
        Self { seen, state: State::New, saved: Generation::ABSENT, saved_at, failures: 0 }
    }

    /// What to do next.
    ///
    /// # Panics
    /// When `event` does not answer the last step: a fault of the driver.
    pub fn step(&mut self, event: &Event, now: Monotonic) -> Step {
        match (self.state, event) {
            (State::New, Event::Start) => self.go(State::Reading, Step::Read),
            (State::Reading, Event::Found { generation, claimed, parts, may_be_written }) => {
                if !may_be_written {
                    return self.end(Ended::Skipped);
                }
                let claimed = claimed.then_some(*generation);
                match judge(claimed, self.seen, now) {
                    Judged::Take(_) => {
                        let state = State::Claiming { parts: *parts };
                        self.go(state, Step::Claim(*generation))
                    }
                    Judged::Held(sighting) => self.end(Ended::Held(sighting)),
                }
            }
            (State::Reading, Event::NotFound) => self.end(Ended::Skipped),
            (State::Reading | State::Claiming { .. }, Event::NotSaved) => {
                self.end(Ended::Unwritten)
            }
            (State::Writing { parts }, Event::Written) => {
                let save = if parts > 1 { Save::Rewrite } else { Save::Delete };
                self.wait(parts - 1, save)
            }
            (State::Writing { parts }, Event::Unwritten) => {
                self.wait(parts, Save::Release { refused: false })
            }
            (State::Writing { parts }, Event::Refused) => {
                self.wait(parts, Save::Release { refused: true })
            }
            (State::Waiting { parts, save }, Event::Waited) => {
                self.go(State::Saving { parts, save }, self.save(save))
            }
            (State::Waiting { .. }, Event::Stopped) => self.end(Ended::Unwritten),
            (
                State::Claiming { parts } | State::Saving { parts, save: Save::Rewrite },
                Event::Saved(generation, at),
            ) => {
                self.saved(*generation, *at);
                self.write(parts, now)
            }
            (State::Saving { save: Save::Delete, .. }, Event::Deleted) => self.end(Ended::Cleared),
            (State::Saving { save: Save::Release { refused }, .. }, Event::Saved(..)) => {
                self.end(if refused { Ended::Refused } else { Ended::Unwritten })
            }
            (State::Claiming { .. } | State::Saving { .. }, Event::Conflict) => {
                self.end(Ended::Lost)
            }
            (State::Saving { parts, save }, Event::NotSaved) => {
                let pause = PAUSE * 2_u32.pow(self.failures);
                self.failures = (self.failures + 1).min(DOUBLINGS);
                self.go(State::Waiting { parts, save }, Step::Wait(pause))
            }
            (state, event) => unreachable!("{event:?} does not answer {state:?}"),
        }
    }

    /// Writes the next part, unless so much time has passed that another may take over.
    fn write(&mut self, parts: usize, now: Monotonic) -> Step {
        if now.since(self.saved_at) >= STOP_AFTER {
            return self.end(Ended::Lost);
        }
        if parts == 0 {
            // A process that died here had written everything.
            return self.wait(0, Save::Delete);
        }
        self.go(State::Writing { parts }, Step::Write)
    }

    fn saved(&mut self, generation: Generation, at: Monotonic) {
        self.saved = generation;
        self.saved_at = at;
        self.failures = 0;
    }

    fn save(&self, save: Save) -> Step {
        match save {
            Save::Rewrite => Step::Rewrite(self.saved),
            Save::Release { refused } => Step::Release { expected: self.saved, refused },
            Save::Delete => Step::Delete(self.saved),
        }
    }

    fn wait(&mut self, parts: usize, save: Save) -> Step {
        self.go(State::Waiting { parts, save }, Step::Wait(PAUSE))
    }

    fn end(&mut self, ended: Ended) -> Step {
        self.go(State::Over, Step::End(ended))
    }

    fn go(&mut self, state: State, step: Step) -> Step {
        self.state = state;
        step
    }
}

#[cfg(test)]
mod tests;
