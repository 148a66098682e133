//! What became of a job: values, decided once.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use crate::dead_letter::{MAX_ATTRIBUTE_VALUE, clip};
use crate::effect::Effect;
use crate::json::Json;
use crate::pubsub::Outgoing;
use crate::retry_after::{asks_to_wait, retry_after};
use google_cloud_gax::error::rpc::Code;
use serde::{Deserialize, Serialize};
use shared::ConsentReason;

/// What a handler says about one run of a job.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It is done; never again.
    Done {
        /// The API's status, if there was one.
        http_status: Option<u16>,
        /// Published with the outcome, never logged.
        result: Json,
        /// Why the result is not what was asked for, though the job is done; logged, so it
        /// must not quote an API's answer.
        warning: Option<String>,
    },
    /// The API rejected the token (401): renew it and run the job once more.
    Unauthorized,
    /// An API limits the user's rate: nothing of this user is tried before that
    /// has passed, then this job again.
    RateLimited {
        /// The API's status, if there was one.
        http_status: Option<u16>,
        /// How long the API asked to wait.
        after: Option<Duration>,
        /// What the limit is on.
        limit: Limit,
    },
    /// Try again: at once a few times, with growing pauses, then by giving the
    /// message back. Only where a repetition does no harm.
    Retry {
        /// Why; logged, so it must not quote an API's answer.
        why: String,
        /// The API's status, if there was one.
        http_status: Option<u16>,
        /// How long the API asked to wait.
        after: Option<Duration>,
    },
    /// The user has to grant these scopes first.
    MissingScopes {
        /// The scopes, as far as the API named them.
        scopes: Vec<String>,
    },
    /// The user has to consent first, for this reason.
    NeedsConsent(ConsentReason),
    /// Nobody was asked to do the job, or not whoever should do it: nothing is spent, and the
    /// job is held until its kind's [`Places`](crate::Places) let it in again.
    Unasked {
        /// Why; logged.
        why: String,
        /// How long the job is held for it at most, before it is tried again as with
        /// [`Verdict::Retry`]; for ever if `None`.
        at_most: Option<Duration>,
    },
    /// It can never succeed.
    Reject {
        /// Why; logged, so it must not quote an API's answer.
        reason: String,
        /// What the API said; goes into the outcome, never into a log.
        detail: Option<String>,
        /// The API's status, if there was one.
        http_status: Option<u16>,
    },
    /// Any of these, with what the handler knows of its effect besides the calls that it
    /// made through [`Session::request`](crate::Session::request). See
    /// [`Verdict::effect`] and [`Verdict::repeatable`], which build it.
    Stated {
        /// What became of the run.
        verdict: Box<Verdict>,
        /// What the handler says of its effect, if it does.
        effect: Option<Effect>,
        /// Whether doing it again does no harm, if the handler says so.
        repeatable: Option<bool>,
    },
}

/// What an API's limit is on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limit {
    /// A quota, which lasts longer than a limit on the rate: so does the first pause.
    pub quota: bool,
    /// The host, unless its limit is named as the user's own. When it refuses several users at
    /// once, the limit is taken for the whole project's, and the host is left alone for a while.
    pub host: Option<String>,
}

impl Verdict {
    /// The job is done; `result` is published with its outcome.
    pub fn done(result: impl Into<Json>) -> Self {
        Self::Done { http_status: None, result: result.into(), warning: None }
    }

    /// Try again later. The reason is logged, so it must not quote an API's answer or a
    /// job's values.
    pub fn retry(why: impl Into<String>) -> Self {
        Self::Retry { why: why.into(), http_status: None, after: None }
    }

    /// The job can never succeed. The reason is logged, so it must not quote an
    /// API's answer or a job's values.
    pub fn reject(reason: impl Into<String>) -> Self {
        Self::Reject { reason: reason.into(), detail: None, http_status: None }
    }

    /// States what the run did otherwise than by
    /// [`Session::request`](crate::Session::request), whose calls are known. The worse of
    /// both counts.
    #[must_use]
    pub fn effect(self, effect: Effect) -> Self {
        let (verdict, _, repeatable) = self.into_parts();
        Self::Stated { verdict: Box::new(verdict), effect: Some(effect), repeatable }
    }

    /// States whether what the run did otherwise than by
    /// [`Session::request`](crate::Session::request) may be done again. Of a request,
    /// [`ApiRequest::idempotent`](crate::ApiRequest::idempotent) says so.
    #[must_use]
    pub fn repeatable(self, repeatable: bool) -> Self {
        let (verdict, effect, _) = self.into_parts();
        Self::Stated { verdict: Box::new(verdict), effect, repeatable: Some(repeatable) }
    }

    /// The verdict alone, and what is stated of its effect. Of nested statements the
    /// outermost count.
    pub(crate) fn into_parts(self) -> (Self, Option<Effect>, Option<bool>) {
        match self {
            Self::Stated { verdict, effect, repeatable } => {
                let (verdict, inner_effect, inner_repeatable) = verdict.into_parts();
                (verdict, effect.or(inner_effect), repeatable.or(inner_repeatable))
            }
            plain => (plain, None, None),
        }
    }

