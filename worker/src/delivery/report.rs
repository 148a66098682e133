//! What outcome and log line say about a delivery besides how it ended.

use std::borrow::Cow;

use crate::dedupe::Told;
use crate::json::Json;

/// See the module's page.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) http_status: Option<u16>,
    /// Published, never logged.
    pub(super) result: Json,
    /// Why the job did not end as it should; logged.
    pub(super) reason: Option<String>,
    /// What an API said; published, never logged.
    pub(super) detail: Option<String>,
    /// Why the result of a job that is done is not what was asked for; logged.
    pub(super) warning: Option<String>,
}

impl Report {
    pub(super) fn failed(reason: impl Into<String>, http_status: Option<u16>) -> Self {
        Self { reason: Some(reason.into()), http_status, ..Self::default() }
    }

    /// An end that another delivery of the job came to.
    pub(super) fn of_told(told: Told) -> Self {
        let Told { http_status, result, reason, .. } = told;
        Self { http_status, result, reason, ..Self::default() }
    }

    /// The reason with what an API said, as it is published.
    pub(super) fn error(&self) -> Option<Cow<'_, str>> {
        match (&self.reason, &self.detail) {
            (Some(reason), Some(detail)) => Some(format!("{reason}: {detail}").into()),
            (reason, _) => reason.as_deref().map(Into::into),
        }
    }
}
