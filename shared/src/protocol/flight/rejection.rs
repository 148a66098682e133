//! Step 5: the provider rejected the refresh token.

use std::sync::Arc;

use crate::error::ConsentReason;
use crate::ports::Generation;
use crate::reason::Reason;
use crate::record::{State as RecordState, TokenRecord, WriteId};

use super::super::conflict::{RejectionStep, on_invalid_grant};
use super::messages::{Action, PutFault, ReadFault, Stored};
use super::{Around, Flight, Hold, State, revoked};

impl Flight {
    pub(super) fn on_rejection_read(
        &mut self,
        base: Box<Stored>,
        mut hold: Hold,
        reason: Arc<str>,
        read: Result<Option<Box<Stored>>, ReadFault>,
        around: &mut Around<'_>,
    ) -> Action {
        let stored = match read {
            Ok(stored) => stored,
            Err(fault) => {
                let until = self.deadline.max(hold.deadline);
                let next = State::ReadingRejection { base, hold, reason };
                return self.read_failed(fault, next, until, around);
            }
        };
        let sent = &base.record.refresh_token;
        match (on_invalid_grant(sent, stored.as_ref().map(|s| &s.record)), stored) {
            (RejectionStep::Adopt, Some(stored)) => {
                self.moved(&base.record.grant_id, stored, around)
            }
            (RejectionStep::AlreadyRevoked, Some(stored)) => {
                if hold.revoking.as_ref() == Some(&stored.record.write_id) {
                    self.notes.lost_grant = hold.takeover || hold.ambiguous;
                }
                self.consent(revoked(&stored.record))
            }
            (RejectionStep::Revoke, Some(stored)) => {
                let left = hold.deadline.since(around.now.monotonic.plus(self.policy.margin));
                if hold.takeover && !left.is_zero() {
                    // The holder that I took over from may still commit.
                    let pause = self.polls.next(around.draw.unit()).min(left);
                    return self.pause(pause, State::ReadingRejection { base, hold, reason });
                }
                let dead = TokenRecord {
                    state: RecordState::Revoked,
                    reason: Some(Reason::of_ended_grant(&reason).to_string()),
                    access_token: None,
                    expires_at: None,
                    write_id: WriteId(around.draw.id()),
                    holder: self.identity.holder.to_string(),
                    lease_generation: Some(hold.generation),
                    updated_at: around.now.wall,
                    ..stored.record
                };
                hold.revoking = Some(dead.write_id.clone());
                let on = stored.generation;
                self.enter(State::Revoking { base, hold, reason, on, dead: Box::new(dead) })
            }
            (_, None) | (RejectionStep::Gone, Some(_)) => self.consent(ConsentReason::Unknown),
        }
    }

    pub(super) fn on_revoked(
        &mut self,
        base: Box<Stored>,
        hold: Hold,
        reason: Arc<str>,
        dead: &TokenRecord,
        put: Result<Generation, PutFault>,
        around: &mut Around<'_>,
    ) -> Action {
        match put {
            Ok(_) => {
                self.notes.lost_grant = hold.takeover || hold.ambiguous;
                self.consent(revoked(dead))
            }
            Err(PutFault::Conflict) => self.enter(State::ReadingRejection { base, hold, reason }),
            Err(PutFault::Unknown(why) | PutFault::Refused(why)) => {
                let until = self.deadline.max(hold.deadline);
                let next = State::ReadingRejection { base, hold, reason };
                self.retry(why, next, until, around)
            }
            Err(PutFault::Paused(_)) => unreachable!("only leases are paused"),
        }
    }
}
