//! Running a handler: the slot, the renewed token, the repetitions.

use std::ops::ControlFlow;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use shared::{Credentials, Error, Schedule};
use tokio::sync::SemaphorePermit;

use crate::conclusion::Conclusion;
use crate::handler::Handler;
use crate::job::Job;
use crate::metrics;
use crate::outcome::{Status, Verdict};

use super::ending::End;
use super::{Desk, Known, Measured, STOPPING, Stopped};

/// Pauses between local attempts after a failure of the API.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(16);

/// Why a handler runs again.
enum Again {
    /// It failed, and may not the next time: after this pause, if the budget allows.
    After(Duration, End),
    /// The API rejected the token: with a renewed one.
    Renewed,
}

/// The right to run a handler, for as long as this lives.
struct Slot<'a> {
    _permit: SemaphorePermit<'a>,
    taken: &'a AtomicBool,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.taken.store(false, Ordering::Relaxed);
    }
}

impl Desk {
    /// Runs the handler until it is through: once more with a renewed token if the
    /// API rejected the first, and again after failures that pass, within the
    /// delivery's budget. Between attempts no slot is held.
    pub(super) async fn attempts(
        &self,
        job: &Job,
        kind: Option<&Known>,
        measured: &mut Measured<'_>,
    ) -> Result<End, Stopped> {
        let Some(kind) = kind else {
            let known = self.kinds.names();
            return Ok(End::rejected(format!("unknown kind; this worker does {known}")));
        };
        let mut pauses = None;
        let mut renewed = false;
        let mut fresh = None;
        loop {
            if self.paces.users() > 0 {
                // Boxed, here and below, so that the others do not carry its state.
                Box::pin(self.await_pace(job, measured)).await?;
            }
            let credentials = match fresh.take() {
                Some(credentials) => credentials,
                None => self.credentials(job, measured).await?,
            };
            let verdict = self.attempt(&*kind.handler, job, &credentials, measured).await?;
            let Conclusion { verdict, knowledge } = verdict;
            let again = match self.judge(job, verdict, renewed, &mut pauses)? {
                ControlFlow::Break(end) => return Ok(End { knowledge, ..end }),
                ControlFlow::Continue(again) => again,
            };
            renewed |= matches!(again, Again::Renewed);
            match Box::pin(self.before_again(again, &credentials, measured)).await? {
                ControlFlow::Break(end) => return Ok(end),
                ControlFlow::Continue(renewed) => fresh = renewed,
            }
        }
    }

    /// What has to happen before the handler runs again, perhaps with other credentials.
    async fn before_again(
        &self,
        again: Again,
        credentials: &Credentials,
        measured: &mut Measured<'_>,
    ) -> Result<ControlFlow<End, Option<Credentials>>, Stopped> {
        let (pause, end) = match again {
            Again::Renewed => {
                return Ok(ControlFlow::Continue(Some(self.renew(credentials).await?)));
            }
            Again::After(pause, end) => (pause, end),
        };
        if self.stopping.is_cancelled() || measured.waited + pause > self.retry_budget {
            return Ok(ControlFlow::Break(end));
        }
        measured.waited += pause;
        self.pause(pause).await;
        if self.stopping.is_cancelled() {
            return Ok(ControlFlow::Break(end));
        }
        Ok(ControlFlow::Continue(None))
    }

    /// A slot, once one is free. At the end of the replica there are no more.
    async fn slot<'a>(&'a self, taken: &'a AtomicBool) -> Result<Slot<'a>, End> {
        taken.store(true, Ordering::Relaxed);
        let permit = match self.slots.try_acquire() {
            Ok(permit) => Ok(permit),
            Err(_) => Box::pin(self.slots.acquire()).await,
        };
        match permit {
            Ok(permit) => Ok(Slot { _permit: permit, taken }),
            Err(_closed) => {
                taken.store(false, Ordering::Relaxed);
                Err(End::retry(STOPPING))
            }
        }
    }

