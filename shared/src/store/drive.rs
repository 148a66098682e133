//! Carries out what a flight asks for, in a task of its own, so that a caller
//! that goes away cancels its wait and never the refresh.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::error::Error;
use crate::ports::{BucketError, EndpointError, Generation, Object};
use crate::protocol::{
    Action, Admission, Event, Finish, Flight, Held, PutFault, ReadFault, SeenLease, Stored,
};
use crate::record::TokenRecord;
use crate::user_id::UserId;

use super::entry::{Entry, Phase};
use super::served::Served;
use super::{Health, Inner};

/// Frees the entry however the task ends, so that a panic wedges nobody.
struct Landing {
    entry: Arc<Entry>,
    inner: Arc<Inner>,
    /// Let through by the breaker, and no result reported to it yet.
    admitted: Option<Admission>,
    /// The result is in the entry; it may be in another flight by now.
    landed: bool,
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

/// Drives `flight` to its end. Cancelling it (dropping the task) would lose an
/// answer of the provider; only the end of the runtime does that.
pub(super) async fn drive(
    inner: Arc<Inner>,
    entry: Arc<Entry>,
    mut flight: Flight,
    phase: watch::Sender<Phase>,
) {
    let mut landing = Landing {
        entry: Arc::clone(&entry),
        inner: Arc::clone(&inner),
        admitted: None,
        landed: false,
    };
    let token_object = entry.user.token_object();
    let lease_object = entry.user.lease_object();
    let mut event = Event::Start;
    let finish = loop {
        let action = {
            let now = inner.clock.now();
            let mut state = entry.lock();
            flight.step(event, now, &mut state.memory, &*inner.random)
        };
        event = match action {
            Action::ReadToken => {
                Event::TokenRead(read_token(&inner, &entry.user, &token_object).await)
            }
            Action::ReadLease => Event::LeaseRead(read_lease(&inner, &lease_object).await),
            Action::PutLease(lease, expected) => {
                let admitted = inner.breaker().admit(inner.now());
                Event::LeasePut(match admitted {
                    Err(pause) => Err(PutFault::Paused(pause)),
                    Ok(admission) => {
                        // A flight that takes another lease stays the probe that it is.
                        if landing.admitted != Some(Admission::Probe) {
                            landing.admitted = Some(admission);
                        }
                        let put = inner.bucket.put(&lease_object, lease.encode(), expected);
                        put.await.map_err(put_fault)
                    }
                })
            }
            Action::Refresh(refresh_token, limits) => {
                let answer = inner.endpoint.refresh(&refresh_token, limits).await;
                note_answer(&inner, &mut landing, &answer);
                Event::Refreshed(answer)
            }
            Action::PutToken(record, expected) => {
                Event::TokenPut(put_token(&inner, &token_object, &record, expected).await)
            }
            Action::Sleep(pause) => {
                if let Some(record) = flight.pending_commit() {
                    serve_pending(&inner, &entry, record, &phase);
                }
                if flight.is_waiting() {
                    tokio::select! {
                        biased;
                        () = inner.stopping.cancelled() => {
                            let why = "this process is stopping";
                            break Finish::Failed(Error::Busy(why.into()));
                        }
                        () = inner.clock.sleep(pause) => {}
                    }
                } else {
                    inner.clock.sleep(pause).await;
                }
                Event::Slept
            }
            Action::Finish(finish) => break finish,
        };
    };
    land(&inner, &entry, &flight, finish, &mut landing, &phase);
}

/// Takes the result into the entry, then tells those who wait.
fn land(
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
        warn!(%user, "the provider rejects a refresh token whose successor was lost");
    }
    if notes.orphan {
        warn!(%user, "a new grant could not be stored: the user was deleted or is unreadable");
    }
    if let Finish::Failed(error) = &finish {
        debug!(%user, %error, "no fresh credential");
    } else {
        debug!(%user, refreshed = notes.attempts > 0, "flight over");
    }
    if let Some(admission) = landing.admitted
        && notes.attempts > 0
        && matches!(&finish, Finish::Failed(Error::Unavailable(_)))
    {
        landing.admitted = None;
        let now = inner.now();
        let mut breaker = inner.breaker();
        let policy = &inner.policy;
        breaker.failed(admission, &entry.user, policy.breaker_threshold, policy.lease_ttl, now);
        if breaker.is_open(now) {
            inner.set_health(Health::EndpointDown);
        }
    }
    let mut state = entry.lock();
    let now = inner.now();
    let outcome = match finish {
        Finish::Use(held, _) => {
            // A login in this process may have stored a later record meanwhile, which
            // this flight read or wrote too early to know.
            let later = state.held().filter(|now| now.held().generation > held.generation);
            let served = match later {
                Some(later) => Arc::clone(later),
                None => inner.serve(*held),
            };
            state.hold(Some(Arc::clone(&served)));
            state.look_at_will();
            Phase::Done(Ok(served))
        }
        Finish::HeldElsewhere | Finish::Resealed(_) => {
            state.put_look_off(&inner.policy, now, inner.random.unit());
            Phase::HeldElsewhere
        }
        Finish::Failed(error) => {
            if matches!(error, Error::NeedsConsent(_)) {
                state.hold(None);
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

/// The new token is served from here while its commit is retried.
fn serve_pending(inner: &Inner, entry: &Entry, record: &TokenRecord, phase: &watch::Sender<Phase>) {
    let mut state = entry.lock();
    let known = state.held().is_some_and(|s| s.held().record.grant_id == record.grant_id);
    if !known {
        let received = state.memory.received.as_ref().filter(|(id, _)| *id == record.grant_id);
        let held = Held {
            received_at: received.map(|(_, at)| *at),
            ahead: inner.policy.refresh_ahead_for(record.expires_in, inner.random.unit()),
            record: record.clone(),
            generation: None,
        };
        state.hold(Some(inner.serve(held)));
    }
    drop(state);
    phase.send_replace(Phase::Serving);
}

pub(super) async fn read_token(
    inner: &Inner,
    user: &UserId,
    name: &str,
) -> Result<Option<Box<Stored>>, ReadFault> {
    match inner.bucket.get(name).await {
        Ok(None) => Ok(None),
        Ok(Some(object)) => decode(inner, user, &object).map(Some),
        Err(error) => Err(read_fault(error)),
    }
}

pub(super) fn decode(
    inner: &Inner,
    user: &UserId,
    object: &Object,
) -> Result<Box<Stored>, ReadFault> {
    match inner.codec.decode(user, &object.content) {
        Ok(record) => Ok(Box::new(Stored { record, generation: object.generation })),
        Err(why) => Err(ReadFault::Corrupt(why)),
    }
}

pub(super) async fn read_lease(inner: &Inner, name: &str) -> Result<Option<SeenLease>, ReadFault> {
    match inner.bucket.get(name).await {
        Ok(object) => Ok(object.map(|o| SeenLease::decode(&o.content, o.generation))),
        Err(error) => Err(read_fault(error)),
    }
}

pub(super) async fn put_token(
    inner: &Inner,
    name: &str,
    record: &TokenRecord,
    expected: Generation,
) -> Result<Generation, PutFault> {
    let put = inner.bucket.put(name, inner.codec.encode(record), expected);
    put.await.map_err(put_fault)
}

fn note_answer<T>(inner: &Inner, landing: &mut Landing, answer: &Result<T, EndpointError>) {
    match answer {
        Ok(_) | Err(EndpointError::InvalidGrant(_)) => {
            inner.breaker().succeeded();
            landing.admitted = None;
            inner.set_health(Health::Ready);
        }
        Err(EndpointError::Refused { why, .. }) => {
            inner.set_health(Health::Misconfigured(Arc::clone(why)));
        }
        Err(
            EndpointError::NotNow { .. }
            | EndpointError::NotReached(_)
            | EndpointError::Ambiguous { .. },
        ) => {}
    }
}

pub(super) fn read_fault(error: BucketError) -> ReadFault {
    match error {
        BucketError::Refused(why) => ReadFault::Refused(why),
        other => ReadFault::Unavailable(other.to_string().into()),
    }
}

pub(super) fn put_fault(error: BucketError) -> PutFault {
    match error {
        BucketError::PreconditionFailed => PutFault::Conflict,
        BucketError::Refused(why) => PutFault::Refused(why),
        other => PutFault::Unknown(other.to_string().into()),
    }
}

impl Inner {
    /// What callers are served from. Says once if the refresh-ahead that was asked for
    /// is longer than its token allows.
    pub(super) fn serve(&self, held: Held) -> Arc<Served> {
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
        Arc::new(Served::new(held, &self.policy, &self.scope_sets))
    }

    fn set_health(&self, health: Health) {
        self.health.send_if_modified(|current| {
            let changed = *current != health;
            *current = health;
            changed
        });
    }
}
