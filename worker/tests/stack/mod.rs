//! A `fleet dev` that a test has started.
#![allow(dead_code, reason = "each test uses its part")]

use std::process::{Output, Stdio};
use std::sync::Mutex;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

pub(crate) const FLEET: &str = env!("CARGO_BIN_EXE_fleet");

pub(crate) fn fleet(arguments: &[&str]) -> Command {
    let mut command = Command::new(FLEET);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A stack that is up, and what it says from then on.
pub(crate) struct Stack {
    pub(crate) child: Child,
    /// What it says, which is read as it comes: a full pipe would hold it up.
    said: mpsc::UnboundedReceiver<String>,
    pub(crate) notes: Vec<String>,
    /// Where its ports begin.
    pub(crate) base: String,
}

impl Stack {
    pub(crate) async fn up(base: &str) -> Self {
        Self::up_with(&["--port-base", base, "--replicas", "2"]).await
    }

    /// With one user, and these flags, of which one is `--port-base`.
    pub(crate) async fn up_with(flags: &[&str]) -> Self {
        let base = flags.iter().position(|flag| *flag == "--port-base");
        Self::up_at(flags[base.unwrap() + 1], flags).await
    }

    /// With one user, and these flags, which make its ports begin there.
    pub(crate) async fn up_at(base: &str, flags: &[&str]) -> Self {
        Self::up_from(fleet(&["dev", "--users", "1"]), base, flags).await
    }

    /// The same of this command.
    pub(crate) async fn up_from(mut command: Command, base: &str, flags: &[&str]) -> Self {
        let replicas = flags.iter().position(|flag| *flag == "--replicas");
        let last = format!("metrics of replica {}", replicas.map_or("1", |at| flags[at + 1]));
        command.args(flags);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (sender, mut said) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(line) = lines.next_line().await.unwrap() {
                drop(sender.send(line));
            }
        });
        let (mut notes, mut base) = (Vec::new(), base.to_owned());
        while let Some(line) = said.recv().await {
            if let Some((_, moved)) = line.split_once("(--port-base ") {
                moved.trim_end_matches(')').clone_into(&mut base);
            }
            let over = line.contains(&last);
            notes.push(line);
            if over {
                return Self { child, said, notes, base };
            }
        }
        panic!("it is not up: {notes:?}");
    }

    pub(crate) async fn asked(&self, arguments: &[&str]) -> Output {
        let (question, rest) = arguments.split_first().unwrap();
        let place = ["dev", question, "--port-base", &self.base];
        fleet(&place).args(rest).output().await.unwrap()
    }

    pub(crate) async fn environment(&self) -> Map<String, Value> {
        let told = self.asked(&["env", "--format", "json"]).await;
        assert!(told.status.success(), "{told:?}");
        serde_json::from_slice(&told.stdout).unwrap()
    }

    /// Sends it this signal, and waits for its end.
    pub(crate) async fn end(mut self, signal: Signal) -> Option<i32> {
        let pid = Pid::from_raw(self.child.id().unwrap().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        while self.said.recv().await.is_some() {}
        self.child.wait().await.unwrap().code()
    }

    /// The next line that has this text.
    pub(crate) async fn says(&mut self, text: &str) -> String {
        while let Some(line) = self.said.recv().await {
            if line.contains(text) {
                return line;
            }
        }
        panic!("it ended without saying {text:?}");
    }
}

/// A port from which on a hundred are this process's until it ends, whatever other suites run: who
/// listens on the port of a block, which no stack takes, has the block. They are below those that the
/// system hands out.
pub(crate) async fn base() -> String {
    static TAKEN: Mutex<Vec<std::net::TcpListener>> = Mutex::new(Vec::new());
    let anywhere = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let first = anywhere.local_addr().unwrap().port();
    for block in (0..BLOCKS).map(|next| (first % BLOCKS + next) % BLOCKS) {
        if let Ok(listener) = std::net::TcpListener::bind(("127.0.0.1", 20_000 + block)) {
            TAKEN.lock().unwrap().push(listener);
            return (10_000 + 100 * block).to_string();
        }
    }
    panic!("all ports are taken");
}

const BLOCKS: u16 = 100;

pub(crate) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}
