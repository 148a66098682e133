//! What is told about a delivery: its outcome and its log line.

use std::time::Duration;

use serde_json::json;
use tracing::{Span, info, warn};

use crate::dedupe::Told;
use crate::effect::Knowledge;
use crate::json::Json;
use crate::logged_user::log_user;
use crate::outcome::{Outcome, Status};
use crate::pubsub::Outgoing;
use crate::settlement::{Cut, Ending};
use crate::spans;

use super::course::Course;

impl Course<'_> {
    /// What later deliveries of the job are told.
    pub(super) fn told(&self, ending: Ending) -> Told {
        Told {
            status: ending.status,
            effect: ending.known.effect,
            repeatable: ending.known.repeatable,
            http_status: self.report.http_status,
            result: self.report.result.clone(),
            reason: self.report.reason.clone(),
        }
    }

    /// The outcome as it stands now.
    fn outcome(&self, status: Status, known: Knowledge) -> Outcome<'_> {
        let received = &self.message.received;
        let duration = self.shared.now().since(self.received_at);
        Outcome {
            job: self.job_id(),
            user: self.job.map_or("", |job| job.user.as_str()),
            kind: self.job.map_or("", |job| &job.kind),
            status,
            attempt: self.attempt,
            delivery_attempt: received.delivery_attempt,
            run: self.job.map_or(0, |job| job.run),
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            http_status: self.report.http_status,
            effect: known.effect,
            repeatable: known.repeatable,
            result: &self.report.result,
            warning: self.report.warning.as_deref(),
            error: self.report.error(),
        }
    }

    /// The message that tells the outcome. Less of it, when the topic refuses more.
    pub(super) fn outcome_message(&self, ending: Ending, cut: Cut) -> Outgoing {
        let mut outcome = self.outcome(ending.status, ending.known);
        let (status, effect) = (outcome.status.as_str(), outcome.effect.as_str());
        let without_result = Json::null();
        let data = match cut {
            Cut::Whole => serde_json::to_vec(&outcome),
            Cut::WithoutResult => {
                outcome.result = &without_result;
                outcome.error = self.report.reason.as_deref().map(Into::into);
                serde_json::to_vec(&outcome)
            }
            Cut::Bare => {
                let bare = json!({"job": outcome.job, "status": status, "effect": effect});
                serde_json::to_vec(&bare)
            }
        };
        outcome.message_of(data.expect("an outcome is JSON"))
    }

    /// One line per delivery: without the result, and with the user hashed unless asked for.
    pub(super) fn log(&self, status: Status, known: Option<Knowledge>) {
        let outcome = self.outcome(status, known.unwrap_or(Knowledge::NOTHING));
        let duration = self.shared.now().since(self.received_at);
        let counted = self.kind.map_or(&self.shared.meters.unknown, |kind| &kind.ended);
        counted.note(status, duration);
        spans::delivery_ended(&Span::current(), self.kind.map(|kind| &*kind.name), status);
        let user = self.job.map(|job| log_user(&job.user).to_string());
        let effect = known.map(|known| known.effect.as_str());
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let queue_ms = self.queued.map(ms);
        let token_us = self.token.map(|d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX));
        let handler_ms = ms(self.handler);
        let Outcome { job, kind, attempt, delivery_attempt, run, duration_ms, .. } = outcome;
        let (http_status, warning) = (outcome.http_status, outcome.warning);
        let text = status.as_str();
        match (&self.report.reason, status) {
            (reason, Status::Retry | Status::Parked | Status::Rejected) => warn!(
                job,
                user,
                kind,
                status = text,
                effect,
                attempt,
                delivery_attempt,
                run,
                duration_ms,
                queue_ms,
                handler_ms,
                http_status,
                token_us,
                "job {text}: {}",
                reason.as_deref().unwrap_or("no reason")
            ),
            (_, Status::Done) => info!(
                job,
                user,
                kind,
                status = text,
                effect,
                attempt,
                delivery_attempt,
                run,
                duration_ms,
                queue_ms,
                handler_ms,
                http_status,
                token_us,
                warning,
                "job done"
            ),
        }
    }
}
