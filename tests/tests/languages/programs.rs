//! Programs in other languages, as processes.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tests::stage::{Cloud, PATIENCE, Stage, find_clients, leave_out};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// The languages that handlers are written in here.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Language {
    /// `functions-framework` on gunicorn.
    Python,
    /// `@google-cloud/functions-framework`.
    Node,
}

/// Where the clients are installed; `None` when they are not and need not be, which is said.
pub(crate) fn clients(test: &str) -> anyhow::Result<Option<Clients>> {
    match find_clients() {
        Ok(folder) => Ok(Some(Clients { folder })),
        Err(missing) => {
            leave_out(&format!("languages::{test}"), &missing)?;
            Ok(None)
        }
    }
}

/// The client libraries.
pub(crate) struct Clients {
    folder: PathBuf,
}

impl Clients {
    /// A program that finds the libraries, knows the stage's servers and nothing else of this
    /// machine.
    fn program(&self, stage: &Stage, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            // Where gunicorn and gcloud would keep files.
            .env("HOME", stage.path("."))
            .env("NO_PROXY", "127.0.0.1,localhost")
            .envs(self.libraries())
            .env("FLEET_API_ROOT", stage.google.origin())
            .env("STORAGE_EMULATOR_HOST", &stage.cloud.storage)
            .env("HANDLES", stage.path("handles"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// The variables by which the languages find the libraries.
    pub(crate) fn libraries(&self) -> [(&'static str, PathBuf); 3] {
        [
            ("PYTHONPATH", self.folder.join("python")),
            ("PYTHONDONTWRITEBYTECODE", "1".into()),
            ("NODE_PATH", self.folder.join("node/node_modules")),
        ]
    }

    /// A script of `tests/clients/`, with these arguments and variables.
    pub(crate) fn script(
        &self,
        stage: &Stage,
        script: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> anyhow::Result<Program> {
        let program = if script.starts_with("python/") { "python3" } else { "node" };
        let mut command = self.program(stage, program);
        command.arg(source(script)).args(arguments).envs(variables.iter().copied());
        Program::spawn(command)
    }

    /// The function `greet` of a file of `tests/clients/LANGUAGE/`, served by the language's
    /// framework; it listens when this returns.
    pub(crate) async fn function(
        &self,
        stage: &Stage,
        language: Language,
        file: &str,
        port: u16,
    ) -> anyhow::Result<Program> {
        let port = port.to_string();
        let (command, listens) = match language {
            Language::Python => {
                let mut command = self.program(stage, "python3");
                command.args(["-m", "functions_framework", "--target", "greet", "--source"]);
                command.arg(source(&format!("python/{file}.py")));
                command.args(["--host", "127.0.0.1", "--port", &port]);
                // Otherwise it says nothing, not even that it listens.
                command.env("GUNICORN_LOG_LEVEL", "info");
                (command, "Listening at: http")
            }
            Language::Node => {
                let mut command = self.program(stage, "node");
                let bin = "node/node_modules/@google-cloud/functions-framework/build/src/main.js";
                command.arg(self.folder.join(bin)).args(["--target", "greet", "--source"]);
                command.arg(source(&format!("node/{file}.js"))).args(["--port", &port]);
                (command, "URL: http")
            }
        };
        let mut program = Program::spawn(command)?;
        program.says(listens).await?;
        Ok(program)
    }

    /// The Flask application of the README, served by gunicorn; it listens when this returns.
    pub(crate) async fn flask(&self, stage: &Stage, port: u16) -> anyhow::Result<Program> {
        let mut command = self.program(stage, "python3");
        let bind = format!("127.0.0.1:{port}");
        command.args(["-m", "gunicorn", "--bind", &bind, "--threads", "8", "--timeout", "0"]);
        command.args(["--no-control-socket", "--access-logfile", "-", "--chdir"]);
        command.arg(source("python")).arg("app:app");
        let mut program = Program::spawn(command)?;
        program.says("Listening at: http").await?;
        Ok(program)
    }
}

/// A file of `tests/clients/`.
pub(crate) fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(name)
}

/// A port that nobody listens on at the moment.
pub(crate) async fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port())
}

/// A stage on which the storage emulator has a bucket for the handlers' own files.
pub(crate) async fn stage(provider: emulators::google::Config) -> anyhow::Result<Stage> {
    crate::written::begin();
    let stage = Stage::set_with(Cloud::embedded().await?, provider).await?;
    stage.cloud.create_bucket("exports").await?;
    Ok(stage)
}

/// A running program; dropping it kills it.
pub(crate) struct Program {
    child: Child,
    said: watch::Receiver<String>,
}

impl Program {
    fn spawn(mut command: Command) -> anyhow::Result<Self> {
        let mut child = command.spawn().with_context(|| format!("{command:?} cannot start"))?;
        let (sender, said) = watch::channel(String::new());
        listen(child.stdout.take().context("no stdout")?, sender.clone());
        listen(child.stderr.take().context("no stderr")?, sender);
        Ok(Self { child, said })
    }

    /// Waits until it has written this.
    pub(crate) async fn says(&mut self, wanted: &str) -> anyhow::Result<()> {
        while !self.said.borrow_and_update().contains(wanted) {
            let more = tokio::time::timeout(PATIENCE, self.said.changed()).await;
            if !matches!(more, Ok(Ok(()))) {
                anyhow::bail!("it does not say {wanted:?}: {}", self.written());
            }
        }
        Ok(())
    }

    /// Everything that it has written so far.
    pub(crate) fn written(&self) -> String {
        self.said.borrow().clone()
    }

    /// Writes a line to its stdin.
    pub(crate) async fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        let stdin = self.child.stdin.as_mut().context("no stdin")?;
        stdin.write_all(format!("{line}\n").as_bytes()).await?;
        Ok(())
    }

    /// Waits for its end; everything that it has written.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<String> {
        let late = "it does not end";
        // Closed when both of its pipes are.
        while tokio::time::timeout(PATIENCE, self.said.changed()).await.context(late)?.is_ok() {}
        tokio::time::timeout(PATIENCE, self.child.wait()).await.context(late)??;
        Ok(self.written())
    }

    /// SIGTERM, and its end.
    pub(crate) async fn terminate(&mut self) -> anyhow::Result<String> {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        kill_process(pid.context("it has ended")?, Signal::TERM)?;
        self.ended().await
    }
}

/// Keeps what comes, line by line.
fn listen(pipe: impl AsyncRead + Unpin + Send + 'static, said: watch::Sender<String>) {
    let mut lines = BufReader::new(pipe).lines();
    tokio::spawn(async move {
        while let Ok(Some(line)) = lines.next_line().await {
            said.send_modify(|said| {
                said.push_str(&line);
                said.push('\n');
            });
        }
    });
}
