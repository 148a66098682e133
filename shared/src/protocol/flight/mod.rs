//! One attempt to have a usable token, step by step.
//!
//! This file takes events and begins states; the states themselves, step 1 (is it needed?),
//! the lease and its renewal, the refresh, the commit, the provider's rejection and the
//! re-seal have files of their own.

mod blocking;
mod committing;
mod leasing;
mod messages;
mod reading;
mod refreshing;
mod rejection;
mod renewing;
mod rewriting;
mod state;
mod telling;

use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::policy::Policy;
use crate::ports::{Generation, Monotonic, Now};
use crate::reason::ConsentReason;
use crate::record::TokenRecord;
use crate::schedule::Schedule;
use crate::secret::Secret;
use crate::user_id::UserId;

use super::freshness::Held;
use state::{Errand, Hold, State, Taking};

pub use renewing::Upkeep;

pub use messages::{
    Action, Draw, Event, Finish, Identity, Memory, Notes, PutFault, ReadFault, Refusal, Refusals,
    Source, Stored,
};

/// One attempt of one replica to have a usable token of one user.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Flight {
    errand: Errand,
    user: UserId,
    policy: Arc<Policy>,
    identity: Identity,
    /// The version that the replica holds; a newer one that is merely due is
    /// good enough.
    held: Option<Generation>,
    /// Somebody waits; otherwise the held token is still usable.
    foreground: bool,
    /// Whoever began it wants a token renewed that has less than this left.
    ahead: Duration,
    at_least: Duration,
    deadline: Monotonic,
    polls: Schedule,
    retries: Schedule,
    hold: Option<Hold>,
    /// The process is told to end: nothing new is sent to the endpoint.
    stopping: bool,
    state: State,
    notes: Notes,
    /// A refresh token that the provider gave for a user who was deleted meanwhile.
    orphan: Option<Secret>,
}

/// What a step may look at.
struct Around<'a> {
    now: Now,
    memory: &'a mut Memory,
    draw: &'a dyn Draw,
}

impl Flight {
    /// A flight for `user` by a replica that holds the record at `held`.
    /// `foreground` when a caller waits for it.
    pub fn new(
        user: UserId,
        policy: Arc<Policy>,
        identity: Identity,
        held: Option<Generation>,
        foreground: bool,
        now: Monotonic,
    ) -> Self {
        Self {
            errand: Errand::Refresh,
            user,
            identity,
            held,
            foreground,
            ahead: Duration::ZERO,
            at_least: Duration::ZERO,
            deadline: now.plus(policy.wait_limit),
            polls: Schedule::new(policy.poll_min, policy.poll_max),
            retries: Schedule::new(policy.retry_min, policy.retry_max),
            policy,
            hold: None,
            stopping: false,
            state: State::ReadingToken,
            notes: Notes::default(),
            orphan: None,
        }
    }

    /// The same for a caller to whom a token is due as soon as it has `ahead` left.
    #[must_use]
    pub fn ahead(self, ahead: Duration) -> Self {
        Self { ahead, ..self }
    }

    /// The same for a caller to whom only a token is good that lasts so long yet
    /// ([`Held::lasts`]).
    #[must_use]
    pub fn at_least(self, at_least: Duration) -> Self {
        Self { at_least, ..self }
    }

    /// A flight that writes `user`'s record again with the same values, so that it
    /// is sealed with the present key. Nobody waits for it: it ends with
    /// [`Finish::HeldElsewhere`] when another replica is at the record. Whether
    /// a record needs it is for the driver to say, which sees the stored bytes.
    pub fn resealing(
        user: UserId,
        policy: Arc<Policy>,
        identity: Identity,
        now: Monotonic,
    ) -> Self {
        let errand = Errand::Reseal;
        Self { errand, ..Self::new(user, policy, identity, None, false, now) }
    }

