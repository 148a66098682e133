//! The keyring's file on disk.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use zeroize::Zeroizing;

use super::{BadKeyring, KeyId, Keyring, WRAPPED_VERSION, WrappedKeyring, version_of};
use crate::secret::Secret;
use crate::{create_secret, open_secret};

/// A larger file is not a keyring.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// A keyring's file that cannot be read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KeyringFileError {
    /// It is there already and must not be lost.
    #[error(
        "keyring {} exists already; add a key to it with `fleet keyring rotate`, or name another file",
        path.display()
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Its content is not a keyring.
    #[error("keyring {}: {why}", path.display())]
    Bad {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: BadKeyring,
    },
    /// The file system refused.
    #[error("keyring {} cannot be {what}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// `read` or `written`.
        what: &'static str,
        /// Why.
        source: Arc<io::Error>,
    },
}

/// A keyring as its file holds it.
#[derive(Clone, Debug)]
pub enum KeyringFile {
    /// The keys themselves.
    Plain(Keyring),
    /// Wrapped by a KMS key.
    Wrapped(WrappedKeyring),
}

impl KeyringFile {
    /// Reads the file's content, whatever its version.
    ///
    /// # Errors
    /// [`BadKeyring`]; its text says what to do and never quotes a key.
    pub fn from_json(content: &[u8]) -> Result<Self, BadKeyring> {
        if version_of(content)? == WRAPPED_VERSION {
            return WrappedKeyring::from_json(content).map(Self::Wrapped);
        }
        Keyring::from_json(content).map(Self::Plain)
    }

    /// The file's content.
    pub fn to_json(&self) -> Secret {
        match self {
            Self::Plain(keyring) => keyring.to_json(),
            Self::Wrapped(wrapped) => Secret::new(wrapped.to_json()),
        }
    }

    /// Makes a key of this keyring the primary one.
    ///
    /// # Errors
    /// [`BadKeyring::NoSuchKey`].
    pub fn promote(&mut self, id: &KeyId) -> Result<(), BadKeyring> {
        match self {
            Self::Plain(keyring) => keyring.promote(id),
            Self::Wrapped(wrapped) => wrapped.promote(id),
        }
    }

    /// The key that seals, if one does.
    pub fn primary(&self) -> Option<&KeyId> {
        match self {
            Self::Plain(keyring) => keyring.primary(),
            Self::Wrapped(wrapped) => wrapped.primary(),
        }
    }

    /// Every key and when it was made, in the order of the file; never empty.
    pub fn keys(&self) -> Vec<(&KeyId, Timestamp)> {
        match self {
            Self::Plain(keyring) => keyring.keys().collect(),
            Self::Wrapped(wrapped) => wrapped.keys().collect(),
        }
    }
}

/// Blocking; these are for programs that start, not for their tasks.
impl KeyringFile {
    /// Reads the file at `path`, unless others can ([`open_secret`]).
    ///
    /// # Errors
    /// [`KeyringFileError`], which names the file.
    pub fn read(path: &Path) -> Result<Self, KeyringFileError> {
        let failed = |error| io_error(path, "read", error);
        let file = open_secret(path).map_err(failed)?;
        let mut content = Zeroizing::new(Vec::with_capacity(16 * 1024));
        file.take(MAX_FILE_BYTES).read_to_end(&mut content).map_err(failed)?;
        Self::from_json(&content)
            .map_err(|why| KeyringFileError::Bad { path: path.to_owned(), why })
    }

    /// Writes a new file at `path` that only its owner may read (mode 0600). An
    /// existing file is left as it is: records may need its keys.
    ///
    /// # Errors
    /// [`KeyringFileError::Exists`], or [`KeyringFileError::Io`].
    pub fn write_new(&self, path: &Path) -> Result<(), KeyringFileError> {
        match self.write(path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(KeyringFileError::Exists { path: path.to_owned() })
            }
            Err(error) => Err(io_error(path, "written", error)),
        }
    }

    /// Replaces the file at `path` at once: whoever reads it meets the old
    /// content or the new one, also after a crash. Mode 0600.
    ///
    /// # Errors
    /// [`KeyringFileError::Io`]. When `path` with `.new` at its end exists, an
    /// earlier attempt was cut short: compare the two and remove it.
    pub fn replace(&self, path: &Path) -> Result<(), KeyringFileError> {
        // Where the name is a link, the file that it leads to is replaced.
        let target = fs::canonicalize(path).map_err(|e| io_error(path, "written", e))?;
        let mut new = target.clone().into_os_string();
        new.push(".new");
        let new = PathBuf::from(new);
        self.write(&new).map_err(|e| io_error(&new, "written", e))?;
        let renamed = fs::rename(&new, &target).and_then(|()| sync_folder(&target));
        renamed.map_err(|e| io_error(path, "written", e))
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let mut file = create_secret(path)?;
        let written =
            file.write_all(self.to_json().expose().as_bytes()).and_then(|()| file.sync_all());
        if let Err(error) = written {
            drop(file);
            // Half a keyring is of no use to anybody; the first error counts.
            fs::remove_file(path).ok();
            return Err(error);
        }
        sync_folder(path)
    }
}

/// Makes a new name last.
fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if cfg!(unix) => {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            File::open(folder)?.sync_all()
        }
        _ => Ok(()),
    }
}

fn io_error(path: &Path, what: &'static str, error: io::Error) -> KeyringFileError {
    KeyringFileError::Io { path: path.to_owned(), what, source: Arc::new(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of this test's own, removed with what is in it.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("keyring-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    #[test]
    fn is_written_once_for_its_owner_and_replaced_whole() {
        let folder = Folder::new("write");
        let path = folder.0.join("keyring.json");
        let mut keyring = Keyring::new(Timestamp::UNIX_EPOCH);
        let file = KeyringFile::Plain(keyring.clone());
        file.write_new(&path).unwrap();
        assert_eq!(KeyringFile::read(&path).unwrap().primary(), keyring.primary());
        let again = file.write_new(&path).unwrap_err();
        assert!(matches!(again, KeyringFileError::Exists { .. }), "{again}");
        keyring.rotate(Timestamp::UNIX_EPOCH);
        KeyringFile::Plain(keyring).replace(&path).unwrap();
        assert_eq!(KeyringFile::read(&path).unwrap().keys().len(), 2);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(&folder.0).unwrap().count(), 1, "nothing is left behind");
    }

    #[test]
    fn errors_name_the_file() {
        let folder = Folder::new("errors");
        let path = folder.0.join("none.json");
        let missing = KeyringFile::read(&path).unwrap_err();
        assert!(missing.to_string().contains("none.json"), "{missing}");
        create_secret(&path).unwrap().write_all(b"{}").unwrap();
        let bad = KeyringFile::read(&path).unwrap_err();
        assert!(matches!(bad, KeyringFileError::Bad { .. }), "{bad}");
    }
}
