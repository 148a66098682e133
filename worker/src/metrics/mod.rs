//! What a replica counts: the names, and the places where they are counted.
//!
//! Names, labels and meanings are listed in [`ALL`], which `/metrics` describes
//! itself with and which alerts and dashboards are checked against. A label has
//! few values and never a user, a job or a secret.
//!
//! Nothing is kept unless the program installed a recorder (`fleet worker` and
//! `fleet web` do); totals of the token store are read when somebody asks
//! ([`read_store`]).

mod api;
mod meters;
mod render;

use std::time::Duration;

use metrics::{
    Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use shared::TokenStore;

use crate::outcome::Status;

pub(crate) use api::ApiSeries;
pub use api::{MAX_HOSTS, OTHER};
pub(crate) use meters::{Ended, Meters};
pub use render::Render;

/// Stands for every kind that is not registered.
const UNKNOWN: &str = "unknown";

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

/// A whole delivery: from a call that is served from memory to one that waits
/// out an outage or a `Retry-After`.
const JOB_BUCKETS: [f64; 17] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    180.0, 600.0,
];
/// One request, or a wait for one.
const REQUEST_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

impl Metric {
    /// Upper bounds of a histogram's buckets, in seconds.
    pub fn buckets(&self) -> &'static [f64] {
        buckets_of(self.name)
    }
}

/// Upper bounds of the buckets of the histogram of this name, in seconds.
pub(crate) fn buckets_of(name: &str) -> &'static [f64] {
    if [JOB_SECONDS, QUEUE_WAIT, LEASE_WAIT].contains(&name) {
        &JOB_BUCKETS
    } else {
        &REQUEST_BUCKETS
    }
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
        "From receipt to the job's turn: behind others of its user, and in line for a runner.";
    HELD = "fleet_jobs_held", Gauge, [],
        "Jobs held because the bucket or the token endpoint is down.";
    PAUSED = "fleet_intake_paused", Gauge, [], "1 while no new jobs are taken because of an outage.";
    PUBSUB_REACHABLE = "fleet_pubsub_reachable", Gauge, [],
        "1 while Pub/Sub answers on a connection that was opened to ask, 0 while it does not.";
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
        "Requests to the token endpoint: ok, invalid_grant, misconfigured, transient, ambiguous, \
         abandoned (given up by this process).";
    ENDPOINT_SECONDS = "fleet_token_endpoint_duration_seconds", Histogram, [],
        "How long the token endpoint took.";
    STORAGE = "fleet_storage_requests_total", Counter, ["operation", "code"],
        "Requests to the bucket by operation (get, put, delete, list) and code (ok, not_found, \
         precondition_failed, throttled, unavailable, refused, abandoned: given up by this process).";
    STORAGE_SECONDS = "fleet_storage_request_duration_seconds", Histogram, ["operation"],
        "How long the bucket took.";
    API = "fleet_api_requests_total", Counter, ["host", "code"],
        "Requests to APIs by host and HTTP status (or error). Hosts that never served, and those \
         beyond the first 64, are `other`.";
    API_SECONDS = "fleet_api_request_duration_seconds", Histogram, ["host"],
        "How long APIs took to begin an answer.";
    NEED_CONSENT = "fleet_users_needing_consent", Gauge, [],
        "Users with parked jobs, as of the last sweep.";
    PARKED_JOBS = "fleet_parked_jobs", Gauge, [], "Parked jobs, as of the last sweep.";
    RESUMED = "fleet_jobs_resumed_total", Counter, [],
        "Parked jobs that were published again.";
    PARKED_REFUSED = "fleet_parked_refused_total", Counter, [],
        "Times that an object under parked/ was no parked job of its user and was left alone.";
    ENDINGS = "fleet_endings", Gauge, [],
        "Ends of jobs that are stored in the bucket and still to be written, as of the last sweep.";
    ENDINGS_ABANDONED = "fleet_endings_abandoned_total", Counter, [],
        "Ends of jobs that neither a topic nor the bucket took before the replica ended.";
    WEB_EVENTS = "fleet_web_events_total", Counter, ["event", "outcome"],
        "What people did on the consent pages, and how it ended.";
    BUILD = "fleet_build_info", Gauge, ["version"], "Always 1; the version is the label.";
}

