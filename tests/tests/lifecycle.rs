//! How a replica begins, goes on and ends, as a process.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use anyhow::Context as _;
use emulators::faults::Fault;
use emulators::google::{Operation, StatsQuery};
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::stage::{BUCKET, Cloud, PATIENCE, Stage, full};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

fn job(id: &str, user: &str) -> Value {
    json!({"id": id, "user": user, "kind": "profile"})
}

/// Asks the Pub/Sub server's REST API, which Google's emulator and the embedded one have.
async fn ask(stage: &Stage, method: reqwest::Method, subscription: &str, body: &Value) {
    let name = full("subscriptions", subscription);
    let url = format!("http://{}/v1/{name}", stage.cloud.pubsub);
    let request = reqwest::Client::new().request(method, url);
    let request = if body.is_null() { request } else { request.json(body) };
    request.send().await.unwrap().error_for_status().unwrap();
}

#[tokio::test]
async fn a_second_signal_cuts_jobs_and_still_stores_the_grant_on_its_way() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    stage.user_without_access_token("ann").await?;
    let slow = stage.google.inject(Fault::latency(Duration::from_secs(3)).on(Operation::Token));
    let mut worker = stage.worker(&["--drain", "60s"]).await?;
    stage.publish(&[job("j", "ann")], &[]).await?;
    // The refresh is on its way; its answer will spend the refresh token.
    tokio::time::timeout(PATIENCE, slow.hits(1)).await?;
    worker.signal(Signal::TERM)?;
    worker.wait_for(|line| line["message"].to_string().contains("stopping: no new jobs")).await?;
    worker.signal(Signal::TERM)?;
    assert_eq!(worker.ended().await?, 0, "in order");
    let record = stage.record("ann").await?;
    assert!(record["access_token"].is_string(), "the grant is stored: {record}");
    let stats = stage.google.stats(&StatsQuery::default());
    assert_eq!((stats.token_calls, stats.reused), (1, 0));
    // Another replica goes on with it.
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut second = stage.worker(&[]).await?;
    assert_eq!(outcomes.outcomes(1).await?["j"]["status"], "done");
    assert_eq!(stage.google.stats(&StatsQuery::default()).token_calls, 1);
    assert_eq!(second.terminate().await?, 0);
    Ok(())
}

