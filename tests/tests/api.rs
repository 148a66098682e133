//! The kind `api` end to end: real replicas, real wire protocols. Where a token goes,
//! how pages are put together, and how answers of any size become objects.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use emulators::google::StatsQuery;
use serde_json::{Value, json};
use tests::stage::{BUCKET, Cloud, LIMITS, Stage};

const EXPORTS: &str = "stage-exports";
/// A replica that gives a failed delivery back instead of trying again itself.
const AT_ONCE: [&str; 2] = ["--retry-budget", "0s"];

async fn stage() -> anyhow::Result<Stage> {
    with_a_user(Stage::set(Cloud::embedded().await?).await?).await
}

async fn with_a_user(mut stage: Stage) -> anyhow::Result<Stage> {
    stage.cloud.create_bucket(EXPORTS).await?;
    stage.variables.push(("FLEET_ALLOW_BUCKETS".to_owned(), EXPORTS.to_owned()));
    // As good as none.
    stage.variables.push(("FLEET_ALLOW_HOSTS".to_owned(), String::new()));
    stage.user("ann", Duration::ZERO).await?;
    Ok(stage)
}

fn job(id: &str, params: &Value) -> Value {
    json!({"id": id, "user": "ann", "kind": "api", "params": params})
}

fn get(id: &str, path: &str) -> Value {
    job(id, &json!({"url": format!("https://www.googleapis.com{path}")}))
}

/// A GET whose answer goes to `object` in the allowed bucket.
fn export(id: &str, path: &str, object: &str) -> Value {
    let mut job = get(id, path);
    job["params"]["output"] = format!("gs://{EXPORTS}/{object}").into();
    job
}

fn with(mut job: Value, name: &str, value: Value) -> Value {
    job["params"][name] = value;
    job
}

/// What became of jobs that all end at their first delivery.
async fn outcomes(stage: &Stage, jobs: &[Value]) -> anyhow::Result<BTreeMap<String, Value>> {
    let mut inbox = stage.inbox("outcomes").await?;
    let mut worker = stage.worker(&[]).await?;
    stage.publish_unchecked(jobs, true).await?;
    let outcomes = inbox.outcomes(jobs.len()).await;
    let code = worker.terminate().await?;
    let log = worker.log_text();
    let outcomes = outcomes.with_context(|| log.clone())?;
    assert_eq!(code, 0, "{log}");
    assert!(!log.contains("ya29."), "{log}");
    Ok(outcomes)
}

fn assert_done(outcome: &Value, result: &Value) {
    assert_eq!(outcome["status"], "done", "{outcome}");
    assert_eq!(&outcome["result"], result, "{outcome}");
}

fn assert_rejected(outcome: &Value, says: &str) {
    assert_eq!(outcome["status"], "rejected", "{outcome}");
    assert!(outcome["error"].as_str().unwrap().contains(says), "{outcome}");
}

/// The API did it, and the answer cannot be told.
fn assert_warned(outcome: &Value, says: &str) {
    assert_done(outcome, &Value::Null);
    assert_eq!(outcome["effect"], "done", "{outcome}");
    assert_eq!(outcome["repeatable"], false, "{outcome}");
    assert!(outcome["warning"].as_str().unwrap().contains(says), "{outcome}");
}

fn api_calls(stage: &Stage) -> u64 {
    stage.google.stats(&StatsQuery::default()).api_calls
}

fn bytes_url(query: &str) -> String {
    format!("/v1/bytes?{query}")
}

