//! What becomes of jobs, on the terminal: `fleet publish --wait` and `fleet outcomes`. Each reads
//! by a subscription of its own, and none is left, however the command ends.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tests::stage::{BUCKET, Cloud, Output, PATIENCE, PROJECT, Stage};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Child;

const HOUR: Duration = Duration::from_secs(3600);

/// The subscriptions that commands made for themselves.
async fn own_subscriptions(stage: &Stage) -> anyhow::Result<Vec<Value>> {
    let url = format!("http://{}/v1/projects/{PROJECT}/subscriptions", stage.cloud.pubsub);
    let list: Value = reqwest::get(url).await?.error_for_status()?.json().await?;
    let all = list["subscriptions"].as_array().cloned().unwrap_or_default();
    let is_own = |one: &Value| one["name"].as_str().unwrap().contains("/fleet-reader-");
    Ok(all.into_iter().filter(is_own).collect())
}

async fn nothing_is_left(stage: &Stage) -> anyhow::Result<()> {
    assert_eq!(own_subscriptions(stage).await?, Vec::<Value>::new());
    Ok(())
}

/// Publishes one job and waits for it.
async fn wait_for(stage: &Stage, user: &str, flags: &[&str]) -> anyhow::Result<Output> {
    stage.fleet(&[&["publish", "--wait", "--user", user], flags].concat()).await
}

fn one_line(output: &Output) -> anyhow::Result<Value> {
    anyhow::ensure!(output.stdout.lines().count() == 1, "{} {}", output.stdout, output.stderr);
    Ok(serde_json::from_str(&output.stdout)?)
}

async fn ends_as_its_outcome(stage: &Stage) -> anyhow::Result<()> {
    let done = wait_for(stage, "ann", &["--kind", "profile", "--id", "a", "--json"]).await?;
    assert_eq!(done.code, 0, "{}", done.stderr);
    let outcome = one_line(&done)?;
    assert_eq!((&outcome["job"], &outcome["status"]), (&json!("a"), &json!("done")));
    assert_eq!(outcome["result"]["sub"], "ann", "{outcome}");
    // Without an ID of its own a job has its message's.
    let done = wait_for(stage, "ann", &["--kind", "profile"]).await?;
    assert_eq!(done.code, 0, "{}", done.stderr);
    let (line, result) = done.stdout.split_once('\n').context("two lines")?;
    assert!(line.contains("  done      ") && line.contains("  ann  profile  "), "{line}");
    assert!(line.ends_with(" ms"), "{line}");
    assert_eq!(serde_json::from_str::<Value>(result)?["sub"], "ann");

    let gone = json!({"url": "https://www.googleapis.com/v1/status/404"}).to_string();
    let rejected = wait_for(stage, "ann", &["--kind", "api", "--params", &gone]).await?;
    assert_eq!(rejected.code, 1, "{}", rejected.stderr);
    assert!(rejected.stdout.contains("  rejected  ") && rejected.stdout.contains("404"));
    assert!(rejected.stderr.contains("fleet dead list"), "{}", rejected.stderr);
    nothing_is_left(stage).await
}

#[tokio::test]
async fn a_publisher_that_waits_ends_as_its_job_does() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    stage.user("ann", Duration::ZERO).await?;
    let _worker = stage.worker(&[]).await?;
    ends_as_its_outcome(&stage).await?;
    let parked = wait_for(&stage, "stranger", &["--kind", "profile", "--json"]).await?;
    assert_eq!(parked.code, 3, "{}", parked.stderr);
    assert_eq!(one_line(&parked)?["status"], "parked");
    assert!(parked.stderr.contains("connect-link"), "{}", parked.stderr);
    assert_eq!(stage.cloud.objects(BUCKET, "parked/stranger/").await?.len(), 1);
    nothing_is_left(&stage).await
}