    /// A flight that presents the refresh token of `user`'s revoked record once more,
    /// because an operator asked for it. On an active record it is a refresh if one is due.
    pub fn presenting(
        user: UserId,
        policy: Arc<Policy>,
        identity: Identity,
        now: Monotonic,
    ) -> Self {
        let errand = Errand::Present;
        Self { errand, ..Self::new(user, policy, identity, None, true, now) }
    }

    /// What is worth counting so far.
    pub fn notes(&self) -> Notes {
        self.notes
    }

    /// The refresh token that the provider gave for a user who was deleted meanwhile, unless it
    /// is the one that was sent: nobody has it but this flight.
    pub fn orphan(&self) -> Option<&Secret> {
        self.orphan.as_ref()
    }

    /// The record whose commit is pending: it may be served, and no other flight
    /// of this user may start here.
    pub fn pending_commit(&self) -> Option<&TokenRecord> {
        let state = match &self.state {
            State::Pausing(inner) => inner,
            other => other,
        };
        match state {
            State::Committing { mine, .. } | State::ReadingConflict { mine, .. } => Some(mine),
            _ => None,
        }
    }

    /// The process is told to end: from now on the flight sends nothing new to the
    /// endpoint, and what it has sent it brings to its end.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Whether the flight may be given up where it stands: it has not asked for a lease, or
    /// it waits to send what [`Flight::stop`] will not let it send.
    pub fn may_be_given_up(&self) -> bool {
        let state = match &self.state {
            State::Pausing(inner) => inner,
            other => other,
        };
        match state {
            State::ReadingToken
            | State::ReadingLease { doubt: None, .. }
            | State::RereadingToken { .. }
            | State::Polling { .. } => true,
            State::Refreshing { .. } => matches!(self.state, State::Pausing(_)),
            _ => false,
        }
    }

    /// Takes one event and says what to do next.
    ///
    /// # Panics
    /// When the event does not answer the last action: a fault of the driver.
    pub fn step(&mut self, event: Event, now: Now, memory: &mut Memory, draw: &dyn Draw) -> Action {
        let mut around = Around { now, memory, draw };
        let around = &mut around;
        let state = std::mem::replace(&mut self.state, State::Over);
        match (state, event) {
            (State::ReadingToken, Event::Start) => self.enter(State::ReadingToken),
            // A suspended process wakes late: what may be sent is decided again.
            (State::Pausing(next), Event::Slept) => match *next {
                State::Refreshing { base, why } => self.attempt(base, why, around),
                State::Rewriting { base, again } => self.rewrite(base, again, around),
                next => self.enter(next),
            },
            (State::ReadingToken, Event::TokenRead(read)) => self.on_first_read(read, around),
            (State::ReadingLease { base, doubt }, Event::LeaseRead(read)) => {
                self.on_lease_read(base, doubt, read, around)
            }
            (State::RereadingToken { base, lease }, Event::TokenRead(read)) => {
                self.on_reread(base, lease, read, around)
            }
            (State::PuttingLease { base, taking }, Event::LeasePut(put)) => {
                self.on_lease_put(base, taking, put, around)
            }
            (State::Confirming { base }, Event::TokenRead(read)) => {
                self.on_confirmed(base, read, around)
            }
            (State::Polling { base }, Event::TokenRead(read)) => self.on_polled(base, read, around),
            (State::Refreshing { base, .. }, Event::Refreshed(answer)) => {
                self.on_refreshed(base, answer, around)
            }
            (State::Committing { base, mine, .. }, Event::TokenPut(put)) => {
                self.on_committed(base, mine, put, around)
            }
            (State::ReadingConflict { base, mine }, Event::TokenRead(read)) => {
                self.on_conflict_read(base, mine, read, around)
            }
            (State::ReadingRejection { base, reason }, Event::TokenRead(read)) => {
                self.on_rejection_read(base, reason, read, around)
            }
            (State::Revoking { base, reason, dead, .. }, Event::TokenPut(put)) => {
                self.on_revoked(base, reason, &dead, put, around)
            }
            (State::Judging { base, refusal }, Event::Judged(blame)) => {
                self.on_judged(base, &refusal, blame, around)
            }
            (State::Rewriting { base, again }, Event::TokenPut(put)) => {
                self.on_rewritten(base, again, put, around)
            }
            (State::ReadingRewritten { base, again }, Event::TokenRead(read)) => {
                self.on_rewritten_read(base, again, read, around)
            }
            (state, event) => panic!("{event:?} does not answer {state:?}"),
        }
    }

