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

use crate::error::Error;
use crate::policy::Policy;
use crate::ports::{Generation, Monotonic, Now};
use crate::schedule::Schedule;

use super::flight::{Action, Draw, Event, PutFault, ReadFault};

/// What it asks for. It ends with whether there was a record.
type Ask = Action<Result<bool, Error>>;

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
    /// The lease's generation before the token was deleted.
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
    pub fn step(&mut self, event: Event, now: Now, draw: &dyn Draw) -> Ask {
        use Event::{Deleted, LeaseRead, Slept, Start, TokenRead};
        let now = now.monotonic;
        match (std::mem::replace(&mut self.state, State::Over), event) {
            (State::Beginning, Start) => self.go(State::ReadingLease, Action::ReadLease),
            (State::ReadingLease, LeaseRead(Ok(lease))) => {
                self.lease = lease.map(|seen| seen.generation);
                self.read_token()
            }
            (State::ReadingToken, TokenRead(read)) => match read.map(|s| s.map(|s| s.generation)) {
                Ok(None) => self.delete_lease(),
                // What cannot be read can be deleted.
                Ok(Some(generation)) | Err(ReadFault::Corrupt(_, generation)) => {
                    self.existed = true;
                    self.go(State::DeletingToken, Action::DeleteToken(generation))
                }
                Err(ReadFault::Unavailable(why) | ReadFault::Refused(why)) => failed(why),
            },
            (
                State::ReadingLease,
                LeaseRead(Err(ReadFault::Unavailable(why) | ReadFault::Refused(why))),
            ) => failed(why),
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

    fn go(&mut self, state: State, action: Ask) -> Ask {
        self.state = state;
        action
    }

    fn read_token(&mut self) -> Ask {
        self.go(State::ReadingToken, Action::ReadToken)
    }

    fn delete_lease(&mut self) -> Ask {
        match self.lease {
            Some(lease) => self.go(State::DeletingLease, Action::DeleteLease(lease)),
            None => self.done(),
        }
    }

    /// Waits before the next try, or gives up when the time is over.
    fn pause(&mut self, next: State, fault: PutFault, now: Monotonic, draw: &dyn Draw) -> Ask {
        match fault {
            PutFault::Unknown(_) if now < self.until => {
                let pause = self.pauses.next(draw.unit());
                self.go(next, Action::Sleep(pause))
            }
            PutFault::Unknown(why) | PutFault::Refused(why) => failed(why),
            PutFault::Conflict | PutFault::TooLarge(_) | PutFault::Paused(_) => {
                unreachable!(
                    "conflicts are looked into, a deletion has no content, and only leases are paused"
                )
            }
        }
    }

    fn done(&mut self) -> Ask {
        Action::Finish(Ok(self.existed))
    }
}

fn failed(why: Arc<str>) -> Ask {
    Action::Finish(Err(Error::Unavailable(why)))
}
