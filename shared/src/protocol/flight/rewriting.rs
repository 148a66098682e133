//! Writes that keep the refresh token: a re-seal, whose values are the same and whose
//! secrets are sealed with the present key, and `blocked`. A record that moved under a
//! holder's hands costs that holder a conflict, so they are made under the lease, like a
//! refresh, and sent within its ttl or not at all.

use std::sync::Arc;

use crate::error::Error;
use crate::ports::{Generation, Monotonic};
use crate::reason::ConsentReason;
use crate::record::TokenRecord;

use super::messages::{Action, Finish, PutFault, ReadFault, Stored};
use super::{Around, Errand, Flight, State};

impl Flight {
    /// The lease is mine: write the record, unless there is no time left for it.
    pub(super) fn reseal(&mut self, base: Box<Stored>, around: &mut Around<'_>) -> Action {
        let again = self.kept(&base.record, around);
        self.rewrite(base, Box::new(again), around)
    }

    /// Whoever takes the lease over after its ttl may refresh at once, so the
    /// write is sent within the ttl or not at all.
    pub(super) fn rewrite(
        &mut self,
        base: Box<Stored>,
        again: Box<TokenRecord>,
        around: &Around<'_>,
    ) -> Action {
        if around.now.monotonic.plus(self.policy.commit_reserve()) > self.lease_ends() {
            let why = "too little of the lease was left to write the record; try again";
            return self.fail(Error::Busy(why.into()));
        }
        self.enter(State::Rewriting { base, again })
    }

    fn rewritten(&mut self, stored: Stored, around: &Around<'_>) -> Action {
        match self.errand {
            Errand::Reseal => self.finish(Finish::Resealed(Box::new(stored))),
            Errand::Refresh | Errand::Present => self.blocked(Box::new(stored), around),
        }
    }

    fn lease_ends(&self) -> Monotonic {
        let renewed = self.hold.as_ref().map(|hold| hold.renewed);
        renewed.map_or(self.deadline, |renewed| renewed.plus(self.policy.lease_ttl))
    }

    pub(super) fn on_rewritten(
        &mut self,
        base: Box<Stored>,
        again: Box<TokenRecord>,
        put: Result<Generation, PutFault>,
        around: &Around<'_>,
    ) -> Action {
        let why: Arc<str> = match put {
            Ok(generation) => {
                let stored = Stored { record: *again, generation };
                return self.rewritten(stored, around);
            }
            Err(PutFault::Conflict) => {
                return self.enter(State::ReadingRewritten { base, again });
            }
            Err(PutFault::Refused(why) | PutFault::TooLarge(why)) => {
                return self.fail(Error::Unavailable(why));
            }
            Err(PutFault::Unknown(why)) => why,
            Err(PutFault::Paused(_)) => unreachable!("only leases are paused"),
        };
        let until = self.lease_ends();
        self.look_again(why, State::ReadingRewritten { base, again }, until, around)
    }

    /// Read after a write whose outcome is not known, or that met another one.
    pub(super) fn on_rewritten_read(
        &mut self,
        base: Box<Stored>,
        again: Box<TokenRecord>,
        read: Result<Option<Box<Stored>>, ReadFault>,
        around: &mut Around<'_>,
    ) -> Action {
        match read {
            Err(fault) => self.read_failed(fault),
            Ok(None) => self.consent(ConsentReason::Unknown),
            Ok(Some(stored)) if stored.record.write_id == again.write_id => {
                self.rewritten(*stored, around)
            }
            Ok(Some(stored)) if stored.generation == base.generation => {
                self.rewrite(base, again, around)
            }
            Ok(Some(stored)) => match self.errand {
                // Somebody brought something newer: a login, or a late commit.
                Errand::Reseal => self.judge_token(stored, around),
                Errand::Refresh | Errand::Present => self.block_again(&base, stored, again, around),
            },
        }
    }
}
