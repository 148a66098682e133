//! A handler in Python, of its standard library alone, that crashes and is down at first.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tests::report::say;
use tests::stage::{Cloud, PATIENCE, Stage};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

fn job(id: &str, kind: &str, says: &str) -> Value {
    json!({"id": id, "user": "ann", "kind": kind, "params": {"says": says}})
}

pub(crate) fn python() -> Option<&'static str> {
    let found = std::process::Command::new("python3")
        .args(["-c", "import http.server"])
        .stderr(Stdio::null())
        .status();
    found.is_ok_and(|status| status.success()).then_some("python3")
}

/// The handler, once it listens.
async fn start(port: u16, google: &str) -> anyhow::Result<Child> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/forward/handler.py");
    let mut handler = Command::new("python3")
        .arg(script)
        .args([&port.to_string(), google])
        .env("NO_PROXY", "127.0.0.1,localhost")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let said = handler.stdout.take().context("no stdout")?;
    let mut lines = BufReader::new(said).lines();
    let first = tokio::time::timeout(PATIENCE, lines.next_line()).await??;
    anyhow::ensure!(first.as_deref() == Some("listening"), "{first:?}");
    Ok(handler)
}

pub(crate) async fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port())
}

#[tokio::test]
async fn a_handler_that_is_down_crashes_and_raises() -> anyhow::Result<()> {
    if python().is_none() {
        say("LEFT OUT forward::python: python3 is not in the PATH");
        return Ok(());
    }
    let stage = Stage::set(Cloud::embedded().await?).await?;
    stage.user("ann", Duration::ZERO).await?;
    let (port, google) = (free_port().await?, stage.google.origin());
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut dead = stage.inbox("jobs-dead-review").await?;
    let url = format!("http://127.0.0.1:{port}/");
    let (again, once) = (format!("again={url}"), format!("once={url}"));
    let flags = ["--forward", &again, "--forward", &once, "--forward-once", "once"];
    let mut worker = stage.worker(&flags).await?;

    // It starts after the job was published.
    stage.publish(&[job("down", "again", "act")], &["--unordered"]).await?;
    worker.wait_for_message("kind again: the handler cannot be reached").await?;
    let mut handler = start(port, &google).await?;
    let told = outcomes.outcomes(1).await?;
    assert_eq!(told["down"]["status"], "done", "{told:?}");
    assert_eq!(
        (&told["down"]["attempt"], &told["down"]["result"]),
        (&json!(1), &json!({"task": "down"}))
    );

    // It ends in the middle of a job that must not be done twice.
    stage.publish(&[job("once", "once", "crash")], &["--unordered"]).await?;
    let told = outcomes.outcomes(1).await?;
    assert_eq!(
        (&told["once"]["status"], &told["once"]["effect"]),
        (&json!("rejected"), &json!("unknown"))
    );
    let (letter, attributes) = dead.next().await?;
    assert_eq!((&letter["id"], &*attributes["effect"]), (&json!("once"), "unknown"));
    assert!(attributes["reason"].contains("connection to the handler was lost"), "{attributes:?}");
    tokio::time::timeout(PATIENCE, handler.wait()).await??;

    // One that raises is asked again, and so is one that crashed.
    let mut handler = start(port, &google).await?;
    stage.publish(&[job("raise", "again", "raise")], &["--unordered"]).await?;
    let told = outcomes.outcomes(1).await?;
    assert_eq!((&told["raise"]["status"], &told["raise"]["attempt"]), (&json!("done"), &json!(3)));
    stage.publish(&[job("crash", "again", "crash")], &["--unordered"]).await?;
    tokio::time::timeout(PATIENCE, handler.wait()).await??;
    let _handler = start(port, &google).await?;
    let told = outcomes.outcomes(1).await?;
    assert_eq!((&told["crash"]["status"], &told["crash"]["attempt"]), (&json!("done"), &json!(2)));
    assert_eq!(stage.google.effects().len(), 3);
    assert_eq!(worker.terminate().await?, 0);
    Ok(())
}
