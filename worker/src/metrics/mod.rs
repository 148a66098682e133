//! What a process counts: the names, and the functions that count.
//!
//! Names, labels and meanings are listed in [`ALL`], which `/metrics` describes
//! itself with and which alerts and dashboards are checked against. Labels have
//! few values, and none is a user, a job or a secret.
//!
//! Nothing is kept unless the program installed a recorder (`fleet worker` and
//! `fleet web` do); totals of the token store are read when somebody asks
//! ([`read_store`]).

mod api;
mod forward;
mod list;
mod meters;
mod render;

use std::time::Duration;

use metrics::{
    Label as Pair, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};
use shared::{Health, Reason, TokenStore};

pub use list::{ALL, Kind, Label, Metric, OTHER, Process};
use list::{
    AMBIGUOUS, API, API_SECONDS, BUILD, CACHED_USERS, CLIENT_REFUSED, COMMIT_CONFLICTS,
    CREDENTIALS, ENDINGS_ABANDONED, ENDPOINT, ENDPOINT_SECONDS, EVENTS, FORWARD_ANSWERS,
    FORWARD_DOWN, FORWARD_IN_FLIGHT, FORWARD_SENT, FORWARD_WAITING, HELD, IN_FLIGHT, JOB_SECONDS,
    JOB_WAIT, JOBS, KEPT_ALIVE, LEASE_WAIT, LEASES, LOST_GRANTS, ORPHANS, OUTSTANDING, PARKED,
    PAUSED_HOSTS, PUBSUB_REACHABLE, QUEUE_WAIT, QUEUED_USERS, REFRESHES, REJECTED_TOKENS,
    SLOWED_USERS, STORAGE, STORAGE_SECONDS, TROUBLE, UNKNOWN, UNSEALED_READS, WEB_EVENTS,
    WEB_OUTCOMES, WEB_READY, WORKER_READY,
};
pub(crate) use list::{
    DEDUPED, DONE_REFUSED, ENDINGS, EVENTS_UNTOLD, HOST_PAUSES, NEED_CONSENT, PARKED_ENDED,
    PARKED_JOBS, PARKED_REFUSED, PAUSED, REQUEST_BUCKETS, RESUMED, RESUMED_AGAIN, SLOWED, TROUBLES,
};

pub(crate) use api::ApiSeries;
pub use api::MAX_HOSTS;
pub(crate) use forward::{ForwardMeters, Level, PlaceMeters};
pub(crate) use meters::{Ended, Meters};
pub use render::Render;

/// Describes every metric to the recorder that was just installed.
pub fn describe() {
    for Metric { name, kind, help, .. } in ALL {
        match kind {
            Kind::Counter => describe_counter!(*name, *help),
            Kind::Gauge => describe_gauge!(*name, *help),
            Kind::Histogram => describe_histogram!(*name, Unit::Seconds, *help),
        }
    }
}

/// Shows every metric of `process` as zero before anything happens, with each value
/// that its labels can have: `increase()` over a series that appears with its first
/// event misses that event. `kinds` are those that the process does, `forwarded` those of
/// them that it forwards.
pub fn begin<'a>(
    process: Process,
    kinds: impl IntoIterator<Item = &'a str>,
    forwarded: impl IntoIterator<Item = &'a str>,
) {
    let kinds: Vec<&str> = kinds.into_iter().chain([UNKNOWN]).collect();
    let forwarded: Vec<&str> = forwarded.into_iter().collect();
    for metric in ALL.iter().filter(|metric| metric.shown_by.contains(&process)) {
        let kinds = if metric.name.starts_with(FORWARD) { &forwarded } else { &kinds };
        for labels in series(metric, kinds) {
            match metric.kind {
                Kind::Counter => counter!(metric.name, labels).absolute(0),
                Kind::Gauge => gauge!(metric.name, labels).set(0.0),
                Kind::Histogram => drop(histogram!(metric.name, labels)),
            }
        }
    }
    gauge!(BUILD, "version" => VERSION).set(1.0);
}