#[tokio::test]
async fn a_token_goes_where_it_may_and_redirects_are_checked_again() -> anyhow::Result<()> {
    let stage = stage().await?;
    let redirect = |code: u16, to: &str| format!("/v1/status/{code}?location={to}");
    let echo = "https://sheets.googleapis.com/v1/echo?x=1";
    let post = |id: &str, path: &str| {
        let job = with(get(id, path), "method", "POST".into());
        with(job, "body", json!({"title": "t"}))
    };
    let header = json!({"x-custom": "kept"});
    let seen = outcomes(
        &stage,
        &[
            get("elsewhere", &redirect(302, "https://evil.example/")),
            get("plain", &redirect(301, "http://www.googleapis.com/v1/echo")),
            get("port", &redirect(307, "https://www.googleapis.com:8443/v1/echo")),
            get("token-service", &redirect(302, "https://oauth2.googleapis.com/token")),
            get("nowhere", "/v1/status/302"),
            get("round", &redirect(302, "")),
            with(get("other-host", &redirect(302, echo)), "headers", header),
            get("relative", &redirect(303, "/v1/echo?x=2")),
            post("post-302", &redirect(302, echo)),
            post("post-303", &redirect(303, echo)),
            post("post-307", &redirect(307, echo)),
            job("forbidden", &json!({"url": "https://evil.example/"})),
            get("not-modified", "/v1/status/304"),
        ],
    )
    .await?;
    for id in ["elsewhere", "token-service"] {
        assert_rejected(&seen[id], "redirects to where it may not: the host is not");
    }
    assert_rejected(&seen["plain"], "must be https");
    assert_rejected(&seen["port"], "port 443");
    assert_rejected(&seen["nowhere"], "redirects to nowhere");
    assert_rejected(&seen["round"], "more than 5 redirects");
    let echoed = &seen["other-host"]["result"];
    assert_eq!(echoed["query"], json!({"x": "1"}), "{:?}", seen["other-host"]);
    assert_eq!(echoed["headers"]["x-custom"], "kept");
    assert_eq!(seen["relative"]["result"]["query"], json!({"x": "2"}));
    assert_rejected(&seen["post-302"], "which is not followed");
    assert_eq!(seen["post-302"]["effect"], "unknown");
    assert_warned(&seen["post-303"], "redirect (HTTP status 303)");
    assert_eq!(seen["post-307"]["result"]["method"], "POST", "{:?}", seen["post-307"]);
    assert_eq!(seen["post-307"]["result"]["body"], r#"{"title":"t"}"#);
    assert_rejected(&seen["forbidden"], "--allow-host");
    assert_done(&seen["not-modified"], &Value::Null);
    // The first four made one call each, "round" six, the next two one and two …
    assert_eq!(api_calls(&stage), 4 + 1 + 6 + 2 + 2 + 1 + 1 + 2 + 1);
    Ok(())
}

#[tokio::test]
async fn compressed_answers_are_decoded_within_the_limits() -> anyhow::Result<()> {
    let stage = stage().await?;
    let post = |id: &str, query: &str| with(get(id, &bytes_url(query)), "method", "POST".into());
    let seen = outcomes(
        &stage,
        &[
            get("asks", "/v1/echo"),
            get("small", &bytes_url("size=52&encoding=gzip")),
            get("most", &bytes_url("size=65536&encoding=gzip")),
            get("bomb", &bytes_url("size=1000000000&encoding=gzip")),
            get("large", &bytes_url("size=65537")),
            get("unknown", &bytes_url("size=5&encoding=br")),
            post("cut", "size=500&cut=100"),
            post("cut-gzip", "size=50000&encoding=gzip&cut=40"),
            post("post-large", "size=70000"),
            post("post-unknown", "size=5&encoding=br"),
        ],
    )
    .await?;
    let asked = &seen["asks"]["result"]["headers"];
    assert_eq!(asked["accept-encoding"], "gzip");
    assert!(asked["user-agent"].as_str().unwrap().contains("gzip"), "as Google wants it");
    let alphabet = "abcdefghijklmnopqrstuvwxyz";
    assert_done(&seen["small"], &alphabet.repeat(2).into());
    assert_eq!(seen["most"]["result"].as_str().unwrap().len(), 65_536);
    for id in ["bomb", "large"] {
        assert_rejected(&seen[id], "larger than 65536 bytes");
        assert_eq!(seen[id]["http_status"], 200);
    }
    assert_rejected(&seen["unknown"], "content encoding other than gzip");
    // The call took effect: to do it again would be wrong, and so would a failure.
    for (id, says) in [
        ("cut", "cut off"),
        ("cut-gzip", "cut off"),
        ("post-large", "larger than 65536 bytes"),
        ("post-unknown", "content encoding other than gzip"),
    ] {
        assert_warned(&seen[id], says);
        assert_eq!(seen[id]["http_status"], 200);
    }
    Ok(())
}

#[tokio::test]
async fn pages_become_one_answer() -> anyhow::Result<()> {
    let stage = stage().await?;
    let pages = |id: &str, query: &str, paginate: Value| {
        with(get(id, &format!("/v1/pages?{query}")), "paginate", paginate)
    };
    let lines = |id: &str, query: &str| {
        let job = pages(id, query, json!({"items": "items", "max_pages": 1000}));
        with(job, "output", format!("gs://{EXPORTS}/{id}").into())
    };
    let seen = outcomes(
        &stage,
        &[
            pages("all", "pages=5&elements=2", json!(true)),
            pages("rest", "pages=3&pageToken=~page/1", json!({"items": "items"})),
            pages("one", "pages=1", json!({"max_pages": 1})),
            pages("circular", "pages=3&circular=true", json!(true)),
            pages("many", "pages=3", json!({"max_pages": 2})),
            pages("large", "pages=9&pad=10000", json!(true)),
            pages("huge", "pages=2&elements=11&pad=1000000", json!(true)),
            pages("none", "pages=2", json!({"items": "kind"})),
            with(pages("post", "pages=2", json!(true)), "method", "POST".into()),
            lines("lines", "pages=300&elements=3&pad=1000"),
            lines("lines-circular", "pages=3&circular=true"),
        ],
    )
    .await?;
    let items: Vec<Value> = (0..10).map(|n| json!({"n": n, "pad": ""})).collect();
    assert_done(&seen["all"], &json!({"kind": "fake#list", "items": items}));
    assert_eq!(seen["rest"]["result"]["items"], json!(items[1..3]), "{:?}", seen["rest"]);
    assert_eq!(seen["one"]["result"]["items"], json!(items[..1]));
    for id in ["circular", "lines-circular"] {
        assert_rejected(&seen[id], "came for the second time");
    }
    assert_rejected(&seen["many"], "more pages than `max_pages` (2)");
    assert_rejected(&seen["large"], "use `output`");
    assert_rejected(&seen["huge"], "use `output`");
    assert_rejected(&seen["none"], "not an array");
    assert_rejected(&seen["post"], "GET only");
    assert_eq!(seen["lines"]["result"]["pages"], 300, "{:?}", seen["lines"]);
    let stored = stage.cloud.object(EXPORTS, "lines").await?;
    let numbers: Vec<Value> = stored
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["n"].take())
        .collect();
    assert_eq!(numbers, (0..900).map(Value::from).collect::<Vec<_>>());
    let storage = &stage.cloud.embedded.as_ref().unwrap().1;
    assert_eq!(storage.object(EXPORTS, "lines").unwrap().content_type, "application/jsonl");
    assert!(storage.object(EXPORTS, "lines-circular").is_none(), "nothing in half");
    Ok(())
}

