//! Step 1: is a refresh needed, and may this replica do it?

use std::time::Duration;

use crate::error::Error;
use crate::reason::ConsentReason;
use crate::record::{GrantId, TokenRecord};

use super::super::conflict::{Adoption, adopt};
use super::super::freshness::Freshness;
use super::messages::{Action, Finish, ReadFault, Source, Stored};
use super::{Around, Errand, Flight};

impl Flight {
    pub(super) fn on_first_read(
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

    pub(super) fn judge_token(&mut self, stored: Box<Stored>, around: &mut Around<'_>) -> Action {
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
        let lasts = self.at_least.is_zero() || held.lasts(self.at_least, &self.policy, now);
        match held.freshness_ahead(self.ahead, &self.policy, &around.memory.rejected, now) {
            Freshness::Fresh if lasts => self.finish(Finish::Use(Box::new(held), Source::Adopted)),
            Freshness::Due if lasts && self.held != Some(stored.generation) => {
                self.finish(Finish::Use(Box::new(held), Source::Adopted))
            }
            Freshness::Fresh | Freshness::Due | Freshness::Unusable => {
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
    pub(super) fn told_to_wait(&mut self, left: Duration) -> Action {
        if !self.foreground {
            return self.finish(Finish::HeldElsewhere);
        }
        let why = "the token endpoint asked to wait before this user is refreshed again".into();
        self.fail(Error::Later { why, retry_after: left })
    }

    /// Ends the flight when the record is another client's, whose secret is
    /// never sent anywhere, or revoked.
    pub(super) fn refuse(&mut self, record: &TokenRecord) -> Option<Action> {
        if let Err(error) = self.identity.check(&self.user, record) {
            return Some(self.fail(error));
        }
        let revoked = record.trouble().filter(|_| !record.is_active());
        revoked.filter(|_| self.errand != Errand::Present).map(|why| self.consent(why))
    }

    /// A record that somebody else wrote: does it end the call?
    pub(super) fn moved(
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
}
