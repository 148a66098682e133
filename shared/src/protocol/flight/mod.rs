//! One attempt to have a usable token, step by step.
//!
//! This file has the states and step 1 (is it needed?); the lease and its renewal, the
//! refresh, the commit, the provider's rejection and the re-seal have files of their own.

mod blocking;
mod committing;
mod leasing;
mod messages;
mod refreshing;
mod rejection;
mod renewing;
mod rewriting;
mod telling;

use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::policy::Policy;
use crate::ports::{Generation, Monotonic, Now};
use crate::reason::ConsentReason;
use crate::record::{GrantId, TokenRecord, WriteId};
use crate::schedule::Schedule;
use crate::user_id::UserId;

use super::conflict::{Adoption, adopt};
use super::freshness::{Freshness, Held};
use super::lease::Lease;
use renewing::Renewal;

pub use renewing::Upkeep;

pub use messages::{
    Action, Draw, Event, Finish, Identity, Memory, Notes, PutFault, ReadFault, Refusal, Refusals,
    Source, Stored,
};

/// A lease that I hold, and what happened under it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Hold {
    lease: Lease,
    generation: Generation,
    /// When the PUT that took it was first sent: attempts after the first fit into the
    /// ttl from here.
    taken: Monotonic,
    /// When the last PUT that is known to be applied was first sent: others may take
    /// over a ttl from here.
    renewed: Monotonic,
    renewal: Renewal,
    takeover: bool,
    /// When the last request was sent.
    sent: Option<Now>,
    /// An answer was lost.
    ambiguous: bool,
    /// A rejection was met after a lost answer, and the request sent once more.
    doubted: bool,
    /// When the provider first rejected the refresh token.
    rejected: Option<Monotonic>,
    revoking: Option<WriteId>,
}

/// A lease that I am asking for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Taking {
    lease: Lease,
    expected: Generation,
    first_sent: Monotonic,
    takeover: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum State {
    /// Step 1.
    ReadingToken,
    /// Step 2. With `doubt`, a PUT of mine may have been applied.
    ReadingLease {
        base: Box<Stored>,
        doubt: Option<Box<Taking>>,
    },
    /// The lease guards a later generation than `base`.
    RereadingToken {
        base: Box<Stored>,
        lease: Generation,
    },
    PuttingLease {
        base: Box<Stored>,
        taking: Box<Taking>,
    },
    /// A lease was taken that says nothing about when `base` was read.
    Confirming {
        base: Box<Stored>,
    },
    /// Another replica holds the lease.
    Polling {
        base: Box<Stored>,
    },
    /// Step 3. `why` the last attempt failed.
    Refreshing {
        base: Box<Stored>,
        why: Option<Error>,
    },
    /// Whom is a refusal about?
    Judging {
        base: Box<Stored>,
        refusal: Refusal,
    },
    /// Step 4.
    Committing {
        base: Box<Stored>,
        mine: Box<TokenRecord>,
        expected: Generation,
    },
    ReadingConflict {
        base: Box<Stored>,
        mine: Box<TokenRecord>,
    },
    /// Step 5.
    ReadingRejection {
        base: Box<Stored>,
        reason: Arc<str>,
    },
    Revoking {
        base: Box<Stored>,
        reason: Arc<str>,
        on: Generation,
        dead: Box<TokenRecord>,
    },
    /// The refresh token stays: the same values sealed anew, or `blocked`.
    Rewriting {
        base: Box<Stored>,
        again: Box<TokenRecord>,
    },
    ReadingRewritten {
        base: Box<Stored>,
        again: Box<TokenRecord>,
    },
    /// Time passes, then the inner state begins.
    Pausing(Box<State>),
    Over,
}

