//! Step 4: the commit. What the provider answered is stored, whatever became of the lease.

use crate::error::Error;
use crate::ports::{Answer, Generation};
use crate::reason::{ConsentReason, Reason};
use crate::record::{Blocked, State as RecordState, TokenRecord, WriteId};

use super::super::conflict::{Commit, CommitStep};
use super::messages::{Action, PutFault, ReadFault, Source, Stored};
use super::{Around, Flight, State};

/// The code of a user whose grant comes without an access token that can be used.
const NO_ACCESS_TOKEN: &str = "no_access_token";

impl Flight {
    pub(super) fn commit(
        &mut self,
        base: Box<Stored>,
        answer: Answer,
        around: &mut Around<'_>,
    ) -> Action {
        let mine = Box::new(self.successor(&base.record, answer, around));
        if let Some(sent) = self.held_mut().sent {
            around.memory.obtained = Some((mine.grant_id.clone(), sent.monotonic));
        }
        around.memory.refusals = None;
        let expected = base.generation;
        self.enter(State::Committing { base, mine, expected })
    }

    /// The record that replaces `replaced`. Its times count from when the request was sent,
    /// which is earlier than when the provider worked them out.
    fn successor(
        &self,
        replaced: &TokenRecord,
        answer: Answer,
        around: &Around<'_>,
    ) -> TokenRecord {
        let sent = self.hold.as_ref().and_then(|hold| hold.sent).unwrap_or(around.now);
        let life = answer.lifetime();
        // The grant is committed all the same: its new refresh token is the only one.
        let blocked = answer.access_token.is_none().then(|| {
            let before = replaced.blocked.as_deref().filter(|b| b.code == NO_ACCESS_TOKEN);
            let before = before.map(|blocked| (blocked, replaced.updated_at));
            Box::new(Blocked::at(NO_ACCESS_TOKEN, before, around.now.wall))
        });
        TokenRecord {
            state: RecordState::Active,
            reason: blocked.as_ref().map(|_| Reason::Blocked.to_string()),
            blocked,
            refresh_token: answer.refresh_token.unwrap_or_else(|| replaced.refresh_token.clone()),
            expires_at: answer.access_token.as_ref().and(sent.wall.checked_add(life).ok()),
            expires_in: answer.access_token.as_ref().map(|_| life),
            access_token: answer.access_token,
            scopes: answer.scopes.unwrap_or_else(|| replaced.scopes.clone()),
            grant_id: replaced.grant_id.successor(&around.draw.id()),
            write_id: WriteId(around.draw.id()),
            holder: self.identity.holder.to_string(),
            lease_generation: self.hold.as_ref().map(|hold| hold.generation),
            updated_at: around.now.wall,
            ..replaced.clone()
        }
    }

    pub(super) fn on_committed(
        &mut self,
        base: Box<Stored>,
        mine: Box<TokenRecord>,
        put: Result<Generation, PutFault>,
        around: &mut Around<'_>,
    ) -> Action {
        match put {
            Ok(generation) => {
                let stored = Stored { record: *mine, generation };
                self.use_record(stored, Source::Obtained, around)
            }
            Err(PutFault::Conflict) => self.enter(State::ReadingConflict { base, mine }),
            // The lease is left: it keeps others from asking at once for the same again.
            Err(PutFault::TooLarge(why)) => {
                self.notes.lost_grant = true;
                self.fail(Error::Unavailable(why))
            }
            // Whatever else it is: the commit is tried again, never the refresh. What is
            // stored by now says whether it is needed.
            Err(PutFault::Unknown(_) | PutFault::Refused(_) | PutFault::Paused(_)) => {
                let pause = self.retries.next(around.draw.unit());
                self.pause(pause, State::ReadingConflict { base, mine })
            }
        }
    }

    pub(super) fn on_conflict_read(
        &mut self,
        base: Box<Stored>,
        mine: Box<TokenRecord>,
        read: Result<Option<Box<Stored>>, ReadFault>,
        around: &mut Around<'_>,
    ) -> Action {
        let stored = match read {
            Ok(stored) => stored,
            Err(ReadFault::Corrupt(why, _)) => {
                self.notes.orphan = true;
                return self.fail(Error::Corrupt { object: self.user.token_object(), why });
            }
            Err(ReadFault::Unavailable(_) | ReadFault::Refused(_)) => {
                let pause = self.retries.next(around.draw.unit());
                return self.pause(pause, State::ReadingConflict { base, mine });
            }
        };
        if let Some(unmoved) = stored.as_ref().filter(|s| s.record.write_id == base.record.write_id)
        {
            let expected = unmoved.generation;
            return self.enter(State::Committing { base, mine, expected });
        }
        self.notes.conflict = true;
        let commit = Commit { replaced: &base.record, mine: &mine };
        let step = commit.on_conflict(stored.as_ref().map(|s| &s.record));
        match (step, stored) {
            (CommitStep::Done, Some(stored)) => self.use_record(*stored, Source::Obtained, around),
            (CommitStep::Merge, Some(stored)) => {
                let write_id = WriteId(around.draw.id());
                let mut merged = Box::new(commit.merged_onto(&stored.record, write_id));
                if let Some(hold) = &self.hold {
                    merged.lease_generation = Some(hold.generation);
                }
                let expected = stored.generation;
                self.enter(State::Committing { base, mine: merged, expected })
            }
            (CommitStep::Adopt, Some(stored)) => self.moved(&base.record.grant_id, stored, around),
            (_, None) | (CommitStep::GiveUp, Some(_)) => {
                self.notes.orphan = true;
                let given = Some(mine.refresh_token);
                self.orphan = given.filter(|given| *given != base.record.refresh_token);
                self.consent(ConsentReason::Unknown)
            }
        }
    }
}
