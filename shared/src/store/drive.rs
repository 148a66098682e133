//! Carries out what a flight asks for, in a task of its own, so that a caller
//! that goes away cancels its wait and never the refresh.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, OptionFuture};
use tokio::sync::watch;
use tracing::debug;

use crate::error::Error;
use crate::ports::Act;
use crate::protocol::{Action, Event, Finish, Flight, PutFault, ReadFault, Upkeep};

use super::Inner;
use super::entry::{Entry, Phase};
use super::landing::{Landing, land, serve_pending};
use super::requests::{carry_out, commit};

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
    let mut landing = Landing::new(Arc::clone(&inner), Arc::clone(&entry));
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
        if matches!(action, Action::PutLease(..))
            && let Err(why) = landing.admit()
        {
            event = Event::LeasePut(Err(PutFault::Paused(why)));
            continue;
        }
        // Whoever waits has waited for the provider alone, and not for its answer's commit.
        if let Some(record) = flight.pending_commit() {
            serve_pending(&inner, &entry, record, &phase);
        }
        let refreshing = matches!(action, Action::Refresh(..));
        let work = match action {
            Action::Finish(finish) => break finish,
            action @ Action::PutToken(..) => {
                commit(&inner, &entry.user, Act::Refreshed, action).boxed()
            }
            action => carry_out(&inner, &entry.user, Act::Refreshed, action).boxed(),
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
            event = carry_out(&inner, &entry.user, Act::Refreshed, action) => event,
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
