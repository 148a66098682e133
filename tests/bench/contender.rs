//! Who does the jobs: a replica of the fleet, and the programs that it is compared with.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use tests::contention::Python;
use tokio::process::Command;

use crate::child::Client;
use crate::ground::{Ground, Place};
use crate::roles::{Bare, Role};

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Contender {
    /// `fleet worker`.
    Fleet,
    /// A bare loop of the official Rust client, with one constant token.
    Rust,
    /// Go's official clients, with each user's token kept in memory.
    Go,
    /// Node's.
    Node,
    /// Python's.
    Python,
    /// Python's as people write it: the credential is read for each job.
    PlainPython,
}

impl Contender {
    pub(crate) const ALL: [Self; 6] =
        [Self::Fleet, Self::Rust, Self::Go, Self::Node, Self::Python, Self::PlainPython];
    /// Of which much can be expected.
    pub(crate) const FAST: [Self; 3] = [Self::Fleet, Self::Rust, Self::Go];
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fleet => "Fleet",
            Self::Rust => "bare Rust",
            Self::Go => "Go",
            Self::Node => "Node",
            Self::Python => "Python",
            Self::PlainPython => "Python, as written",
        })
    }
}

/// The programs, as far as this machine has them.
#[derive(Debug)]
pub(crate) struct Tools {
    fleet: PathBuf,
    go: Option<PathBuf>,
    node: Option<PathBuf>,
    python: Option<PathBuf>,
}

/// How a contender is to work.
#[derive(Debug, Clone)]
pub(crate) struct Task<'a> {
    pub(crate) place: &'a Place,
    /// Jobs at once.
    pub(crate) slots: usize,
    /// The handler of jobs of the kind `forwarded`.
    pub(crate) handler: &'a str,
}

const GO: &str = include_str!("clients/main.go");
const NODE: &str = include_str!("clients/worker.mjs");
const PYTHON: &str = include_str!("clients/worker.py");
/// Where Debian puts the sources of Go's libraries.
const GO_PATH: &str = "/usr/share/gocode";
/// The libraries that the client for Go imports.
const GO_LIBRARIES: [&str; 3] =
    ["cloud.google.com/go/pubsub", "cloud.google.com/go/storage", "golang.org/x/oauth2"];

impl Tools {
    /// Finds or builds them; what is missing is said and left out.
    pub(crate) async fn find(fleet: Option<PathBuf>) -> anyhow::Result<Self> {
        let fleet = match fleet {
            Some(fleet) => {
                std::path::absolute(&fleet).with_context(|| format!("{}", fleet.display()))?
            }
            None => build_fleet().await?,
        };
        ensure!(fleet.is_file(), "{} is no program", fleet.display());
        let folder = target_folder()?.join("bench-clients");
        std::fs::create_dir_all(&folder)?;
        let found = |who: Contender, found: anyhow::Result<PathBuf>| match found {
            Ok(path) => Some(path),
            Err(why) => {
                crate::say(&format!("{who} is left out: {why:#}"));
                None
            }
        };
        Ok(Self {
            go: found(Contender::Go, build_go(&folder).await),
            node: found(Contender::Node, install_node(&folder).await),
            python: found(Contender::Python, install_python(&folder).await),
            fleet,
        })
    }

    /// Those of them that can be run.
    pub(crate) fn has(&self, who: Contender) -> bool {
        match who {
            Contender::Fleet | Contender::Rust => true,
            Contender::Go => self.go.is_some(),
            Contender::Node => self.node.is_some(),
            Contender::Python | Contender::PlainPython => self.python.is_some(),
        }
    }

    /// The `fleet` binary.
    pub(crate) fn fleet(&self, args: &[&str], environment: Vec<(&str, String)>) -> Command {
        let mut command = Command::new(&self.fleet);
        command.args(args).env_clear().envs(environment).kill_on_drop(true);
        command
    }

