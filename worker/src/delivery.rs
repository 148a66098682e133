//! One delivery, from a decoded job to its end.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt as _;
use serde_json::Value;
use shared::ports::{Clock, Randomness};
use shared::{ConsentReason, Credentials, Error, Schedule, TokenStore};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, error, info, warn};

use crate::dispatch::{Queued, Queues};
use crate::job::{Job, Malformed, Received};
use crate::kinds::Kinds;
use crate::metrics::{self, Had};
use crate::outage::Outage;
use crate::outcome::{Outcome, Status, Verdict};
use crate::parking::{Parked, Parking};
use crate::pubsub::{Delivery, Outgoing, Publisher};
use crate::spans;

/// Pauses between two looks for a credential while a job is held.
const HOLD_MIN: Duration = Duration::from_secs(1);
const HOLD_MAX: Duration = Duration::from_secs(30);
/// A message is given back no sooner than this after it failed, so that a
/// subscription without a retry policy does not spin.
const GIVE_BACK_MIN: Duration = Duration::from_secs(1);
/// A longer `Retry-After` is left to the subscription's retry policy.
const GIVE_BACK_MAX: Duration = Duration::from_secs(30);
/// How often a job may find its credential changed while it is being parked.
const MAX_PARK_ROUNDS: u32 = 5;
const STOPPING: &str = "the replica is stopping";
/// The longest attribute value that Pub/Sub accepts, in bytes.
const MAX_ATTRIBUTE: usize = 1024;

/// What every delivery of a replica shares.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) store: TokenStore,
    pub(crate) kinds: KindsDebug,
    pub(crate) parking: Parking,
    pub(crate) outcomes: Option<Publisher>,
    pub(crate) dead: Option<Publisher>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<Randomness>,
    pub(crate) slots: Semaphore,
    pub(crate) queues: Queues,
    pub(crate) outage: Outage,
    /// Full name of the subscription, for traces.
    pub(crate) subscription: String,
    /// No new work: what merely waits goes back.
    pub(crate) stopping: CancellationToken,
    /// No work at all.
    pub(crate) cutting: CancellationToken,
}

/// Handlers have no `Debug`.
pub(crate) struct KindsDebug(pub(crate) Kinds);

impl std::fmt::Debug for KindsDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

/// How a delivery ends, with what is told about it.
struct End {
    status: Status,
    http_status: Option<u16>,
    result: Value,
    /// May be logged.
    reason: Option<String>,
    /// What an API said; published, never logged.
    detail: Option<String>,
    /// How long to wait before giving the message back.
    pause: Duration,
}

impl End {
    fn retry(reason: impl Into<String>) -> Self {
        Self::failed(Status::Retry, reason)
    }

    fn rejected(reason: impl Into<String>) -> Self {
        Self::failed(Status::Rejected, reason)
    }

    fn failed(status: Status, reason: impl Into<String>) -> Self {
        Self {
            status,
            http_status: None,
            result: Value::Null,
            reason: Some(reason.into()),
            detail: None,
            pause: GIVE_BACK_MIN,
        }
    }
}

/// What is measured about a delivery.
#[derive(Default)]
struct Measured {
    /// How often the handler ran.
    attempt: u32,
    /// How long the credential took.
    token: Option<Duration>,
}

impl Desk {
    /// Ends a message that is no job.
    pub(crate) async fn refuse(&self, delivery: Delivery, why: Malformed) {
        let since = self.clock.monotonic();
        let Delivery { received, settle } = delivery;
        let end = End::rejected(why.to_string());
        self.settle(None, &received, settle, end, &Measured::default(), since).await;
    }

    /// Runs jobs of one user until none is waiting. At the end of the replica
    /// the waiting ones go back, and no sooner than the running one has ended:
    /// another replica would run them beside it, or before it.
    pub(crate) async fn run_user(&self, user: &shared::UserId) {
        while let Some(queued) = self.queues.pop(user) {
            if self.stopping.is_cancelled() {
                queued.delivery.settle.nack();
            } else {
                self.run(queued).await;
            }
        }
    }

