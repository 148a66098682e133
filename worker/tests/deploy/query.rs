//! What a query says about metrics of ours, checked against the list that
//! the program describes itself with.

use worker::metrics::{ALL, Kind, Metric};

/// What Managed Service for Prometheus and Kubernetes add to every series.
const TARGET_LABELS: [&str; 4] = ["cluster", "location", "namespace", "pod"];

/// Metrics that are not the program's: Pub/Sub's, Kubernetes', and what the alerts' own rules
/// record.
const OTHERS: [&str; 3] = ["pubsub_googleapis_com:", "kube_deployment_", "slo:"];

/// What is wrong with `query`, if anything.
pub(crate) fn faults(query: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut grouped: Vec<&str> = Vec::new();
    for (at, _) in query.match_indices("by (") {
        let names = query[at + 4..].split(')').next().unwrap_or_default();
        grouped.extend(names.split(',').map(str::trim));
    }
    let mut known: Vec<&str> = Vec::new();
    let mut seen = false;
    for (at, _) in query.match_indices("fleet_") {
        let before = &query[..at];
        if before.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
            continue;
        }
        seen = true;
        let end = query[at..].find(|c: char| !c.is_alphanumeric() && c != '_');
        let (name, after) = query[at..].split_at(end.unwrap_or(query.len() - at));
        let Some((metric, bucket)) = find(name) else {
            faults.push(format!("no metric is named {name}"));
            continue;
        };
        known.extend(metric.labels.iter().map(|label| label.name));
        if bucket {
            known.push("le");
        }
        // `min_over_time(c[1h]) unless c offset 1h` is what series had counted when they appeared.
        let growing = ["rate(", "increase(", "min_over_time(", "unless "];
        let growing = growing.iter().any(|function| before.ends_with(function));
        if growing != (metric.kind != Kind::Gauge) {
            faults.push(format!("{name} is a {:?}: rate() or not?", metric.kind));
        }
        if metric.kind == Kind::Histogram && name == metric.name {
            faults.push(format!("{name} is a histogram: _bucket, _sum or _count?"));
        }
        if let Some(matchers) = after.strip_prefix('{') {
            // A variable of a dashboard, `${namespace.value}`, has braces of its own.
            let matchers = matchers.split("\"}").next().unwrap_or_default();
            faults.extend(matchers.split("\",").filter_map(|m| wrong_matcher(metric, m)));
        }
    }
    if seen {
        for label in grouped.into_iter().filter(|l| !known.contains(l) && !target(l)) {
            faults.push(format!("no metric of it has a label {label}"));
        }
    } else if !OTHERS.iter().any(|other| query.contains(other)) {
        faults.push("asks for nothing that is known".to_owned());
    }
    faults
}

fn target(label: &str) -> bool {
    TARGET_LABELS.contains(&label)
}

/// A metric by the name of one of its series, and whether that is a bucket.
fn find(series: &str) -> Option<(Metric, bool)> {
    let all = || ALL.iter().copied();
    let whole = all().find(|m| m.name == series).map(|m| (m, false));
    whole.or_else(|| {
        let (name, part) = series.rsplit_once('_')?;
        let part_of = ["bucket", "sum", "count"].contains(&part);
        all()
            .find(|m| part_of && m.name == name && m.kind == Kind::Histogram)
            .map(|m| (m, part == "bucket"))
    })
}

/// What is wrong with one `label="value"`. Where the list does not have the values of a
/// label, the help text of the metric does.
fn wrong_matcher(metric: Metric, matcher: &str) -> Option<String> {
    let at = matcher.find(['=', '!'])?;
    let label = matcher[..at].trim();
    if label == "le" && metric.kind == Kind::Histogram {
        let bound = matcher[at..].trim_start_matches(['=', '"']).trim_end_matches('"');
        let bounds = metric.buckets().iter().map(ToString::to_string);
        let known = bounds.chain(["+Inf".to_owned()]).any(|known| known == bound);
        return (!known).then(|| format!("{} has no bucket up to {bound}", metric.name));
    }
    let Some(known) = metric.labels.iter().find(|known| known.name == label) else {
        return (!target(label)).then(|| format!("{} has no label {label}", metric.name));
    };
    let values = matcher[at..].trim_start_matches(['=', '!', '~', '"']).trim_end_matches('"');
    let told = |value: &&str| {
        let mut words = metric.help.split(|c: char| !c.is_alphanumeric() && c != '_');
        // `5..` is every HTTP status of its class.
        let is_class = known.name == "code" && value.len() == 3 && value.ends_with("..");
        known.values.contains(value)
            || known.values.is_empty() && (is_class || words.any(|w| w == *value))
    };
    let unknown: Vec<&str> = values.split('|').filter(|v| !told(v)).collect();
    (!unknown.is_empty()).then(|| format!("{}: {label} is never {unknown:?}", metric.name))
}

#[test]
fn a_good_query_has_no_faults() {
    for query in [
        "sum(rate(fleet_jobs_total{outcome=\"rejected\",pod=\"a\"}[5m]))",
        "histogram_quantile(0.99, sum by (le, kind) (rate(fleet_job_duration_seconds_bucket[5m])))",
        "sum by (operation, code) (rate(fleet_storage_requests_total[5m]))",
        "avg(fleet_worker_ready) < 0.5",
        "sum(rate(fleet_token_endpoint_requests_total{outcome!~\"ok|invalid_grant\"}[1m]))",
        "sum by (event) (rate(fleet_web_events_total[5m]))",
        "sum(rate(fleet_api_requests_total{code=~\"5..|error\"}[5m]))",
        "max(pubsub_googleapis_com:subscription_num_undelivered_messages)",
    ] {
        assert_eq!(faults(query), Vec::<String>::new(), "{query}");
    }
}

#[test]
fn a_wrong_query_says_what_is_wrong() {
    for (query, told) in [
        ("sum(rate(fleet_jobs[5m]))", "no metric is named fleet_jobs"),
        ("sum(fleet_jobs_total)", "rate() or not"),
        ("sum(rate(fleet_worker_ready[5m]))", "rate() or not"),
        ("sum(rate(fleet_lease_wait_seconds[5m]))", "_bucket"),
        (
            "sum(rate(fleet_worker_ready_bucket[5m]))",
            "no metric is named fleet_worker_ready_bucket",
        ),
        ("sum(rate(fleet_jobs_total{status=\"done\"}[5m]))", "no label status"),
        ("sum(rate(fleet_jobs_total{outcome=~\"done|lost\"}[5m]))", "never [\"lost\"]"),
        ("sum(rate(fleet_storage_requests_total{code=~\"5..\"}[5m]))", "never [\"5..\"]"),
        ("sum by (user) (rate(fleet_jobs_total[5m]))", "label user"),
        ("sum by (le) (rate(fleet_lease_wait_seconds_count[5m]))", "label le"),
        ("sum(rate(fleet_lease_wait_seconds_bucket{le=\"11\"}[5m]))", "no bucket up to 11"),
        ("sum(fleet_jobs_total{outcome=\"done\",pod=\"${pod.value}\"})", "rate() or not"),
        ("up == 0", "nothing that is known"),
    ] {
        let faults = faults(query);
        assert!(faults.iter().any(|f| f.contains(told)), "{query}: {faults:?}");
    }
}
