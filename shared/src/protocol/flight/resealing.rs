//! A re-seal: the same values written again, so that their secrets are sealed
//! with the present key. It starts with the lease like a refresh, because a record
//! that moved under a holder's hands costs that holder a conflict.

use std::sync::Arc;

use crate::error::{ConsentReason, Error};
use crate::ports::{Generation, Monotonic};
use crate::record::{TokenRecord, WriteId};

use super::messages::{Action, Finish, PutFault, ReadFault, Stored};
use super::{Around, Flight, State};

impl Flight {
    /// The lease is mine: write the record, unless there is no time left for it.
    pub(super) fn reseal(&mut self, base: Box<Stored>, around: &mut Around<'_>) -> Action {
        let again = TokenRecord {
            write_id: WriteId(around.draw.id()),
            holder: self.identity.holder.to_string(),
            lease_generation: self.hold.as_ref().map(|hold| hold.generation),
            ..base.record.clone()
        };
        self.put_resealed(base, Box::new(again), around)
    }

    /// Whoever takes the lease over after its ttl may refresh at once, so the
    /// write is sent within the ttl or not at all.
    pub(super) fn put_resealed(
        &mut self,
        base: Box<Stored>,
        again: Box<TokenRecord>,
        around: &Around<'_>,
    ) -> Action {
        if around.now.monotonic.plus(self.policy.commit_reserve()) > self.lease_ends() {
            let why = "too little of the lease was left to re-seal the record; try again";
            return self.fail(Error::Busy(why.into()));
        }
        self.enter(State::Resealing { base, again })
    }

    fn lease_ends(&self) -> Monotonic {
        let renewed = self.hold.as_ref().map(|hold| hold.renewed);
        renewed.map_or(self.deadline, |renewed| renewed.plus(self.policy.lease_ttl))
    }

    pub(super) fn on_resealed(
        &mut self,
        base: Box<Stored>,
        again: Box<TokenRecord>,
        put: Result<Generation, PutFault>,
        around: &Around<'_>,
    ) -> Action {
        let why: Arc<str> = match put {
            Ok(generation) => {
                let stored = Stored { record: *again, generation };
                return self.finish(Finish::Resealed(Box::new(stored)));
            }
            Err(PutFault::Conflict) => {
                return self.enter(State::ReadingResealed { base, again });
            }
            Err(PutFault::Refused(why)) => return self.fail(Error::Unavailable(why)),
            Err(PutFault::Unknown(why)) => why,
            Err(PutFault::Paused(_)) => unreachable!("only leases are paused"),
        };
        let until = self.lease_ends();
        self.retry(why, State::ReadingResealed { base, again }, until, around)
    }

    /// Read after a write whose outcome is not known, or that met another one.
    pub(super) fn on_resealed_read(
        &mut self,
        base: Box<Stored>,
        again: Box<TokenRecord>,
        read: Result<Option<Box<Stored>>, ReadFault>,
        around: &mut Around<'_>,
    ) -> Action {
        match read {
            Err(fault) => {
                let until = self.lease_ends();
                let next = State::ReadingResealed { base, again };
                self.read_failed(fault, next, until, around)
            }
            Ok(None) => self.consent(ConsentReason::Unknown),
            Ok(Some(stored)) if stored.record.write_id == again.write_id => {
                self.finish(Finish::Resealed(stored))
            }
            Ok(Some(stored)) if stored.generation == base.generation => {
                self.put_resealed(base, again, around)
            }
            // Somebody brought something newer: a login, or a late commit.
            Ok(Some(stored)) => self.judge_token(stored, around),
        }
    }
}
