//! Handlers that are down or broken, and what keeps their jobs meanwhile.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use futures_util::FutureExt as _;
use serde_json::{Value, json};
use tests::report::say;
use tests::stage::{Cloud, PATIENCE, Stage, Worker, full};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::function::{Function, answered};
use crate::python::{free_port, python};

fn job(number: usize, users: usize, kind: &str) -> Value {
    let user = format!("user-{}", number % users);
    json!({"id": format!("{kind}-{number}"), "user": user, "kind": kind, "params": {}})
}

/// Users whose tokens are as old as one must be to be renewed before its time.
async fn users(stage: &Stage, count: usize) -> anyhow::Result<()> {
    for number in 0..count {
        stage.write_user_of_age(&format!("user-{number}"), Duration::from_secs(600)).await?;
    }
    Ok(())
}

/// Nothing was delivered more than once, or dead-lettered.
fn nothing_was_spent(stage: &Stage, jobs: u64) {
    let (pubsub, _) = stage.cloud.embedded.as_ref().unwrap();
    let stats = pubsub.subscription_stats(&full("subscriptions", "jobs-workers")).unwrap();
    assert_eq!(
        (stats.acknowledged, stats.redeliveries, stats.dead_lettered),
        (jobs, 0, 0),
        "{stats:?}"
    );
}

#[tokio::test]
async fn three_hundred_jobs_of_a_kind_that_is_down_hold_nobody_up() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    users(&stage, 30).await?;
    let port = free_port().await?;
    let route = format!("down=http://127.0.0.1:{port}/");
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut worker = stage.worker(&["--forward", &route]).await?;
    let down: Vec<Value> = (0..300).map(|number| job(number, 30, "down")).collect();
    stage.publish(&down, &["--unordered"]).await?;
    worker.wait_for_message("kind down: the handler cannot be reached").await?;
    // Of the same users.
    let api = |number| {
        let mut job = job(number, 30, "api");
        let url = "https://tasks.googleapis.com/tasks/v1/lists/@default/tasks";
        job["params"] = json!({"url": url});
        job
    };
    let others: Vec<Value> = (0..60).map(api).collect();
    stage.publish(&others, &["--unordered"]).await?;
    let told = outcomes.outcomes(60).await?;
    assert!(told.values().all(|o| o["status"] == "done" && o["kind"] == "api"), "{told:?}");

    let function = Function::start_at(port, |_| async { answered(200) }.boxed()).await?;
    let told = outcomes.outcomes(300).await?;
    assert!(told.values().all(|o| o["status"] == "done" && o["attempt"] == 1), "{told:?}");
    assert_eq!(function.events().len(), 300);
    assert_eq!(worker.terminate().await?, 0);
    // More than half of what the replica may hold went back meanwhile, but nothing of the others.
    let (pubsub, _) = stage.cloud.embedded.as_ref().unwrap();
    let stats = pubsub.subscription_stats(&full("subscriptions", "jobs-workers")).unwrap();
    assert_eq!((stats.acknowledged, stats.dead_lettered), (360, 0), "{stats:?}");
    Ok(())
}

/// What a broken release of a handler does, until it is taken back.
struct Release {
    broken: Arc<AtomicBool>,
    function: Function,
}

impl Release {
    /// It asks for a token as often as a library does that was refused by an API, and answers
    /// this.
    async fn start(status: StatusCode) -> anyhow::Result<Self> {
        let broken = Arc::new(AtomicBool::new(true));
        let is_broken = Arc::clone(&broken);
        let function = Function::start(move |event| {
            let is_broken = is_broken.load(Ordering::Relaxed);
            async move {
                if !is_broken {
                    return answered(200);
                }
                for _ in 0..2 {
                    assert!(event.token().await.is_some());
                }
                (status, "<!doctype html><title>Sorry</title>").into_response()
            }
            .boxed()
        })
        .await?;
        Ok(Self { broken, function })
    }

    fn take_back(&self) {
        self.broken.store(false, Ordering::Relaxed);
    }
}

async fn done(mut worker: Worker, stage: &Stage, jobs: usize) -> anyhow::Result<()> {
    let told = stage.inbox("outcomes").await?.outcomes(jobs).await?;
    assert!(told.values().all(|outcome| outcome["status"] == "done"), "{told:?}");
    assert_eq!(worker.terminate().await?, 0);
    nothing_was_spent(stage, jobs as u64);
    Ok(())
}

