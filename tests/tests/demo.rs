//! `fleet demo`: kills cost no more than they must, and with `--compare` Fleet keeps its
//! promises where the unguarded way breaks them.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tests::stage::{PATIENCE, fleet_binary};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

fn demo(flags: &[&str]) -> anyhow::Result<Child> {
    command(flags).spawn().context("the demo cannot be started")
}

fn command(flags: &[&str]) -> Command {
    let mut command = Command::new(fleet_binary());
    command.arg("demo").args(flags).env_clear().stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Each user whose grant went with a killed replica is told once, whatever waits for them.
#[tokio::test]
async fn what_kills_cost_is_judged_call_by_call_and_told_once_for_each_user() -> anyhow::Result<()>
{
    let flags = ["--json", "--replicas", "2", "--users", "20", "--jobs", "600", "--kill", "5"];
    let run = demo(&flags)?.wait_with_output();
    let output = tokio::time::timeout(3 * PATIENCE, run).await??;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let number = |name: &str| report[name].as_u64().context(name.to_owned());
    assert_eq!((number("killed")?, number("lost")?), (5, 0), "{report}");
    let ended = number("done")? + number("parked")? + number("rejected")?;
    assert_eq!(ended + number("dead_lettered")?, 600, "{report}");
    assert!(number("refresh_token_reuse")? <= number("crash_window")?, "{report}");
    let told = said.lines().filter(|line| line.contains("must consent again")).count();
    assert_eq!(told as u64, number("users_locked_out")?, "{said}");
    assert!(!said.contains("job parked"), "{said}");
    assert!(!said.contains("the job subscription has"), "{said}");
    Ok(())
}

/// Ten users, and fifteen bunches of ten jobs that arrive together when the user's token has
/// expired: chance does not spare all of the users.
#[tokio::test]
async fn fleet_locks_nobody_out_and_the_unguarded_way_does() -> anyhow::Result<()> {
    let flags = ["--replicas", "2", "--users", "10", "--jobs", "150", "--kill", "0"];
    let run = demo(&[&["--compare", "--json"], &flags[..]].concat())?.wait_with_output();
    let output = tokio::time::timeout(PATIENCE, run).await??;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout)?;
    let (fleet, unguarded) = (&report["fleet"], &report["unguarded"]);
    let number = |side: &Value, name: &str| side[name].as_u64().context(name.to_owned());
    assert_eq!((number(fleet, "done")?, number(fleet, "lost")?), (150, 0), "{report}");
    for nothing in ["users_locked_out", "refresh_token_reuse", "set_aside", "crash_window"] {
        assert_eq!(number(fleet, nothing)?, 0, "{report}");
    }
    assert_eq!(fleet["token_endpoint_calls_per_expiry"], 1.0, "{report}");
    assert!(number(fleet, "expiries")? >= 5, "{report}");
    assert!(number(unguarded, "users_locked_out")? > 0, "{report}");
    assert!(number(unguarded, "refresh_token_reuse")? > 0, "{report}");
    assert!(unguarded["token_endpoint_calls_per_expiry"].as_f64().unwrap() > 1.0, "{report}");
    assert!(number(unguarded, "set_aside")? > 0 && number(unguarded, "done")? < 150, "{report}");
    assert!(report["summary"].as_str().unwrap().contains("locked nobody out"), "{report}");
    Ok(())
}

/// Ctrl-C in the middle of the unguarded side: its replicas, which share the demo's stderr,
/// close it.
#[tokio::test]
async fn an_interrupted_comparison_leaves_nothing_behind() -> anyhow::Result<()> {
    let mut demo = demo(&["--compare", "--users", "2", "--jobs", "40", "--kill", "0"])?;
    let mut lines = BufReader::new(demo.stderr.take().context("no stderr")?).lines();
    let mut said = Vec::new();
    let begun = async {
        while let Some(line) = lines.next_line().await? {
            let reached = line.starts_with("unguarded: starting");
            said.push(line);
            if reached {
                return Ok(());
            }
        }
        anyhow::bail!("the demo ended: {said:?}")
    };
    tokio::time::timeout(PATIENCE, begun).await??;
    let pid = demo.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    kill_process(pid.context("the demo is gone")?, Signal::INT)?;
    let rest = async {
        let mut rest = Vec::new();
        while let Some(line) = lines.next_line().await? {
            rest.push(line);
        }
        anyhow::Ok((rest, demo.wait().await?))
    };
    let (rest, status) = tokio::time::timeout(Duration::from_secs(10), rest).await??;
    assert_eq!(status.code(), Some(1), "{rest:?}");
    assert!(rest.iter().any(|line| line.contains("interrupted; nothing is left")), "{rest:?}");
    Ok(())
}

/// Not even the OAuth client's file.
#[tokio::test]
async fn a_demo_that_is_terminated_leaves_nothing_behind() -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let files = || std::fs::read_dir(folder.path()).map(Iterator::count);
    let mut command = command(&["--replicas", "1", "--users", "2", "--kill", "0"]);
    let mut demo = command.env("TMPDIR", folder.path()).spawn()?;
    let mut lines = BufReader::new(demo.stderr.take().context("no stderr")?).lines();
    let begun = async {
        while let Some(line) = lines.next_line().await? {
            if line.contains("importing") {
                return Ok(());
            }
        }
        anyhow::bail!("the demo ended")
    };
    tokio::time::timeout(PATIENCE, begun).await??;
    assert!(files()? > 0);
    let pid = demo.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    kill_process(pid.context("the demo is gone")?, Signal::TERM)?;
    let ended = async {
        while lines.next_line().await?.is_some() {}
        anyhow::Ok(demo.wait().await?)
    };
    let status = tokio::time::timeout(PATIENCE, ended).await??;
    assert_eq!((status.code(), files()?), (Some(1), 0));
    Ok(())
}
