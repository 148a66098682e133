//! What a replica tells about itself, as its operators see it: metrics that are
//! scraped, traces that a collector receives, and logs. A real replica on the
//! embedded emulators.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "observability/collector.rs"]
mod collector;
#[path = "observability/exposition.rs"]
mod exposition;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use emulators::faults::Fault;
use emulators::google::Operation;
use serde_json::{Value, json};
use tests::stage::{Cloud, PATIENCE, Stage, Worker, full};
use worker::metrics::{self, Process};
use worker::pubsub::{Outgoing, Publisher};

use collector::{Collector, Seen};
use exposition::Exposition;

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PUBLISHER_SPAN: &str = "b7ad6b7169203331";

async fn set_stage(variables: &[(&str, String)]) -> anyhow::Result<Stage> {
    let mut stage = Stage::set(Cloud::embedded().await?).await?;
    stage.variables.extend(variables.iter().map(|(n, v)| ((*n).to_owned(), v.clone())));
    Ok(stage)
}

/// Publishes a job as a program does that has a trace of its own.
async fn publish_traced(
    stage: &Stage,
    job: &Value,
    attributes: &[(&str, &str)],
) -> anyhow::Result<()> {
    let publisher = Publisher::open(&stage.connection(), &full("topics", "jobs")).await?;
    let attributes: HashMap<String, String> =
        attributes.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let data = job.to_string().into();
    publisher.publish(Outgoing { data, attributes, ordering_key: String::new() }).await?;
    Ok(())
}

fn task(id: &str, user: &str) -> Value {
    json!({"id": id, "user": user, "kind": "api", "params": {
        "method": "POST",
        "url": "https://tasks.googleapis.com/tasks/v1/lists/@default/tasks",
        "body": {"title": "buy milk"},
    }})
}

fn profile(id: &str, user: &str) -> Value {
    json!({"id": id, "user": user, "kind": "profile"})
}

/// Where the replica answers probes.
fn health(worker: &Worker) -> String {
    let starting = worker.log.iter().find(|line| line["message"] == "starting").unwrap();
    starting["health"].as_str().unwrap().to_owned()
}

async fn scrape(address: &str) -> anyhow::Result<String> {
    let answer = reqwest::get(format!("http://{address}/metrics")).await?.error_for_status()?;
    assert!(answer.headers()["content-type"].to_str()?.starts_with("text/plain; version=0.0.4"));
    Ok(answer.text().await?)
}

