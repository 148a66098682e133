//! A refusal that is no dead grant's: is it about the client or about this user? The
//! user's is written into the record, which stays active.

use std::sync::Arc;

use crate::error::Error;
use crate::reason::Reason;
use crate::record::{Blocked, TokenRecord, WriteId};

use super::super::freshness::Freshness;
use super::super::inquiry::Blame;
use super::messages::{Action, Finish, Refusal, Source, Stored};
use super::{Around, Errand, Flight, State};

impl Flight {
    pub(super) fn judge(&mut self, base: Box<Stored>, refusal: Refusal) -> Action {
        self.enter(State::Judging { base, refusal })
    }

    pub(super) fn on_judged(
        &mut self,
        base: Box<Stored>,
        refusal: &Refusal,
        blame: Blame,
        around: &mut Around<'_>,
    ) -> Action {
        match blame {
            Blame::Client(why) => self.fail(Error::Misconfigured(why)),
            // A revoked record stays as it is.
            _ if self.errand == Errand::Present => self.end(&base.record),
            Blame::User => self.block(base, refusal, around),
            Blame::Nobody => {
                if around.memory.is_puzzled_for_long(&base.record.grant_id, around.now.monotonic) {
                    return self.block(base, refusal, around);
                }
                let retry_after = self.policy.lease_ttl;
                self.fail(Error::Later { why: Arc::clone(&refusal.why), retry_after })
            }
        }
    }

    fn block(&mut self, base: Box<Stored>, refusal: &Refusal, around: &Around<'_>) -> Action {
        let record = &base.record;
        let before = record.blocked.as_deref().map(|blocked| (blocked, record.updated_at));
        let again = TokenRecord {
            blocked: Some(Box::new(Blocked::at(&refusal.code, before, around.now.wall))),
            reason: Some(Reason::of_refusal(&refusal.code, &refusal.why).to_string()),
            updated_at: around.now.wall,
            ..self.kept(record, around)
        };
        self.rewrite(base, Box::new(again), around)
    }

    /// The record as it is, written by me.
    pub(super) fn kept(&self, record: &TokenRecord, around: &Around<'_>) -> TokenRecord {
        TokenRecord {
            write_id: WriteId(around.draw.id()),
            holder: self.identity.holder.to_string(),
            lease_generation: self.hold.as_ref().map(|hold| hold.generation),
            ..record.clone()
        }
    }

    /// The record moved under the write of `again`: it is written again only on what the
    /// provider was asked about.
    pub(super) fn block_again(
        &mut self,
        base: &Stored,
        stored: Box<Stored>,
        again: Box<TokenRecord>,
        around: &mut Around<'_>,
    ) -> Action {
        let (then, now) = (&base.record, &stored.record);
        let same = then.refresh_token == now.refresh_token
            && then.grant_id == now.grant_id
            && then.state == now.state;
        if !same {
            return self.moved(&base.record.grant_id, stored, around);
        }
        let again = TokenRecord {
            blocked: again.blocked,
            reason: again.reason,
            updated_at: again.updated_at,
            ..self.kept(&stored.record, around)
        };
        self.rewrite(stored, Box::new(again), around)
    }

    /// The record is blocked: callers are stopped once no usable token is left.
    pub(super) fn blocked(&mut self, stored: Box<Stored>, around: &Around<'_>) -> Action {
        let held = self.hold(stored.record, Some(stored.generation), around);
        let now = around.now;
        match held.freshness(&self.policy, &around.memory.rejected, now) {
            Freshness::Unusable => self.end(&held.record),
            _ if self.foreground || self.held != held.generation => {
                self.finish(Finish::Use(Box::new(held), Source::Adopted))
            }
            _ => self.finish(Finish::HeldElsewhere),
        }
    }
}