/// What the lease is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Errand {
    Refresh,
    Reseal,
    /// A revoked record's token is to be presented once more.
    Present,
}

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
    deadline: Monotonic,
    polls: Schedule,
    retries: Schedule,
    hold: Option<Hold>,
    /// The process is told to end: nothing new is sent to the endpoint.
    stopping: bool,
    state: State,
    notes: Notes,
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
            deadline: now.plus(policy.wait_limit),
            polls: Schedule::new(policy.poll_min, policy.poll_max),
            retries: Schedule::new(policy.retry_min, policy.retry_max),
            policy,
            hold: None,
            stopping: false,
            state: State::ReadingToken,
            notes: Notes::default(),
        }
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

    // Step 1: is it needed?

    fn on_first_read(
        &mut self,
        read: Result<Option<Box<Stored>>, ReadFault>,
        around: &mut Around<'_>,
    ) -> Action {
        match read {
            Err(fault) => self.read_failed(fault),
            Ok(None) => self.consent(ConsentReason::Unknown),
            Ok(Some(stored)) => self.judge_token(stored, around),
        }
    }

    fn judge_token(&mut self, stored: Box<Stored>, around: &mut Around<'_>) -> Action {
        self.hold = None;
        if self.errand == Errand::Reseal {
            // Whoever wrote it meanwhile has sealed it.
            if *self.held.get_or_insert(stored.generation) != stored.generation {
                return self.finish(Finish::HeldElsewhere);
            }
            // A revoked record is sealed like any other, and no secret is sent.
            return self.seek_lease(stored, around);
        }
        if stored.record.is_active() && self.errand == Errand::Present {
            self.errand = Errand::Refresh;
        }
        if let Some(action) = self.refuse(&stored.record) {
            return action;
        }
        let held = self.hold(stored.record.clone(), Some(stored.generation), around);
        let now = around.now;
        match held.freshness(&self.policy, &around.memory.rejected, now) {
            Freshness::Fresh => self.finish(Finish::Use(Box::new(held), Source::Adopted)),
            Freshness::Due if self.held != Some(stored.generation) => {
                self.finish(Finish::Use(Box::new(held), Source::Adopted))
            }
            Freshness::Due | Freshness::Unusable => {
                if self.errand == Errand::Present {
                    return self.seek_lease(stored, around);
                }
                if around.memory.is_blocked(&stored.record, now) {
                    return self.blocked(stored, around);
                }
                if let Some(left) = around.memory.told_to_wait(now.monotonic) {
                    return self.told_to_wait(left);
                }
                self.seek_lease(stored, around)
            }
        }
    }

    /// The endpoint asked for patience with this user, and somebody else may still renew it.
    fn told_to_wait(&mut self, left: Duration) -> Action {
        if !self.foreground {
            return self.finish(Finish::HeldElsewhere);
        }
        let why = "the token endpoint asked to wait before this user is refreshed again".into();
        self.fail(Error::Later { why, retry_after: left })
    }

    /// Ends the flight when the record is another client's, whose secret is
    /// never sent anywhere, or revoked.
    fn refuse(&mut self, record: &TokenRecord) -> Option<Action> {
        let checks = [
            ("client_id", &record.client_id, Arc::clone(&self.identity.client_id)),
            ("token_uri", &record.token_uri, Arc::clone(&self.identity.token_uri)),
        ];
        for (field, stored, configured) in checks {
            if **stored != *configured {
                let error = Error::WrongClient {
                    object: self.user.token_object(),
                    field,
                    stored: stored.clone(),
                    configured: configured.to_string(),
                };
                return Some(self.fail(error));
            }
        }
        let revoked = record.trouble().filter(|_| !record.is_active());
        revoked.filter(|_| self.errand != Errand::Present).map(|why| self.consent(why))
    }

    /// A record that somebody else wrote: does it end the call?
    fn moved(
        &mut self,
        began_with: &GrantId,
        stored: Box<Stored>,
        around: &mut Around<'_>,
    ) -> Action {
        if self.errand == Errand::Reseal {
            return self.judge_token(stored, around);
        }
        if let Some(action) = self.refuse(&stored.record) {
            return action;
        }
        match adopt(&stored.record, began_with, &around.memory.rejected) {
            Adoption::Use => self.use_record(*stored, Source::Adopted, around),
            Adoption::NeedsConsent => self.end(&stored.record),
            Adoption::Again => self.judge_token(stored, around),
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
