//! Handlers that are down, raise, crash or are slow, and users who must do something first.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use emulators::google;
use serde_json::{Value, json};
use tests::stage::{BUCKET, Stage, full};

use crate::programs::{Clients, Language, Program, clients, free_port, stage};
use crate::written::tells_no_secret;

const DRIVE: &str = "https://www.googleapis.com/auth/drive.readonly";

/// A job of a user of its own, who is called as what it says.
fn job(kind: &str, says: &str) -> Value {
    let params = json!({"title": says, "says": says, "other": "keep", "seconds": 13});
    json!({"id": says, "user": user(says), "kind": kind, "params": params})
}

fn user(says: &str) -> String {
    says.replace(' ', "-")
}

fn effects(stage: &Stage) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for effect in stage.google.effects() {
        assert_eq!(effect.sub, user(&effect.title));
        *counts.entry(effect.title).or_default() += 1;
    }
    counts
}

fn ends(told: &BTreeMap<String, Value>) -> BTreeMap<&str, (&str, u64)> {
    let end = |outcome: &Value| outcome["attempt"].as_u64().unwrap_or_default();
    let ends = told.iter();
    ends.map(|(id, outcome)| (&**id, (outcome["status"].as_str().unwrap(), end(outcome)))).collect()
}

/// Whether it ended in the middle of a job that is done once.
fn is_unknown(outcome: &Value) -> bool {
    outcome["status"] == "rejected" && outcome["effect"] == "unknown"
}

async fn troubles(test: &str, language: Language) -> anyhow::Result<()> {
    let Some(clients) = clients(test)? else { return Ok(()) };
    let stage = stage(google::Config::default()).await?;
    let again = ["down", "raise", "rejected", "drive", "slow", "other", "store", "keep"];
    let once = ["raise after", "noted"];
    for says in again.iter().chain(&once).chain(&["kept", "crash", "linger"]) {
        // A token that is younger is not renewed before its time.
        stage.write_user_of_age(&user(says), Duration::from_secs(600)).await?;
    }
    stage.google.expire_access_tokens("rejected");
    let port = free_port().await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    let [greet, late] = ["greet", "once"].map(|kind| format!("{kind}=http://127.0.0.1:{port}/"));
    let mut flags = vec!["--forward", &*greet, "--forward", &*late, "--forward-once", "once"];
    flags.extend(["--ack-extension", "10s", "--drain", "3s"]);
    let mut worker = stage.worker(&flags).await?;

    // The handler starts after the first job was published.
    stage.publish(&[job("greet", "down")], &[]).await?;
    worker.wait_for_message("kind greet: the handler cannot be reached").await?;
    let handler = clients.function(&stage, language, "trouble", port).await?;
    let told = outcomes.outcomes(1).await?;
    assert_eq!(ends(&told), [("down", ("done", 1))].into(), "{told:?}");

    let mut jobs: Vec<Value> = again[1..].iter().map(|says| job("greet", says)).collect();
    jobs.extend(once.iter().map(|says| job("once", says)));
    stage.publish(&jobs, &[]).await?;
    let told = outcomes.outcomes(jobs.len()).await?;
    let ended = ends(&told);
    for (says, attempt) in
        [("raise", 2), ("rejected", 2), ("slow", 1), ("other", 1), ("store", 1), ("keep", 1)]
    {
        assert_eq!(ended[says], ("done", attempt), "{says}: {:?}", told[says]);
    }
    assert_eq!(ended["drive"].0, "parked", "{:?}", told["drive"]);
    waits_for_drive(&stage).await?;
    let refreshes = stage.google.refresh_calls();
    let refreshes: Vec<_> = refreshes.iter().filter_map(|call| call.sub.as_deref()).collect();
    assert_eq!(refreshes, ["rejected"], "renewed once");
    for says in once {
        assert!(is_unknown(&told[says]), "{:?}", told[says]);
    }

    stage.publish(&[job("greet", "kept")], &[]).await?;
    let told = outcomes.outcomes(1).await?;
    assert_eq!(ends(&told), [("kept", ("done", 1))].into(), "{told:?}");

    stage.publish(&[job("greet", "crash")], &[]).await?;
    let (mut handler, mut gone) = after_a_crash(&stage, &clients, language, handler, port).await?;
    let told = outcomes.outcomes(1).await?;
    assert_eq!(ends(&told), [("crash", ("done", 2))].into(), "{told:?}");

    // Longer than the drain: the framework finishes the job after the worker is gone.
    let mut longer = job("once", "linger");
    longer["params"]["seconds"] = json!(6);
    stage.publish(&[longer], &[]).await?;
    handler.says("lingers").await?;
    assert_eq!(worker.terminate().await?, 0);
    assert!(!handler.written().contains("has ended"), "it was as long as the drain");
    let told = outcomes.outcomes(1).await?;
    assert!(is_unknown(&told["linger"]), "{told:?}");
    handler.says("has ended").await?;

    // Nothing is left, and nothing was done twice.
    let (pubsub, _) = stage.cloud.embedded.as_ref().unwrap();
    let stats = pubsub.subscription_stats(&full("subscriptions", "jobs-workers")).unwrap();
    assert_eq!(stats.acknowledged, 13, "{stats:?}");
    let counts = effects(&stage);
    assert!(counts.values().all(|count| *count == 1), "{counts:?}");
    assert_eq!(counts.len(), 12, "all but the one that is parked: {counts:?}");
    handler.terminate().await?;
    gone.push(handler);
    tells_no_secret(&stage, &[&worker], &gone.iter().collect::<Vec<_>>());
    Ok(())
}

async fn waits_for_drive(stage: &Stage) -> anyhow::Result<()> {
    let parked = stage.cloud.objects(BUCKET, "parked/").await?;
    let parked = parked.iter().find(|name| !name.ends_with("/claim")).context("none is parked")?;
    let stored: Value = serde_json::from_str(&stage.cloud.object(BUCKET, parked).await?)?;
    assert_eq!(stored["reason"], "scopes_missing");
    assert_eq!(stored["missing_scopes"], json!([DRIVE]));
    Ok(())
}

/// gunicorn starts another worker process by itself; Node is started again, as Kubernetes does.
/// The handler that serves now, and those that have ended.
async fn after_a_crash(
    stage: &Stage,
    clients: &Clients,
    language: Language,
    mut handler: Program,
    port: u16,
) -> anyhow::Result<(Program, Vec<Program>)> {
    match language {
        Language::Python => Ok((handler, Vec::new())),
        Language::Node => {
            handler.ended().await?;
            let next = clients.function(stage, language, "trouble", port).await?;
            Ok((next, vec![handler]))
        }
    }
}

#[tokio::test]
async fn python_in_trouble() -> anyhow::Result<()> {
    troubles("troubles::python", Language::Python).await
}

#[tokio::test]
async fn node_in_trouble() -> anyhow::Result<()> {
    troubles("troubles::node", Language::Node).await
}
