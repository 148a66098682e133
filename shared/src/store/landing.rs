//! How a flight ends: what the breaker and the entry learn from it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::error::Error;
use crate::ports::EndpointError;
use crate::protocol::{Admission, Blame, Denial, Event, Finish, Flight, Held, Source, Trouble};
use crate::record::TokenRecord;
use crate::secret::Secret;
use crate::user_id::UserId;

use super::Inner;
use super::entry::{Entry, EntryState, Phase};
use super::served::Served;

/// Frees the entry however the task ends, so that a panic wedges nobody.
pub(super) struct Landing {
    pub(super) entry: Arc<Entry>,
    pub(super) inner: Arc<Inner>,
    /// Let through by the breaker, and no result reported to it yet.
    admitted: Option<Admission>,
    /// The result is in the entry; it may be in another flight by now.
    landed: bool,
}

impl Landing {
    pub(super) fn new(inner: Arc<Inner>, entry: Arc<Entry>) -> Self {
        Self { entry, inner, admitted: None, landed: false }
    }

    /// Asks the breaker. A probe stays the probe through all its writes.
    pub(super) fn admit(&mut self) -> Result<(), Error> {
        if self.admitted == Some(Admission::Probe) {
            return Ok(());
        }
        match self.inner.breaker().admit(&self.entry.user, self.inner.now()) {
            Ok(admission) => {
                self.admitted = Some(admission);
                Ok(())
            }
            Err(Denial { trouble: Trouble::Client(why), .. }) => Err(Error::Misconfigured(why)),
            Err(Denial { trouble: Trouble::Endpoint, left }) => Err(Error::Unavailable(
                format!("refreshes fail for many users; this replica pauses them for {left:.0?}")
                    .into(),
            )),
        }
    }

    /// The endpoint did not serve this user, and may have asked to wait for `told`.
    pub(super) fn failed(&mut self, told: Duration) {
        let Some(admission) = self.admitted.take() else {
            return;
        };
        let (inner, policy) = (&self.inner, &self.inner.policy);
        let (user, now) = (&self.entry.user, inner.clock.now());
        let (threshold, ttl) = (policy.breaker_threshold, policy.lease_ttl);
        inner.breaker().failed(admission, user, told, threshold, ttl, now);
    }

    /// Takes what the endpoint's answer says about the endpoint and the client.
    pub(super) fn note(&mut self, event: &Event) {
        let inner = &self.inner;
        match event {
            Event::Refreshed(Ok(_)) => {
                inner.breaker().succeeded(inner.now());
                self.admitted = None;
                inner.learn();
            }
            Event::Refreshed(Err(EndpointError::InvalidGrant(_))) | Event::Judged(Blame::User) => {
                inner.breaker().answered();
                self.admitted = None;
            }
            Event::Judged(Blame::Client(why)) => {
                let (ttl, now) = (inner.policy.lease_ttl, inner.clock.now());
                let admitted = self.admitted.take();
                inner.breaker().refused_client(admitted, Arc::clone(why), ttl, now);
            }
            _ => {}
        }
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        if !self.landed {
            self.entry.lock().flight = None;
            self.entry.set_flying(false);
        }
        if let Some(admission) = self.admitted {
            self.inner.breaker().abandoned(admission);
        }
    }
}

