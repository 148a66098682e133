//! Serving callers from memory, or from a flight that they wait for together.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::error::Error;
use crate::protocol::{Flight, Freshness};

use super::entry::{Entry, EntryState, Phase, Running};
use super::served::Served;
use super::{TokenStore, drive};

impl TokenStore {
    pub(super) async fn obtain(
        &self,
        entry: &Arc<Entry>,
        at_least: Duration,
    ) -> Result<Arc<Served>, Error> {
        let mut deadline = None;
        // A flight that is under way may have got its token long before this
        // call. One that begins later is this call's own, whatever it brings,
        // so that a token that is never usable cannot make callers go round.
        let mut older_flight = true;
        loop {
            let mut running = {
                let mut state = entry.lock();
                if let Some(held) = self.serve(entry, &mut state, Duration::ZERO)
                    && self.lasts(&held, at_least)
                {
                    return Ok(held);
                }
                if let Some(running) = &state.flight {
                    running.clone()
                } else {
                    older_flight = false;
                    let flight = self.flight(entry, &state, true).at_least(at_least);
                    self.begin(entry, &mut state, flight, true)
                }
            };
            let limit = self.0.policy.wait_limit;
            let now = self.0.clock.monotonic();
            let until = *deadline.get_or_insert_with(|| now.plus(limit));
            tokio::select! {
                biased;
                outcome = self.join(entry, &mut running) => match outcome {
                    Some(Ok(held)) => {
                        let good = self.is_usable(entry, &held) && self.lasts(&held, at_least);
                        if std::mem::take(&mut older_flight) && !good {
                            continue;
                        }
                        return Ok(held);
                    }
                    // The flight's limit may end before this caller's own.
                    Some(Err(Error::Busy(_)))
                        if self.0.clock.monotonic() < until
                            && !self.0.stopping.is_cancelled() => {}
                    Some(Err(error)) if running.foreground => return Err(error),
                    // Nobody waited for that flight; start one that insists.
                    Some(Err(_)) | None => {}
                },
                () = self.0.clock.sleep(until.since(now)) => return Err(Error::waited(limit)),
            }
        }
    }

    fn is_usable(&self, entry: &Entry, served: &Served) -> bool {
        let rejected = &entry.lock().memory.rejected;
        let now = self.0.clock.now();
        served.held().freshness(&self.0.policy, rejected, now) != Freshness::Unusable
    }

    fn lasts(&self, served: &Served, at_least: Duration) -> bool {
        at_least.is_zero() || served.held().lasts(at_least, &self.0.policy, self.0.clock.now())
    }

    /// The token in memory, when it may be handed out; starts a background flight when it
    /// is due, for this caller `ahead` of its expiry at the latest.
    #[inline]
    pub(super) fn serve(
        &self,
        entry: &Arc<Entry>,
        state: &mut EntryState,
        ahead: Duration,
    ) -> Option<Arc<Served>> {
        let served = Arc::clone(state.served.as_ref()?);
        let now = self.0.clock.now();
        let rejected = &state.memory.rejected;
        match served.held().freshness_ahead(ahead, &self.0.policy, rejected, now) {
            Freshness::Unusable => return None,
            Freshness::Due if state.look_is_due(now.monotonic) => {
                let flight = self.flight(entry, state, false).ahead(ahead);
                self.begin(entry, state, flight, false);
            }
            Freshness::Due | Freshness::Fresh => {}
        }
        Some(served)
    }

    fn flight(&self, entry: &Entry, state: &EntryState, foreground: bool) -> Flight {
        Flight::new(
            entry.user.clone(),
            Arc::clone(&self.0.policy),
            self.0.identity.clone(),
            state.served.as_ref().and_then(|served| served.held().generation),
            foreground,
            self.0.clock.monotonic(),
        )
    }

    pub(super) fn begin(
        &self,
        entry: &Arc<Entry>,
        state: &mut EntryState,
        flight: Flight,
        foreground: bool,
    ) -> Running {
        let (sender, phase) = watch::channel(Phase::Flying);
        let running = Running { phase, foreground };
        state.flight = Some(running.clone());
        entry.set_flying(true);
        self.0.tasks.spawn(drive::drive(Arc::clone(&self.0), Arc::clone(entry), flight, sender));
        running
    }

    /// Waits for a flight; `None` when it has to be looked at anew.
    pub(super) async fn join(
        &self,
        entry: &Arc<Entry>,
        running: &mut Running,
    ) -> Option<Result<Arc<Served>, Error>> {
        loop {
            let phase = running.phase.borrow_and_update().clone();
            match phase {
                Phase::Flying => {}
                Phase::Serving => {
                    let served = entry.lock().served.clone()?;
                    if self.is_usable(entry, &served) {
                        return Some(Ok(served));
                    }
                }
                Phase::HeldElsewhere => return None,
                Phase::Done(Ok(held)) => {
                    let rejected =
                        entry.lock().memory.rejected.contains(&held.held().record.grant_id);
                    return (!rejected).then_some(Ok(held));
                }
                Phase::Done(Err(error)) => return Some(Err(error)),
            }
            if running.phase.changed().await.is_err() {
                let why = "the task that renewed it ended unexpectedly; try again";
                return Some(Err(Error::Unavailable(why.into())));
            }
        }
    }
}
