//! How a delivery ends, and who is told.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;
use shared::ConsentReason;
use shared::ports::Monotonic;
use tracing::{Instrument as _, Span, error, info, warn};

use crate::conclusion::Conclusion;
use crate::dead_letter::{Obituary, dead_letter};
use crate::effect::{CallLedger, Knowledge};
use crate::job::{Job, Received};
use crate::logged_user::{LoggedUser, log_known_user};
use crate::outcome::{Outcome, Status, Verdict};
use crate::pubsub::{Outgoing, Settle};
use crate::spans;

use super::{Desk, Known, Measured};

/// A message is given back no sooner than this after it failed, so that a
/// subscription without a retry policy does not spin.
const GIVE_BACK_MIN: Duration = Duration::from_secs(1);
/// A longer `Retry-After` is left to the subscription's retry policy.
const GIVE_BACK_MAX: Duration = Duration::from_secs(30);
/// The longest attribute value that Pub/Sub accepts, in bytes.
const MAX_ATTRIBUTE: usize = 1024;

/// How a delivery ends, with what is told about it.
pub(super) struct End {
    pub(super) status: Status,
    pub(super) http_status: Option<u16>,
    pub(super) result: Value,
    /// Why the result of a job that is done is not what was asked for.
    pub(super) warning: Option<String>,
    /// What is known of its effect.
    pub(super) knowledge: Knowledge,
    /// May be logged.
    pub(super) reason: Option<String>,
    /// What an API said; published, never logged.
    pub(super) detail: Option<String>,
    /// How long to wait before giving the message back.
    pub(super) pause: Duration,
}

impl End {
    pub(super) fn of(status: Status) -> Self {
        Self {
            status,
            http_status: None,
            result: Value::Null,
            warning: None,
            knowledge: Knowledge::NOTHING,
            reason: None,
            detail: None,
            pause: GIVE_BACK_MIN,
        }
    }

    pub(super) fn retry(reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..Self::of(Status::Retry) }
    }

    pub(super) fn rejected(reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), ..Self::of(Status::Rejected) }
    }

    pub(super) fn parked(why: &ConsentReason) -> Self {
        Self { reason: Some(why.to_string()), ..Self::of(Status::Parked) }
    }

    /// An earlier delivery did it. Its outcome may not have been told.
    pub(super) fn done_before() -> Self {
        Self::of(Status::Done)
    }

    /// The replica stopped before the job ended, whose last run had made these calls.
    pub(super) fn cut(calls: Option<&CallLedger>) -> Self {
        let calls = calls.map(CallLedger::calls).unwrap_or_default();
        let why = "the replica stopped before the job ended";
        let Conclusion { verdict, knowledge } = Conclusion::of_cut(why, &calls);
        let end = match verdict {
            Verdict::Reject { reason, .. } => Self::rejected(reason),
            _ => Self::retry(why),
        };
        Self { knowledge, ..end }
    }

    pub(super) fn with_status(mut self, http_status: Option<u16>) -> Self {
        self.http_status = http_status;
        self
    }

    /// Gives the message back no sooner than an API asked.
    pub(super) fn after(mut self, asked: Option<Duration>) -> Self {
        self.pause = asked.unwrap_or_default().clamp(GIVE_BACK_MIN, GIVE_BACK_MAX);
        self
    }
}

impl Desk {
    /// Publishes what has to be, then acknowledges or gives back. When it ended, but for
    /// the acknowledgement.
    pub(super) async fn settle(
        &self,
        job: Option<&Job>,
        kind: Option<&Known>,
        received: &Received,
        settle: Box<dyn Settle>,
        end: &mut End,
        measured: &Measured<'_>,
    ) -> Monotonic {
        if end.status == Status::Rejected
            // Boxed, here and below, so that the others do not carry its state.
            && let Err(why) = Box::pin(self.bury(job, received, end)).await
        {
            error!(message = received.message_id, "{why}");
            let reason = end.reason.take().unwrap_or_default();
            *end = End::retry(format!("rejected ({reason}), but {why}"));
        }
        let now = self.now();
        let duration = now.since(measured.since);
        let outcome = Outcome {
            job: job.map_or(&received.message_id, |j| &j.id),
            user: job.map_or("", |j| j.user.as_str()),
            kind: job.map_or("", |j| &j.kind),
            status: end.status,
            attempt: measured.attempt,
            delivery_attempt: received.delivery_attempt,
            run: 0,
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            http_status: end.http_status,
            effect: end.knowledge.effect,
            repeatable: end.knowledge.repeatable,
            result: &end.result,
            warning: end.warning.as_deref(),
            error: match (&end.reason, &end.detail) {
                (Some(reason), Some(detail)) => Some(format!("{reason}: {detail}").into()),
                (reason, _) => reason.as_deref().map(Into::into),
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
        kind.map_or(&self.meters.unknown, |kind| &kind.ended).note(status, duration);
        spans::delivery_ended(&Span::current(), kind.map(|kind| &*kind.name), status);
        let settling = spans::settle(status);
        if status == Status::Retry {
            settling.in_scope(|| settle.nack());
            if let (Some(job), false) = (job, received.ordering_key.is_empty()) {
                for later in self.queues.take_key(&job.user, &received.ordering_key) {
                    later.settle.nack();
                }
            }
        } else {
            let acknowledged = settling.in_scope(|| settle.ack());
            if !acknowledged.instrument(settling).await {
                warn!(
                    job = outcome.job,
                    "the acknowledgement was not confirmed; it may come again"
                );
            }
        }
        now
    }

    async fn announce(&self, outcome: &Outcome<'_>) -> Result<(), String> {
        let Some(topic) = &self.outcomes else {
            return Ok(());
        };
        let data = serde_json::to_vec(outcome).map_err(|e| e.to_string())?;
        let attributes = HashMap::from([
            ("user".to_owned(), clip(outcome.user)),
            ("kind".to_owned(), clip(outcome.kind)),
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
        let mut reason = end.reason.clone().unwrap_or_default();
        if let Some(detail) = &end.detail {
            reason = format!("{reason}: {detail}");
        }
        let about = Obituary { job, reason: &reason, known: end.knowledge, only_ours: false };
        let message = dead_letter(received, &about);
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

/// One line per delivery: without the result, and with the user hashed unless asked for.
fn log(
    outcome: &Outcome<'_>,
    status: Status,
    reason: Option<&str>,
    measured: &Measured<'_>,
    job: Option<&Job>,
) {
    let user = job.map(|j| log_known_user(&j.user, measured.user_digest));
    let user = user.as_ref().map(LoggedUser::as_str);
    let token_us = measured.token.map(|d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX));
    let Outcome { job, kind, attempt, delivery_attempt, duration_ms, http_status, .. } = outcome;
    let ended = match status {
        Status::Done => "job done",
        Status::Retry => "job retry",
        Status::Parked => "job parked",
        Status::Rejected => "job rejected",
    };
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
            "{ended}: {reason}"
        );
    } else {
        info!(
            // Not put together anew for every job.
            message = ended,
            job, user, kind, status, attempt, delivery_attempt, duration_ms, http_status, token_us,
        );
    }
}
