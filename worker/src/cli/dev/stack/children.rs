//! The stack's processes: children of this program.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;

use crate::pubsub::MIN_BACKOFF;
use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use shared::ports::Randomness;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader, Lines};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;

use super::super::kept::write_private;
use super::{SCOPES, Stack};

/// Of the key that programs ask the broker with, in the stack's folder.
const BROKER_KEY: &str = "broker.key";

impl Stack {
    /// Starts a replica and waits until it takes jobs. Its log lines go to
    /// `lines`.
    pub(in super::super) async fn replica(
        &self,
        number: usize,
        lines: mpsc::UnboundedSender<Line>,
    ) -> anyhow::Result<Replica> {
        let mut command = match &self.plan.worker {
            None => self.command("worker")?,
            Some(own) => {
                // A shell reads it, as people write commands; arguments are added as they are.
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("exec {own} \"$@\""), "sh"]).stdout(Stdio::piped());
                self.child(shell, "worker")
            }
        };
        let metrics = self.plan.ports.map(|ports| ports.metrics(number));
        let metrics = metrics.unwrap_or_else(any_port).to_string();
        command.args(["--listen", &metrics, "--ack-extension", "10s"]);
        command.args(&self.plan.replica_flags);
        let takes_jobs = |line: &Value| (line["message"] == "taking jobs").then(String::new);
        let (replica, _) = begun(command, number, lines, takes_jobs).await?;
        Ok(replica)
    }

    /// A child of this program on this stack.
    pub(in super::super) fn command(&self, name: &str) -> anyhow::Result<Command> {
        let program = std::env::current_exe().context("this program's own path is unknown")?;
        let mut command = Command::new(program);
        command.stdout(Stdio::null());
        Ok(self.child(command, name))
    }

    /// A child that has the command line of this program, on this stack.
    fn child(&self, mut command: Command, name: &str) -> Command {
        // Settings of the caller's fleet must not leak into this one.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FLEET_") {
                command.env_remove(name);
            }
        }
        command
            .args([name, "--until-stdin-closes"])
            .envs(self.environment())
            .env("FLEET_LOG", self.log())
            .env("FLEET_LOG_FORMAT", "gcp")
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C reaches the parent, which ends its replicas in order.
            .process_group(0)
            .kill_on_drop(true);
        command
    }

    /// What replicas advise on how a subscription should be in production says nothing about one
    /// that is otherwise on purpose.
    fn log(&self) -> &'static str {
        if self.plan.min_backoff < MIN_BACKOFF {
            "info,worker::pubsub::start=error"
        } else {
            "info"
        }
    }

    /// Starts the `page`th replica of the consent pages; its own address. All of this stack
    /// have one session key, and `public_url` if it is given.
    pub(in super::super) async fn web(
        &self,
        number: usize,
        page: usize,
        public_url: Option<&str>,
        flags: &[String],
        lines: mpsc::UnboundedSender<Line>,
    ) -> anyhow::Result<(Replica, String)> {
        let key = self.folder().join("session.key");
        if !key.exists() {
            let random = Randomness::from_system();
            let secret = format!("{}{}", random.id(), random.id());
            write_private(&key, STANDARD.encode(secret).as_bytes())?;
        }
        let mut command = self.command("web")?;
        let listen = self.plan.ports.map(|ports| ports.page(page));
        let listen = listen.unwrap_or_else(any_port).to_string();
        command.args(["--listen", &listen, "--offer-scope", &SCOPES[3..].join(",")]);
        command.args(flags);
        if let Some(url) = public_url {
            command.args(["--public-url", url]);
        }
        command.env("FLEET_SESSION_KEY", key);
        begun(command, number, lines, |line| Some(format!("http://{}", line["address"].as_str()?)))
            .await
    }

    /// Starts a broker at `address`, with a key of its own; the variables with which
    /// `fleet broker credentials` finds both.
    pub(in super::super) async fn broker(
        &self,
        number: usize,
        address: SocketAddr,
        lines: mpsc::UnboundedSender<Line>,
    ) -> anyhow::Result<(Replica, [(&'static str, String); 2])> {
        let key = self.folder().join(BROKER_KEY);
        if !key.exists() {
            let secret = Randomness::from_system().secret();
            write_private(&key, secret.expose().as_bytes())?;
        }
        let mut command = self.command("broker")?;
        command.args(["--listen", &address.to_string()]).env("FLEET_BROKER_KEY", &key);
        let (broker, address) =
            begun(command, number, lines, |line| line["address"].as_str().map(str::to_owned))
                .await?;
        let key = key.display().to_string();
        Ok((broker, [("FLEET_BROKER_LISTEN", address), ("FLEET_BROKER_KEY", key)]))
    }
}

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Starts a child and reads its log up to the line in which `ready` finds something; that. The
/// lines, also those that follow, go to `lines`.
async fn begun(
    mut command: Command,
    number: usize,
    lines: mpsc::UnboundedSender<Line>,
    ready: impl Fn(&Value) -> Option<String>,
) -> anyhow::Result<(Replica, String)> {
    let mut child = command.spawn().context("a replica cannot be started")?;
    if let Some(stdout) = child.stdout.take() {
        tokio::spawn(passed_on(BufReader::new(stdout).lines(), number, lines.clone()));
    }
    let stderr = child.stderr.take().context("a replica has no stderr")?;
    let mut reader = BufReader::new(stderr).lines();
    let mut holder = String::new();
    let mut last = String::new();
    while let Some(text) = reader.next_line().await? {
        let line = Line::read(number, &text);
        if let Some(name) = line.fields["replica"].as_str() {
            name.clone_into(&mut holder);
        }
        let found = ready(&line.fields);
        drop(lines.send(line));
        if let Some(found) = found {
            tokio::spawn(passed_on(reader, number, lines));
            return Ok((Replica::new(number, holder, child), found));
        }
        last = text;
    }
    anyhow::bail!("replica {number} did not start: {last}")
}

/// Sends lines on until there are no more.
async fn passed_on(
    mut reader: Lines<BufReader<impl AsyncRead + Unpin>>,
    number: usize,
    lines: mpsc::UnboundedSender<Line>,
) {
    while let Ok(Some(text)) = reader.next_line().await {
        drop(lines.send(Line::read(number, &text)));
    }
}

/// One line of a replica's log.
#[derive(Debug, Clone)]
pub(in super::super) struct Line {
    pub(in super::super) replica: usize,
    pub(in super::super) fields: Value,
}

impl Line {
    fn read(replica: usize, text: &str) -> Self {
        let fields = serde_json::from_str(text)
            .unwrap_or_else(|_| serde_json::json!({"severity": "ERROR", "message": text}));
        Self { replica, fields }
    }

    /// The line for people, if it is worth their while.
    pub(in super::super) fn for_people(&self) -> String {
        let message = self.fields["message"].as_str().unwrap_or_default();
        let mut text = format!("replica {}: {message}", self.replica);
        for field in ["job", "kind", "user", "error"] {
            if let Some(value) = self.fields[field].as_str().filter(|v| !v.is_empty()) {
                text = format!("{text} {field}={value}");
            }
        }
        text
    }
}

/// A replica process. Dropping it kills the process.
pub(in super::super) struct Replica {
    pub(in super::super) number: usize,
    /// How it names itself in records and requests.
    pub(in super::super) holder: String,
    child: Child,
    /// The replica ends when this closes, should this process die.
    _stdin: Option<ChildStdin>,
}

impl Replica {
    /// A child with piped stdin, and how it names itself.
    pub(in super::super) fn new(number: usize, holder: String, mut child: Child) -> Self {
        let stdin = child.stdin.take();
        Self { number, holder, child, _stdin: stdin }
    }

    /// SIGKILL, as a node that dies.
    pub(in super::super) async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("a replica cannot be killed")
    }

    /// SIGTERM, then waits for the end.
    pub(in super::super) async fn terminate(mut self) -> anyhow::Result<()> {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM).context("a replica cannot be stopped")?;
        }
        self.child.wait().await.context("a replica cannot be waited for")?;
        Ok(())
    }

    /// Ends when the process does, which it should not by itself.
    pub(in super::super) async fn died(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => format!("replica {} ended by itself: {status}", self.number),
            Err(error) => format!("replica {} is lost: {error}", self.number),
        }
    }
}