/// Metrics whose names begin so have a series for each kind that is forwarded.
const FORWARD: &str = "fleet_forward_";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The labels of each series that a metric begins with.
fn series(metric: &Metric, kinds: &[&str]) -> Vec<Vec<Pair>> {
    if metric.name == WEB_EVENTS {
        let pairs = WEB_OUTCOMES
            .iter()
            .flat_map(|(event, outcomes)| outcomes.iter().map(|outcome| (*event, *outcome)));
        let labels =
            |(event, outcome)| vec![Pair::new("event", event), Pair::new("outcome", outcome)];
        return pairs.map(labels).collect();
    }
    let mut all = vec![Vec::new()];
    for label in metric.labels {
        let values = match label.name {
            "kind" => kinds,
            "host" => &[OTHER],
            "code" if label.values.is_empty() => &[NO_ANSWER],
            "version" => &[VERSION],
            _ => label.values,
        };
        all = all
            .iter()
            .flat_map(|before: &Vec<Pair>| {
                values.iter().map(|value| {
                    let mut labels = before.clone();
                    labels.push(Pair::new(label.name, (*value).to_owned()));
                    labels
                })
            })
            .collect();
    }
    all
}

/// The `code` of a request to an API that was not answered.
const NO_ANSWER: &str = "error";

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
    let unsealed = store.sealing().unsealed_reads();
    for (form, total) in [("plain", unsealed.plain), ("unbound", unsealed.unbound)] {
        counter!(UNSEALED_READS, "form" => form).absolute(total);
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
    gauge!(CACHED_USERS).set(level(store.cached_users()));
    let refused = matches!(store.health(), Health::Misconfigured(_));
    gauge!(CLIENT_REFUSED).set(f64::from(u8::from(refused)));
}

/// A count as a gauge has it.
fn level(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Whether `/readyz` of this process says ready. Called whenever somebody asks for metrics.
pub fn readiness(process: Process, ready: bool) {
    let name = match process {
        Process::Worker => WORKER_READY,
        Process::Web => WEB_READY,
    };
    gauge!(name).set(f64::from(u8::from(ready)));
}

/// Whether this trouble, one of [`TROUBLES`], keeps a worker from taking jobs.
pub(crate) fn trouble(name: &'static str, is_there: bool) {
    gauge!(TROUBLE, "trouble" => name).set(f64::from(u8::from(is_there)));
}

/// Whether Pub/Sub delivers to this replica, or answers it.
pub(crate) fn pubsub_reachable(reachable: bool) {
    gauge!(PUBSUB_REACHABLE).set(f64::from(u8::from(reachable)));
}

/// A job was parked.
pub(crate) fn parked(why: Reason) {
    counter!(PARKED, "reason" => why.as_str()).increment(1);
}

/// A change of a user's consent was published.
pub(crate) fn event(word: &'static str) {
    counter!(EVENTS, "type" => word).increment(1);
}

/// A grant that nobody used was due to be refreshed.
pub(crate) fn kept_alive(outcome: &'static str) {
    counter!(KEPT_ALIVE, "outcome" => outcome).increment(1);
}

/// An ending was written nowhere, and its message is given back.
pub(crate) fn ending_abandoned() {
    counter!(ENDINGS_ABANDONED).increment(1);
}

/// One more event on the consent pages: a pair of [`WEB_OUTCOMES`].
pub(crate) fn web_event(event: &'static str, outcome: &'static str) {
    debug_assert!(
        WEB_OUTCOMES.iter().any(|(known, all)| *known == event && all.contains(&outcome)),
        "{event}, {outcome} does not begin at 0"
    );
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

/// Sets a gauge without labels.
pub(crate) fn set(gauge: &'static str, value: f64) {
    gauge!(gauge).set(value);
}

/// Adds 1 to a counter without labels.
pub(crate) fn count(counter: &'static str) {
    counter!(counter).increment(1);
}

/// How a job got its credential.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Had {
    /// It was in memory.
    Hit,
    /// It was read or refreshed.
    Wait,
    /// There is none.
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

#[cfg(test)]
mod tests;