const LARGE: usize = 9 * 1024 * 1024 + 7;

/// In one request, in several, and with a length that is not known before.
#[tokio::test]
async fn answers_become_objects() -> anyhow::Result<()> {
    let stage = stage().await?;
    let large =
        |id: &str, more: &str| (export(id, &bytes_url(&format!("size={LARGE}{more}")), id), LARGE);
    let mut jobs = small_objects();
    jobs.extend([
        large("large", ""),
        large("chunked", "&chunked=true"),
        large("gzip", "&encoding=gzip"),
        (export("short", &bytes_url("size=3&chunked=true"), "short"), 3),
    ]);
    store(&stage, &jobs).await?;
    let storage = &stage.cloud.embedded.as_ref().unwrap().1;
    let small = storage.object(EXPORTS, "a/small.csv").unwrap();
    assert_eq!(small.content_type, "text/csv");
    let seen = outcomes(&stage, &[export("404", "/v1/status/404?reason=notFound", "404")]).await?;
    assert_rejected(&seen["404"], "HTTP status 404, notFound");
    assert!(storage.object(EXPORTS, "404").is_none());
    Ok(())
}

/// As far as it goes, see `LIMITS`.
#[tokio::test]
async fn answers_become_objects_of_fake_gcs_server() -> anyhow::Result<()> {
    let test = "answers_become_objects_of_fake_gcs_server";
    let Some(cloud) = Cloud::external_if_found(test).await? else {
        return Ok(());
    };
    tests::report::say(format!("{test}: {LIMITS}"));
    store(&with_a_user(Stage::set(cloud).await?).await?, &small_objects()).await
}

