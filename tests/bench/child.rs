//! A client as a process of its own.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::roles::Role;

/// What a client did, as it measured itself.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Work {
    /// Jobs that it ended.
    pub(crate) jobs: u64,
    /// From the first to the last of them, in seconds.
    pub(crate) wall: f64,
    /// Its processor time meanwhile, in seconds.
    pub(crate) cpu: f64,
}

impl Work {
    /// Jobs per second.
    pub(crate) fn rate(&self) -> f64 {
        self.jobs as f64 / self.wall
    }

    /// Microseconds of processor time per job.
    pub(crate) fn cpu_per_job(&self) -> f64 {
        self.cpu * 1e6 / self.jobs as f64
    }
}

/// A running client: it says lines, and is told lines. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Client {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Client {
    /// Starts this program in a role.
    pub(crate) fn start(role: &Role) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program has no path")?;
        // For profiles: every client under a tool.
        let tool = std::env::var("FLEET_BENCH_UNDER").unwrap_or_default();
        let mut words = tool.split_whitespace();
        let mut command = match words.next() {
            Some(tool) => {
                let mut command = Command::new(tool);
                command.args(words).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.arg("--role").arg(serde_json::to_string(role)?);
        Self::spawn(command)
    }

    /// Starts any program that keeps to the same lines.
    pub(crate) fn spawn(mut command: Command) -> anyhow::Result<Self> {
        // Logs are formatted and written as in production, and read by nobody.
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(if std::env::var_os("FLEET_BENCH_STDERR").is_some() {
                Stdio::inherit()
            } else {
                Stdio::null()
            })
            .kill_on_drop(true)
            .spawn()
            .context("a client cannot be started")?;
        let said = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        Ok(Self { child, said })
    }

    /// The next line, read as JSON.
    pub(crate) async fn says<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let line = self.said.next_line().await?.context(
            "a client ended before it had said what it did (FLEET_BENCH_STDERR=1 shows why)",
        )?;
        serde_json::from_str(&line).with_context(|| format!("a client said {line:?}"))
    }

    /// Tells it to go on.
    pub(crate) async fn tell(&mut self) -> anyhow::Result<()> {
        let stdin = self.child.stdin.as_mut().context("no stdin")?;
        stdin.write_all(b"\n").await.context("a client is gone")
    }

    /// Its process ID, while it runs.
    pub(crate) fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// The process, whatever it says.
    pub(crate) fn into_child(self) -> Child {
        self.child
    }

    /// Waits for its end.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait().await?;
        ensure!(status.success(), "a client ended with {status}");
        Ok(())
    }
}

/// Runs a client to its end.
pub(crate) async fn run(role: &Role) -> anyhow::Result<Work> {
    let mut client = Client::start(role)?;
    let work = client.says().await?;
    client.end().await?;
    Ok(work)
}
