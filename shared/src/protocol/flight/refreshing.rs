//! Step 3, the token endpoint, and step 4, the commit.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{ConsentReason, Error};
use crate::ports::{Answer, EndpointError, Generation};
use crate::record::{State as RecordState, TokenRecord, WriteId};

use super::super::conflict::{Commit, CommitStep};
use super::messages::{Action, PutFault, ReadFault, Source, Stored};
use super::{Around, Flight, Hold, State};

impl Flight {
    /// Sends an attempt if it fits into what is left of the lease.
    pub(super) fn refresh(
        &mut self,
        base: Box<Stored>,
        hold: Hold,
        after: Option<(Duration, Arc<str>)>,
        around: &Around<'_>,
    ) -> Action {
        let pause = after.as_ref().map_or(Duration::ZERO, |(pause, _)| *pause);
        let ends =
            around.now.monotonic.plus(pause + self.policy.attempt_timeout + self.policy.margin);
        if ends > hold.deadline {
            let why = after.map_or_else(
                || Arc::from("taking the lease left too little of its ttl for an attempt"),
                |(_, why)| why,
            );
            // Step 6: the lease is left standing.
            return self.fail(Error::Unavailable(why));
        }
        let next = State::Refreshing { base, hold };
        if pause.is_zero() { self.enter(next) } else { self.pause(pause, next) }
    }

    pub(super) fn on_refreshed(
        &mut self,
        base: Box<Stored>,
        mut hold: Hold,
        answer: Result<Answer, EndpointError>,
        around: &mut Around<'_>,
    ) -> Action {
        match answer {
            Ok(answer) if answer.access_token.is_none() => {
                self.fail(Error::Unavailable("the token endpoint granted no access token".into()))
            }
            Ok(answer) => {
                let mine = Box::new(self.successor(&base.record, &hold, answer, around));
                around.memory.received = Some((mine.grant_id.clone(), around.now.monotonic));
                self.retries.reset();
                let expected = base.generation;
                self.enter(State::Committing { base, hold, mine, expected })
            }
            Err(EndpointError::InvalidGrant(reason)) => {
                self.retries.reset();
                self.enter(State::ReadingRejection { base, hold, reason })
            }
            Err(EndpointError::Refused { why, .. }) => self.fail(Error::Misconfigured(why)),
            Err(EndpointError::NotNow { why, .. } | EndpointError::NotReached(why)) => {
                let pause = self.retries.next(around.draw.unit());
                self.refresh(base, hold, Some((pause, why)), around)
            }
            Err(EndpointError::Ambiguous { why, .. }) => {
                hold.ambiguous = true;
                self.notes.ambiguous += 1;
                let pause = self.retries.next(around.draw.unit());
                self.refresh(base, hold, Some((pause, why)), around)
            }
        }
    }

    pub(super) fn successor(
        &self,
        replaced: &TokenRecord,
        hold: &Hold,
        answer: Answer,
        around: &Around<'_>,
    ) -> TokenRecord {
        let now = around.now.wall;
        let life = answer.lifetime();
        TokenRecord {
            state: RecordState::Active,
            reason: None,
            refresh_token: answer.refresh_token.unwrap_or_else(|| replaced.refresh_token.clone()),
            access_token: answer.access_token,
            expires_at: now.checked_add(life).ok(),
            expires_in: Some(life),
            scopes: answer.scopes.unwrap_or_else(|| replaced.scopes.clone()),
            grant_id: replaced.grant_id.successor(&around.draw.id()),
            write_id: WriteId(around.draw.id()),
            holder: self.identity.holder.to_string(),
            lease_generation: Some(hold.generation),
            updated_at: now,
            ..replaced.clone()
        }
    }

    // Step 4: commit.

    pub(super) fn on_committed(
        &mut self,
        base: Box<Stored>,
        hold: Hold,
        mine: Box<TokenRecord>,
        expected: Generation,
        put: &Result<Generation, PutFault>,
        around: &mut Around<'_>,
    ) -> Action {
        match *put {
            Ok(generation) => {
                let stored = Stored { record: *mine, generation };
                self.use_record(stored, Source::Obtained, around)
            }
            Err(PutFault::Conflict) => {
                self.notes.conflict = true;
                self.enter(State::ReadingConflict { base, hold, mine })
            }
            // Whatever else it is: retry the commit, never the refresh.
            Err(PutFault::Unknown(_) | PutFault::Refused(_) | PutFault::Paused(_)) => {
                let pause = self.retries.next(around.draw.unit());
                self.pause(pause, State::Committing { base, hold, mine, expected })
            }
        }
    }

    pub(super) fn on_conflict_read(
        &mut self,
        base: Box<Stored>,
        hold: Hold,
        mine: Box<TokenRecord>,
        read: Result<Option<Box<Stored>>, ReadFault>,
        around: &mut Around<'_>,
    ) -> Action {
        let stored = match read {
            Ok(stored) => stored,
            Err(ReadFault::Corrupt(why)) => {
                self.notes.orphan = true;
                return self.fail(Error::Corrupt { object: self.user.token_object(), why });
            }
            Err(ReadFault::Unavailable(_) | ReadFault::Refused(_)) => {
                let pause = self.retries.next(around.draw.unit());
                return self.pause(pause, State::ReadingConflict { base, hold, mine });
            }
        };
        let commit = Commit { replaced: &base.record, mine: &mine };
        let step = commit.on_conflict(stored.as_ref().map(|s| &s.record));
        match (step, stored) {
            (CommitStep::Done, Some(stored)) => self.use_record(*stored, Source::Obtained, around),
            (CommitStep::Merge, Some(stored)) => {
                let write_id = WriteId(around.draw.id());
                let merged = Box::new(commit.merged_onto(&stored.record, write_id));
                let expected = stored.generation;
                self.enter(State::Committing { base, hold, mine: merged, expected })
            }
            (CommitStep::Adopt, Some(stored)) => self.moved(&base.record.grant_id, stored, around),
            (_, None) | (CommitStep::GiveUp, Some(_)) => {
                self.notes.orphan = true;
                self.consent(ConsentReason::Unknown)
            }
        }
    }
}