    /// What an error of an official Google Cloud client means. Where whether the
    /// call had an effect is not known, the job is tried again only if it is
    /// `repeatable`. The effect is stated, since the session does not know of the call.
    ///
    /// The client's credentials are the store's, so an `UNAUTHENTICATED` is
    /// [`Verdict::Unauthorized`].
    pub fn of_google_error(error: &google_cloud_gax::error::Error, repeatable: bool) -> Self {
        let http_status = error.http_status_code();
        let code = error.status().map(|status| status.code);
        let waits = error.http_headers().is_some_and(asks_to_wait);
        let unsent = error.is_connect()
            || error.is_authentication()
            || error.is_binding()
            || error.is_serialization();
        let effect = if unsent { Effect::None } else { google_effect(http_status, code, waits) };
        let refused = |what: String| Self::Reject {
            reason: what,
            detail: error.status().map(|status| status.message.clone()),
            http_status,
        };
        let again = |why: &str| match effect {
            Effect::Unknown if !repeatable => {
                refused(format!("{why}; whether it did the call is not known"))
            }
            _ => Self::Retry {
                why: why.to_owned(),
                http_status,
                after: error.http_headers().and_then(retry_after),
            },
        };
        let verdict = match (http_status, code) {
            (Some(401), _) | (_, Some(Code::Unauthenticated)) => Self::Unauthorized,
            (Some(429), _) | (_, Some(Code::ResourceExhausted)) => {
                let after = error.http_headers().and_then(retry_after);
                Self::RateLimited { http_status, after, limit: Limit::default() }
            }
            (Some(408 | 425 | 500..=599), _) | (_, Some(Code::Unavailable | Code::Aborted)) => {
                again("the API failed")
            }
            (None, None | Some(Code::DeadlineExceeded | Code::Unknown | Code::Internal)) => {
                again("the API did not answer")
            }
            (Some(status), None) => refused(format!("the API refused: HTTP status {status}")),
            (_, Some(code)) => refused(format!("the API refused: {code}")),
        };
        verdict.effect(effect).repeatable(repeatable)
    }
}

/// What is known of the effect of an official client's call that failed. A code that came
/// without an HTTP status came over gRPC, or is the client's own word for no answer.
fn google_effect(http_status: Option<u16>, code: Option<Code>, asks_to_wait: bool) -> Effect {
    if let Some(status) = http_status {
        return Effect::of_status(status, asks_to_wait);
    }
    match code {
        Some(
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Aborted,
        ) => Effect::None,
        _ => Effect::Unknown,
    }
}

/// The four ways in which a delivery ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Acknowledged: the handler finished.
    Done,
    /// Given back: Pub/Sub redelivers it.
    Retry,
    /// Stored until the user consents, then acknowledged.
    Parked,
    /// Published to the dead topic, then acknowledged.
    Rejected,
}

impl Status {
    /// As it stands in outcomes, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Retry => "retry",
            Self::Parked => "parked",
            Self::Rejected => "rejected",
        }
    }
}

/// What is published to the outcomes topic, as JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome<'a> {
    /// The job's ID.
    pub job: &'a str,
    /// The user; empty when the message named none.
    pub user: &'a str,
    /// The kind; empty when the message named none.
    pub kind: &'a str,
    /// How the delivery ended.
    pub status: Status,
    /// How often this replica ran the handler for this delivery.
    pub attempt: u32,
    /// Pub/Sub's count of deliveries, if the subscription counts.
    pub delivery_attempt: Option<i32>,
    /// How often the job was deliberately done anew before (`fleet dead redrive`).
    pub run: u32,
    /// From receipt to the end, waiting included.
    pub duration_ms: u64,
    /// The API's status, if there was one.
    pub http_status: Option<u16>,
    /// What is known of its effect.
    pub effect: Effect,
    /// Whether doing it again does no harm.
    pub repeatable: bool,
    /// The handler's result.
    pub result: &'a Json,
    /// Why the result of a job that is done is not what was asked for.
    pub warning: Option<&'a str>,
    /// What went wrong.
    pub error: Option<Cow<'a, str>>,
}

impl Outcome<'_> {
    /// The message that tells it, with `data` for what is told of it.
    pub(crate) fn message_of(&self, data: Vec<u8>) -> Outgoing {
        let attributes = HashMap::from([
            ("user".to_owned(), clip(self.user, MAX_ATTRIBUTE_VALUE).to_owned()),
            ("kind".to_owned(), clip(self.kind, MAX_ATTRIBUTE_VALUE).to_owned()),
            ("status".to_owned(), self.status.as_str().to_owned()),
        ]);
        Outgoing { data: data.into(), attributes, ordering_key: String::new() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const PAGE: &str = include_str!("../docs/jobs.md");

    /// The members that the page describes.
    fn described() -> BTreeSet<&'static str> {
        let table = PAGE.split("Its data is JSON:\n\n").nth(1).unwrap();
        let rows = table.lines().skip(2).take_while(|row| row.starts_with('|'));
        rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2)).collect()
    }

    #[test]
    fn the_page_of_jobs_describes_what_is_published() {
        let (result, long) = (Json::null(), "u".repeat(2000));
        let outcome = Outcome {
            job: "j",
            user: &long,
            kind: "api",
            status: Status::Done,
            attempt: 1,
            delivery_attempt: None,
            run: 0,
            duration_ms: 12,
            http_status: Some(200),
            effect: Effect::Done,
            repeatable: true,
            result: &result,
            warning: None,
            error: None,
        };
        let data = serde_json::to_value(&outcome).unwrap();
        let members: BTreeSet<&str> =
            data.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(described(), members);

        let message = outcome.message_of(Vec::new());
        assert_eq!(message.ordering_key, "");
        let mut attributes: Vec<&str> = message.attributes.keys().map(String::as_str).collect();
        attributes.sort_unstable();
        assert_eq!(attributes, ["kind", "status", "user"]);
        assert!(PAGE.contains("whose attributes `user`, `kind` and `status` subscriptions"));
        assert_eq!(message.attributes["user"].len(), 1024);
        assert!(PAGE.contains("1,024 bytes"));
    }
}
