//! The end of a user: the token goes first, then the lease, each at the
//! generation that was read.
//!
//! ```text
//! ReadLease ──▶ ReadToken ──▶ DeleteToken ──▶ DeleteLease (as read at first)
//!                   ▲ 412, or no answer │
//!                   └───────────────────┘
//! ```
//!
//! The lease's generation is read before the token is deleted: whoever logs in
//! and takes the lease afterwards has written another one, which stays.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::policy::Policy;
use crate::ports::{Generation, Monotonic};
use crate::schedule::Schedule;

use super::flight::{Draw, PutFault};

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DeletionAction {
    /// Read the lease object's generation.
    ReadLease,
    /// Read the token object's generation. Its content may be unreadable.
    ReadToken,
    /// Delete the token object if it is at this generation.
    DeleteToken(Generation),
    /// Delete the lease object if it is at this generation. The token is gone.
    DeleteLease(Generation),
    /// Let time pass.
    Sleep(Duration),
    /// It is over; whether there was a record.
    Finish(Result<bool, Error>),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum DeletionEvent {
    /// It begins.
    Start,
    /// The object's generation, that there is none, or why it cannot be read.
    Seen(Result<Option<Generation>, Arc<str>>),
    /// The object is gone.
    Deleted(Result<(), PutFault>),
    /// The time has passed.
    Slept,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum State {
    Beginning,
    ReadingLease,
    ReadingToken,
    DeletingToken,
    DeletingLease,
    PausingBeforeToken,
    PausingBeforeLease,
    Over,
}

/// One deletion, step by step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Deletion {
    pauses: Schedule,
    /// A write without an answer is sent again until then.
    until: Monotonic,
    /// As it was before the token went.
    lease: Option<Generation>,
    existed: bool,
    state: State,
}

impl Deletion {
    /// A deletion that is tried for as long as a caller waits, by `policy`.
    pub fn new(policy: &Policy, now: Monotonic) -> Self {
        Self {
            until: now.plus(policy.wait_limit),
            pauses: Schedule::new(policy.retry_min, policy.retry_max),
            lease: None,
            existed: false,
            state: State::Beginning,
        }
    }

    /// Takes one event and says what to do next.
    ///
    /// # Panics
    /// When the event does not answer the last action: a fault of the driver.
    pub fn step(
        &mut self,
        event: DeletionEvent,
        now: Monotonic,
        draw: &dyn Draw,
    ) -> DeletionAction {
        use DeletionEvent::{Deleted, Seen, Slept, Start};
        match (std::mem::replace(&mut self.state, State::Over), event) {
            (State::Beginning, Start) => self.go(State::ReadingLease, DeletionAction::ReadLease),
            (State::ReadingLease, Seen(Ok(lease))) => {
                self.lease = lease;
                self.read_token()
            }
            (State::ReadingToken, Seen(Ok(None))) => self.delete_lease(),
            (State::ReadingToken, Seen(Ok(Some(generation)))) => {
                self.existed = true;
                self.go(State::DeletingToken, DeletionAction::DeleteToken(generation))
            }
            (State::ReadingLease | State::ReadingToken, Seen(Err(why))) => failed(why),
            (State::DeletingToken, Deleted(Ok(()))) | (State::PausingBeforeLease, Slept) => {
                self.delete_lease()
            }
            (State::DeletingToken, Deleted(Err(PutFault::Conflict)))
            | (State::PausingBeforeToken, Slept) => self.read_token(),
            (State::DeletingToken, Deleted(Err(fault))) => {
                self.pause(State::PausingBeforeToken, fault, now, draw)
            }
            // A conflict: taken meanwhile, by a refresh that will find no record, or
            // for a later login's.
            (State::DeletingLease, Deleted(Ok(()) | Err(PutFault::Conflict))) => self.done(),
            (State::DeletingLease, Deleted(Err(fault))) => {
                self.pause(State::PausingBeforeLease, fault, now, draw)
            }
            (state, event) => panic!("{event:?} does not answer {state:?}"),
        }
    }

    fn go(&mut self, state: State, action: DeletionAction) -> DeletionAction {
        self.state = state;
        action
    }

    fn read_token(&mut self) -> DeletionAction {
        self.go(State::ReadingToken, DeletionAction::ReadToken)
    }

    fn delete_lease(&mut self) -> DeletionAction {
        match self.lease {
            Some(lease) => self.go(State::DeletingLease, DeletionAction::DeleteLease(lease)),
            None => self.done(),
        }
    }

    /// Waits before the next try, or gives up when the time is over.
    fn pause(
        &mut self,
        next: State,
        fault: PutFault,
        now: Monotonic,
        draw: &dyn Draw,
    ) -> DeletionAction {
        match fault {
            PutFault::Unknown(_) if now < self.until => {
                let pause = self.pauses.next(draw.unit());
                self.go(next, DeletionAction::Sleep(pause))
            }
            PutFault::Unknown(why) | PutFault::Refused(why) => failed(why),
            PutFault::Conflict | PutFault::Paused(_) => {
                unreachable!("conflicts are looked into, and only leases are paused")
            }
        }
    }

    fn done(&mut self) -> DeletionAction {
        DeletionAction::Finish(Ok(self.existed))
    }
}

fn failed(why: Arc<str>) -> DeletionAction {
    DeletionAction::Finish(Err(Error::Unavailable(why)))
}
