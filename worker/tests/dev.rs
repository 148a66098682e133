//! `fleet dev` as a place to work: its ports, its variables for other programs, its end.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStderr, Command};

const FLEET: &str = env!("CARGO_BIN_EXE_fleet");

fn fleet(arguments: &[&str]) -> Command {
    let mut command = Command::new(FLEET);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A stack that is up, and what it says from then on.
struct Stack {
    child: Child,
    said: Lines<BufReader<ChildStderr>>,
    notes: Vec<String>,
    /// Where its ports begin.
    base: String,
}

impl Stack {
    async fn up(base: &str) -> Self {
        let arguments = ["dev", "--port-base", base, "--users", "1", "--replicas", "2"];
        let mut command = fleet(&arguments);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let (mut notes, mut base) = (Vec::new(), base.to_owned());
        while let Some(line) = said.next_line().await.unwrap() {
            if let Some((_, moved)) = line.split_once("(--port-base ") {
                moved.trim_end_matches(')').clone_into(&mut base);
            }
            let over = line.contains("metrics of replica 2");
            notes.push(line);
            if over {
                return Self { child, said, notes, base };
            }
        }
        panic!("it is not up: {notes:?}");
    }

    async fn asked(&self, arguments: &[&str]) -> Output {
        let (question, rest) = arguments.split_first().unwrap();
        let place = ["dev", question, "--port-base", &self.base];
        fleet(&place).args(rest).output().await.unwrap()
    }

    async fn environment(&self) -> Map<String, Value> {
        let told = self.asked(&["env", "--format", "json"]).await;
        assert!(told.status.success(), "{told:?}");
        serde_json::from_slice(&told.stdout).unwrap()
    }

    /// Sends it this signal, and waits for its end.
    async fn end(mut self, signal: Signal) -> Option<i32> {
        let pid = Pid::from_raw(self.child.id().unwrap().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
        while self.said.next_line().await.unwrap().is_some() {}
        self.child.wait().await.unwrap().code()
    }
}

/// A port from which on nobody else is likely to listen.
async fn base() -> String {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // Below those that the system hands out.
    (10_000 + free.local_addr().unwrap().port() % 10_000).to_string()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn programs_find_a_running_stack() {
    let stack = Stack::up(&base().await).await;
    let environment = stack.environment().await;
    let pubsub = environment["PUBSUB_EMULATOR_HOST"].as_str().unwrap();
    assert_eq!(pubsub, format!("127.0.0.1:{}", stack.base), "the first of its ports");
    for role in ["Pub/Sub", "Cloud Storage", "Google's APIs", "metrics of replica 1"] {
        assert!(stack.notes.iter().any(|note| note.contains(role)), "{role}: {:?}", stack.notes);
    }

    let eval = "eval \"$(\"$0\" dev env --port-base $1)\" && \
                exec \"$0\" publish --user user-1 --kind profile --wait";
    let published =
        Command::new("sh").args(["-c", eval, FLEET, &stack.base]).output().await.unwrap();
    assert!(published.status.success(), "{published:?}");
    assert!(text(&published.stdout).contains("user-1@example.com"), "{published:?}");

    let dotenv = stack.asked(&["env", "--format", "dotenv"]).await;
    assert!(text(&dotenv.stdout).lines().any(|l| l == format!("PUBSUB_EMULATOR_HOST={pubsub}")));
    let fish = stack.asked(&["env", "--format", "fish"]).await;
    let line = format!("set -gx PUBSUB_EMULATOR_HOST {pubsub}");
    assert!(text(&fish.stdout).lines().any(|l| l == line), "{fish:?}");

    // The command's arguments, output and exit code are its own.
    let script = "echo \"$PUBSUB_EMULATOR_HOST $1\"; exit 7";
    let ran = stack.asked(&["exec", "--", "sh", "-c", script, "sh", "--flag"]).await;
    assert_eq!((ran.status.code(), text(&ran.stdout)), (Some(7), &*format!("{pubsub} --flag\n")));
    let missing = stack.asked(&["exec", "--", "no-such-program"]).await;
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("no-such-program"), "{missing:?}");
    assert_eq!(stack.end(Signal::TERM).await, Some(0));
}

/// The second takes the next block, and says so.
#[tokio::test]
async fn two_stacks_stand_side_by_side() {
    let wanted = base().await;
    let first = Stack::up(&wanted).await;
    let second = Stack::up(&first.base).await;
    assert_ne!(first.base, second.base);
    assert!(second.notes[0].contains("in use"), "{:?}", second.notes);
    let of = |environment: Map<String, Value>| environment["PUBSUB_EMULATOR_HOST"].clone();
    assert_ne!(of(first.environment().await), of(second.environment().await));
    assert_eq!(second.end(Signal::INT).await, Some(0));
    assert_eq!(first.end(Signal::INT).await, Some(0));
}

/// As when its terminal is closed: no process stays, and no file with a secret.
#[tokio::test]
async fn a_stack_whose_terminal_is_closed_cleans_up() {
    let stack = Stack::up(&base().await).await;
    let environment = stack.environment().await;
    let client = environment["FLEET_OAUTH_CLIENT"].as_str().unwrap().to_owned();
    let pages = environment["FLEET_PUBLIC_URL"].as_str().unwrap().to_owned();
    let pages = pages.trim_start_matches("http://").to_owned();
    assert!(Path::new(&client).exists());
    assert!(TcpStream::connect(&pages).await.is_ok());
    let base = stack.base.clone();
    assert_eq!(stack.end(Signal::HUP).await, Some(0));
    assert!(!Path::new(&client).exists(), "{client}");
    assert!(TcpStream::connect(&pages).await.is_err(), "the pages are served still");

    let gone = fleet(&["dev", "env", "--port-base", &base]).output().await.unwrap();
    assert_eq!(gone.status.code(), Some(1));
    let why = text(&gone.stderr);
    assert!(why.contains("no stack answers") && why.contains("fleet dev"), "{why}");
}
