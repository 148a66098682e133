//! Every metric of the list begins at 0 and is written.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use metrics::with_local_recorder;
use shared::Secret;
use shared::adapters::MemoryBucket;
use shared::ports::{Answer, EndpointError, Limits, TokenEndpoint};

use super::list::REASONS;
use super::*;
use crate::outcome::Status;
use crate::telemetry::prometheus::recorder;

const SECOND: Duration = Duration::from_secs(1);

/// The samples of an exposition by their series, buckets left out.
fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let samples = lines.map(|line| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        (series.to_owned(), value.parse().unwrap())
    });
    samples.filter(|(series, _): &(String, f64)| !series.contains("_bucket{")).collect()
}

/// What a process shows after `work`.
fn shown(process: Process, work: impl FnOnce()) -> BTreeMap<String, f64> {
    let recorder = recorder();
    with_local_recorder(&recorder, || {
        describe();
        begin(process, ["profile", "greet"], ["greet"]);
        work();
    });
    samples(&recorder.handle().render())
}

/// The samples that belong to a metric.
fn of<'a>(all: &'a BTreeMap<String, f64>, metric: &Metric) -> BTreeMap<&'a str, f64> {
    let names = match metric.kind {
        Kind::Histogram => vec![format!("{}_sum", metric.name), format!("{}_count", metric.name)],
        _ => vec![metric.name.to_owned()],
    };
    let belongs = |series: &str| names.iter().any(|n| series.split('{').next() == Some(n));
    all.iter().filter(|(s, _)| belongs(s)).map(|(s, v)| (s.as_str(), *v)).collect()
}

#[test]
fn a_fresh_process_shows_every_metric_that_is_its_own_at_zero_and_no_other() {
    for process in [Process::Worker, Process::Web] {
        let fresh = shown(process, || {});
        let mut rest: BTreeSet<&str> = fresh.keys().map(String::as_str).collect();
        for metric in ALL {
            let samples = of(&fresh, metric);
            assert_eq!(
                !samples.is_empty(),
                metric.shown_by.contains(&process),
                "{} of {process:?}",
                metric.name
            );
            let zero = if metric.name == BUILD { 1.0 } else { 0.0 };
            for (series, value) in samples {
                assert!(rest.remove(series), "{series}");
                assert!((value - zero).abs() < f64::EPSILON, "{series} {value}");
                for label in metric.labels {
                    assert!(series.contains(&format!("{}=\"", label.name)), "{series}");
                }
            }
            for (label, value) in
                metric.labels.iter().flat_map(|l| l.values.iter().map(|v| (l.name, *v)))
            {
                let pair = format!("{label}=\"{value}\"");
                let found = of(&fresh, metric).keys().any(|series| series.contains(&pair));
                assert_eq!(found, metric.shown_by.contains(&process), "{}: {pair}", metric.name);
            }
        }
        assert_eq!(rest, BTreeSet::new(), "{process:?} shows what is not in the list");
    }
}

#[test]
fn combinations_of_labels_all_begin() {
    let fresh = shown(Process::Worker, || {});
    for series in [
        "fleet_jobs_total{kind=\"profile\",outcome=\"retry\"}",
        "fleet_jobs_total{kind=\"unknown\",outcome=\"rejected\"}",
        "fleet_job_duration_seconds_count{kind=\"profile\"}",
        "fleet_storage_requests_total{operation=\"put\",code=\"throttled\"}",
        "fleet_api_requests_total{host=\"other\",code=\"error\"}",
        "fleet_forward_answers_total{kind=\"greet\",class=\"none\"}",
    ] {
        assert!(fresh.contains_key(series), "{series} is not in {fresh:?}");
    }
    let fresh = shown(Process::Web, || {});
    let series = "fleet_web_events_total{event=\"callback\",outcome=\"signed_in\"}";
    assert!(fresh.contains_key(series), "{fresh:?}");
    assert!(!fresh.keys().any(|s| s.contains("event=\"job\",outcome=\"signed_in\"")), "{fresh:?}");
}

