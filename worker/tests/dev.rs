//! `fleet dev` as a place to work: its ports, its variables for other programs, its end.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod stack;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;

use stack::{FLEET, Stack, base, fleet, text};

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

/// What a deployment is judged by finds nothing to say about the stack that programs are
/// written against.
#[tokio::test]
async fn a_strict_doctor_has_no_complaint() {
    let stack = Stack::up(&base().await).await;
    let looked = stack.asked(&["exec", "--", FLEET, "doctor", "--strict"]).await;
    assert!(looked.status.success(), "{}\n{}", text(&looked.stdout), text(&looked.stderr));
    assert!(text(&looked.stdout).contains("overwrite round trip"), "{looked:?}");
    assert_eq!(stack.end(Signal::TERM).await, Some(0));
}

#[tokio::test]
async fn replicas_run_a_program_of_ones_own() {
    let folder = tempfile::tempdir().unwrap();
    let pid = folder.path().join("pid");
    let own = Path::new(FLEET).with_file_name("examples").join("official_client");
    assert!(
        own.exists(),
        "{} is missing: run `cargo test --workspace`, or `cargo build --examples` first",
        own.display()
    );
    let command = format!(
        "sh -c 'echo $$ >{}; echo here I am; exec {} \"$@\"' sh",
        pid.display(),
        own.display()
    );
    let flags = ["--port-base", &base().await, "--worker", &command];
    let mut stack = Stack::up_with(&flags).await;
    assert!(stack.notes.iter().any(|note| note == "replica 1: here I am"), "{:?}", stack.notes);
    let host = stack.environment().await["STORAGE_EMULATOR_HOST"].as_str().unwrap().to_owned();
    let upload =
        format!("{host}/upload/storage/v1/b/fleet-local-tokens/o?uploadType=media&name=greeting");
    let written = reqwest::Client::new().post(upload).body("hello").send().await.unwrap();
    assert!(written.status().is_success());
    let params = r#"{"bucket": "fleet-local-tokens", "object": "greeting"}"#;
    let publish = ["exec", "--", FLEET, "publish", "--user", "user-1", "--kind", "storage.read"];
    let publish = [&publish[..], &["--params", params, "--wait"]].concat();
    let done = stack.asked(&publish).await;
    assert!(done.status.success() && text(&done.stdout).contains("\"bytes\":5"), "{done:?}");

    // Whoever dies is started again, after a pause that is said.
    let replica = std::fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    kill_process(Pid::from_raw(replica).unwrap(), Signal::KILL).unwrap();
    let said = stack.says("starting it again in").await;
    assert!(said.contains("replica 1 ended by itself"), "{said}");
    stack.says("replica 1: here I am").await;
    let done = stack.asked(&publish).await;
    assert!(done.status.success(), "{done:?}");
    assert_eq!(stack.end(Signal::TERM).await, Some(0));
}

#[tokio::test]
async fn a_program_that_is_no_worker_is_told_at_once() {
    let base = base().await;
    let flags = ["dev", "--port-base", &base, "--worker", "sh -c 'echo why >&2; exit 3'"];
    let refused = fleet(&flags).output().await.unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    assert!(said.contains("replica 1 did not start") && said.contains("why"), "{said}");
}

/// Before it is up as after: no process stays, and no file with a secret.
#[tokio::test]
async fn a_stack_that_is_ended_while_it_starts_cleans_up() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let folder = tempfile::tempdir().unwrap();
        let files = || std::fs::read_dir(folder.path()).unwrap().count();
        let base = base().await;
        // It says something, and never that it takes jobs.
        let worker = "sh -c 'echo here I am >&2; exec sleep 600'";
        let mut command = fleet(&["dev", "--port-base", &base, "--worker", worker]);
        command.env("TMPDIR", folder.path()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("here I am") {
                break;
            }
        }
        assert!(files() > 0);
        kill_process(Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap(), signal)
            .unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(30), child.wait());
        let status = ended.await.unwrap_or_else(|_| panic!("{signal:?} is not heard")).unwrap();
        assert_eq!((status.code(), files()), (Some(0), 0), "{signal:?}");
    }
}

/// A proxy that nobody has taught that this machine is not behind it.
#[tokio::test]
async fn a_proxy_of_the_environment_is_not_asked_for_what_is_on_this_machine() {
    let behind = |mut command: Command| {
        for name in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
            command.env(name, "http://127.0.0.1:1");
        }
        command.env_remove("NO_PROXY").env("no_proxy", "a.test");
        command
    };
    let base = base().await;
    let flags = ["--port-base", &base, "--web", "0"];
    let command = behind(fleet(&["dev", "--users", "1"]));
    let stack = Stack::up_from(command, &base, &flags).await;
    let env = behind(fleet(&["dev", "env", "--port-base", &stack.base])).output().await.unwrap();
    assert!(env.status.success(), "{env:?}");
    for name in ["NO_PROXY", "no_proxy"] {
        let line = format!("export {name}=a.test,127.0.0.1,localhost");
        assert!(text(&env.stdout).lines().any(|said| said == line), "{env:?}");
    }
    let publish = ["exec", "--port-base", &stack.base, "--", FLEET, "publish", "--user", "user-1"];
    let publish = [&["dev"][..], &publish, &["--kind", "profile", "--wait"]].concat();
    let published = behind(fleet(&publish)).output().await.unwrap();
    assert!(text(&published.stdout).contains("user-1@example.com"), "{published:?}");
    assert_eq!(stack.end(Signal::TERM).await, Some(0));
}