/// Describes every metric to the recorder that was just installed.
pub fn describe() {
    for Metric { name, kind, help, .. } in ALL {
        match kind {
            Kind::Counter => describe_counter!(*name, *help),
            Kind::Gauge => describe_gauge!(*name, *help),
            Kind::Histogram => describe_histogram!(*name, Unit::Seconds, *help),
        }
    }
    gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

/// Shows what a replica with these kinds counts as zero before it happens: a
/// rate over a series that appears with its first event misses that event.
pub fn begin<'a>(kinds: impl IntoIterator<Item = &'a str>) {
    for kind in kinds.into_iter().chain([UNKNOWN]) {
        for status in [Status::Done, Status::Retry, Status::Parked, Status::Rejected] {
            counter!(JOBS, "kind" => kind.to_owned(), "outcome" => status.as_str()).absolute(0);
        }
    }
    for had in [Had::Hit, Had::Wait, Had::Error] {
        counter!(CREDENTIALS, "result" => had.as_str()).absolute(0);
    }
    for counter in [DEDUPED, SLOWED, RESUMED, PARKED_REFUSED, ENDINGS_ABANDONED] {
        counter!(counter).absolute(0);
    }
    for gauge in [IN_FLIGHT, OUTSTANDING, QUEUED_USERS, HELD, PAUSED, SLOWED_USERS, ENDINGS] {
        gauge!(gauge).set(0.0);
    }
}

/// Takes the store's totals over. Called whenever somebody asks for metrics.
pub fn read_store(store: &TokenStore) {
    let counts = store.counts();
    for (outcome, total) in [
        ("obtained", counts.refreshed),
        ("adopted", counts.adopted),
        ("needs_consent", counts.needs_consent),
        ("unavailable", counts.unavailable),
        ("misconfigured", counts.misconfigured),
    ] {
        counter!(REFRESHES, "outcome" => outcome).absolute(total);
    }
    for (outcome, total) in [("acquired", counts.leases), ("taken_over", counts.takeovers)] {
        counter!(LEASES, "outcome" => outcome).absolute(total);
    }
    for (counter, total) in [
        (AMBIGUOUS, counts.ambiguous_requests),
        (LOST_GRANTS, counts.lost_grants),
        (ORPHANS, counts.orphans),
        (COMMIT_CONFLICTS, counts.commit_conflicts),
        (REJECTED_TOKENS, counts.rejected_tokens),
    ] {
        counter!(counter).absolute(total);
    }
    // At most the cache's capacity, far below what an `f64` counts exactly.
    #[expect(clippy::cast_precision_loss, reason = "a count of entries in memory")]
    gauge!(CACHED_USERS).set(store.cached_users() as f64);
}

/// Whether `/readyz` says ready. Called whenever somebody asks for metrics.
pub fn readiness(ready: bool) {
    gauge!(READY).set(f64::from(u8::from(ready)));
}

/// Whether Pub/Sub delivers to this replica, or answers it.
pub(crate) fn pubsub_reachable(reachable: bool) {
    gauge!(PUBSUB_REACHABLE).set(f64::from(u8::from(reachable)));
}

/// One more event on the consent pages. Both names are ours.
pub(crate) fn web_event(event: &'static str, outcome: &'static str) {
    counter!(WEB_EVENTS, "event" => event, "outcome" => outcome).increment(1);
}

/// A request to the token endpoint ended.
pub(crate) fn endpoint_request(outcome: &'static str, took: Duration) {
    counter!(ENDPOINT, "outcome" => outcome).increment(1);
    histogram!(ENDPOINT_SECONDS).record(took);
}

/// A request to the bucket ended.
pub(crate) fn storage_request(operation: &'static str, code: &'static str, took: Duration) {
    counter!(STORAGE, "operation" => operation, "code" => code).increment(1);
    histogram!(STORAGE_SECONDS, "operation" => operation).record(took);
}

/// A level that is `value` from now on.
pub(crate) fn set(gauge: &'static str, value: f64) {
    gauge!(gauge).set(value);
}

/// One more of an event without labels.
pub(crate) fn count(counter: &'static str) {
    counter!(counter).increment(1);
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
