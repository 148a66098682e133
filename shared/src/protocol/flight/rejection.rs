//! Step 5: the provider rejected the refresh token.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::ports::{Generation, Monotonic};
use crate::reason::{ConsentReason, Reason};
use crate::record::{State as RecordState, TokenRecord, WriteId};

use super::super::conflict::{RejectionStep, on_invalid_grant};
use super::messages::{Action, PutFault, ReadFault, Stored};
use super::{Around, Flight, State};

impl Flight {
    pub(super) fn on_rejection_read(
        &mut self,
        base: Box<Stored>,
        reason: Arc<str>,
        read: Result<Option<Box<Stored>>, ReadFault>,
        around: &mut Around<'_>,
    ) -> Action {
        let stored = match read {
            Ok(stored) => stored,
            Err(fault) => return self.read_failed(fault),
        };
        let sent = &base.record.refresh_token;
        match (on_invalid_grant(sent, stored.as_ref().map(|s| &s.record)), stored) {
            (RejectionStep::Adopt, Some(stored)) => {
                self.moved(&base.record.grant_id, stored, around)
            }
            (RejectionStep::AlreadyRevoked, Some(stored)) => {
                let hold = self.held_mut();
                if hold.revoking.as_ref() == Some(&stored.record.write_id) {
                    self.notes.lost_grant = hold.takeover || hold.ambiguous;
                }
                self.end(&stored.record)
            }
            (RejectionStep::Revoke, Some(stored)) => {
                let hold = self.held_mut();
                if hold.ambiguous && !hold.doubted {
                    // The request whose answer was lost may still be at work: some
                    // providers reject what overlaps with it.
                    let why = format!("rejected after an answer was lost: {reason}");
                    return self.doubt_rejection(base, Error::Unavailable(why.into()), around);
                }
                let left = self.earlier_holder_has(around);
                if !left.is_zero() {
                    let pause = self.polls.next(around.draw.unit()).min(left);
                    return self.pause(pause, State::ReadingRejection { base, reason });
                }
                self.revoke(base, reason, *stored, around)
            }
            (_, None) | (RejectionStep::Gone, Some(_)) => self.consent(ConsentReason::Unknown),
        }
    }

    /// How long the holder that I took over from may still commit: one ttl from the
    /// rejection.
    fn earlier_holder_has(&self, around: &Around<'_>) -> Duration {
        match &self.hold {
            Some(hold) if hold.takeover => {
                let rejected = hold.rejected.unwrap_or(around.now.monotonic);
                rejected.plus(self.policy.lease_ttl).since(around.now.monotonic)
            }
            _ => Duration::ZERO,
        }
    }

    /// When this step gives up on a bucket that does not answer.
    fn rejection_ends(&self) -> Monotonic {
        let rejected = self.hold.as_ref().and_then(|hold| hold.rejected);
        let ends = rejected.map_or(self.deadline, |at| at.plus(2 * self.policy.lease_ttl));
        self.deadline.max(ends)
    }

    fn revoke(
        &mut self,
        base: Box<Stored>,
        reason: Arc<str>,
        stored: Stored,
        around: &Around<'_>,
    ) -> Action {
        let Stored { record, generation: on } = stored;
        let holder = self.identity.holder.to_string();
        let hold = self.held_mut();
        let dead = TokenRecord {
            state: RecordState::Revoked,
            reason: Some(Reason::of_ended_grant(&reason).to_string()),
            blocked: None,
            access_token: None,
            expires_at: None,
            write_id: WriteId(around.draw.id()),
            holder,
            lease_generation: Some(hold.generation),
            updated_at: around.now.wall,
            ..record
        };
        hold.revoking = Some(dead.write_id.clone());
        self.enter(State::Revoking { base, reason, on, dead: Box::new(dead) })
    }

    pub(super) fn on_revoked(
        &mut self,
        base: Box<Stored>,
        reason: Arc<str>,
        dead: &TokenRecord,
        put: Result<Generation, PutFault>,
        around: &mut Around<'_>,
    ) -> Action {
        match put {
            Ok(_) => {
                let hold = self.held_mut();
                self.notes.lost_grant = hold.takeover || hold.ambiguous;
                self.end(dead)
            }
            Err(PutFault::Conflict) => self.enter(State::ReadingRejection { base, reason }),
            Err(PutFault::Unknown(why) | PutFault::Refused(why)) => {
                let until = self.rejection_ends();
                self.look_again(why, State::ReadingRejection { base, reason }, until, around)
            }
            Err(PutFault::TooLarge(why)) => self.fail(Error::Unavailable(why)),
            Err(PutFault::Paused(_)) => unreachable!("only leases are paused"),
        }
    }
}
