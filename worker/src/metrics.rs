//! What a replica counts: the names, and the places where they are counted.
//!
//! Names, labels and meanings are listed in [`ALL`], which `/metrics` describes
//! itself with and which alerts and dashboards are checked against. A label has
//! few values and never a user, a job or a secret.

use std::time::Duration;

use metrics::{counter, gauge, histogram};

use crate::outcome::Status;

/// How a metric behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A total that only grows.
    Counter,
    /// A level.
    Gauge,
    /// A distribution; its unit is seconds.
    Histogram,
}

/// One metric as it stands in `/metrics`.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// What it tells.
    pub help: &'static str,
    /// Its labels.
    pub labels: &'static [&'static str],
}

macro_rules! metrics_list {
    ($($const:ident = $name:literal, $kind:ident, [$($label:literal),*], $help:literal;)*) => {
        $(pub(crate) const $const: &str = $name;)*

        /// Every metric of a replica.
        pub const ALL: &[Metric] = &[
            $(Metric { name: $const, kind: Kind::$kind, help: $help, labels: &[$($label),*] }),*
        ];
    };
}

metrics_list! {
    JOBS = "fleet_jobs_total", Counter, ["kind", "outcome"],
        "Deliveries by kind and by how they ended: done, retry, parked, rejected.";
    JOB_SECONDS = "fleet_job_duration_seconds", Histogram, ["kind"],
        "From receipt to the end of a delivery, waiting included.";
    IN_FLIGHT = "fleet_jobs_in_flight", Gauge, [], "Handlers that run now.";
    OUTSTANDING = "fleet_jobs_outstanding", Gauge, [],
        "Messages that this replica holds, waiting ones included.";
    QUEUED_USERS = "fleet_users_queued", Gauge, [], "Users of which this replica holds jobs.";
    QUEUE_WAIT = "fleet_job_queue_wait_seconds", Histogram, [],
        "From receipt to the user's turn.";
    HELD = "fleet_jobs_held", Gauge, [],
        "Jobs held because the bucket or the token endpoint is down.";
    PAUSED = "fleet_intake_paused", Gauge, [], "1 while no new jobs are taken because of an outage.";
    READY = "fleet_ready", Gauge, [], "1 while /readyz says ready.";
    DEDUPED = "fleet_jobs_deduplicated_total", Counter, [],
        "Deliveries of jobs that were done before and did not act again.";
    SLOWED = "fleet_users_slowed_total", Counter, [],
        "Times that a user's jobs were held back because an API limits their rate.";
    SLOWED_USERS = "fleet_users_slowed", Gauge, [],
        "Users whose rate an API limited lately.";
    CREDENTIALS = "fleet_credentials_total", Counter, ["result"],
        "Credentials asked for: hit (in memory), wait (a read or a refresh), error.";
    CACHED_USERS = "fleet_cached_users", Gauge, [], "Users whose credential is in memory.";
    REFRESHES = "fleet_refreshes_total", Counter, ["outcome"],
        "Refreshes: obtained, adopted (another replica's), needs_consent, unavailable, misconfigured.";
    AMBIGUOUS = "fleet_refresh_ambiguous_total", Counter, [],
        "Requests to the token endpoint whose answer was lost.";
    LOST_GRANTS = "fleet_lost_grants_total", Counter, [],
        "Grants found dead after a takeover or a lost answer: their users must consent again.";
    ORPHANS = "fleet_orphan_grants_total", Counter, [],
        "Grants that could not be stored since their user was deleted meanwhile.";
    COMMIT_CONFLICTS = "fleet_commit_conflicts_total", Counter, [],
        "Commits that met another write.";
    REJECTED_TOKENS = "fleet_rejected_tokens_total", Counter, [],
        "Access tokens that an API rejected before they expired.";
    LEASES = "fleet_leases_total", Counter, ["outcome"],
        "Leases: acquired, taken_over (from a holder that did not commit in time).";
    LEASE_WAIT = "fleet_lease_wait_seconds", Histogram, [],
        "How long callers waited for a credential that was not in memory.";
    ENDPOINT = "fleet_token_endpoint_requests_total", Counter, ["outcome"],
        "Requests to the token endpoint: ok, invalid_grant, misconfigured, transient, ambiguous.";
    ENDPOINT_SECONDS = "fleet_token_endpoint_duration_seconds", Histogram, [],
        "How long the token endpoint took.";
    STORAGE = "fleet_storage_requests_total", Counter, ["operation", "code"],
        "Requests to the bucket by operation (get, put, delete, list) and code (ok, not_found, \
         precondition_failed, throttled, unavailable, refused).";
    STORAGE_SECONDS = "fleet_storage_request_duration_seconds", Histogram, ["operation"],
        "How long the bucket took.";
    API = "fleet_api_requests_total", Counter, ["host", "code"],
        "Requests to APIs by host and HTTP status (or error).";
    API_SECONDS = "fleet_api_request_duration_seconds", Histogram, ["host"],
        "How long APIs took to begin an answer.";
    NEED_CONSENT = "fleet_users_needing_consent", Gauge, [],
        "Users with parked jobs, as of the last sweep.";
    PARKED_JOBS = "fleet_parked_jobs", Gauge, [], "Parked jobs, as of the last sweep.";
    RESUMED = "fleet_jobs_resumed_total", Counter, [],
        "Parked jobs that were published again.";
    BUILD = "fleet_build_info", Gauge, ["version"], "Always 1; the version is the label.";
}