/// Takes the result into the entry, then tells those who wait.
pub(super) fn land(
    inner: &Inner,
    entry: &Entry,
    flight: &Flight,
    finish: Finish,
    landing: &mut Landing,
    phase: &watch::Sender<Phase>,
) {
    let notes = flight.notes();
    inner.counters.flight_over(notes, &finish);
    let user = entry.user.digest();
    if notes.lost_grant {
        warn!(%user, "a grant is lost: the successor of its refresh token was never stored");
    }
    if notes.orphan {
        warn!(%user, "a new grant could not be stored: the user was deleted or is unreadable");
    }
    if let Some(orphan) = flight.orphan() {
        inner.end_orphan(&entry.user, orphan.clone());
    }
    if let Finish::Failed(error) = &finish {
        debug!(%user, %error, "no fresh credential");
    } else {
        debug!(%user, refreshed = notes.attempts > 0, "flight over");
    }
    match &finish {
        Finish::Failed(Error::Unavailable(_)) if notes.attempts > 0 => {
            landing.failed(Duration::ZERO);
        }
        Finish::Failed(Error::Later { retry_after, .. }) if notes.attempts > 0 => {
            landing.failed(*retry_after);
        }
        Finish::Use(held, Source::Adopted)
            if held.record.holder != *inner.identity.holder
                && held.record.grant_id.is_renewed() =>
        {
            inner.breaker().succeeded_elsewhere(held.record.updated_at);
        }
        _ => {}
    }
    let mut state = entry.lock();
    let now = inner.now();
    let outcome = match finish {
        Finish::Use(held, _) => {
            // A login in this process may have stored a later record meanwhile, which
            // this flight read or wrote too early to know.
            let later = state.served.as_ref().filter(|now| now.held().generation > held.generation);
            let served = match later {
                Some(later) => Arc::clone(later),
                None => inner.serve(*held, &state),
            };
            state.served = Some(Arc::clone(&served));
            state.look_at_will();
            Phase::Done(Ok(served))
        }
        Finish::HeldElsewhere | Finish::Resealed(_) => {
            state.put_look_off(&inner.policy, now, inner.random.unit());
            Phase::HeldElsewhere
        }
        Finish::Failed(error) => {
            if matches!(error, Error::NeedsConsent(_)) {
                state.served = None;
            }
            state.put_look_off(&inner.policy, now, inner.random.unit());
            Phase::Done(Err(error))
        }
    };
    // Cleared under the same lock as the result is set, so that nobody joins a
    // flight that is over.
    state.flight = None;
    entry.set_flying(false);
    landing.landed = true;
    drop(state);
    phase.send_replace(outcome);
}

/// The new token is served from here while its commit is under way, if it came with one.
pub(super) fn serve_pending(
    inner: &Inner,
    entry: &Entry,
    record: &TokenRecord,
    phase: &watch::Sender<Phase>,
) {
    if record.access_token.is_none() {
        return;
    }
    let mut state = entry.lock();
    let known = state.served.as_ref().is_some_and(|s| s.held().record.grant_id == record.grant_id);
    if !known {
        let obtained = state.memory.obtained.as_ref().filter(|(id, _)| *id == record.grant_id);
        let held = Held {
            obtained_at: obtained.map(|(_, at)| *at),
            ahead: inner.policy.refresh_ahead_for(record.expires_in, inner.random.unit()),
            record: record.clone(),
            generation: None,
        };
        let served = inner.serve(held, &state);
        state.served = Some(served);
    }
    drop(state);
    phase.send_replace(Phase::Serving);
}

impl Inner {
    /// Ends a grant whose user was deleted while it was on its way, where the provider is known:
    /// nobody else has its refresh token. One try; what it came to is said.
    fn end_orphan(&self, user: &UserId, orphan: Secret) {
        let Some(provider) = self.provider.clone() else { return };
        let (user, limits) = (user.digest(), self.policy.exchange_limits());
        self.tasks.spawn(async move {
            match provider.revoke(&orphan, limits).await {
                Ok(_) => info!(%user, "the new grant of a user who was deleted is ended"),
                Err(error) => warn!(
                    %user,
                    "the new grant of a user who was deleted may live on at the provider: {error}"
                ),
            }
        });
    }

    /// What callers are served from. Says once if the refresh-ahead that was asked for
    /// is longer than its token allows.
    pub(super) fn serve(&self, held: Held, state: &EntryState) -> Arc<Served> {
        if let Some(allowed) = self.policy.refresh_ahead_cap(held.record.expires_in)
            && !self.cap_reported.swap(true, Ordering::Relaxed)
        {
            let asked = self.policy.refresh_ahead;
            let life = held.record.expires_in.unwrap_or_default();
            // What was asked for works, if less than asked: nothing has to be done.
            info!(
                "the refresh-ahead ({asked:?}) is longer than tokens that live for {life:?} allow: \
                 it is capped at {allowed:?}, here and for every other such token"
            );
        }
        let before =
            state.served.as_ref().filter(|s| s.held().record.grant_id == held.record.grant_id);
        let since = before.map_or_else(|| self.now(), |served| served.since());
        Arc::new(Served::new(held, &self.scope_sets, since))
    }
}
