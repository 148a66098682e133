//! Running a handler: what a job waits for, the slot, the renewed token, and what the run
//! comes to.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use shared::{ConsentReason, Credentials, Error};
use tokio::sync::SemaphorePermit;

use crate::conclusion::Conclusion;
use crate::effect::Knowledge;
use crate::job::Job;
use crate::metrics;
use crate::outcome::Verdict;
use crate::places::{Look, Place};
use crate::session::{Attempt, Session};
use crate::settlement::{Event, Ran};

use super::course::Course;
use super::report::Report;
use super::{Deliveries, Kind};

impl<'a> Course<'a> {
    /// Runs the handler once it has all that it needs; once more with a renewed token if
    /// the API rejected the first. Between two runs no slot is held.
    pub(super) async fn run(&mut self) -> Event {
        let Some(job) = self.job else { return self.rejected("there is no job".to_owned()) };
        let Some(kind) = self.kind else {
            let known = self.shared.kinds.names();
            return self.rejected(format!("unknown kind; this worker does {known}"));
        };
        // What forwards a kind bounds for itself how often a token is renewed for an answer.
        if kind.handler.places().is_some() {
            self.renewed = false;
        }
        let mut renewed = None;
        loop {
            let credentials = match renewed.take() {
                Some(credentials) => credentials,
                None => match self.ready(job).await {
                    Ok(credentials) => credentials,
                    Err(event) => return event,
                },
            };
            let place = match self.place(kind).await {
                Ok(place) => place,
                Err(event) => return event,
            };
            let slot = match self.slot().await {
                Ok(slot) => slot,
                Err(event) => return event,
            };
            // While it waited an API may have limited the user's rate, or the kind was closed.
            let limited = self.shared.rate_limits.wait(&job.user, self.shared.now());
            if !limited.is_zero() || place.as_ref().is_some_and(|place| !place.may_begin()) {
                continue;
            }
            let (conclusion, used) = self.run_once(job, kind, &credentials).await;
            drop((place, slot));
            match conclusion.verdict {
                Verdict::Unasked { at_most, .. } if self.is_held_still(at_most) => {
                    self.attempt -= 1;
                    continue;
                }
                Verdict::Unasked { .. } => {}
                _ => self.misrouted_since = None,
            }
            if self.renewed || conclusion.verdict != Verdict::Unauthorized {
                return self.judge(job, conclusion);
            }
            self.renewed = true;
            renewed = match self.renew(&used, conclusion.knowledge).await {
                Ok(credentials) => Some(credentials),
                Err(event) => return event,
            };
        }
    }

    fn rejected(&mut self, reason: String) -> Event {
        self.report.reason = Some(reason);
        Event::Ran(Ran::Rejected, Knowledge::NOTHING)
    }

    /// Waits until jobs may begin, the user's rate limit is over and the user's token is
    /// fresh.
    async fn ready(&mut self, job: &Job) -> Result<Credentials, Event> {
        self.until_jobs_may_begin().await?;
        loop {
            let wait = self.shared.rate_limits.wait(&job.user, self.shared.now());
            if wait.is_zero() {
                break;
            }
            let reason = format!("an API limits the user's rate for another {wait:.0?}");
            self.report.reason = Some(reason);
            match self.hold(wait).await {
                Event::Waited => {}
                event => return Err(event),
            }
        }
        self.credential(job).await
    }

    /// Whether a job that nobody could be asked to do goes on waiting for that.
    fn is_held_still(&mut self, at_most: Option<Duration>) -> bool {
        let Some(limit) = at_most else { return true };
        let now = self.shared.now();
        now.since(*self.misrouted_since.get_or_insert(now)) < limit
    }