    /// Starts a contender that works until it is dropped.
    pub(crate) fn start(
        &self,
        who: Contender,
        ground: &Ground,
        task: &Task<'_>,
    ) -> anyhow::Result<Client> {
        let missing = || format!("{who} is not here");
        let mut command = match who {
            Contender::Fleet => {
                let forward = format!("forwarded={}", task.handler);
                let slots = task.slots.to_string();
                let slots = ["--concurrency", &slots, "--forward-concurrency", &slots];
                let args = [&["worker", "--forward", &forward], &slots[..]].concat();
                self.fleet(&args, Vec::new())
            }
            Contender::Rust => {
                let token = ground.consent("constant").access_token;
                let bare = Bare { slots: task.slots, token, handler: task.handler.to_owned() };
                crate::child::this_program(&Role::Bare(bare))?
            }
            Contender::Go => Command::new(self.go.as_ref().with_context(missing)?),
            Contender::Node => script("node".as_ref(), self.node.as_ref().with_context(missing)?),
            Contender::Python | Contender::PlainPython => {
                let python = self.python.as_ref().with_context(missing)?;
                let mut command = Command::new(python);
                command.arg(target_folder()?.join("bench-clients/worker.py"));
                command
            }
        };
        let cached = if who == Contender::PlainPython { "0" } else { "1" };
        command
            .env_clear()
            .envs(ground.environment(task.place))
            .env("BENCH_SLOTS", task.slots.to_string())
            .env("BENCH_HANDLER", task.handler)
            .env("BENCH_CACHE", cached)
            // Node's client would look for one, and wait.
            .env("METADATA_SERVER_DETECTION", "none");
        Client::spawn(command)
    }
}

fn script(interpreter: &Path, script: &Path) -> Command {
    let mut command = Command::new(interpreter);
    command.arg(script);
    command
}

/// Cargo's, of this very program.
fn target_folder() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe().context("this program has no path")?;
    let folder = program.ancestors().find(|folder| folder.join("CACHEDIR.TAG").is_file());
    Ok(folder.context("this program has no target folder")?.to_owned())
}

/// The binary as the container image has it, built by cargo.
async fn build_fleet() -> anyhow::Result<PathBuf> {
    crate::say("building the binary of the image (some minutes when cold)");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build
        .args(["build", "--release", "--locked", "--quiet", "-p", "worker"])
        .args(["--no-default-features", "--message-format=json"])
        .stderr(Stdio::inherit());
    let text = output(&mut build).await.context("the binary cannot be built")?;
    let path = text.lines().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        line["executable"].as_str().map(PathBuf::from)
    });
    path.context("cargo names no binary")
}

/// What is compiled is Debian's copy of the clients, so that nothing is downloaded.
async fn build_go(folder: &Path) -> anyhow::Result<PathBuf> {
    let version = output(Command::new("go").arg("version")).await;
    version.context("`go` is not in the PATH (Debian: golang-go)")?;
    for library in GO_LIBRARIES {
        let source = Path::new(GO_PATH).join("src").join(library);
        ensure!(
            source.is_dir(),
            "{} is not there (Debian: golang-google-cloud-dev)",
            source.display()
        );
    }
    let (source, program) = (folder.join("main.go"), folder.join("go-worker"));
    std::fs::write(&source, GO)?;
    let mut build = Command::new("go");
    build.args(["build", "-o"]).arg(&program).arg(&source);
    build.env("GO111MODULE", "off").env("GOPATH", GO_PATH);
    output(&mut build).await.context("its client cannot be built")?;
    Ok(program)
}

/// The clients that the conformance suite pins.
async fn install_node(folder: &Path) -> anyhow::Result<PathBuf> {
    let version = output(Command::new("node").arg("--version")).await;
    version.context("`node` is not in the PATH")?;
    let folder = folder.join("node");
    std::fs::create_dir_all(&folder)?;
    let lock = include_str!("../conformance/node/package-lock.json");
    let is_installed =
        std::fs::read_to_string(folder.join("installed.json")).is_ok_and(|was| was == lock);
    if !is_installed {
        std::fs::write(folder.join("package-lock.json"), lock)?;
        let package = include_str!("../conformance/node/package.json");
        std::fs::write(folder.join("package.json"), package)?;
        let mut npm = Command::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(&folder);
        output(&mut npm).await.context("npm cannot install Google's clients")?;
        // Last, so that a broken installation is not taken for a whole one.
        std::fs::write(folder.join("installed.json"), lock)?;
    }
    let script = folder.join("worker.mjs");
    std::fs::write(&script, NODE)?;
    Ok(script)
}

async fn install_python(folder: &Path) -> anyhow::Result<PathBuf> {
    let python = Python::find().await?;
    std::fs::write(folder.join("worker.py"), PYTHON)?;
    Ok(python.interpreter().to_owned())
}

/// Runs it to its end; what it wrote, or the last line of its complaint.
async fn output(command: &mut Command) -> anyhow::Result<String> {
    let ran = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    let said = String::from_utf8_lossy(&ran.stderr);
    ensure!(ran.status.success(), "{}", said.lines().last().unwrap_or("it said nothing"));
    Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
}
