//! `fleet dev --data`: a folder that keeps a stack across restarts.
//!
//! Beside the emulators' data it has the files of the stack, with the same keys each time, and
//! where its ports begin.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use emulators::data::Data;
use shared::create_secret;

use super::ports::{Ports, port_base};

/// The text of where its ports begin.
const PORT_BASE: &str = "port-base";

/// An open folder. No other process has it meanwhile.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) folder: PathBuf,
    pub(super) data: Data,
}

impl Kept {
    pub(super) fn open(folder: &Path) -> anyhow::Result<Self> {
        // Other programs find files there, wherever they are started.
        let folder = std::path::absolute(folder).context("--data")?;
        let data = Data::open(&folder).context("--data")?;
        Ok(Self { folder, data })
    }

    /// Where the ports of the last run began.
    pub(super) fn ports(&self) -> Option<Ports> {
        let text = fs::read_to_string(self.folder.join(PORT_BASE)).ok()?;
        port_base(text.trim()).ok()
    }

    pub(super) fn keep_ports(&self, ports: Ports) -> anyhow::Result<()> {
        write_private(&self.folder.join(PORT_BASE), format!("{ports}\n").as_bytes())
    }
}

/// Writes a file that only its owner may read, as a whole: a process that is killed meanwhile
/// leaves what was there before.
pub(super) fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    let written = || -> io::Result<()> {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = create_secret(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    written().with_context(|| format!("{} cannot be written", path.display()))
}
