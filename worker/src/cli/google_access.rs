//! Application Default Credentials: whether this process has any. Google's clients look for
//! them for a minute where there are none, and then blame the service that was to be asked.

use std::path::PathBuf;
use std::time::Duration;

use shared::adapters::SystemClock;
use shared::ports::Clock as _;
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tracing::error;

/// What to do where there are none.
pub(super) const HOW: &str = "run `gcloud auth application-default login`, or on GKE give the pod's service account Workload Identity";
/// A metadata server is near, or there is none.
pub(super) const METADATA_LIMIT: Duration = Duration::from_secs(2);
/// That of a pod that has just started may not listen yet.
const METADATA_PAUSE: Duration = Duration::from_millis(200);
/// How long what serves goes on looking.
const SERVING: Duration = Duration::from_secs(60);

/// The file of a person or a service account, where one is named or gcloud keeps it.
pub(super) fn file() -> Option<PathBuf> {
    match std::env::var_os("GOOGLE_APPLICATION_CREDENTIALS") {
        Some(path) if !path.is_empty() => Some(path.into()),
        _ => Some(
            PathBuf::from(std::env::var_os("HOME")?)
                .join(".config/gcloud/application_default_credentials.json"),
        ),
    }
}

/// `host:port` of the metadata server, as Google's clients find it.
pub(super) fn metadata_host() -> String {
    let named = std::env::var("GCE_METADATA_HOST").ok().filter(|host| !host.is_empty());
    let host = named.unwrap_or_else(|| "metadata.google.internal".to_owned());
    if host.contains(':') { host } else { format!("{host}:80") }
}

/// Finds out, once for this process, whether there are credentials.
///
/// # Errors
/// Where there are none, within [`METADATA_LIMIT`].
pub(super) async fn find() -> anyhow::Result<()> {
    static FOUND: OnceCell<()> = OnceCell::const_new();
    FOUND.get_or_try_init(look).await.copied()
}

/// The same for what serves: where the first look finds none it says so, and goes on looking
/// for [`SERVING`], since a pod that has just started may have none for some seconds.
pub(super) async fn find_to_serve() -> anyhow::Result<()> {
    let clock = SystemClock::default();
    let began = clock.monotonic();
    let Err(why) = find().await else { return Ok(()) };
    error!("{why:#}; looked for again");
    while clock.monotonic().since(began) < SERVING {
        if find().await.is_ok() {
            return Ok(());
        }
        clock.sleep(METADATA_PAUSE).await;
    }
    Err(why)
}

async fn look() -> anyhow::Result<()> {
    let named = std::env::var_os("GOOGLE_APPLICATION_CREDENTIALS").is_some_and(|p| !p.is_empty());
    let path = file();
    match &path {
        Some(path) if path.exists() => return Ok(()),
        Some(path) if named => anyhow::bail!(
            "GOOGLE_APPLICATION_CREDENTIALS names {}, which does not exist; correct it, or unset it and {HOW}",
            path.display()
        ),
        _ => {}
    }
    let host = metadata_host();
    let answers = async {
        while TcpStream::connect(&host).await.is_err() {
            SystemClock::default().sleep(METADATA_PAUSE).await;
        }
    };
    if tokio::time::timeout(METADATA_LIMIT, answers).await.is_ok() {
        return Ok(());
    }
    let looked = path.map_or_else(String::new, |path| format!("{} and ", path.display()));
    anyhow::bail!(
        "no Google credentials: looked for {looked}the metadata server at {host}; {HOW}, or use emulators (`fleet dev`)"
    )
}