fn small_objects() -> Vec<(Value, usize)> {
    vec![
        (export("small", &bytes_url("size=52&content_type=text/csv"), "a/small.csv"), 52),
        (export("empty", &bytes_url("size=0"), "empty"), 0),
        (export("most", &bytes_url("size=4000000"), "most"), 4_000_000),
    ]
}

/// Runs jobs and compares what they stored.
async fn store(stage: &Stage, jobs: &[(Value, usize)]) -> anyhow::Result<()> {
    let published: Vec<Value> = jobs.iter().map(|(job, _)| job.clone()).collect();
    let seen = outcomes(stage, &published).await?;
    for (job, size) in jobs {
        let outcome = &seen[job["id"].as_str().unwrap()];
        assert_eq!(outcome["status"], "done", "{outcome}");
        let result = &outcome["result"];
        assert_eq!(result["output"], job["params"]["output"]);
        assert_eq!(result["bytes"], *size, "{outcome}");
        assert!(result["generation"].as_i64().unwrap() > 0, "{outcome}");
        let output = job["params"]["output"].as_str().unwrap();
        let object = output.strip_prefix(&format!("gs://{EXPORTS}/")).unwrap();
        let content = stage.cloud.object(EXPORTS, object).await?;
        let letters = (b'a'..=b'z').cycle().take(*size);
        assert!(content.bytes().eq(letters), "{object}: {} bytes", content.len());
    }
    Ok(())
}

#[tokio::test]
async fn an_object_is_replaced_only_on_request() -> anyhow::Result<()> {
    let stage = stage().await?;
    let first = export("first", &bytes_url("size=10"), "x");
    let seen = outcomes(&stage, std::slice::from_ref(&first)).await?;
    let generation = seen["first"]["result"]["generation"].clone();
    let calls = api_calls(&stage);
    // The same job again (its acknowledgement was lost): nothing is done twice.
    let again = outcomes(&stage, &[first]).await?;
    assert_eq!(again["first"]["status"], "done", "{again:?}");
    assert_eq!(again["first"]["result"]["generation"], generation);
    assert_eq!(again["first"]["result"]["bytes"], 10);
    assert_eq!(api_calls(&stage), calls, "the API was not called");
    let other = export("other", &bytes_url("size=20"), "x");
    let seen = outcomes(&stage, std::slice::from_ref(&other)).await?;
    assert_rejected(&seen["other"], "\"overwrite\": true");
    assert_eq!(api_calls(&stage), calls, "the API was not called");
    assert_eq!(stage.cloud.object(EXPORTS, "x").await?.len(), 10);
    let storage = &stage.cloud.embedded.as_ref().unwrap().1;
    storage.set_one_mutation_per_second(false);
    let seen = outcomes(&stage, &[with(other, "overwrite", true.into())]).await?;
    assert_eq!(seen["other"]["status"], "done", "{seen:?}");
    assert_eq!(stage.cloud.object(EXPORTS, "x").await?.len(), 20);
    Ok(())
}

#[tokio::test]
async fn objects_go_into_allowed_buckets_only() -> anyhow::Result<()> {
    let stage = stage().await?;
    stage.cloud.create_bucket("stage-other").await?;
    let to = |id: &str, output: &str| with(get(id, &bytes_url("size=1")), "output", output.into());
    let seen = outcomes(
        &stage,
        &[
            to("tokens", &format!("gs://{BUCKET}/tokens/ann.json")),
            to("other", "gs://stage-other/x"),
            to("form", "stage-exports/x"),
            to("name", &format!("gs://{EXPORTS}/../x")),
        ],
    )
    .await?;
    assert_rejected(&seen["tokens"], "token bucket");
    assert_rejected(&seen["other"], "--allow-bucket");
    assert_rejected(&seen["form"], "gs://bucket/object");
    assert_rejected(&seen["name"], "segments");
    assert_eq!(api_calls(&stage), 0);
    let named = format!("{EXPORTS},{BUCKET}");
    let refused = stage.fleet(&["worker", "--allow-bucket", &named]).await?;
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("is the token bucket"), "{}", refused.stderr);
    Ok(())
}