/// Asks until what it counts is complete.
async fn scrape_until(
    address: &str,
    complete: impl Fn(&Exposition) -> bool,
) -> anyhow::Result<String> {
    let asking = async {
        loop {
            let text = scrape(address).await?;
            if complete(&Exposition::parse(&text)) {
                return anyhow::Ok(text);
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await?
}

/// Every secret that the run knows, and the people.
fn unspeakable(stage: &Stage, people: &[&str]) -> Vec<String> {
    let client = stage.google.client_json(emulators::google::ClientKind::Installed, &[]);
    let secret = client["installed"]["client_secret"].as_str().unwrap().to_owned();
    let mut words = vec!["ya29.".to_owned(), "1//".to_owned(), "Bearer".to_owned(), secret];
    words.extend(people.iter().map(|person| (*person).to_owned()));
    words
}

fn assert_silent(text: &str, words: &[String], place: &str) {
    for word in words {
        let at = text.find(word.as_str());
        assert!(at.is_none(), "{word:?} is in the {place}: …{}", {
            let at = at.unwrap();
            text.get(at.saturating_sub(200)..text.len().min(at + 200)).unwrap_or_default()
        });
    }
}

#[tokio::test]
async fn one_job_is_seen_in_one_trace() -> anyhow::Result<()> {
    let mut collector = Collector::start().await?;
    let stage = set_stage(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.origin()),
        ("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned()),
        // The exporter hears what the log does not.
        ("FLEET_LOG", "warn".to_owned()),
    ])
    .await?;
    stage.user_without_access_token("quiet-ann").await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut worker = stage.start_worker(&[])?;
    let parent = format!("00-{TRACE}-{PUBLISHER_SPAN}-01");
    let attributes = [("googclient_traceparent", &*parent), ("traceparent", "nonsense")];
    publish_traced(&stage, &task("job-1", "quiet-ann"), &attributes).await?;
    let (outcome, told_with) = outcomes.next().await?;
    assert_eq!((&outcome["job"], &outcome["status"]), (&json!("job-1"), &json!("done")));
    let spans = collector.until(|span| span.name == "ack").await?;
    assert_eq!(worker.terminate().await?, 0);

    let spans: BTreeMap<&str, &Seen> = spans.iter().map(|s| (s.name.as_str(), s)).collect();
    let [process, token, api, ack] =
        ["process jobs-workers", "token", "POST", "ack"].map(|name| spans[name]);
    assert_eq!(process.parent, PUBLISHER_SPAN);
    // Whoever receives the outcome goes on from here.
    assert_eq!(told_with["traceparent"], format!("00-{TRACE}-{}-01", process.id));
    for span in [process, token, api, ack] {
        assert_eq!(span.trace, TRACE, "{span:?}");
    }
    for span in [token, api, ack] {
        assert_eq!(span.parent, process.id, "{span:?}");
        assert!(process.begin <= span.begin && span.end <= process.end, "{span:?}");
    }
    assert!(token.end <= api.begin && api.end <= ack.begin, "{spans:?}");
    for (span, kind, attributes) in [
        (
            process,
            "consumer",
            json!({
                "messaging.system": "gcp_pubsub",
                "messaging.operation.type": "process",
                "messaging.destination.subscription.name": full("subscriptions", "jobs-workers"),
                "fleet.job.kind": "api",
                "fleet.job.status": "done",
            }),
        ),
        (token, "internal", json!({})),
        (
            api,
            "client",
            json!({
                "http.request.method": "POST",
                "server.address": "tasks.googleapis.com",
                "server.port": "443",
                "http.response.status_code": "200",
            }),
        ),
        (
            ack,
            "client",
            json!({
                "messaging.operation.type": "settle",
                "messaging.operation.name": "ack",
            }),
        ),
    ] {
        assert_eq!(span.kind, kind, "{span:?}");
        assert!(!span.failed && !span.attributes.contains_key("error.type"), "{span:?}");
        for (name, value) in attributes.as_object().unwrap() {
            assert_eq!(
                span.attributes.get(name),
                value.as_str().map(str::to_owned).as_ref(),
                "{name}"
            );
        }
    }
    assert_eq!(collector.services(), BTreeSet::from(["fleet-worker".to_owned()]));
    let words = unspeakable(&stage, &["quiet-ann", "milk", "/lists/"]);
    assert_silent(&collector.everything(), &words, "traces");
    let audited = |line: &Value| line["target"] == "fleet_audit";
    let mut others = worker.log.iter().filter(|line| !audited(line));
    assert!(others.all(|line| line["severity"] != "INFO"), "{}", worker.log_text());
    Ok(())
}

#[tokio::test]
async fn a_call_that_fails_is_seen_as_failed_in_the_trace_of_the_environment() -> anyhow::Result<()>
{
    let mut collector = Collector::start().await?;
    let stage = set_stage(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.origin()),
        ("OTEL_BSP_SCHEDULE_DELAY", "50".to_owned()),
        ("TRACEPARENT", format!("00-{TRACE}-{PUBLISHER_SPAN}-01")),
    ])
    .await?;
    stage.user("ann", Duration::ZERO).await?;
    let mut worker = stage.start_worker(&["--retry-budget", "0s"])?;
    let gone = json!({"id": "gone", "user": "ann", "kind": "api",
        "params": {"url": "https://www.googleapis.com/v1/status/410"}});
    stage.publish(&[gone], &[]).await?;
    let spans = collector.until(|span| span.name == "ack").await?;
    let lost = stage.google.inject(Fault::lost_reply().on(Operation::Api).times(1));
    stage.publish(&[task("cut", "ann")], &[]).await?;
    tokio::time::timeout(PATIENCE, lost.hits(1)).await?;
    let cut = |span: &Seen| span.attributes.get("error.type").is_some_and(|e| e == "no_answer");
    let later = collector.until(cut).await?;
    assert_eq!(worker.terminate().await?, 0);
    let find = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    let [process, api, ack] = ["process jobs-workers", "GET", "ack"].map(find);
    assert_eq!((&*process.trace, &*process.parent), (TRACE, PUBLISHER_SPAN), "as published");
    assert!(api.failed && process.failed && !ack.failed, "{spans:?}");
    assert_eq!(api.attributes["http.response.status_code"], "410");
    assert_eq!(api.attributes["error.type"], "410");
    let cut = later.iter().find(|span| cut(span)).unwrap();
    assert!(cut.failed && !cut.attributes.contains_key("http.response.status_code"), "{cut:?}");
    Ok(())
}

