//! Publishing a user's parked jobs again: pure decisions, no I/O, no clock, no runtime.
//!
//! ```text
//!   Look ──nothing is due──▶ End
//!     │ some job is due       ▲
//!     ▼                       │ nothing new
//!   Claim ──▶ Look ──▶ (Renew, Publish, Delete)… ──▶ Release ──▶ Look
//!     │ held                                                      │ something new
//!     ▼                                                           ▼
//!   End(Held)                                                   Claim …
//! ```
//!
//! What was published and cannot be deleted is noted in the claim ([`Step::Note`]), which then
//! stays: whoever takes it over deletes that first, and does not publish it.
//!
//! The look after the release is what makes the claim safe to meet: whoever finds it held
//! may go away, since the claimant looks again after that.

use std::collections::{BTreeSet, VecDeque};

use shared::ports::Generation;

/// So many jobs are published, and then deleted, at a time. A process that dies in between
/// repeats at most these.
pub const BATCH: usize = 16;

/// A parked object: its name and generation.
pub type Entry = (String, Generation);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// It begins.
    Start,
    /// To [`Step::Look`].
    Seen {
        /// Names this version of the user's record, if it may be acted with.
        credential: Option<String>,
        /// The parked jobs, in their order.
        jobs: Vec<Entry>,
    },
    /// To [`Step::FindDue`]: whether one of them is due, and which ones were read and must
    /// stay where they are.
    Due(bool, Vec<Entry>),
    /// To [`Step::Claim`]: this process has the claim. The jobs that are noted in it were
    /// published and not deleted.
    Claimed(Vec<Entry>),
    /// To [`Step::Renew`]: this process still has the claim.
    Renewed,
    /// To these two: another process has it.
    Held,
    /// To [`Step::Publish`].
    Published {
        /// Those that the topic took.
        sent: Vec<Entry>,
        /// Those that must stay where they are.
        kept: Vec<Entry>,
        /// One could not be published, or the claim was too old to go on.
        failed: bool,
    },
    /// To [`Step::Delete`] and [`Step::Release`]: it is done, as far as is known.
    Deleted,
    /// To [`Step::Delete`]: these could not be deleted.
    Undeleted(Vec<Entry>),
    /// To [`Step::Note`]: it is done.
    Noted,
    /// To every step but [`Step::Delete`] and [`Step::End`]: the bucket does not answer.
    Failed,
}

/// What the driver is to do next; [`Step::End`] ends it, every other step is answered by one
/// [`Event`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Step {
    /// Read the user's record, and then list the parked jobs.
    Look,
    /// Read these until one is due.
    FindDue(Vec<Entry>),
    /// Claim the user's parked jobs.
    Claim,
    /// Write the claim again, if it is getting old.
    Renew,
    /// Publish those of these that are due, in their order.
    Publish(Vec<Entry>),
    /// Delete these, each at its generation.
    Delete(Vec<Entry>),
    /// Write into the claim that these were published.
    Note(Vec<Entry>),
    /// Delete the claim, at its generation.
    Release,
    /// It is over.
    End(Ended),
}

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ended {
    /// Nothing that is due is left.
    Done,
    /// Another process resumes this user, and looks again when it has ended.
    Held,
    /// Something failed; what was not published stays parked.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    New,
    Looking,
    FindingDue,
    Claiming,
    /// Deleting what is noted in the claim.
    Clearing,
    Renewing,
    Publishing,
    Deleting,
    Noting,
    Releasing,
    Over,
}

/// One process that publishes a user's parked jobs again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Resumption {
    state: State,
    claimed: bool,
    failed: bool,
    /// The version of the record by which jobs were kept.
    credential: Option<String>,
    /// Jobs that are not due by that record, or cannot be read.
    kept: BTreeSet<Entry>,
    /// Jobs that were published and could not be deleted.
    undeleted: BTreeSet<Entry>,
    /// Jobs that are to be published.
    queue: VecDeque<Entry>,
    /// The batch whose turn it is.
    batch: Vec<Entry>,
}

