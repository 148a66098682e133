//! Files that hold secrets, as programs want to find them.

use std::io::{self, Write as _};
use std::path::Path;

/// Writes a file that only its owner can read, over one that is there.
///
/// # Errors
/// Those of the file system.
pub fn write_secret(path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> io::Result<()> {
    let path = path.as_ref();
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    shared::create_secret(path)?.write_all(content.as_ref())
}