#[tokio::test]
async fn a_collector_that_hangs_harms_no_job() -> anyhow::Result<()> {
    // Accepts connections and never answers.
    let hanging = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let stage = set_stage(&[
        (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            format!("http://{}/v1/traces", hanging.local_addr()?),
        ),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "300".to_owned()),
        ("OTEL_BSP_SCHEDULE_DELAY", "10".to_owned()),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "8".to_owned()),
    ])
    .await?;
    stage.user("ann", Duration::ZERO).await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut worker = stage.worker(&["--per-user", "8"]).await?;
    let jobs: Vec<Value> = (0..100).map(|n| profile(&format!("job-{n}"), "ann")).collect();
    stage.publish(&jobs, &["--unordered"]).await?;
    let told = worker.wait_for_message("traces are dropped").await?;
    assert!(told.contains("127.0.0.1") && told.contains("jobs go on"), "{told}");
    for outcome in outcomes.outcomes(jobs.len()).await?.values() {
        assert_eq!(outcome["status"], "done", "{outcome}");
        // The collector's bound is 300 ms; a job that waited for it would show.
        assert!(outcome["duration_ms"].as_u64().unwrap() < 10_000, "{outcome}");
    }
    assert_eq!(worker.terminate().await?, 0);
    let again = worker.log_text().matches("traces are dropped").count();
    assert_eq!(again, 1, "told once, not with every batch");
    drop(hanging);
    Ok(())
}

#[tokio::test]
async fn the_metrics_have_what_they_promise_and_name_nobody() -> anyhow::Result<()> {
    let stage = set_stage(&[("FLEET_LOG", "trace".to_owned())]).await?;
    for user in ["quiet-ann", "quiet-bob"] {
        stage.user_without_access_token(user).await?;
    }
    let mut outcomes = stage.inbox("outcomes").await?;
    // A kind that is forwarded has metrics of its own, from the start.
    let mut worker = stage.worker(&["--forward", "greet=http://127.0.0.1:1/"]).await?;
    let address = health(&worker);
    let before = Exposition::parse(&scrape(&address).await?);
    assert_eq!(
        before.value("fleet_jobs_total", &[("kind", "api"), ("outcome", "done")]),
        Some(0.0)
    );

    let evil = json!({"id": "evil", "user": "quiet-bob", "kind": "api",
        "params": {"url": "https://evil.example/"}});
    let gone = json!({"id": "gone", "user": "quiet-bob", "kind": "api",
        "params": {"url": "https://www.googleapis.com/v1/status/410"}});
    let jobs = [
        task("done", "quiet-ann"),
        profile("profile", "quiet-ann"),
        profile("parked", "quiet-nobody"),
        json!({"id": "kind", "user": "quiet-bob", "kind": "brew"}),
        evil,
        gone,
    ];
    stage.publish_unchecked(&jobs, false).await?;
    outcomes.outcomes(jobs.len()).await?;
    // An outcome is told before its delivery is counted, and a new token is used
    // before its commit is through.
    let text = scrape_until(&address, |seen| {
        seen.sum("fleet_jobs_total") >= 6.0 && seen.sum("fleet_refreshes_total") >= 3.0
    })
    .await?;
    let seen = Exposition::parse(&text);
    for (name, labels, value) in [
        ("fleet_jobs_total", &[("kind", "api"), ("outcome", "done")][..], 1.0),
        ("fleet_jobs_total", &[("kind", "profile"), ("outcome", "done")], 1.0),
        ("fleet_jobs_total", &[("kind", "profile"), ("outcome", "parked")], 1.0),
        ("fleet_jobs_total", &[("kind", "api"), ("outcome", "rejected")], 2.0),
        ("fleet_jobs_total", &[("kind", "unknown"), ("outcome", "rejected")], 1.0),
        ("fleet_refreshes_total", &[("outcome", "obtained")], 2.0),
        ("fleet_refreshes_total", &[("outcome", "needs_consent")], 1.0),
        ("fleet_leases_total", &[("outcome", "acquired")], 2.0),
        ("fleet_token_endpoint_requests_total", &[("outcome", "ok")], 2.0),
        ("fleet_token_endpoint_duration_seconds_count", &[], 2.0),
        ("fleet_job_wait_seconds_count", &[], 6.0),
        ("fleet_api_requests_total", &[("host", "www.googleapis.com"), ("code", "410")], 1.0),
        ("fleet_api_requests_total", &[("host", "tasks.googleapis.com"), ("code", "200")], 1.0),
        ("fleet_lost_grants_total", &[], 0.0),
        ("fleet_cached_users", &[], 3.0),
        ("fleet_jobs_in_flight", &[], 0.0),
        ("fleet_worker_ready", &[], 1.0),
        ("fleet_oauth_client_refused", &[], 0.0),
        ("fleet_trouble", &[("trouble", "records")], 0.0),
    ] {
        assert_eq!(seen.value(name, labels), Some(value), "{name} {labels:?}\n{text}");
    }
    assert!(
        seen.value("fleet_storage_requests_total", &[("operation", "get"), ("code", "ok")])
            >= Some(2.0)
    );
    assert!(
        seen.value("fleet_storage_requests_total", &[("operation", "put"), ("code", "ok")])
            >= Some(5.0)
    );

    for exposition in [&before, &seen] {
        for metric in metrics::ALL {
            let is_own = metric.shown_by.contains(&Process::Worker);
            assert_eq!(exposition.has(metric), is_own, "{}\n{text}", metric.name);
        }
        exposition.check_against(metrics::ALL);
    }

    assert_eq!(worker.terminate().await?, 0);
    let words = unspeakable(&stage, &["quiet-", "evil.example"]);
    assert_silent(&text, &words, "metrics");
    // With everything switched on, what the HTTP libraries would say included.
    let log = worker.log_text();
    assert!(log.contains("\"severity\":\"DEBUG\""), "the filter let nothing more through");
    let words = unspeakable(&stage, &["quiet-"]);
    assert_silent(&log, &words, "log");
    for line in &worker.log {
        assert!(line.is_object(), "it is no JSON: {line}");
    }
    // Whatever is logged during a delivery names the delivery.
    let delivered = jobs.iter().map(|job| (&job["id"], &job["kind"]));
    for (id, kind) in delivered {
        let of_job = || worker.log.iter().filter(|line| line["job"] == *id);
        let outcomes = of_job().filter(|line| !line["status"].is_null()).count();
        assert_eq!(outcomes, 1, "one outcome of {id}\n{log}");
        for line in of_job() {
            assert_eq!(&line["kind"], kind, "{line}");
            for name in ["message_id", "user"] {
                assert!(line[name].is_string(), "no {name}: {line}");
            }
            assert!(line["result"].is_null(), "{line}");
        }
    }
    Ok(())
}

