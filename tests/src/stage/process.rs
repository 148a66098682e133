//! The `fleet` binary as processes.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use super::PATIENCE;

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Output {
    /// The exit code.
    pub code: i32,
    /// What it wrote to stdout.
    pub stdout: String,
    /// What it wrote to stderr.
    pub stderr: String,
}

/// The binary that was built together with the running test.
///
/// # Panics
/// When it was not built: cargo builds it with `cargo test --workspace`, and for
/// a single package `cargo build` does.
pub fn fleet_binary() -> PathBuf {
    built("fleet")
}

/// An example of the package `worker`, which was built together with the running test.
///
/// # Panics
/// When it was not built: `cargo test --workspace` and `cargo build --examples` do.
pub fn example(name: &str) -> PathBuf {
    built(&format!("examples/{name}"))
}

fn built(program: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let folder = test.parent().and_then(|deps| deps.parent()).expect("target/PROFILE/deps/TEST");
    let program = folder.join(program);
    assert!(
        program.is_file(),
        "{} is missing: run `cargo test --workspace`, or `cargo build --examples` first",
        program.display()
    );
    program
}

fn command(args: &[&str], variables: &[(String, String)]) -> Command {
    let mut command = Command::new(fleet_binary());
    command.args(args);
    with_variables(command, variables)
}

pub(crate) fn with_variables(mut command: Command, variables: &[(String, String)]) -> Command {
    command.env_clear().stdin(Stdio::null()).kill_on_drop(true);
    for name in ["PATH", "HOME"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command
}

/// Runs `fleet` to its end, with these variables and no others but `PATH` and `HOME`.
///
/// # Errors
/// When it cannot be started or does not end in time.
pub async fn run(args: &[&str], variables: &[(String, String)]) -> anyhow::Result<Output> {
    run_program(&fleet_binary(), args, variables).await
}

/// The same of another program.
///
/// # Errors
/// As [`run`].
pub async fn run_program(
    program: &Path,
    args: &[&str],
    variables: &[(String, String)],
) -> anyhow::Result<Output> {
    let mut command = Command::new(program);
    command.args(args);
    let output = with_variables(command, variables).output();
    let output = tokio::time::timeout(PATIENCE, output)
        .await
        .with_context(|| format!("{} {args:?} does not end", program.display()))??;
    Ok(Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

pub(super) fn start(args: &[&str], variables: &[(String, String)]) -> anyhow::Result<Child> {
    let mut command = command(args, variables);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    child.with_context(|| format!("fleet {args:?} cannot be started"))
}

/// A replica. Dropping it kills the process.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    /// Read all the time, so that a full pipe does not stop the replica.
    lines: mpsc::UnboundedReceiver<String>,
    /// Everything that it has logged so far.
    pub log: Vec<Value>,
}

impl Worker {
    pub(super) fn start(flags: &[&str], variables: &[(String, String)]) -> anyhow::Result<Self> {
        Self::spawn(command(&[&["worker"], flags].concat(), variables))
    }

    pub(super) fn start_program(
        program: &Path,
        args: &[&str],
        variables: &[(String, String)],
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.args(args);
        Self::spawn(with_variables(command, variables))
    }

    /// Starts any command as a process that may have so many descriptors open.
    pub(super) fn start_with_descriptors(
        args: &[&str],
        most: u32,
        variables: &[(String, String)],
    ) -> anyhow::Result<Self> {
        let script = format!("ulimit -n {most} && exec \"$0\" \"$@\"");
        let mut limited = Command::new("sh");
        limited.arg("-c").arg(script).arg(fleet_binary()).args(args);
        Self::spawn(with_variables(limited, variables))
    }

    fn spawn(mut command: Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("a replica cannot be started")?;
        let mut stderr = BufReader::new(child.stderr.take().context("no stderr")?).lines();
        let (sender, lines) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(line)) = stderr.next_line().await {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines, log: Vec::new() })
    }

    /// Reads the log up to a line; that line.
    ///
    /// # Errors
    /// When the replica ends before, or the line does not come in time.
    pub async fn wait_for(
        &mut self,
        mut wanted: impl FnMut(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let Some(text) = self.lines.recv().await else {
                    anyhow::bail!("the replica ended: {:?}", self.log.last());
                };
                let line: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
                self.log.push(line.clone());
                if wanted(&line) {
                    return Ok(line);
                }
            }
        });
        found.await.with_context(|| format!("the line does not come: {:?}", self.log.last()))?
    }

    /// Waits until a message contains a text; the whole message.
    ///
    /// # Errors
    /// As [`Worker::wait_for`].
    pub async fn wait_for_message(&mut self, part: &str) -> anyhow::Result<String> {
        let message = |line: &Value| line["message"].as_str().unwrap_or_default().to_owned();
        let line = self.wait_for(|line| message(line).contains(part)).await?;
        Ok(message(&line))
    }

    /// The process ID, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        kill_process(pid.context("the replica is gone")?, signal)?;
        Ok(())
    }

    /// SIGTERM, then the exit code; the rest of the log is read.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn terminate(&mut self) -> anyhow::Result<i32> {
        self.signal(Signal::TERM)?;
        self.ended().await
    }

    /// Waits for the end; the exit code. The rest of the log is read.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn ended(&mut self) -> anyhow::Result<i32> {
        let status = tokio::time::timeout(PATIENCE, async {
            while let Some(text) = self.lines.recv().await {
                self.log.push(serde_json::from_str(&text).unwrap_or(Value::String(text)));
            }
            self.child.wait().await
        });
        Ok(status.await.context("the replica does not end")??.code().unwrap_or(-1))
    }

    /// Where health and metrics are served, as far as it has been said.
    pub fn health(&self) -> Option<&str> {
        self.log.iter().find_map(|line| line["health"].as_str())
    }

    /// Everything logged so far, as text.
    pub fn log_text(&self) -> String {
        self.log.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }
}
