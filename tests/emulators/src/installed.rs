//! Google's own Pub/Sub emulator, where it is installed: what the embedded one is
//! compared with.

use std::io::{self, BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// Path of the emulator's jar, where it is not found by itself.
const JAR: &str = "FLEET_PUBSUB_EMULATOR_JAR";
/// Java has to start in this time, on a busy machine too.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running emulator of Google's. Dropping it kills the process.
#[derive(Debug)]
pub struct GooglePubSub {
    address: SocketAddr,
    java: Child,
}

/// Google's emulator does not run.
#[derive(Debug, thiserror::Error)]
pub enum NotStarted {
    /// It is not installed.
    #[error(
        "Google's Pub/Sub emulator is not installed (Cloud SDK component pubsub-emulator and \
         Java; or set {JAR})"
    )]
    Missing,
    /// Java cannot be started.
    #[error("Google's Pub/Sub emulator cannot be started")]
    Failed(#[from] io::Error),
    /// It ended before it served, or took longer than a minute.
    #[error("Google's Pub/Sub emulator did not come up")]
    NotUp,
}

impl GooglePubSub {
    /// Starts the emulator on a free port of the loopback interface. It serves when this
    /// returns.
    ///
    /// Needs a tokio runtime. Cancelling kills the process.
    ///
    /// # Errors
    ///
    /// It is not installed, or does not start.
    pub async fn start() -> Result<Self, NotStarted> {
        let jar = find_jar().ok_or(NotStarted::Missing)?;
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()?;
        let java = Command::new("java")
            .arg("-Xmx256m")
            .arg("-jar")
            .arg(jar)
            .args(["--host=127.0.0.1", &format!("--port={}", address.port())])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut google = Self { address, java };
        let said = google.java.stderr.take().ok_or(NotStarted::NotUp)?;
        let (up, is_up) = oneshot::channel();
        // A thread and not a task: it empties the pipe for as long as the process lives,
        // whatever becomes of the runtime.
        std::thread::spawn(move || {
            let mut up = Some(up);
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                if line.contains("Server started")
                    && let Some(up) = up.take()
                {
                    // Whoever started it may have given up.
                    up.send(()).unwrap_or_default();
                }
            }
        });
        match timeout(PATIENCE, is_up).await {
            Ok(Ok(())) => Ok(google),
            _ => Err(NotStarted::NotUp),
        }
    }

    /// Where clients connect, without TLS.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for GooglePubSub {
    fn drop(&mut self) {
        // One that has ended by itself cannot be killed, and need not be.
        self.java.kill().unwrap_or_default();
        self.java.wait().map(drop).unwrap_or_default();
    }
}

fn find_jar() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(JAR).filter(|path| !path.is_empty()) {
        return Some(path.into());
    }
    in_path("java")?;
    let mut roots: Vec<PathBuf> =
        ["/usr/lib/google-cloud-sdk", "/opt/google-cloud-sdk", "/usr/local/google-cloud-sdk"]
            .map(PathBuf::from)
            .to_vec();
    if let Some(home) = std::env::var_os("HOME") {
        roots.push(Path::new(&home).join("google-cloud-sdk"));
    }
    // gcloud lies in the SDK's `bin`, often behind a link.
    if let Some(sdk) = in_path("gcloud")
        .and_then(|gcloud| gcloud.canonicalize().ok())
        .and_then(|gcloud| Some(gcloud.parent()?.parent()?.to_owned()))
    {
        roots.push(sdk);
    }
    roots.into_iter().find_map(|root| {
        let entries = std::fs::read_dir(root.join("platform/pubsub-emulator/lib")).ok()?;
        entries.flatten().map(|entry| entry.path()).find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("cloud-pubsub-emulator") && name.ends_with(".jar")
        })
    })
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}