impl Default for Resumption {
    fn default() -> Self {
        Self {
            state: State::New,
            claimed: false,
            failed: false,
            credential: None,
            kept: BTreeSet::new(),
            undeleted: BTreeSet::new(),
            queue: VecDeque::new(),
            batch: Vec::new(),
        }
    }
}

impl Resumption {
    /// What to do next.
    ///
    /// # Panics
    /// When `event` does not answer the last step: a fault of the driver.
    pub fn step(&mut self, event: Event) -> Step {
        match (self.state, event) {
            (State::New, Event::Start) | (State::Clearing, Event::Deleted) => {
                self.go(State::Looking, Step::Look)
            }
            (State::Looking, Event::Seen { credential, jobs }) => self.seen(credential, jobs),
            (State::FindingDue, Event::Due(any, kept)) => {
                self.kept.extend(kept);
                if any { self.go(State::Claiming, Step::Claim) } else { self.end(Ended::Done) }
            }
            (State::Claiming, Event::Claimed(published)) => {
                self.claimed = true;
                if published.is_empty() {
                    return self.go(State::Looking, Step::Look);
                }
                self.go(State::Clearing, Step::Delete(published))
            }
            (State::Clearing, Event::Undeleted(published)) => {
                self.undeleted.extend(published);
                self.go(State::Looking, Step::Look)
            }
            (State::Claiming | State::Renewing, Event::Held) => self.end(Ended::Held),
            (State::Renewing, Event::Renewed) => {
                self.go(State::Publishing, Step::Publish(self.batch.clone()))
            }
            (State::Publishing, Event::Published { sent, kept, failed }) => {
                self.kept.extend(kept);
                self.failed |= failed;
                if sent.is_empty() {
                    return self.next_batch();
                }
                self.go(State::Deleting, Step::Delete(sent))
            }
            (State::Deleting, Event::Deleted) => self.next_batch(),
            (State::Deleting, Event::Undeleted(published)) => {
                self.undeleted.extend(published);
                self.failed = true;
                self.next_batch()
            }
            (State::Noting, Event::Noted) => self.end(Ended::Failed),
            (State::Releasing, Event::Deleted) => {
                self.claimed = false;
                if self.failed {
                    return self.end(Ended::Failed);
                }
                self.go(State::Looking, Step::Look)
            }
            (
                State::Looking
                | State::FindingDue
                | State::Claiming
                | State::Renewing
                | State::Noting
                | State::Releasing,
                Event::Failed,
            ) => {
                self.failed = true;
                // A claim that could not be written or deleted is taken over by somebody.
                if self.claimed && !matches!(self.state, State::Noting | State::Releasing) {
                    return self.release();
                }
                self.end(Ended::Failed)
            }
            (state, event) => unreachable!("{event:?} does not answer {state:?}"),
        }
    }

    fn seen(&mut self, credential: Option<String>, jobs: Vec<Entry>) -> Step {
        if credential != self.credential {
            // What was not due may be by now.
            self.kept.clear();
            self.credential = credential;
        }
        let is_left = |job: &Entry| !self.kept.contains(job) && !self.undeleted.contains(job);
        let jobs: Vec<_> = jobs.into_iter().filter(is_left).collect();
        match (self.credential.is_some() && !jobs.is_empty(), self.claimed) {
            (true, false) => self.go(State::FindingDue, Step::FindDue(jobs)),
            (true, true) => {
                self.queue = jobs.into();
                self.next_batch()
            }
            (false, true) => self.release(),
            (false, false) => self.end(Ended::Done),
        }
    }

    fn next_batch(&mut self) -> Step {
        // Nothing of a user overtakes a job that failed.
        if self.failed || self.queue.is_empty() {
            return self.release();
        }
        self.batch = self.queue.drain(..BATCH.min(self.queue.len())).collect();
        self.go(State::Renewing, Step::Renew)
    }

    fn release(&mut self) -> Step {
        if self.undeleted.is_empty() {
            return self.go(State::Releasing, Step::Release);
        }
        let published = self.undeleted.iter().cloned().collect();
        self.go(State::Noting, Step::Note(published))
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
