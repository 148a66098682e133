//! Programs with kinds of their own: the examples of the package `worker`, as processes.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use anyhow::Context as _;
use emulators::faults::Fault;
use emulators::storage::Operation;
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::dev::Dev;
use tests::stage::{BUCKET, Cloud, Stage, example, run_program};

const OBJECT: &str = "notes.txt";
const NOTES: &str = "the user's own notes";

fn read(id: &str) -> Value {
    let params = json!({"bucket": "theirs", "object": OBJECT});
    json!({"id": id, "user": "ann", "kind": "storage.read", "params": params})
}

/// A bucket with an object in it, by the JSON API.
async fn put_object(origin: &str) -> anyhow::Result<()> {
    let http = reqwest::Client::new();
    let bucket = http.post(format!("{origin}/storage/v1/b?project=p"));
    bucket.json(&json!({"name": "theirs"})).send().await?.error_for_status()?;
    let url = format!("{origin}/upload/storage/v1/b/theirs/o?uploadType=media&name={OBJECT}");
    http.post(url).body(NOTES).send().await?.error_for_status()?;
    Ok(())
}

#[tokio::test]
async fn the_example_runs_on_a_local_stack_with_one_command() -> anyhow::Result<()> {
    let program = example("official_client");
    let mut dev = Dev::start(&program, &["--web", "0", "--broker", "127.0.0.1:0"]).await?;
    put_object(dev.get("STORAGE_EMULATOR_HOST").context("no storage")?).await?;
    let params = json!({"bucket": "theirs", "object": OBJECT}).to_string();
    let publish = ["publish", "--user", "user-1", "--kind", "storage.read", "--params", &params];
    let published = dev.run(&program, &publish).await?;
    assert_eq!(published.code, 0, "{}", published.stderr);
    let outcome = dev.outcome().await?;
    assert_eq!(
        (&outcome["status"], &outcome["kind"], &outcome["result"]["bytes"]),
        (&json!("done"), &json!("storage.read"), &json!(NOTES.len())),
        "{outcome}"
    );
    let line = dev.says("job done").await?;
    assert!(line.contains("kind=storage.read"), "a person sees it too: {line}");
    assert_eq!(dev.terminate().await?, Some(0));
    Ok(())
}

/// As `fleet worker`: signals, probes and metrics.
#[tokio::test]
async fn a_job_of_ones_own_kind_ends_at_sigterm_before_its_worker() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    stage.user("ann", Duration::ZERO).await?;
    put_object(&stage.cloud.storage).await?;
    let (_, storage) = stage.cloud.embedded.as_ref().context("no emulators")?;
    let slow = Fault::latency(Duration::from_secs(2)).on(Operation::Read).about(OBJECT);
    let reading = storage.inject(slow);
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut worker = stage.start_program(&example("official_client"), &["worker"])?;
    worker.wait_for_message("taking jobs").await?;
    let health = worker.health().context("no address of probes")?;
    let metrics = reqwest::get(format!("http://{health}/metrics")).await?.text().await?;
    assert!(metrics.contains(r#"kind="storage.read""#), "it is counted from 0 on: {metrics}");
    stage.publish(&[read("first"), read("second")], &[]).await?;
    reading.hits(1).await;
    worker.signal(Signal::TERM)?;
    worker.wait_for_message("stopping: no new jobs").await?;
    assert_eq!(worker.ended().await?, 0);
    let told = outcomes.outcomes(1).await?;
    assert_eq!(told["first"]["status"], "done", "{told:?}");
    assert_eq!(told["first"]["result"]["bytes"], NOTES.len());
    assert_eq!(reading.count(), 1, "the second one goes back");
    Ok(())
}

#[tokio::test]
async fn a_kind_of_ones_own_is_not_forwarded_too() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    let route = ["worker", "--forward", "storage.read=http://127.0.0.1:1/"];
    let refused = run_program(&example("official_client"), &route, &stage.environment()).await?;
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(refused.stderr.contains("storage.read is this program's own"), "{}", refused.stderr);
    Ok(())
}

/// What the environment says is connected; the kinds and the end are the program's.
#[tokio::test]
async fn a_program_that_brings_its_own_parts() -> anyhow::Result<()> {
    let mut stage = Stage::set(Cloud::embedded().await?).await?;
    stage.user("ann", Duration::ZERO).await?;
    // As manifests leave what they do not set.
    stage.variables.push(("FLEET_KEYRING".to_owned(), String::new()));
    let program = example("own_parts");
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut worker = stage.start_program(&program, &[])?;
    worker.wait_for(|line| line.to_string().contains("taking jobs")).await?;
    let job = json!({"id": "j", "user": "ann", "kind": "greet", "params": {"n": 1}});
    stage.publish(&[job], &[]).await?;
    let told = outcomes.outcomes(1).await?;
    assert_eq!(told["j"]["result"], json!({"hello": "ann", "params": {"n": 1}}), "{told:?}");
    assert_eq!(worker.terminate().await?, 0);

    let variables = stage.environment();
    let said = async |name: &str, value: Option<&str>| -> anyhow::Result<String> {
        let mut variables: Vec<_> =
            variables.iter().filter(|(known, _)| known != name).cloned().collect();
        variables.extend(value.map(|value| (name.to_owned(), value.to_owned())));
        let output = run_program(&program, &[], &variables).await?;
        assert_eq!(output.code, 1, "{name}: {}", output.stderr);
        Ok(output.stderr)
    };
    for (name, value, says) in [
        ("FLEET_BUCKET", None, "not set: FLEET_BUCKET"),
        ("FLEET_SUBSCRIPTION", Some(""), "not set: FLEET_SUBSCRIPTION"),
        ("FLEET_OAUTH_CLIENT", None, "FLEET_OAUTH_CLIENT"),
        ("FLEET_DRAIN", Some("soon"), "--drain"),
        ("PUBSUB_EMULATOR_HOST", None, "PUBSUB_EMULATOR_HOST is not"),
        ("PUBSUB_EMULATOR_HOST", Some("127.0.0.1:1"), "nothing answers"),
        ("FLEET_FORWARD", Some("k=http://127.0.0.1:1/"), "only `fleet worker` forwards"),
    ] {
        let text = said(name, value).await?;
        assert!(text.contains(says), "{name}: {text}");
    }
    assert!(!stage.cloud.objects(BUCKET, "tokens/").await?.is_empty());
    Ok(())
}