/// The lines of the audit trail, by what was done.
fn audit(lines: &[Value]) -> BTreeMap<String, Vec<&Value>> {
    let mut acts = BTreeMap::<_, Vec<_>>::new();
    for line in lines.iter().filter(|line| line["target"] == "fleet_audit") {
        acts.entry(line["act"].as_str().unwrap().to_owned()).or_default().push(line);
    }
    acts
}

/// Who did what to a grant, and where the token went, whatever else is logged.
#[tokio::test]
async fn the_audit_trail_says_what_was_done_and_names_nobody() -> anyhow::Result<()> {
    let stage = set_stage(&[("FLEET_LOG", "error".to_owned())]).await?;
    stage.write_expired_user("ann").await?;
    let mut worker = stage.start_worker(&[])?;
    let mut inbox = stage.inbox("outcomes").await?;
    let jobs: Vec<Value> = (0..3).map(|number| profile(&format!("p{number}"), "ann")).collect();
    stage.publish(&jobs, &[]).await?;
    let told = inbox.outcomes(3).await?;
    assert!(told.values().all(|outcome| outcome["status"] == "done"), "{told:?}");
    assert_eq!(worker.terminate().await?, 0);
    let acts = audit(&worker.log);
    let ann = acts["refreshed"][0]["user"].clone();
    assert_eq!(ann, shared::UserId::new("ann")?.digest().to_string());
    let [refreshed] = acts["refreshed"][..] else { panic!("{acts:?}") };
    assert_eq!((&refreshed["command"], &refreshed["confirmed"]), (&"worker".into(), &true.into()));
    let calls: u64 = acts["used"].iter().map(|line| line["calls"].as_u64().unwrap()).sum();
    assert_eq!(calls, 3, "{acts:?}");
    for used in &acts["used"] {
        assert_eq!((&used["user"], &used["kind"]), (&ann, &"profile".into()));
        assert!(!used["host"].as_str().unwrap().is_empty(), "{used}");
    }
    assert!(!worker.log_text().contains("\"ann\""), "a digest stands for the user");

    // Commands say who ran them.
    for (command, act) in [
        (&["users", "export", "ann"][..], "exported"),
        (&["token", "ann"], "exported"),
        (&["users", "delete", "ann", "--yes"], "deleted"),
    ] {
        let output = stage.fleet(command).await?;
        assert_eq!(output.code, 0, "{}", output.stderr);
        let lines: Vec<Value> =
            output.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let acts = audit(&lines);
        let [line] = acts[act][..] else { panic!("{command:?}: {acts:?}") };
        let name = command.iter().filter(|word| !["ann", "--yes"].contains(word));
        let name: Vec<&str> = name.copied().collect();
        assert_eq!(line["command"], name.join(" "));
        assert!(line["by"].as_str().unwrap().contains('@'), "{line}");
        assert_eq!(line["user"], ann);
    }
    Ok(())
}

