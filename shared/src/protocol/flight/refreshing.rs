//! Step 3: the token endpoint.

use std::time::Duration;

use crate::error::Error;
use crate::ports::{Answer, EndpointError};

use super::messages::{Action, Refusal, Stored};
use super::{Around, Errand, Flight, Hold, State};

impl Flight {
    /// Sends an attempt if it fits into what is left of the lease. `why` the last one failed.
    pub(super) fn attempt(
        &mut self,
        base: Box<Stored>,
        why: Option<Error>,
        around: &Around<'_>,
    ) -> Action {
        if self.stopping {
            return self.fail(Error::Busy("this process is stopping".into()));
        }
        if !self.has_room(Duration::ZERO, around) {
            // Step 6: the lease is left standing.
            return self.fail(why.unwrap_or_else(|| {
                Error::Unavailable("taking the lease left too little of its ttl to refresh".into())
            }));
        }
        let hold = self.hold.as_mut().expect("only with the lease");
        hold.sent = Some(around.now);
        self.enter(State::Refreshing { base, why: None })
    }

    /// Sends another attempt after a pause, if that fits, else fails with `why`.
    fn attempt_after(
        &mut self,
        pause: Duration,
        base: Box<Stored>,
        why: Error,
        around: &Around<'_>,
    ) -> Action {
        if !self.has_room(pause, around) {
            return self.fail(why);
        }
        self.pause(pause, State::Refreshing { base, why: Some(why) })
    }

    /// Whether an attempt may start `pause` from now: connecting and a commit must fit into
    /// what is left of the lease; further attempts fit into its first ttl.
    fn has_room(&self, pause: Duration, around: &Around<'_>) -> bool {
        let Some(hold) = self.hold.as_ref().filter(|hold| !hold.is_lost()) else {
            return false;
        };
        let since = if hold.sent.is_some() { hold.taken } else { hold.renewed };
        let needed = pause + self.policy.connect_limit() + self.policy.commit_reserve();
        around.now.monotonic.plus(needed) <= since.plus(self.policy.lease_ttl)
    }

    pub(super) fn on_refreshed(
        &mut self,
        base: Box<Stored>,
        answer: Result<Answer, EndpointError>,
        around: &mut Around<'_>,
    ) -> Action {
        match answer {
            Ok(answer) => {
                self.retries.reset();
                self.commit(base, answer, around)
            }
            Err(EndpointError::InvalidGrant(reason)) => {
                self.retries.reset();
                let now = around.now.monotonic;
                self.held_mut().rejected.get_or_insert(now);
                self.enter(State::ReadingRejection { base, reason })
            }
            Err(EndpointError::Refused { code, why }) => self.judge(base, Refusal { code, why }),
            Err(EndpointError::NotReached(why)) => {
                let pause = self.retries.next(around.draw.unit()).max(SOONEST);
                self.attempt_after(pause, base, Error::Unavailable(why), around)
            }
            Err(EndpointError::NotNow { code: Some(code), why, .. })
                if &*code == "unknown_error"
                    && around
                        .memory
                        .is_puzzled_for_long(&base.record.grant_id, around.now.monotonic) =>
            {
                self.judge(base, Refusal { code, why })
            }
            Err(EndpointError::NotNow { why, retry_after, .. }) => {
                let pause = self.retries.next(around.draw.unit()).max(SOONEST);
                let pause = pause.max(retry_after.unwrap_or_default());
                let error = match retry_after {
                    Some(told) => {
                        around.memory.wait_until(around.now.monotonic.plus(told));
                        Error::Later { why, retry_after: told }
                    }
                    None => Error::Unavailable(why),
                };
                self.attempt_after(pause, base, error, around)
            }
            Err(EndpointError::Ambiguous { why, resend_after }) => {
                self.notes.ambiguous += 1;
                let again = std::mem::replace(&mut self.held_mut().ambiguous, true);
                let error = Error::Unavailable(why);
                if again || self.errand == Errand::Present {
                    // Once per lease: the old refresh token is all there is, and each
                    // presentation of a spent one may end the grant.
                    return self.fail(error);
                }
                let pause = self.policy.resend_pause(resend_after);
                self.attempt_after(pause, base, error, around)
            }
        }
    }

    /// After a lost answer a rejection is doubted: asked again, later.
    pub(super) fn doubt_rejection(
        &mut self,
        base: Box<Stored>,
        why: Error,
        around: &Around<'_>,
    ) -> Action {
        self.held_mut().doubted = true;
        self.attempt_after(self.policy.doubt(), base, why, around)
    }

    pub(super) fn held_mut(&mut self) -> &mut Hold {
        self.hold.as_mut().expect("only with the lease")
    }
}

/// The first pause before an endpoint is asked again that did not serve a request.
const SOONEST: Duration = Duration::from_secs(1);
