//! A client as a process of its own.

use std::process::Stdio;

use anyhow::{Context as _, ensure};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::roles::Role;

/// A running client. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Client {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

/// This program in a role.
pub(crate) fn this_program(role: &Role) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("this program has no path")?);
    command.arg("--role").arg(serde_json::to_string(role)?);
    Ok(command)
}

impl Client {
    /// Starts a program.
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

    /// Its process ID.
    ///
    /// # Errors
    /// When it has ended.
    pub(crate) fn id(&mut self) -> anyhow::Result<u32> {
        let ended = self.child.try_wait()?;
        ensure!(ended.is_none(), "a client has ended (FLEET_BENCH_STDERR=1 shows why)");
        self.child.id().context("a client has ended")
    }

    /// Kills it and waits until it is gone.
    pub(crate) async fn kill(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }

    /// Waits for its end.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait().await?;
        ensure!(status.success(), "a client ended with {status}");
        Ok(())
    }
}