#[tokio::test]
async fn a_cut_answer_leaves_no_object() -> anyhow::Result<()> {
    let stage = stage().await?;
    let mut inbox = stage.inbox("outcomes").await?;
    let mut worker = stage.worker(&AT_ONCE).await?;
    let cuts = [
        ("single", "size=100000&cut=50000"),
        ("chunks", "size=20000000&cut=15000000"),
        ("unannounced", "size=20000000&cut=15000000&chunked=true"),
        ("gzip", "size=200000000&cut=60000&encoding=gzip"),
    ];
    for (id, query) in cuts {
        // A user of its own: the next job of this one waits.
        stage.user(id, Duration::ZERO).await?;
        let mut export = export(id, &bytes_url(query), id);
        export["user"] = id.into();
        stage.publish(&[export], &["--unordered"]).await?;
        let line = worker.wait_for(|line| line["job"] == id).await?;
        assert_eq!(line["status"], "retry", "{line}");
        assert!(line["message"].as_str().unwrap().contains("cut off"), "{line}");
    }
    let post = export("post", &bytes_url("size=20000000&cut=15000000"), "post");
    stage.publish(&[with(post, "method", "POST".into())], &[]).await?;
    let seen = inbox.outcomes(1).await?;
    // The API did it, though there is no object: nothing is left to be done again.
    assert_warned(&seen["post"], "cut off");
    let storage = &stage.cloud.embedded.as_ref().unwrap().1;
    assert_eq!(storage.object_names(EXPORTS), Vec::<String>::new());
    drop(worker);
    Ok(())
}

#[tokio::test]
async fn a_bucket_that_is_not_there_loses_no_job() -> anyhow::Result<()> {
    let mut stage = stage().await?;
    stage.variables.push(("FLEET_ALLOW_BUCKETS".to_owned(), "stage-later".to_owned()));
    let mut inbox = stage.inbox("outcomes").await?;
    let mut worker = stage.worker(&AT_ONCE).await?;
    let export = with(get("j", &bytes_url("size=5")), "output", "gs://stage-later/x".into());
    stage.publish(&[export], &["--unordered"]).await?;
    let said = worker.wait_for_message("bucket stage-later does not exist; create it").await?;
    assert!(said.starts_with("job retry"), "{said}");
    stage.cloud.create_bucket("stage-later").await?;
    assert_eq!(inbox.outcomes(1).await?["j"]["status"], "done");
    Ok(())
}

/// The most memory that the process had at any time, in KiB.
#[cfg(target_os = "linux")]
fn peak(worker: &tests::stage::Worker) -> u64 {
    let status = format!("/proc/{}/status", worker.id().unwrap());
    let status = std::fs::read_to_string(status).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gigabyte_becomes_an_object_in_constant_memory() -> anyhow::Result<()> {
    const GIB: u64 = 1 << 30;
    let stage = stage().await?;
    let storage = &stage.cloud.embedded.as_ref().unwrap().1;
    storage.keep_up_to(1024 * 1024);
    let mut inbox = stage.inbox("outcomes").await?;
    let mut worker = stage.worker(&[]).await?;
    stage.publish(&[export("first", &bytes_url("size=1000"), "first")], &[]).await?;
    assert_eq!(inbox.outcomes(1).await?["first"]["status"], "done");
    let idle = peak(&worker);
    stage.publish(&[export("gib", &bytes_url(&format!("size={GIB}")), "gib")], &[]).await?;
    let outcome = inbox.outcomes(1).await?.remove("gib").unwrap();
    assert_eq!(outcome["status"], "done", "{outcome}");
    assert_eq!(outcome["result"]["bytes"], GIB);
    assert_eq!(storage.object(EXPORTS, "gib").unwrap().size as u64, GIB);
    let most = peak(&worker);
    println!("peak: {idle} KiB idle, {most} KiB after 1 GiB in {} ms", outcome["duration_ms"]);
    assert!(most < 150 * 1024, "{most} KiB");
    assert!(most - idle < 64 * 1024, "{idle} KiB idle, {most} KiB after");
    assert_eq!(worker.terminate().await?, 0);
    Ok(())
}