#[tokio::test]
async fn a_release_that_answers_500_to_everything_renews_few_tokens() -> anyhow::Result<()> {
    const JOBS: usize = 40;
    let stage = Stage::set(Cloud::embedded().await?).await?;
    users(&stage, JOBS).await?;
    let release = Release::start(StatusCode::INTERNAL_SERVER_ERROR).await?;
    let worker = stage.worker(&["--forward", &release.function.route("greet")]).await?;
    let jobs: Vec<Value> = (0..JOBS).map(|number| job(number, JOBS, "greet")).collect();
    stage.publish(&jobs, &[]).await?;
    release.function.comes(3 * JOBS).await?;
    release.take_back();
    done(worker, &stage, JOBS).await?;
    let calls = stage.google.refresh_calls();
    let users: BTreeSet<_> = calls.iter().map(|call| &call.sub).collect();
    assert_eq!(users.len(), calls.len(), "a user's token is renewed once");
    // One a second, begun a little before each of them arrives.
    let span = calls.last().context("none is renewed")?.at - calls[0].at;
    assert!(calls.len() as u64 <= span.as_secs() + 2, "{} in {span:?}", calls.len());
    say(format!("{JOBS} jobs met 500 three times: {} refreshes", calls.len()));
    Ok(())
}

#[tokio::test]
async fn a_release_that_knows_no_job_dead_letters_none() -> anyhow::Result<()> {
    for status in [StatusCode::NOT_FOUND, StatusCode::BAD_REQUEST] {
        let stage = Stage::set(Cloud::embedded().await?).await?;
        users(&stage, 20).await?;
        let release = Release::start(status).await?;
        let mut worker = stage.worker(&["--forward", &release.function.route("greet")]).await?;
        let jobs: Vec<Value> = (0..20).map(|number| job(number, 20, "greet")).collect();
        stage.publish(&jobs, &[]).await?;
        let said = format!("kind greet: the handler answered HTTP status {}", status.as_u16());
        worker.wait_for_message(&said).await?;
        release.function.comes(10).await?;
        release.take_back();
        done(worker, &stage, 20).await?;
    }
    Ok(())
}

/// Python's own server for files, which knows no POST.
async fn stranger(port: u16, stage: &Stage) -> anyhow::Result<Child> {
    let mut stranger = Command::new("python3")
        .args(["-u", "-m", "http.server", "--bind", "127.0.0.1", &port.to_string()])
        .current_dir(stage.path("."))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(stranger.stdout.take().context("no stdout")?).lines();
    let first = tokio::time::timeout(PATIENCE, lines.next_line()).await??;
    anyhow::ensure!(first.is_some_and(|line| line.starts_with("Serving HTTP")));
    Ok(stranger)
}

/// The handler has died, and another program listens where it was.
#[tokio::test]
async fn jobs_wait_while_another_program_has_the_handlers_port() -> anyhow::Result<()> {
    if python().is_none() {
        say("LEFT OUT forward::broken: python3 is not in the PATH");
        return Ok(());
    }
    let stage = Stage::set(Cloud::embedded().await?).await?;
    users(&stage, 10).await?;
    let port = free_port().await?;
    let listen = || Function::start_at(port, |_| async { answered(200) }.boxed());
    let route = format!("greet=http://127.0.0.1:{port}/");
    let mut outcomes = stage.inbox("outcomes").await?;
    let function = listen().await?;
    let mut worker = stage.worker(&["--forward", &route]).await?;
    stage.publish(&[job(0, 10, "greet")], &[]).await?;
    outcomes.outcomes(1).await?;
    function.stop().await;
    let mut other = stranger(port, &stage).await?;
    let jobs: Vec<Value> = (1..10).map(|number| job(number, 10, "greet")).collect();
    stage.publish(&jobs, &[]).await?;
    worker.wait_for_message("kind greet: the handler answered HTTP status 501").await?;
    other.kill().await?;
    let function = listen().await?;
    let told = outcomes.outcomes(9).await?;
    assert!(told.values().all(|outcome| outcome["status"] == "done"), "{told:?}");
    assert_eq!(function.events().len(), 9);
    assert_eq!(worker.terminate().await?, 0);
    nothing_was_spent(&stage, 10);
    Ok(())
}