/// Calls every function that writes a metric. The compiler reports those that nothing else
/// calls, and the constants of metrics that no function names.
fn write_everything(store: &TokenStore) {
    let meters = Meters::default();
    for status in [Status::Done, Status::Retry, Status::Parked, Status::Rejected] {
        Ended::of("profile").note(status, SECOND);
        meters.unknown.note(status, SECOND);
    }
    for had in [Had::Hit, Had::Wait, Had::Error] {
        meters.credential(had, SECOND);
    }
    meters.turn(SECOND);
    meters.first_turn(SECOND);
    std::mem::forget(meters.run());
    meters.set_users(2, 1);
    meters.set_paused_hosts(1);
    meters.set_jobs(3, 1);
    ApiSeries::default().note("www.example.com", Some(200), SECOND);
    let counters = [DEDUPED, DONE_REFUSED, SLOWED, HOST_PAUSES, RESUMED, RESUMED_AGAIN];
    for counter in counters.into_iter().chain([PARKED_ENDED, PARKED_REFUSED]) {
        count(counter);
    }
    for gauge in [PAUSED, NEED_CONSENT, PARKED_JOBS, ENDINGS, EVENTS_UNTOLD] {
        set(gauge, 1.0);
    }
    let (places, forward) = (PlaceMeters::of("greet"), ForwardMeters::of("greet"));
    places.set_down(true);
    std::mem::forget(places.wait());
    std::mem::forget(forward.send());
    forward.answered("2xx");
    pubsub_reachable(true);
    ending_abandoned();
    event("needed");
    kept_alive("alive");
    parked(Reason::Revoked);
    readiness(Process::Worker, true);
    readiness(Process::Web, true);
    trouble("records", true);
    endpoint_request("ok", SECOND);
    storage_request("get", "ok", SECOND);
    web_event("job", "ok");
    read_store(store);
}

/// What [`read_store`] takes over from the store.
const OF_THE_STORE: [&str; 10] = [
    AMBIGUOUS,
    CACHED_USERS,
    CLIENT_REFUSED,
    COMMIT_CONFLICTS,
    LEASES,
    LOST_GRANTS,
    ORPHANS,
    REFRESHES,
    REJECTED_TOKENS,
    UNSEALED_READS,
];

#[test]
fn every_metric_is_written() {
    let store = TokenStore::builder(Arc::new(MemoryBucket::default()), Arc::new(Unused));
    let store = store.build().unwrap();
    for process in [Process::Worker, Process::Web] {
        let before = shown(process, || {});
        let after = shown(process, || write_everything(&store));
        let own = ALL.iter().filter(|metric| metric.shown_by.contains(&process));
        for metric in own.filter(|m| m.name != BUILD && !OF_THE_STORE.contains(&m.name)) {
            assert_ne!(of(&before, metric), of(&after, metric), "{} is not written", metric.name);
        }
    }
    // A store that did nothing has only zeroes: that they are there shows that they are read.
    let recorder = recorder();
    with_local_recorder(&recorder, || read_store(&store));
    let read = samples(&recorder.handle().render());
    for metric in ALL.iter().filter(|metric| OF_THE_STORE.contains(&metric.name)) {
        assert!(!of(&read, metric).is_empty(), "{} is not written", metric.name);
    }
}

#[test]
fn every_reason_of_parking_begins_at_0() {
    assert_eq!(REASONS, Reason::ALL.map(Reason::as_str));
}

#[derive(Debug)]
struct Unused;

impl TokenEndpoint for Unused {
    fn refresh<'a>(
        &'a self,
        _: &'a Secret,
        _: Limits,
    ) -> BoxFuture<'a, Result<Answer, EndpointError>> {
        async { unreachable!("nobody asks for a token") }.boxed()
    }

    fn client_id(&self) -> &'static str {
        "client"
    }

    fn token_uri(&self) -> &'static str {
        "https://token.test/"
    }
}
