//! Many jobs of many users, whose tokens expire and whose worker is replaced meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use emulators::google;
use serde_json::{Value, json};
use tests::report::say;
use tests::stage::{PATIENCE, Stage};

use crate::programs::{Language, clients, free_port, stage};
use crate::written::tells_no_secret;

const USERS: usize = 20;
const JOBS: usize = 200;

fn user(number: usize) -> String {
    format!("user-{}", number % USERS)
}

fn job(number: usize) -> Value {
    let id = format!("job-{number}");
    json!({"id": id, "user": user(number), "kind": "greet", "params": {"title": id}})
}

fn statuses(told: &BTreeMap<String, Value>) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for outcome in told.values() {
        *counts.entry(outcome["status"].as_str().unwrap()).or_default() += 1;
    }
    counts
}

async fn two_hundred_jobs(test: &str, language: Language) -> anyhow::Result<()> {
    let Some(clients) = clients(test)? else { return Ok(()) };
    let life = Duration::from_secs(3);
    // With eight at once the jobs take about four seconds.
    let api_latency = Duration::from_millis(150);
    let provider = google::Config { token_lifetime: life, api_latency, ..Default::default() };
    let stage = stage(provider).await?;
    for number in 0..USERS {
        stage.write_user(&user(number), life).await?;
    }
    stage.google.revoke_user(&user(0));
    let port = free_port().await?;
    let mut handler = clients.function(&stage, language, "trouble", port).await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    let route = format!("greet=http://127.0.0.1:{port}/");
    let flags = ["--forward", &*route, "--drain", "30s"];
    let mut first = stage.worker(&flags).await?;
    let jobs: Vec<Value> = (0..JOBS).map(job).collect();
    stage.publish(&jobs, &[]).await?;

    // The first worker is told to end in the middle.
    let middle = stage.google.wait_for(|stats| stats.effects >= 60);
    tokio::time::timeout(PATIENCE, middle).await.context("no jobs are done")?;
    assert_eq!(first.terminate().await?, 0);
    let done = stage.google.effects().len();
    assert!(done < JOBS - JOBS / USERS, "the worker ended when all was done");
    let mut second = stage.worker(&flags).await?;
    let told = outcomes.outcomes(JOBS).await?;
    let of_one = JOBS / USERS;
    assert_eq!(statuses(&told), [("done", JOBS - of_one), ("parked", of_one)].into());

    // The revoked user consents again.
    stage.user_without_access_token(&user(0)).await?;
    let told = outcomes.outcomes(of_one).await?;
    assert_eq!(statuses(&told), [("done", of_one)].into(), "{told:?}");
    all_once_as_their_users(&stage);
    assert_eq!(second.terminate().await?, 0);
    handler.terminate().await?;
    let handles = std::fs::read_to_string(stage.path("handles"))?;
    assert!(handles.lines().count() >= JOBS, "each attempt had a handle");
    tells_no_secret(&stage, &[&first, &second], &[&handler]);
    Ok(())
}

/// By the API's own record.
fn all_once_as_their_users(stage: &Stage) {
    let effects = stage.google.effects();
    let mut users = BTreeMap::new();
    for effect in &effects {
        let before = users.insert(effect.title.clone(), effect.sub.clone());
        assert_eq!(before, None, "{} twice", effect.title);
    }
    let wanted: BTreeMap<String, String> =
        (0..JOBS).map(|number| (format!("job-{number}"), user(number))).collect();
    assert_eq!(users, wanted);
    let stats = stage.google.stats(&google::StatsQuery::default());
    assert_eq!(stats.reused, 0);
    assert!(stats.refreshed > USERS as u64, "their tokens expired meanwhile: {stats:?}");
    say(format!("{JOBS} jobs of {USERS} users, {} tokens", stats.refreshed));
}

#[tokio::test]
async fn python_acts_as_the_right_user_every_time() -> anyhow::Result<()> {
    two_hundred_jobs("acting::python", Language::Python).await
}

#[tokio::test]
async fn node_acts_as_the_right_user_every_time() -> anyhow::Result<()> {
    two_hundred_jobs("acting::node", Language::Node).await
}