/// What a stopped replica gives back is with another one within two seconds of the end
/// of its drain, where the subscription has no retry policy: its shortest backoff comes
/// on top. (Google's emulator goes on dealing to the closing stream instead, until the
/// lease ends.)
#[tokio::test]
async fn what_a_stopped_replica_held_is_elsewhere_within_two_seconds() -> anyhow::Result<()> {
    const HELD: usize = 64;
    const SECONDS: Duration = Duration::from_secs(2);
    let stage = Stage::set(Cloud::embedded().await?).await?;
    let (pubsub, _) = stage.cloud.embedded.as_ref().unwrap();
    let settings = json!({
        "topic": full("topics", "jobs"),
        "ackDeadlineSeconds": 60,
        "enableMessageOrdering": true,
    });
    ask(&stage, reqwest::Method::PUT, "prompt", &settings).await;
    let subscription = full("subscriptions", "prompt");
    let mut jobs = Vec::new();
    for n in 0..HELD {
        stage.write_user(&format!("user-{n}"), Duration::from_secs(3600)).await?;
        jobs.push(job(&format!("job-{n}"), &format!("user-{n}")));
    }
    // Sixteen handlers are busy and 48 jobs are queued behind them.
    let busy = stage.google.inject(Fault::stall().on(Operation::Userinfo));
    let flags = ["--subscription", "prompt", "--concurrency", "16", "--drain", "1s"];
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut first = stage.worker(&flags).await?;
    stage.publish(&jobs, &[]).await?;
    let held = HELD as u64;
    pubsub.wait_for_subscription(&subscription, |stats| stats.outstanding == held).await;
    tokio::time::timeout(PATIENCE, busy.hits(16)).await?;
    let mut second = stage.worker(&flags).await?;
    first.signal(Signal::TERM)?;
    first.wait_for_message("running jobs are cut").await?;
    let drained = Instant::now();
    let received = pubsub.wait_for_subscription(&subscription, |s| s.redeliveries == held);
    let stats = tokio::time::timeout(PATIENCE, received).await?;
    let took = drained.elapsed();
    println!("{HELD} messages were with another replica {took:?} after the drain");
    assert!(took < SECONDS, "{took:?}: {stats:?}");
    assert_eq!(first.ended().await?, 0, "in order");
    assert_eq!((stats.nacked, stats.expired), (held, 0), "given back, not left to expire");
    busy.lift();
    assert_eq!(outcomes.outcomes(HELD).await?.len(), HELD);
    assert_eq!(second.terminate().await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_stream_that_dies_for_good_is_rebuilt() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    stage.user("ann", Duration::ZERO).await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut worker = stage.worker(&[]).await?;
    stage.publish(&[job("before", "ann")], &[]).await?;
    outcomes.outcomes(1).await?;
    ask(&stage, reqwest::Method::DELETE, "jobs-workers", &Value::Null).await;
    let said = worker.wait_for_message("opening it again").await?;
    assert!(said.contains("does not exist"), "{said}");
    let again = ["setup", "--topic", "jobs", "--subscription", "jobs-workers"];
    assert_eq!(stage.fleet(&again).await?.code, 0);
    stage.publish(&[job("after", "ann")], &[]).await?;
    assert_eq!(outcomes.outcomes(1).await?["after"]["status"], "done");
    assert_eq!(worker.terminate().await?, 0);
    Ok(())
}

async fn exactly_once(cloud: Cloud) -> anyhow::Result<()> {
    let stage = Stage::set(cloud).await?;
    stage.user("ann", Duration::ZERO).await?;
    let settings = json!({
        "topic": full("topics", "jobs"),
        "ackDeadlineSeconds": 10,
        "enableMessageOrdering": true,
        "enableExactlyOnceDelivery": true,
    });
    ask(&stage, reqwest::Method::PUT, "once", &settings).await;
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut worker = stage.worker(&["--subscription", "once"]).await?;
    let jobs: Vec<Value> = (0..20).map(|n| job(&format!("job-{n}"), "ann")).collect();
    stage.publish(&jobs, &[]).await?;
    let told = outcomes.outcomes(20).await?;
    assert!(told.values().all(|outcome| outcome["status"] == "done"), "{told:?}");
    assert_eq!(worker.terminate().await?, 0);
    let log = worker.log_text();
    assert!(!log.contains("not confirmed"), "every acknowledgement was confirmed: {log}");
    Ok(())
}

#[tokio::test]
async fn an_exactly_once_subscription_confirms_its_acknowledgements() -> anyhow::Result<()> {
    exactly_once(Cloud::embedded().await?).await
}

#[tokio::test]
async fn googles_emulator_confirms_them_too() -> anyhow::Result<()> {
    match Cloud::external_if_found("googles_emulator_confirms_them_too").await? {
        Some(cloud) => exactly_once(cloud).await,
        None => Ok(()),
    }
}

/// A job that fails each time is delivered as often as its subscription permits, and then
/// becomes a dead letter of the worker's, not of Pub/Sub's.
async fn dead_letter(cloud: Cloud) -> anyhow::Result<()> {
    let stage = Stage::set(cloud).await?;
    stage.user("ann", Duration::ZERO).await?;
    let settings = json!({
        "topic": full("topics", "jobs"),
        "ackDeadlineSeconds": 10,
        "deadLetterPolicy":
            {"deadLetterTopic": full("topics", "jobs-dead"), "maxDeliveryAttempts": 5},
    });
    ask(&stage, reqwest::Method::PUT, "five", &settings).await;
    let mut dead = stage.inbox("jobs-dead-review").await?;
    let mut worker = stage.worker(&["--subscription", "five", "--retry-budget", "0s"]).await?;
    let failing = json!({"id": "tired", "user": "ann", "kind": "api",
        "params": {"url": "https://www.googleapis.com/v1/status/503"}});
    stage.publish(&[failing], &["--unordered"]).await?;
    let mut attempts = Vec::new();
    while attempts.len() < 5 {
        let line = worker.wait_for(|line| line["job"] == "tired").await?;
        attempts.push((line["status"].clone(), line["delivery_attempt"].as_i64()));
    }
    let (last, before) = attempts.split_last().unwrap();
    assert!(before.iter().all(|(status, _)| status == "retry"), "{attempts:?}");
    // At the last permitted delivery the worker writes the letter itself, which tells more.
    assert_eq!(*last, (json!("rejected"), Some(5)), "{attempts:?}");
    let (job, attributes) = dead.next().await?;
    assert_eq!(job["id"], "tired");
    assert_eq!((&*attributes["effect"], &*attributes["repeatable"]), ("unknown", "true"));
    assert!(!attributes.keys().any(|name| name.starts_with("CloudPubSub")), "{attributes:?}");
    assert_eq!(worker.terminate().await?, 0);
    Ok(())
}

#[tokio::test]
async fn what_fails_each_time_is_dead_lettered() -> anyhow::Result<()> {
    dead_letter(Cloud::embedded().await?).await
}

#[tokio::test]
async fn googles_emulator_dead_letters_it_too() -> anyhow::Result<()> {
    match Cloud::external_if_found("googles_emulator_dead_letters_it_too").await? {
        Some(cloud) => dead_letter(cloud).await,
        None => Ok(()),
    }
}

/// Nothing of the replica goes on once it has ended by an error, so it ends at once. The
/// sweep of parked jobs, which does not know of the error, may take 5 s to end.
#[tokio::test]
async fn a_bucket_that_is_missing_at_the_start_ends_the_replica_at_once() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    let mut worker = stage.start_worker(&["--bucket", "missing-bucket"])?;
    worker.wait_for(|line| line["message"] == "starting").await?;
    let started = Instant::now();
    assert_eq!(worker.ended().await?, 2, "the name is a mistake on the command line");
    let took = started.elapsed();
    let log = worker.log_text();
    assert!(log.contains("missing-bucket"), "{log}");
    assert!(took < Duration::from_secs(5), "{took:?}: {log}");
    Ok(())
}