    async fn run(&self, queued: Queued) {
        let span = spans::delivery(&queued.delivery.received, &self.subscription);
        self.deliver(queued).instrument(span).await;
    }

    async fn deliver(&self, queued: Queued) {
        let Queued { job, delivery: Delivery { received, settle }, received_at } = queued;
        let mut measured = Measured::default();
        metrics::turn(self.clock.monotonic().since(received_at));
        let end = tokio::select! {
            biased;
            () = self.cutting.cancelled() => End::retry("the replica stopped before the job ended"),
            end = self.work(&job, &received, &mut measured) => end,
        };
        if end.status == Status::Retry {
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => {}
                () = self.clock.sleep(end.pause) => {}
            }
        }
        self.settle(Some(&job), &received, settle, end, &measured, received_at).await;
    }

    /// Runs the job, parks it if the user must consent, and runs it after all if
    /// that turned out to be out of date.
    async fn work(&self, job: &Job, received: &Received, measured: &mut Measured) -> End {
        for _ in 0..MAX_PARK_ROUNDS {
            let why = match self.attempt(job, measured).await {
                Ok(end) => return end,
                Err(why) => why,
            };
            let now = self.clock.wall();
            match self.parking.park(job, received, &why, now).await {
                Ok(Parked::Stored) => return End::failed(Status::Parked, why.to_string()),
                Ok(Parked::RunIt) => {}
                Err(error) => return End::retry(format!("the job cannot be parked: {error}")),
            }
        }
        End::retry("the credential keeps changing while the job is being parked")
    }

    /// One run of the handler, and one more with a renewed credential if the API
    /// rejected the first. `Err` when the user must consent.
    async fn attempt(&self, job: &Job, measured: &mut Measured) -> Result<End, ConsentReason> {
        let Some(handler) = self.kinds.0.get(&job.kind) else {
            let known: Vec<&str> = self.kinds.0.keys().map(String::as_str).collect();
            return Ok(End::rejected(format!(
                "unknown kind; this worker does {}",
                known.join(", ")
            )));
        };
        let mut renewed = false;
        let mut credentials = match self.credentials(job, measured).await {
            Ok(credentials) => credentials,
            Err(end) => return end,
        };
        loop {
            measured.attempt += 1;
            let verdict = {
                let slot = tokio::select! {
                    biased;
                    slot = self.slots.acquire() => slot,
                    () = self.stopping.cancelled() => return Ok(End::retry(STOPPING)),
                };
                let Ok(_slot) = slot else {
                    return Ok(End::retry(STOPPING));
                };
                // A panic fails this delivery only; the handler keeps no state
                // of ours that it could leave half-changed.
                metrics::add(metrics::IN_FLIGHT, 1.0);
                let verdict =
                    AssertUnwindSafe(handler.handle(job, &credentials)).catch_unwind().await;
                metrics::add(metrics::IN_FLIGHT, -1.0);
                verdict
            };
            let end = match verdict {
                Ok(Verdict::Unauthorized) if !renewed => {
                    renewed = true;
                    match self.store.renew(&credentials).await {
                        Ok(fresh) => {
                            credentials = fresh;
                            continue;
                        }
                        Err(Error::NeedsConsent(why)) => return Err(why),
                        Err(error) => {
                            let mut end = End::retry(format!("HTTP status 401, and {error}"));
                            end.http_status = Some(401);
                            end
                        }
                    }
                }
                Ok(Verdict::Unauthorized) => {
                    let mut end = End::retry("the API rejects the renewed token (HTTP status 401)");
                    end.http_status = Some(401);
                    end
                }
                Ok(Verdict::Done { http_status, result }) => End {
                    status: Status::Done,
                    http_status,
                    result,
                    reason: None,
                    detail: None,
                    pause: Duration::ZERO,
                },
                Ok(Verdict::Retry { why, http_status, after }) => {
                    let mut end = End::retry(why);
                    end.http_status = http_status;
                    end.pause = after.unwrap_or(GIVE_BACK_MIN).clamp(GIVE_BACK_MIN, GIVE_BACK_MAX);
                    end
                }
                Ok(Verdict::MissingScopes { scopes }) => {
                    return Err(ConsentReason::MissingScopes(scopes));
                }
                Ok(Verdict::Reject { reason, detail, http_status }) => {
                    let mut end = End::rejected(reason);
                    end.detail = detail;
                    end.http_status = http_status;
                    end
                }
                Err(_panic) => End::retry("the handler panicked"),
            };
            return Ok(end);
        }
    }

    /// A fresh credential. While the bucket or the token endpoint is down the
    /// job is held here, unacknowledged, instead of being given back.
    async fn credentials(
        &self,
        job: &Job,
        measured: &mut Measured,
    ) -> Result<Credentials, Result<End, ConsentReason>> {
        let asked = self.clock.monotonic();
        let mut waiting = std::pin::pin!(self.wait_for_credentials(job).instrument(spans::token()));
        let (got, had) = match futures_util::poll!(&mut waiting) {
            Poll::Ready(got) => (got, Had::Hit),
            Poll::Pending => (waiting.await, Had::Wait),
        };
        let waited = self.clock.monotonic().since(asked);
        measured.token = got.is_ok().then_some(waited);
        metrics::credential(if got.is_ok() { had } else { Had::Error }, waited);
        got
    }

    async fn wait_for_credentials(
        &self,
        job: &Job,
    ) -> Result<Credentials, Result<End, ConsentReason>> {
        let mut pauses = Schedule::new(HOLD_MIN, HOLD_MAX);
        let mut held = None;
        loop {
            let got = tokio::select! {
                biased;
                got = self.store.get_credentials(&job.user) => got,
                () = self.stopping.cancelled() => return Err(Ok(End::retry(STOPPING))),
            };
            let error = match got {
                Ok(credentials) => return Ok(credentials),
                Err(Error::NeedsConsent(why)) => return Err(Err(why)),
                Err(error @ (Error::Unavailable(_) | Error::Misconfigured(_))) => error,
                Err(error) => return Err(Ok(End::retry(error.to_string()))),
            };
            held.get_or_insert_with(|| self.outage.hold(&job.user, &error));
            let pause = pauses.next(self.random.unit());
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => {
                    return Err(Ok(End::retry(format!("{STOPPING}, and {error}"))));
                }
                () = self.clock.sleep(pause) => {}
            }
        }
    }

    /// Publishes what has to be, then acknowledges or gives back.
    async fn settle(
        &self,
        job: Option<&Job>,
        received: &Received,
        settle: Box<dyn crate::pubsub::Settle>,
        mut end: End,
        measured: &Measured,
        since: shared::ports::Monotonic,
    ) {
        if end.status == Status::Rejected
            && let Err(why) = self.bury(job, received, &end).await
        {
            error!(message = received.message_id, "{why}");
            let reason = end.reason.unwrap_or_default();
            end = End::retry(format!("rejected ({reason}), but {why}"));
        }
        let duration = self.clock.monotonic().since(since);
        let known = job.filter(|job| self.kinds.0.contains_key(&job.kind));
        let outcome = Outcome {
            job: job.map_or_else(|| received.message_id.clone(), |j| j.id.clone()),
            user: job.map_or_else(String::new, |j| j.user.as_str().to_owned()),
            kind: job.map_or_else(String::new, |j| j.kind.clone()),
            status: end.status,
            attempt: measured.attempt,
            delivery_attempt: received.delivery_attempt,
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            http_status: end.http_status,
            result: std::mem::take(&mut end.result),
            error: match (&end.reason, &end.detail) {
                (Some(reason), Some(detail)) => Some(format!("{reason}: {detail}")),
                (reason, _) => reason.clone(),
            },
        };
        let mut status = end.status;
        if status != Status::Retry
            && let Err(why) = self.announce(&outcome).await
        {
            error!(
                job = outcome.job,
                "the outcome is not published, so the message goes back: {why}"
            );
            status = Status::Retry;
        }
        log(&outcome, status, end.reason.as_deref(), measured, job);
        metrics::job_ended(known.map(|j| j.kind.as_str()), status, duration);
        Span::current().record("fleet.job.status", status.as_str());
        if let Some(job) = known {
            Span::current().record("fleet.job.kind", job.kind.as_str());
        }
        let settling = spans::settle(status);
        if status == Status::Retry {
            settling.in_scope(|| settle.nack());
            if let (Some(job), false) = (job, received.ordering_key.is_empty()) {
                for later in self.queues.take_key(&job.user, &received.ordering_key) {
                    later.delivery.settle.nack();
                }
            }
        } else if !settle.ack().instrument(settling).await {
            warn!(job = outcome.job, "the acknowledgement was not confirmed; it may come again");
        }
    }

    async fn announce(&self, outcome: &Outcome) -> Result<(), String> {
        let Some(topic) = &self.outcomes else {
            return Ok(());
        };
        let data = serde_json::to_vec(outcome).map_err(|e| e.to_string())?;
        let attributes = HashMap::from([
            ("user".to_owned(), clip(&outcome.user)),
            ("kind".to_owned(), clip(&outcome.kind)),
            ("status".to_owned(), outcome.status.as_str().to_owned()),
        ]);
        let message = Outgoing { data: data.into(), attributes, ordering_key: String::new() };
        topic.publish(message).await.map(drop).map_err(|e| e.to_string())
    }

    /// Publishes a rejected message, as it was, to the dead topic.
    async fn bury(&self, job: Option<&Job>, received: &Received, end: &End) -> Result<(), String> {
        let Some(topic) = &self.dead else {
            return Err("no --dead-topic is set, so it is given back".to_owned());
        };
        let mut attributes = received.attributes.clone();
        let mut reason = end.reason.clone().unwrap_or_default();
        if let Some(detail) = &end.detail {
            reason = format!("{reason}: {detail}");
        }
        attributes.insert("reason".to_owned(), clip(&reason));
        attributes.insert("message_id".to_owned(), received.message_id.clone());
        if let Some(job) = job {
            attributes.insert("job".to_owned(), clip(&job.id));
        }
        let data = received.data.clone();
        let message = Outgoing { data, attributes, ordering_key: String::new() };
        topic.publish(message).await.map(drop).map_err(|e| format!("it cannot be buried: {e}"))
    }
}

/// As much of a text as fits into an attribute.
fn clip(text: &str) -> String {
    let mut end = text.len().min(MAX_ATTRIBUTE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

/// One line per delivery: without the result, and with the user hashed.
fn log(
    outcome: &Outcome,
    status: Status,
    reason: Option<&str>,
    measured: &Measured,
    job: Option<&Job>,
) {
    let user = job.map(|j| j.user.digest()).unwrap_or_default();
    let token_us = measured.token.map(|d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX));
    let Outcome { job, kind, attempt, delivery_attempt, duration_ms, http_status, .. } = outcome;
    let status = status.as_str();
    if let Some(reason) = reason {
        warn!(
            job,
            user,
            kind,
            status,
            attempt,
            delivery_attempt,
            duration_ms,
            http_status,
            token_us,
            "job {status}: {reason}"
        );
    } else {
        info!(
            job,
            user,
            kind,
            status,
            attempt,
            delivery_attempt,
            duration_ms,
            http_status,
            token_us,
            "job {status}"
        );
    }
}