    /// One of the kind's places, once there is one; none where the kind has no such bound.
    /// While the kind is closed the job is held, and others of its user run.
    async fn place(&mut self, kind: &'a Kind) -> Result<Option<Place<'a>>, Event> {
        let shared: &'a Arc<Deliveries> = self.shared;
        let Some(places) = kind.handler.places() else { return Ok(None) };
        let _waiting = places.waiting();
        loop {
            let mut changes = places.changes();
            let waited = match places.look(shared.now()) {
                Look::Open(claim) => tokio::select! {
                    biased;
                    place = places.take(claim) => match place {
                        Some(place) => return Ok(Some(place)),
                        None => Event::Waited,
                    },
                    () = self.too_late() => Event::GoBack,
                },
                Look::Wait { why, pause } => {
                    self.report.reason = Some(why);
                    let open = async {
                        tokio::select! {
                            // The sender lives as long as the kind.
                            _changed = changes.changed() => {}
                            () = shared.clock.sleep(pause) => {}
                        }
                    };
                    self.yield_turn(self.hold_until(open, true)).await
                }
            };
            if waited != Event::Waited {
                return Err(waited);
            }
        }
    }

    /// One run of the handler; and the credentials that it used.
    async fn run_once(
        &mut self,
        job: &Job,
        kind: &Kind,
        credentials: &Credentials,
    ) -> (Conclusion, Credentials) {
        self.attempt += 1;
        let began = self.shared.now();
        let (received, renewed) = (&self.message.received, self.renewed);
        let attempt = Attempt { number: self.attempt, received, renewed };
        let session = Session::new(&self.shared.carrier, credentials.clone());
        let session = session.of_kind(&kind.name).of(attempt);
        let ledger = session.ledger();
        let _running = self.shared.meters.run();
        // A panic ends this delivery only; the handler keeps no state of ours that it could
        // leave half-changed.
        let handled = AssertUnwindSafe(async { kind.handler.handle(job, &session).await });
        let conclusion = tokio::select! {
            biased;
            verdict = handled.catch_unwind() => match verdict {
                Ok(verdict) => Conclusion::of(verdict, &ledger.calls()),
                Err(_panic) => Conclusion::of_panic(&ledger.calls()),
            },
            () = self.shared.ends.cutting.cancelled() => {
                Conclusion::of_cut("the replica stopped before the job ended", &ledger.calls())
            }
        };
        self.handler += self.shared.now().since(began);
        if let Verdict::Done { .. } = conclusion.verdict {
            self.shared.rate_limits.succeeded(&job.user, began);
        }
        (conclusion, session.rejected().clone())
    }

    /// A slot, once one is free and jobs may begin.
    async fn slot(&self) -> Result<SemaphorePermit<'a>, Event> {
        let shared: &'a Arc<Deliveries> = self.shared;
        loop {
            let permit = tokio::select! {
                biased;
                permit = shared.slots.acquire() => permit,
                () = self.too_late() => return Err(Event::GoBack),
            };
            let Ok(permit) = permit else { return Err(Event::GoBack) };
            if self.is_too_late() {
                return Err(Event::GoBack);
            }
            if !shared.gate.stops_jobs() {
                return Ok(permit);
            }
            drop(permit);
            self.until_jobs_may_begin().await?;
        }
    }

    /// Waits while there is a trouble that stops jobs.
    async fn until_jobs_may_begin(&self) -> Result<(), Event> {
        if !self.shared.gate.stops_jobs() {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = self.too_late() => Err(Event::GoBack),
            () = self.shared.gate.jobs_may_begin() => Ok(()),
        }
    }

    /// Another token in the place of one that the API rejected.
    async fn renew(
        &mut self,
        rejected: &Credentials,
        known: Knowledge,
    ) -> Result<Credentials, Event> {
        match self.shared.carrier.store.renew(rejected).await {
            Ok(credentials) => Ok(credentials),
            Err(Error::NeedsConsent(why)) => Err(self.needs_consent(why, known)),
            Err(error) => {
                self.report = Report {
                    reason: Some(format!("HTTP status 401, and {error}")),
                    http_status: Some(401),
                    ..Report::default()
                };
                // The next run may renew it.
                self.renewed = false;
                Err(Event::Ran(Ran::Failed { after: None }, known))
            }
        }
    }

    pub(super) fn needs_consent(&mut self, why: ConsentReason, known: Knowledge) -> Event {
        self.report = Report { reason: Some(why.to_string()), ..Report::default() };
        self.consent = Some(why);
        Event::Ran(Ran::NeedsConsent, known)
    }

    /// What a run comes to, and what is told of it.
    fn judge(&mut self, job: &Job, conclusion: Conclusion) -> Event {
        let Conclusion { verdict, knowledge } = conclusion;
        let ran = match verdict {
            Verdict::Done { http_status, result, warning } => {
                self.report = Report { http_status, result, warning, ..Report::default() };
                Ran::Done
            }
            Verdict::Unauthorized => {
                let reason = "the API rejects the renewed token (HTTP status 401)";
                self.report = Report::failed(reason, Some(401));
                Ran::Failed { after: None }
            }
            Verdict::RateLimited { http_status, after, limit } => {
                metrics::count(metrics::SLOWED);
                let (now, limits) = (self.shared.now(), &self.shared.rate_limits);
                let unit = self.shared.random.unit();
                limits.refused(&job.user, after, limit.quota, now, unit);
                if let Some(host) = &limit.host {
                    let hosts = &self.shared.carrier.host_limits;
                    hosts.refused(host, &job.user, limit.quota, now, unit);
                }
                self.report = Report::failed("the API limits the user's rate", http_status);
                Ran::Failed { after: Some(limits.wait(&job.user, now)) }
            }
            Verdict::Retry { why, http_status, after } => {
                self.report = Report::failed(why, http_status);
                Ran::Failed { after }
            }
            Verdict::Unasked { why, .. } => {
                self.report = Report::failed(why, None);
                Ran::Failed { after: None }
            }
            Verdict::NeedsConsent(why) => return self.needs_consent(why, knowledge),
            Verdict::MissingScopes { scopes } => {
                return self.needs_consent(ConsentReason::MissingScopes(scopes), knowledge);
            }
            Verdict::Reject { reason, detail, http_status } => {
                self.report = Report { detail, ..Report::failed(reason, http_status) };
                Ran::Rejected
            }
            Verdict::Stated { .. } => unreachable!("a conclusion holds the verdict itself"),
        };
        Event::Ran(ran, knowledge)
    }
}
