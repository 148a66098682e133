//! Carries out what a flight asks for, in a task of its own, so that a caller
//! that goes away cancels its wait and never the refresh.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, OptionFuture};
use tokio::sync::watch;
use tracing::{debug, info, warn};

use crate::error::Error;
use crate::ports::{BucketError, EndpointError, Now};
use crate::protocol::{
    Action, Admission, Blame, Denial, Event, Finish, Flight, Held, PutFault, ReadFault, SeenLease,
    Source, Stored, Trouble, Upkeep,
};
use crate::record::{MAX_RECORD_BYTES, TokenRecord};
use crate::user_id::UserId;

use super::Inner;
use super::entry::{Entry, EntryState, Phase};
use super::served::Served;

/// Frees the entry however the task ends, so that a panic wedges nobody.
struct Landing {
    entry: Arc<Entry>,
    inner: Arc<Inner>,
    /// Let through by the breaker, and no result reported to it yet.
    admitted: Option<Admission>,
    /// The result is in the entry; it may be in another flight by now.
    landed: bool,
}

impl Landing {
    /// Asks the breaker. A probe stays the probe through all its writes.
    fn admit(&mut self) -> Result<(), Error> {
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
    fn failed(&mut self, told: Duration) {
        let Some(admission) = self.admitted.take() else {
            return;
        };
        let (inner, policy) = (&self.inner, &self.inner.policy);
        let (user, now) = (&self.entry.user, inner.clock.now());
        let (threshold, ttl) = (policy.breaker_threshold, policy.lease_ttl);
        inner.breaker().failed(admission, user, told, threshold, ttl, now);
    }

    /// Takes what the endpoint's answer says about the endpoint and the client.
    fn note(&mut self, event: &Event) {
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

/// A request that keeps a lease, while the flight waits for something else.
type Keeping = Option<BoxFuture<'static, Event>>;

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
    let mut keeping: Keeping = None;
    let mut event = Event::Start;
    let finish = loop {
        if inner.stopping.is_cancelled() {
            flight.stop();
        }
        let action = {
            let now = inner.clock.now();
            let mut state = entry.lock();
            let action = flight.step(event, now, &mut state.memory, &*inner.random);
            let user = entry.user.digest();
            debug!(%user, "{}", flight.account(&action, &state.memory, now.monotonic));
            action
        };
        match &action {
            Action::PutLease(..) => {
                if let Err(why) = landing.admit() {
                    event = Event::LeasePut(Err(PutFault::Paused(why)));
                    continue;
                }
            }
            Action::Sleep(_) => {
                if let Some(record) = flight.pending_commit() {
                    serve_pending(&inner, &entry, record, &phase);
                }
            }
            _ => {}
        }
        let refreshing = matches!(action, Action::Refresh(..));
        let work = match action {
            Action::Finish(finish) => break finish,
            action @ Action::PutToken(..) => commit(&inner, &entry.user, action).boxed(),
            action => carry_out(&inner, &entry.user, action).boxed(),
        };
        let waited = wait_for(work, refreshing, &mut flight, &mut landing, &mut keeping).await;
        match waited {
            Some(came) => event = came,
            None => break Finish::Failed(Error::Busy("this process is stopping".into())),
        }
        landing.note(&event);
    };
    land(&inner, &entry, &flight, finish, &mut landing, &phase);
}

/// Waits for what the flight asked for, and keeps its lease meanwhile. `None` when the
/// process ends and the flight has nothing to lose.
async fn wait_for(
    mut work: BoxFuture<'_, Event>,
    refreshing: bool,
    flight: &mut Flight,
    landing: &mut Landing,
    keeping: &mut Keeping,
) -> Option<Event> {
    let inner = Arc::clone(&landing.inner);
    let entry = Arc::clone(&landing.entry);
    // An answer that is late is none for the breaker, though it is awaited.
    let mut late: OptionFuture<_> =
        refreshing.then(|| inner.clock.sleep(inner.policy.lease_ttl)).into();
    let mut is_late = !refreshing;
    loop {
        if !flight.upkeep_is_awaited() {
            *keeping = None;
        }
        let mut wake: OptionFuture<_> = None.into();
        let mut wakes = false;
        if keeping.is_none() {
            let now = inner.now();
            match flight.upkeep(now) {
                Some(Upkeep::Wait(at)) => {
                    wake = Some(inner.clock.sleep(at.since(now))).into();
                    wakes = true;
                }
                Some(Upkeep::Put(lease, expected)) => {
                    debug!(user = %entry.user.digest(), %expected, "the lease is renewed");
                    let action = Action::PutLease(lease, expected);
                    *keeping = Some(keep(Arc::clone(&inner), Arc::clone(&entry), action));
                }
                Some(Upkeep::Read) => {
                    let (inner, entry) = (Arc::clone(&inner), Arc::clone(&entry));
                    *keeping = Some(keep(inner, entry, Action::ReadLease));
                }
                None => {}
            }
        }
        let is_kept = keeping.is_some();
        let mut kept: OptionFuture<_> = keeping.as_mut().into();
        tokio::select! {
            biased;
            // What has arrived counts, also where a suspended process finds its timers run
            // out at the same moment.
            came = &mut work => return Some(came),
            came = &mut kept, if is_kept => {
                *keeping = None;
                if let Some(came) = came {
                    flight.on_upkeep(came, inner.now(), &mut entry.lock().memory);
                }
            }
            _ = &mut wake, if wakes => {}
            _ = &mut late, if !is_late => {
                is_late = true;
                if !inner.breaker().succeeded_within(inner.policy.answer_limit(), inner.now()) {
                    landing.failed(Duration::ZERO);
                }
            }
            () = inner.stopping.cancelled(), if flight.may_be_given_up() => return None,
        }
    }
}

/// One try to renew a lease, or to see whose it is.
fn keep(inner: Arc<Inner>, entry: Arc<Entry>, action: Action) -> BoxFuture<'static, Event> {
    async move {
        let limit = inner.policy.renewal_limit();
        let reads = action == Action::ReadLease;
        tokio::select! {
            biased;
            event = carry_out(&inner, &entry.user, action) => event,
            () = inner.clock.sleep(limit) => {
                let why: Arc<str> = "no answer in time".into();
                if reads {
                    Event::LeaseRead(Err(ReadFault::Unavailable(why)))
                } else {
                    Event::LeasePut(Err(PutFault::Unknown(why)))
                }
            }
        }
    }
    .boxed()
}

/// One try to write a record that the provider has answered for. A write that is slow is
/// given up soon, and the record read: it may have been applied.
async fn commit(inner: &Inner, user: &UserId, action: Action) -> Event {
    let limit = inner.policy.commit_limit();
    tokio::select! {
        biased;
        event = carry_out(inner, user, action) => event,
        () = inner.clock.sleep(limit) => {
            let why = format!("{} was not written within {limit:?}", user.token_object());
            Event::TokenPut(Err(PutFault::Unknown(why.into())))
        }
    }
}

/// Drives what nobody joins (a login, a deletion, a re-seal) to its end.
pub(super) async fn run<E>(
    inner: &Inner,
    user: &UserId,
    mut step: impl FnMut(Event, Now) -> Action<E>,
) -> E {
    let mut event = Event::Start;
    loop {
        event = match step(event, inner.clock.now()) {
            Action::Finish(end) => return end,
            action => carry_out(inner, user, action).await,
        };
    }
}

/// Does what the protocol asks for.
async fn carry_out<E>(inner: &Inner, user: &UserId, action: Action<E>) -> Event {
    match action {
        Action::ReadToken => Event::TokenRead(read_token(inner, user).await),
        Action::ReadLease => {
            let read = inner.bucket.get(&user.lease_object()).await;
            let seen = read.map(|o| o.map(|o| SeenLease::decode(&o.content, o.generation)));
            Event::LeaseRead(seen.map_err(read_fault))
        }
        Action::PutLease(lease, expected) => {
            let name = user.lease_object();
            let put = inner.bucket.put(&name, lease.encode(), expected);
            Event::LeasePut(put.await.map_err(put_fault))
        }
        Action::Judge(refusal) => Event::Judged(inner.judge(user, &refusal).await),
        Action::Refresh(refresh_token, limits) => {
            Event::Refreshed(inner.endpoint.refresh(&refresh_token, limits).await)
        }
        Action::PutToken(record, expected) => {
            let content = inner.codec.encode(&record);
            if content.len() > MAX_RECORD_BYTES {
                let why = format!(
                    "the record of this user would have {} bytes, and no more than \
                     {MAX_RECORD_BYTES} are read; fewer scopes make it smaller",
                    content.len()
                );
                return Event::TokenPut(Err(PutFault::TooLarge(why.into())));
            }
            let put = inner.bucket.put(&user.token_object(), content, expected).await;
            Event::TokenPut(put.map_err(put_fault))
        }
        Action::DeleteToken(expected) => {
            let deleted = inner.bucket.delete(&user.token_object(), expected).await;
            if deleted.is_ok() {
                inner.entries.forget(user);
            }
            Event::Deleted(deleted.map(drop).map_err(put_fault))
        }
        Action::DeleteLease(expected) => {
            let deleted = inner.bucket.delete(&user.lease_object(), expected).await;
            Event::Deleted(deleted.map(drop).map_err(put_fault))
        }
        Action::Sleep(pause) => {
            inner.clock.sleep(pause).await;
            Event::Slept
        }
        Action::Finish(_) => unreachable!("the end is nothing to carry out"),
    }
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
        warn!(%user, "a grant is lost: the successor of its refresh token was never stored");
    }
    if notes.orphan {
        warn!(%user, "a new grant could not be stored: the user was deleted or is unreadable");
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

/// The new token is served from here while its commit is retried.
fn serve_pending(inner: &Inner, entry: &Entry, record: &TokenRecord, phase: &watch::Sender<Phase>) {
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

async fn read_token(inner: &Inner, user: &UserId) -> Result<Option<Box<Stored>>, ReadFault> {
    let Some(object) = inner.bucket.get(&user.token_object()).await.map_err(read_fault)? else {
        return Ok(None);
    };
    let generation = object.generation;
    match inner.codec.decode(user, &object.content) {
        Ok(record) => Ok(Some(Box::new(Stored { record, generation }))),
        Err(why) => Err(ReadFault::Corrupt(why, generation)),
    }
}

fn read_fault(error: BucketError) -> ReadFault {
    match error {
        BucketError::Refused(why) => ReadFault::Refused(why),
        other => ReadFault::Unavailable(other.to_string().into()),
    }
}

fn put_fault(error: BucketError) -> PutFault {
    match error {
        BucketError::PreconditionFailed => PutFault::Conflict,
        BucketError::Refused(why) => PutFault::Refused(why),
        other => PutFault::Unknown(other.to_string().into()),
    }
}

impl Inner {
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
