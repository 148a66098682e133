//! What became of a job: values, decided once.

use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

/// What a handler says about one run of a job.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It is done; never again.
    Done {
        /// The API's status, if there was one.
        http_status: Option<u16>,
        /// Published with the outcome, never logged.
        result: Value,
    },
    /// The API rejected the token (401): renew it and run the job once more.
    Unauthorized,
    /// Try again later.
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
    /// It can never succeed.
    Reject {
        /// Why; logged, so it must not quote an API's answer.
        reason: String,
        /// What the API said; goes into the outcome, never into a log.
        detail: Option<String>,
        /// The API's status, if there was one.
        http_status: Option<u16>,
    },
}

/// The four ways in which a delivery ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
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
pub struct Outcome {
    /// The job's ID.
    pub job: String,
    /// The user; empty when the message named none.
    pub user: String,
    /// The kind; empty when the message named none.
    pub kind: String,
    /// How the delivery ended.
    pub status: Status,
    /// How often this replica ran the handler for this delivery.
    pub attempt: u32,
    /// Pub/Sub's count of deliveries, if the subscription counts.
    pub delivery_attempt: Option<i32>,
    /// From receipt to the end, waiting included.
    pub duration_ms: u64,
    /// The API's status, if there was one.
    pub http_status: Option<u16>,
    /// The handler's result.
    pub result: Value,
    /// What went wrong.
    pub error: Option<String>,
}