/// A delivery ended. `kind` is one of the registered kinds, or none.
pub(crate) fn job_ended(kind: Option<&str>, status: Status, took: Duration) {
    let kind = kind.unwrap_or("unknown").to_owned();
    counter!(JOBS, "kind" => kind.clone(), "outcome" => status.as_str()).increment(1);
    histogram!(JOB_SECONDS, "kind" => kind).record(took);
}

/// How many users have jobs here, and how many were slowed down lately.
pub(crate) fn set_users(queued: usize, slowed: usize) {
    let level = |users: usize| f64::from(u32::try_from(users).unwrap_or(u32::MAX));
    gauge!(QUEUED_USERS).set(level(queued));
    gauge!(SLOWED_USERS).set(level(slowed));
}

/// A job's turn has come, so long after its receipt.
pub(crate) fn turn(waited: Duration) {
    histogram!(QUEUE_WAIT).record(waited);
}

/// A level that is `value` from now on.
pub(crate) fn set(gauge: &'static str, value: f64) {
    gauge!(gauge).set(value);
}

/// One more of an event without labels.
pub(crate) fn count(counter: &'static str) {
    counter!(counter).increment(1);
}

/// A handler that runs; ends when dropped, however it ends.
pub(crate) struct Running(());

impl Running {
    pub(crate) fn start() -> Self {
        gauge!(IN_FLIGHT).increment(1.0);
        Self(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        gauge!(IN_FLIGHT).decrement(1.0);
    }
}

/// How a credential was had.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Had {
    /// It was in memory.
    Hit,
    /// It was read or refreshed.
    Wait,
    /// It was not had.
    Error,
}

impl Had {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Wait => "wait",
            Self::Error => "error",
        }
    }
}

/// A credential was asked for.
pub(crate) fn credential(had: Had, waited: Duration) {
    counter!(CREDENTIALS, "result" => had.as_str()).increment(1);
    if !matches!(had, Had::Hit) {
        histogram!(LEASE_WAIT).record(waited);
    }
}

/// An API answered, or did not. `host` was allowed by the operator's rules.
pub(crate) fn api_request(host: &str, status: Option<u16>, took: Duration) {
    let code = status.map_or_else(|| "error".to_owned(), |status| status.to_string());
    counter!(API, "host" => host.to_owned(), "code" => code).increment(1);
    histogram!(API_SECONDS, "host" => host.to_owned()).record(took);
}