/// A broker cannot see what its tokens are for; that it gave them it says.
#[tokio::test]
async fn the_audit_trail_says_whose_tokens_a_broker_gave() -> anyhow::Result<()> {
    let mut stage = set_stage(&[]).await?;
    stage.user("ann", Duration::ZERO).await?;
    let key = stage.path("broker.key");
    tests::write_secret(&key, "k".repeat(44))?;
    let key = key.display().to_string();
    let flags = ["broker", "--listen", "127.0.0.1:0", "--key", &key];
    let mut broker = stage.start_with_descriptors(&flags, 1024)?;
    let line = broker.wait_for(|line| line["address"].is_string()).await?;
    let url = format!("http://{}", line["address"].as_str().unwrap());
    stage
        .variables
        .extend([("FLEET_BROKER".to_owned(), url), ("FLEET_BROKER_KEY".to_owned(), key)]);
    for (user, code) in [("ann", 0), ("ann", 0), ("zoe", 3)] {
        let given = stage.fleet(&["token", user]).await?;
        assert_eq!(given.code, code, "{user}: {}", given.stderr);
    }
    assert_eq!(broker.terminate().await?, 0);
    let acts = audit(&broker.log);
    let [used] = acts["used"][..] else { panic!("{acts:?}") };
    assert_eq!(used["user"], shared::UserId::new("ann")?.digest().to_string());
    assert_eq!((&used["host"], &used["kind"]), (&"broker".into(), &"".into()));
    assert_eq!(used["calls"], 2);
    Ok(())
}

/// Two jobs of one user, who run one after another.
#[tokio::test]
async fn the_line_of_a_delivery_says_where_its_time_went() -> anyhow::Result<()> {
    let stage = set_stage(&[]).await?;
    stage.write_user("ann", Duration::from_secs(3600)).await?;
    let (call, half) = (Duration::from_secs(1), 500);
    stage.google.inject(Fault::latency(call).on(Operation::Userinfo));
    // Both are there when the replica begins to receive.
    stage.publish_unchecked(&[profile("a", "ann"), profile("b", "ann")], false).await?;
    let mut worker = stage.start_worker(&[])?;
    let mut queued = Vec::new();
    for _ in 0..2 {
        let line = worker.wait_for(|line| line["message"] == "job done").await?;
        let ms = |name: &str| line[name].as_u64().unwrap_or_else(|| panic!("no {name}: {line}"));
        assert!(ms("handler_ms") >= 1000, "{line}");
        assert!(ms("queue_ms") + ms("handler_ms") <= ms("duration_ms"), "{line}");
        assert!(ms("token_us") / 1000 <= ms("duration_ms"), "{line}");
        queued.push(ms("queue_ms"));
    }
    assert!(queued[0] < half && queued[1] >= half, "{queued:?}");
    assert_eq!(worker.terminate().await?, 0);
    Ok(())
}

#[tokio::test]
async fn probes_tell_a_replica_that_takes_jobs() -> anyhow::Result<()> {
    let stage = set_stage(&[]).await?;
    let mut worker = stage.worker(&[]).await?;
    let address = health(&worker);
    for (path, told) in [("healthz", "ok\n"), ("readyz", "ready\n")] {
        let answer = reqwest::get(format!("http://{address}/{path}")).await?;
        assert_eq!((answer.status().as_u16(), answer.text().await?.as_str()), (200, told));
    }
    assert_eq!(worker.terminate().await?, 0);
    assert!(
        tokio::time::timeout(PATIENCE, reqwest::get(format!("http://{address}/healthz")))
            .await?
            .is_err()
    );
    Ok(())
}

#[tokio::test]
async fn a_wrong_exporter_setting_is_a_usage_error() -> anyhow::Result<()> {
    let stage = set_stage(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1".to_owned()),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc".to_owned()),
    ])
    .await?;
    let output = stage.fleet(&["worker"]).await?;
    assert_eq!(output.code, 2);
    assert!(output.stderr.contains("OTEL_EXPORTER_OTLP_PROTOCOL"), "{}", output.stderr);
    Ok(())
}