#[tokio::test]
async fn on_googles_emulator_a_publisher_that_waits_ends_as_its_job_does() -> anyhow::Result<()> {
    let test = "outcomes::on_googles_emulator_a_publisher_that_waits_ends_as_its_job_does";
    let Some(cloud) = Cloud::external_if_found(test).await? else { return Ok(()) };
    let stage = Stage::set(cloud).await?;
    stage.user("ann", Duration::ZERO).await?;
    let _worker = stage.worker(&[]).await?;
    ends_as_its_outcome(&stage).await?;
    follows(&stage).await
}

/// All of a file are waited for, each once; those that are not done are shown.
#[tokio::test]
async fn the_jobs_of_a_file_are_waited_for() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    for user in ["ann", "ben"] {
        stage.user(user, Duration::ZERO).await?;
    }
    let _worker = stage.worker(&[]).await?;
    let job = |id: &str, user: &str| json!({"id": id, "user": user, "kind": "profile"});
    let mut jobs: Vec<Value> =
        (0..40).map(|n| job(&format!("j{n}"), if n % 2 == 0 { "ann" } else { "ben" })).collect();
    let file = stage.path("jobs.jsonl").display().to_string();
    let publish = async |jobs: &[Value], flags: &[&str]| {
        let lines: Vec<String> = jobs.iter().map(ToString::to_string).collect();
        std::fs::write(&file, lines.join("\n"))?;
        stage.fleet(&[&["publish", "--wait", "--file", &file], flags].concat()).await
    };
    let output = publish(&jobs, &[]).await?;
    assert_eq!((output.code, &*output.stdout), (0, "40 done\n"), "{}", output.stderr);
    jobs.push(job("waits", "stranger"));
    let output = publish(&jobs, &[]).await?;
    assert_eq!(output.code, 3, "{}", output.stderr);
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{}", output.stdout);
    assert!(lines[0].contains("  parked    waits  stranger  profile  unknown_user: "));
    assert_eq!(lines[1], "40 done, 1 parked");
    jobs[0] = json!({"id": "j0", "user": "ann", "kind": "brew"});
    let output = publish(&jobs, &["--json"]).await?;
    assert_eq!(output.code, 1, "{}", output.stderr);
    let outcomes = output.stdout.lines().map(serde_json::from_str::<Value>);
    let told: BTreeSet<String> = outcomes
        .map(|outcome| Ok(outcome?["job"].as_str().unwrap().to_owned()))
        .collect::<Result<_, serde_json::Error>>()?;
    assert_eq!(told.len(), 41);
    assert!(output.stderr.contains("39 done, 1 parked, 1 rejected"), "{}", output.stderr);
    nothing_is_left(&stage).await
}

/// Nobody takes the job: the command says so, and leaves nothing behind but the job.
#[tokio::test]
async fn an_outcome_that_does_not_come_is_waited_for_so_long() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    let output = wait_for(&stage, "ann", &["--kind", "profile", "--timeout", "500ms"]).await?;
    assert_eq!((output.code, &*output.stdout), (1, ""), "{}", output.stderr);
    for part in ["1 job(s) have not ended", "500ms", "--timeout", "fleet outcomes --follow"] {
        assert!(output.stderr.contains(part), "{part}: {}", output.stderr);
    }
    nothing_is_left(&stage).await?;
    assert_eq!(stage.inbox("jobs-workers").await?.next().await?.0["user"], "ann");
    let nowhere = ["--kind", "profile", "--outcomes-topic"];
    for (topic, part) in [("", "--wait needs --outcomes-topic"), ("other", "does not exist")] {
        let output = wait_for(&stage, "ann", &[&nowhere[..], &[topic]].concat()).await?;
        assert_eq!(output.code, 2, "{}", output.stderr);
        assert!(output.stderr.contains(part), "{}", output.stderr);
    }
    Ok(())
}