/// The connection of a request that an API has received.
async fn asked(api: &TcpListener) -> anyhow::Result<TcpStream> {
    let (mut connection, _) = tokio::time::timeout(PATIENCE, api.accept()).await??;
    let mut request = [0; 4096];
    assert!(connection.read(&mut request).await? > 0);
    Ok(connection)
}

fn post(id: &str) -> Value {
    let params = json!({"method": "POST", "url": "https://tasks.googleapis.com/x", "body": {}});
    json!({"id": id, "user": "ann", "kind": "api", "params": params})
}

/// The API has carried out a POST and is still sending its answer when the replica is cut.
#[tokio::test]
async fn a_call_whose_answer_is_being_read_at_the_cut_is_done() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    stage.write_user("ann", Duration::from_secs(3600)).await?;
    let api = TcpListener::bind("127.0.0.1:0").await?;
    let root = format!("http://{}", api.local_addr()?);
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut worker = stage.start_worker_with(&["--drain", "6s"], &[("FLEET_API_ROOT", &*root)])?;
    worker.wait_for(|line| line["message"] == "taking jobs").await?;
    stage.publish(&[post("j")], &[]).await?;
    let mut connection = asked(&api).await?;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 64\r\n\r\n{";
    connection.write_all(head.as_bytes()).await?;
    assert_eq!(worker.terminate().await?, 0);
    let outcome = outcomes.outcomes(1).await?.remove("j").unwrap();
    assert_eq!((&outcome["status"], &outcome["effect"]), (&json!("done"), &json!("done")));
    assert_eq!(outcome["http_status"], 200);
    assert!(outcome["warning"].to_string().contains("was not read"), "{outcome}");
    Ok(())
}

/// A process that is stopped longer than its messages' leases, with a POST under way: the
/// message comes again, to the same replica, and the call is not made again.
#[tokio::test]
async fn a_replica_that_was_stopped_with_a_job_in_hand_runs_it_once() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    let (pubsub, _) = stage.cloud.embedded.as_ref().unwrap();
    let subscription = full("subscriptions", "jobs-workers");
    stage.write_user("ann", Duration::from_secs(3600)).await?;
    let api = TcpListener::bind("127.0.0.1:0").await?;
    let root = format!("http://{}", api.local_addr()?);
    let mut outcomes = stage.inbox("outcomes").await?;
    let flags = ["--ack-extension", "10s"];
    let variables = [("FLEET_API_ROOT", &*root), ("FLEET_LOG", "info,worker=debug")];
    let mut worker = stage.start_worker_with(&flags, &variables)?;
    worker.wait_for(|line| line["message"] == "taking jobs").await?;
    stage.publish(&[post("j")], &[]).await?;
    let mut connection = asked(&api).await?;
    worker.signal(Signal::STOP)?;
    let expired = pubsub.wait_for_subscription(&subscription, |stats| stats.redeliveries > 0);
    tokio::time::timeout(PATIENCE, expired).await?;
    worker.signal(Signal::CONT)?;
    // A redelivery that is read after the job's end would be another run. Both lines come,
    // in either order.
    let mut missing = vec!["the process stood still", "came again while it is in hand"];
    let all_told = |line: &Value| {
        let message = line["message"].as_str().unwrap_or_default();
        missing.retain(|part| !message.contains(part));
        missing.is_empty()
    };
    worker.wait_for(all_told).await?;
    connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await?;
    assert_eq!(outcomes.outcomes(1).await?["j"]["status"], "done");
    assert_eq!(worker.terminate().await?, 0);
    // Every connection that the replica opened is in the queue by now.
    let api = api.into_std()?;
    let another = api.accept().map(|(_, from)| from);
    assert_eq!(another.unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "one call");
    let left = pubsub.wait_for_subscription(&subscription, |stats| stats.backlog == 0);
    tokio::time::timeout(PATIENCE, left).await?;
    Ok(())
}