    /// Begins a state with the action that it stands for.
    fn enter(&mut self, next: State) -> Action {
        let action = match &next {
            State::ReadingToken
            | State::RereadingToken { .. }
            | State::Confirming { .. }
            | State::Polling { .. }
            | State::ReadingConflict { .. }
            | State::ReadingRejection { .. }
            | State::ReadingRewritten { .. } => Action::ReadToken,
            State::ReadingLease { .. } => Action::ReadLease,
            State::PuttingLease { taking, .. } => {
                Action::PutLease(taking.lease.clone(), taking.expected)
            }
            State::Refreshing { base, .. } => {
                self.notes.attempts += 1;
                Action::Refresh(base.record.refresh_token.clone(), self.policy.limits())
            }
            State::Committing { mine, expected, .. } => Action::PutToken(mine.clone(), *expected),
            State::Revoking { dead, on, .. } => Action::PutToken(dead.clone(), *on),
            State::Judging { refusal, .. } => Action::Judge(refusal.clone()),
            State::Rewriting { base, again, .. } => {
                Action::PutToken(again.clone(), base.generation)
            }
            State::Pausing(_) | State::Over => unreachable!("entered by pause() and finish()"),
        };
        self.state = next;
        action
    }

    fn pause(&mut self, duration: Duration, next: State) -> Action {
        self.state = State::Pausing(Box::new(next));
        Action::Sleep(duration)
    }

    fn finish(&mut self, finish: Finish) -> Action {
        self.state = State::Over;
        Action::Finish(finish)
    }

    fn fail(&mut self, error: Error) -> Action {
        self.finish(Finish::Failed(error))
    }

    fn consent(&mut self, why: ConsentReason) -> Action {
        self.fail(Error::NeedsConsent(why))
    }

    /// Ends with what is wrong with the record.
    fn end(&mut self, record: &TokenRecord) -> Action {
        self.consent(record.trouble().unwrap_or(ConsentReason::Unknown))
    }

    fn use_record(&mut self, stored: Stored, source: Source, around: &Around<'_>) -> Action {
        if let Some(why) = stored.record.trouble().filter(|_| stored.record.access_token.is_none())
        {
            return self.consent(why);
        }
        let held = self.hold(stored.record, Some(stored.generation), around);
        self.finish(Finish::Use(Box::new(held), source))
    }

    fn hold(
        &self,
        record: TokenRecord,
        generation: Option<Generation>,
        around: &Around<'_>,
    ) -> Held {
        Held {
            obtained_at: around.memory.obtained_at(&record.grant_id),
            ahead: self.policy.refresh_ahead_for(record.expires_in, around.draw.unit()),
            record,
            generation,
        }
    }

    /// The bucket was asked for as long as it makes sense.
    fn read_failed(&mut self, fault: ReadFault) -> Action {
        match fault {
            ReadFault::Unavailable(why) | ReadFault::Refused(why) => {
                self.fail(Error::Unavailable(why))
            }
            ReadFault::Corrupt(why, _) => {
                self.fail(Error::Corrupt { object: self.user.token_object(), why })
            }
        }
    }

    /// Reads, after a pause, what became of a write whose outcome is unknown, unless the
    /// time is over.
    fn look_again(
        &mut self,
        why: Arc<str>,
        next: State,
        until: Monotonic,
        around: &Around<'_>,
    ) -> Action {
        let pause = self.retries.next(around.draw.unit());
        if around.now.monotonic.plus(pause) >= until {
            return self.fail(Error::Unavailable(why));
        }
        self.pause(pause, next)
    }
}