/// A command that reads outcomes, once it does.
struct Reading {
    child: Child,
    said: BufReader<tokio::process::ChildStderr>,
    lines: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Reading {
    async fn start(stage: &Stage, args: &[&str]) -> anyhow::Result<Self> {
        let mut child = stage.start(args)?;
        let mut said = BufReader::new(child.stderr.take().context("stderr")?);
        let lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
        let mut line = String::new();
        tokio::time::timeout(PATIENCE, said.read_line(&mut line)).await??;
        anyhow::ensure!(line.starts_with("reading projects/stage/topics/outcomes by "), "{line}");
        Ok(Self { child, said, lines })
    }

    async fn next(&mut self) -> anyhow::Result<String> {
        let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await??;
        line.context("it ended")
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(kill_process(pid.context("it is gone")?, signal)?)
    }

    /// Its exit code, and what it said at the end.
    async fn ended(mut self) -> anyhow::Result<(Option<i32>, String)> {
        let status = tokio::time::timeout(PATIENCE, self.child.wait()).await??;
        let mut said = String::new();
        self.said.read_to_string(&mut said).await?;
        Ok((status.code(), said))
    }
}

async fn follows(stage: &Stage) -> anyhow::Result<()> {
    let all = ["outcomes", "--follow", "--json"];
    let mut all = Reading::start(stage, &all).await?;
    let mut one = Reading::start(stage, &["outcomes", "-f", "--user", "ann", "--job", "b"]).await?;
    let job = |id: &str, user: &str| json!({"id": id, "user": user, "kind": "profile"});
    let jobs = [job("a", "ann"), job("b", "stranger"), job("b", "ann")];
    stage.publish_unchecked(&jobs, true).await?;
    let line = one.next().await?;
    assert!(line.contains("  done      b  ann  profile  "), "{line}");
    let mut told = BTreeSet::new();
    for _ in &jobs {
        let outcome: Value = serde_json::from_str(&all.next().await?)?;
        told.insert((outcome["user"].to_string(), outcome["job"].to_string()));
    }
    assert_eq!(told.len(), jobs.len(), "{told:?}");
    for (reading, signal) in [(all, Signal::INT), (one, Signal::TERM)] {
        reading.signal(signal)?;
        assert_eq!(reading.ended().await?, (Some(0), String::new()));
    }
    nothing_is_left(stage).await
}

#[tokio::test]
async fn outcomes_are_followed_until_a_signal() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    stage.user("ann", HOUR).await?;
    let _worker = stage.worker(&[]).await?;
    follows(&stage).await
}

/// The subscription has what its reader wants and no more, and would end by itself.
#[tokio::test]
async fn a_signal_ends_the_waiting_and_removes_the_subscription() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    let publish = ["publish", "--wait", "--user", "ann", "--kind", "profile"];
    for signal in [Signal::INT, Signal::TERM] {
        let waiting = Reading::start(&stage, &publish).await?;
        stage.inbox("jobs-workers").await?.next().await?;
        let own = own_subscriptions(&stage).await?;
        assert_eq!(own.len(), 1, "{own:?}");
        assert_eq!(own[0]["filter"], "attributes.user = \"ann\"");
        assert_eq!(own[0]["expirationPolicy"]["ttl"], "86400s", "{own:?}");
        waiting.signal(signal)?;
        let (code, said) = waiting.ended().await?;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("stopped; jobs that were published go on"), "{said}");
        nothing_is_left(&stage).await?;
    }
    Ok(())
}

/// Who reads only some of what is printed is no reason to leave a subscription; and where nothing
/// comes, the command ends by itself.
#[tokio::test]
async fn outcomes_end_with_their_reader_and_when_none_comes() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    let output = stage.fleet(&["outcomes", "--wait", "100ms"]).await?;
    assert_eq!((output.code, &*output.stdout), (0, ""), "{}", output.stderr);
    let mut reading = Reading::start(&stage, &["outcomes", "--follow"]).await?;
    let _worker = stage.worker(&[]).await?;
    let job = |id: usize| json!({"id": id.to_string(), "user": "ann", "kind": "brew"});
    stage.publish_unchecked(&[job(0)], true).await?;
    reading.next().await?;
    let Reading { mut child, said, lines } = reading;
    drop(lines);
    stage.publish_unchecked(&[job(1)], true).await?;
    let status = tokio::time::timeout(PATIENCE, child.wait()).await??;
    assert_eq!(status.code(), Some(0));
    drop(said);
    nothing_is_left(&stage).await
}