/// What the release before this one has left in the bucket: jobs that are done, and jobs
/// that wait for their user.
#[tokio::test]
async fn what_the_release_before_has_remembered_and_parked_counts() -> anyhow::Result<()> {
    // Written by that release.
    const DONE: &str = r#"{"done_at":"2026-11-01T08:00:00.123456789Z","version":1}"#;
    const PARKED: &str = r#"{"version":1,"user":"ann","job":"parked","kind":"profile",
        "reason":"unknown","missing_scopes":[],"scopes":[],
        "parked_at":"2026-11-01T08:00:01.5Z","publish_time":"2026-11-01T08:00:00.25Z",
        "message_id":"7","ordering_key":"ann","attributes":{"mine":"kept"},
        "data":"eyJpZCI6InBhcmtlZCIsInVzZXIiOiJhbm4iLCJraW5kIjoicHJvZmlsZSJ9"}"#;
    let stage = Stage::set(Cloud::embedded().await?).await?;
    stage.write_user("ann", Duration::from_secs(3600)).await?;
    let scopes = stage.record("ann").await?["scopes"].clone();
    let mut waits: Value = serde_json::from_str(PARKED)?;
    waits["job"] = json!("waits");
    waits["reason"] = json!("scopes");
    waits["scopes"] = scopes;
    // {"id":"waits","user":"ann","kind":"profile"}
    waits["data"] = json!("eyJpZCI6IndhaXRzIiwidXNlciI6ImFubiIsImtpbmQiOiJwcm9maWxlIn0=");
    let create = async |name: &str, content: &str| stage.cloud.create(BUCKET, name, content).await;
    create("done/ann/done.json", DONE).await?;
    create("parked/ann/01793520000250000000-parked.json", PARKED).await?;
    let kept = "parked/ann/01793520000250000001-waits.json";
    create(kept, &waits.to_string()).await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut worker = stage.worker(&["--dedupe", "bucket", "--sweep", "1m"]).await?;
    stage.publish(&[job("done", "ann"), job("new", "ann")], &[]).await?;
    let told = outcomes.outcomes(3).await?;
    for id in ["done", "new", "parked"] {
        assert_eq!(told[id]["status"], "done", "{told:?}");
    }
    assert_eq!(stage.google.stats(&StatsQuery::default()).api_calls, 2, "one was done before");
    worker.wait_for_message("parked jobs swept").await?;
    assert_eq!(stage.cloud.objects(BUCKET, "parked/").await?, [kept], "its scopes are the same");
    assert_eq!(worker.terminate().await?, 0);
    Ok(())
}

/// Whoever opens connections and never ends a request takes nobody's place: a process with few
/// descriptors answers its probes all the time.
#[tokio::test]
async fn half_sent_requests_keep_nobody_from_an_answer() -> anyhow::Result<()> {
    const DESCRIPTORS: u32 = 200;
    const HALVES: usize = 300;
    let stage = Stage::set(Cloud::embedded().await?).await?;
    for (command, said, address) in
        [("worker", "taking jobs", "health"), ("web", "serving pages", "address")]
    {
        let mut process = stage.start_with_descriptors(&[command], DESCRIPTORS)?;
        process.wait_for(|line| line["message"] == said).await?;
        let address = process.log.iter().find_map(|line| line[address].as_str()).unwrap();
        let address = address.to_owned();
        let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.id().unwrap()));
        let limits = limits?;
        let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
        assert!(files.contains(&format!(" {DESCRIPTORS} ")), "{files}");
        let mut halves = Vec::new();
        for n in 0..HALVES {
            let mut half = TcpStream::connect(&address).await?;
            // A head that never ends, and a body.
            let begun = match n % 2 {
                0 => "GET /healthz HTTP/1.1\r\nhost: x\r\nx-half: ",
                _ => "POST /healthz HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nhalf",
            };
            half.write_all(begun.as_bytes()).await?;
            halves.push(half);
            if n % 10 == 0 {
                healthy(command, &address).await?;
            }
        }
        for _ in 0..20 {
            healthy(command, &address).await?;
        }
        drop(halves);
        healthy(command, &address).await?;
        assert_eq!(process.terminate().await?, 0, "{}", process.log_text());
    }
    Ok(())
}

/// Asks on a connection of its own.
async fn healthy(command: &str, address: &str) -> anyhow::Result<()> {
    let answer = tokio::time::timeout(Duration::from_secs(10), async {
        let mut connection = TcpStream::connect(address).await?;
        let request = "GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        connection.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    });
    let answer = answer.await.with_context(|| format!("{command} does not answer"))??;
    anyhow::ensure!(answer.starts_with("HTTP/1.1 200"), "{command}: {answer}");
    Ok(())
}