    /// One run of the handler, in a slot.
    async fn attempt(
        &self,
        handler: &dyn Handler,
        job: &Job,
        credentials: &Credentials,
        measured: &mut Measured<'_>,
    ) -> Result<Conclusion, End> {
        let _slot = self.slot(&measured.runner.slot).await?;
        measured.attempt += 1;
        // Who is not slowed down need not be told that they are fast enough.
        let began = (self.paces.users() > 0).then(|| self.now());
        let session = self.carrier.session(credentials.clone());
        let ledger = session.ledger();
        measured.calls = Some(session.ledger());
        let running = self.meters.run();
        // A panic fails this delivery only; the handler keeps no state of ours
        // that it could leave half-changed.
        let handled = async { handler.handle(job, &session).await };
        let verdict = AssertUnwindSafe(handled).catch_unwind().await;
        drop(running);
        let Ok(verdict) = verdict else {
            return Ok(Conclusion::of_panic(&ledger.calls()));
        };
        if let (Verdict::Done { .. }, Some(began)) = (&verdict, began) {
            self.paces.fine(&job.user, began);
        }
        Ok(Conclusion::of(verdict, &ledger.calls()))
    }

    fn judge(
        &self,
        job: &Job,
        verdict: Verdict,
        renewed: bool,
        pauses: &mut Option<Box<Schedule>>,
    ) -> Result<ControlFlow<End, Again>, Stopped> {
        Ok(match verdict {
            Verdict::Done { http_status, result, warning } => {
                ControlFlow::Break(End { http_status, result, warning, ..End::of(Status::Done) })
            }
            Verdict::Unauthorized if !renewed => ControlFlow::Continue(Again::Renewed),
            Verdict::Unauthorized => {
                let why = "the API rejects the renewed token (HTTP status 401)";
                ControlFlow::Break(End::retry(why).with_status(Some(401)))
            }
            Verdict::RateLimited { http_status, after } => {
                metrics::count(metrics::SLOWED);
                let now = self.now();
                self.paces.limited(&job.user, after, now, self.random.unit());
                let end = End::retry("the API limits the user's rate").with_status(http_status);
                // The pause itself is everybody's of this user: `await_pace`.
                ControlFlow::Continue(Again::After(Duration::ZERO, end))
            }
            Verdict::Retry { why, http_status, after } => {
                let pauses =
                    pauses.get_or_insert_with(|| Box::new(Schedule::new(PAUSE_MIN, PAUSE_MAX)));
                let pause = pauses.next(self.random.unit()).max(after.unwrap_or_default());
                let end = End::retry(why).with_status(http_status).after(after);
                ControlFlow::Continue(Again::After(pause, end))
            }
            Verdict::MissingScopes { scopes } => {
                return Err(Stopped::Consent(shared::ConsentReason::MissingScopes(scopes)));
            }
            Verdict::Reject { reason, detail, http_status } => {
                ControlFlow::Break(End { http_status, detail, ..End::rejected(reason) })
            }
            Verdict::Stated { .. } => unreachable!("a conclusion holds the verdict itself"),
        })
    }

    async fn renew(&self, rejected: &Credentials) -> Result<Credentials, Stopped> {
        match self.carrier.store.renew(rejected).await {
            Ok(credentials) => Ok(credentials),
            Err(Error::NeedsConsent(why)) => Err(Stopped::Consent(why)),
            Err(error) => {
                let end = End::retry(format!("HTTP status 401, and {error}"));
                Err(end.with_status(Some(401)).into())
            }
        }
    }

    /// Waits while an API limits the user's rate. A longer wait than the delivery's
    /// budget allows gives the job back, so that a slow user does not fill the
    /// replica.
    async fn await_pace(&self, job: &Job, measured: &mut Measured<'_>) -> Result<(), End> {
        loop {
            let wait = self.paces.wait(&job.user, self.now());
            if wait.is_zero() {
                return Ok(());
            }
            let why = format!("an API limits the user's rate for another {wait:.0?}");
            if self.stopping.is_cancelled() || measured.waited + wait > self.retry_budget {
                return Err(End::retry(why));
            }
            measured.waited += wait;
            self.pause(wait).await;
        }
    }
}
