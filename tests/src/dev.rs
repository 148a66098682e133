//! A running `fleet dev`, as a newcomer has it: what it prints is all that is known of it.

use std::path::Path;
use std::process::Stdio;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use worker::pubsub::{Connection, Intake, IntakeSettings, OUTSTANDING_BYTES, Source as _};

use crate::stage::{Output, PATIENCE, run_program, with_variables};

/// It ends with this.
#[derive(Debug)]
pub struct Dev {
    /// What it said to export.
    pub variables: Vec<(String, String)>,
    /// What it says to people, up to what [`Dev::says`] has read.
    pub said: Vec<String>,
    notes: mpsc::UnboundedReceiver<String>,
    child: Child,
}

impl Dev {
    /// Starts it with these flags, and waits until it is up. `program` is `fleet`, or one with
    /// kinds of its own.
    ///
    /// # Errors
    /// When it ends before that.
    pub async fn start(program: &Path, flags: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.arg("dev").args(flags);
        let mut child = with_variables(command, &[])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("the stack cannot be started")?;
        let stderr = child.stderr.take().context("no stderr")?;
        let (sender, notes) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stderr).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                drop(sender.send(line));
            }
        });
        let stdout = child.stdout.take().context("no stdout")?;
        let mut dev = Self { variables: Vec::new(), said: Vec::new(), notes, child };
        dev.says("up: ").await?;
        // What is exported is written before that, by name: this is the last.
        let mut lines = BufReader::new(stdout).lines();
        while dev.get("STORAGE_EMULATOR_HOST_GRPC").is_none() {
            let line = tokio::time::timeout(PATIENCE, lines.next_line()).await??;
            let line = line.context("not everything is exported")?;
            let exported = line.strip_prefix("export ").and_then(|line| line.split_once('='));
            let (name, value) = exported.with_context(|| format!("{line} exports nothing"))?;
            dev.variables.push((name.to_owned(), value.to_owned()));
        }
        Ok(dev)
    }

    /// The value of a variable that it said to export.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// Waits until it says something to people; the whole line.
    ///
    /// # Errors
    /// When it ends before, or does not say it in time.
    pub async fn says(&mut self, part: &str) -> anyhow::Result<String> {
        loop {
            let line = tokio::time::timeout(PATIENCE, self.notes.recv())
                .await
                .with_context(|| format!("{part:?} is not said: {:?}", self.said))?
                .with_context(|| format!("the stack ended: {:?}", self.said))?;
            self.said.push(line.clone());
            if line.contains(part) {
                return Ok(line);
            }
        }
    }

    /// Runs a command of a program on the stack.
    ///
    /// # Errors
    /// When it cannot be started or does not end in time.
    pub async fn run(&self, program: &Path, args: &[&str]) -> anyhow::Result<Output> {
        run_program(program, args, &self.variables).await
    }

    /// The outcome of the next job that ends.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn outcome(&self) -> anyhow::Result<Value> {
        let project = self.get("GOOGLE_CLOUD_PROJECT").context("no project")?;
        let topic = self.get("FLEET_OUTCOMES_TOPIC").context("no topic of outcomes")?;
        let settings = IntakeSettings {
            subscription: format!("projects/{project}/subscriptions/{topic}"),
            max_outstanding: 10,
            max_outstanding_bytes: OUTSTANDING_BYTES,
            ack_extension: std::time::Duration::from_secs(60),
        };
        let emulator = self.get("PUBSUB_EMULATOR_HOST").map(str::to_owned);
        let mut intake = Intake::open(&Connection { emulator }, settings).await?;
        let delivery = tokio::time::timeout(PATIENCE, intake.next())
            .await
            .with_context(|| format!("no outcome came in time: {:?}", self.said))??;
        let outcome = serde_json::from_slice(&delivery.received.data)?;
        delivery.settle.ack().await;
        Ok(outcome)
    }

    /// SIGTERM, then the exit code.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn terminate(mut self) -> anyhow::Result<Option<i32>> {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        kill_process(pid.context("the stack is gone")?, Signal::TERM)?;
        Ok(tokio::time::timeout(PATIENCE, self.child.wait()).await??.code())
    }
}
