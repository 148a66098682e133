//! Where a broker listens: a loopback address, or a socket that its owner alone can open.

use std::fmt;
use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use shared::ports::Randomness;
use tokio::net::{TcpListener, UnixListener, UnixStream};

use super::ForwardError;
use super::target::unix_path;

/// Where a broker listens, as `ADDRESS:PORT` or `unix:/PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A loopback address.
    Address(SocketAddr),
    /// A Unix socket of mode 0600.
    Unix(PathBuf),
}

/// What is wrong with such a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it must be a loopback address, 127.0.0.1:PORT or [::1]:PORT, or unix:/PATH")]
pub struct BadListen;

impl FromStr for Listen {
    type Err = BadListen;

    fn from_str(text: &str) -> Result<Self, BadListen> {
        if let Some(path) = unix_path(text) {
            return Ok(Self::Unix(path));
        }
        let address: Option<SocketAddr> = text.parse().ok();
        let own = address.filter(|address| address.ip().is_loopback());
        own.map(Self::Address).ok_or(BadListen)
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An open listener.
#[derive(Debug)]
pub(super) enum Open {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

impl Listen {
    /// Opens it.
    ///
    /// # Errors
    /// [`ForwardError::Listen`], [`ForwardError::Socket`].
    pub(super) async fn open(&self) -> Result<Open, ForwardError> {
        match self {
            Self::Address(address) => {
                let (address, flag) = (*address, "--listen");
                let opened = TcpListener::bind(address).await;
                let failed = |source| ForwardError::Listen { address, flag, source };
                opened.map(Open::Tcp).map_err(failed)
            }
            Self::Unix(path) => {
                let opened = socket(path).await;
                let failed = |source| ForwardError::Socket { path: path.clone(), source };
                opened.map(|(listener, file)| Open::Unix(listener, file)).map_err(failed)
            }
        }
    }
}

impl Open {
    /// Where it listens.
    pub(super) fn address(&self) -> io::Result<Listen> {
        match self {
            Self::Tcp(listener) => listener.local_addr().map(Listen::Address),
            Self::Unix(_, file) => Ok(Listen::Unix(file.path.clone())),
        }
    }
}

/// A socket of ours, which is removed with this.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and number of the file: another one at the path is not ours.
    identity: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|found| found == self.identity) {
            drop(fs::remove_file(&self.path));
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Makes a socket at `path`. One that a process left behind is replaced; what is anything else,
/// or is answered at, is not.
async fn socket(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it exists and is no socket"));
        }
        Ok(_) => match UnixStream::connect(path).await {
            Ok(_) => {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody answers there"));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) => return Err(error),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // A new socket has the mode that the umask leaves it. So that nobody else opens it before
    // it has its own, it is made in a folder that nobody else can enter, and moved.
    let folder = path.with_file_name(format!(".{}", &Randomness::from_system().id()[..8]));
    DirBuilder::new().mode(0o700).create(&folder)?;
    let made = make_in(&folder, path);
    drop(fs::remove_dir_all(&folder));
    made
}

fn make_in(folder: &Path, path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let new = folder.join("s");
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, Permissions::from_mode(0o600))?;
    let identity = identity(&new)?;
    fs::rename(&new, path)?;
    Ok((listener, SocketFile { path: path.to_owned(), identity }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_addresses_and_sockets() {
        for text in ["127.0.0.1:9091", "[::1]:0", "127.0.0.2:1", "unix:/run/fleet/broker.sock"] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        for text in ["", "0.0.0.0:1", "10.0.0.1:1", "localhost:1", "127.0.0.1", "unix:", "unix:a"] {
            assert_eq!(text.parse::<Listen>(), Err(BadListen), "{text}");
        }
    }

    #[tokio::test]
    async fn a_socket_is_its_owners_replaces_a_dead_one_and_goes_with_its_listener() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("broker.sock");
        let names = || fs::read_dir(folder.path()).unwrap().count();
        let listen: Listen = format!("unix:{}", path.display()).parse().unwrap();
        let open = listen.open().await.unwrap();
        assert_eq!((open.address().unwrap(), names()), (listen.clone(), 1));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let taken = listen.open().await.unwrap_err().to_string();
        assert!(taken.contains("somebody answers there") && taken.contains("broker.sock"));
        drop(open);
        assert_eq!(names(), 0);

        // As a process leaves it that is killed.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let open = listen.open().await.unwrap();
        UnixStream::connect(&path).await.unwrap();
        // Another one's is left alone.
        fs::remove_file(&path).unwrap();
        fs::write(&path, "notes").unwrap();
        drop(open);
        assert_eq!(fs::read_to_string(&path).unwrap(), "notes");
        let why = listen.open().await.unwrap_err().to_string();
        assert!(why.contains("is no socket"), "{why}");
        let missing = Listen::Unix(folder.path().join("none/broker.sock"));
        let why = missing.open().await.unwrap_err().to_string();
        assert!(why.contains("none/broker.sock") && why.contains("folder"), "{why}");
    }
}
