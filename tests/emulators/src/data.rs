//! What emulators keep across restarts, in a folder. Without one everything is in memory.
//!
//! The emulators decide in memory, under their locks. What a step changes goes into one queue,
//! as a whole and in order, and a thread commits what is there in one transaction of
//! [redb](https://docs.rs/redb). An answer leaves its server when everything that it may tell
//! of is committed. A process that is killed at any moment therefore leaves behind a moment of
//! its history, the same one for all its emulators, and that has everything that was answered.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use emulators::data::Data;
//! use emulators::storage::{Config, Storage};
//!
//! let data = Data::open("my-stack".as_ref())?;
//! let storage = Storage::start_on(Config::default(), &data).await?;
//! # Ok(()) }
//! ```

mod journal;
pub(crate) mod message;

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError, ReadableDatabase as _, TableDefinition, TableError};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub(crate) use journal::{Change, Changes, Journal, answering_when_kept};

/// Of the records. Whoever changes what a key or a value means counts it up.
const FORMAT: u64 = 1;
const FORMAT_KEY: &str = "format";
const ABOUT: TableDefinition<'static, &str, u64> = TableDefinition::new("about");
const RECORDS: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("records");

const FILE: &str = "data.redb";
/// What is not complete yet, and is begun anew.
const NEW_FILE: &str = "data.redb.new";
const LOCK: &str = "lock";

/// What the database may hold in memory: the emulators hold everything themselves.
const CACHE_BYTES: usize = 16 << 20;

/// A folder that keeps what emulators are told. One process at a time has it. Drop it after
/// the emulators: what they change then is kept no more, and what they answer is an error.
#[derive(Debug)]
pub struct Data {
    database: Arc<Database>,
    journal: Arc<Journal>,
    writer: Option<JoinHandle<()>>,
    /// Held as long as this is.
    _lock: File,
}

impl Data {
    /// Opens a folder, which is made if there is none.
    ///
    /// # Errors
    ///
    /// See [`DataError`]; the folder stays as it was.
    pub fn open(folder: &Path) -> Result<Self, DataError> {
        let at_folder = |source| DataError::Io { path: folder.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(at_folder)?;
        let file = folder.join(FILE);
        if !file.exists() && !is_empty(folder).map_err(at_folder)? {
            return Err(DataError::Foreign(folder.to_owned()));
        }
        let lock = private(
            OpenOptions::new().write(true).create(true).truncate(false),
            &folder.join(LOCK),
        )
        .map_err(at_folder)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DataError::InUse(folder.to_owned())),
            Err(TryLockError::Error(source)) => return Err(at_folder(source)),
        }
        if !file.exists() {
            make(folder).map_err(|source| DataError::unreadable(&file, source))?;
        }
        let database = Arc::new(open(&file)?);
        let journal = Arc::new(Journal::default());
        let writer = {
            let (database, journal) = (Arc::clone(&database), Arc::clone(&journal));
            let run = move || journal.drain(|changes| commit(&database, changes));
            thread::Builder::new().name("emulators-data".to_owned()).spawn(run)
        };
        let writer = Some(writer.map_err(at_folder)?);
        Ok(Self { database, journal, writer, _lock: lock })
    }

    /// Completes when something could not be written, and says why. From then on every answer
    /// of the emulators is an error.
    pub async fn failed(&self) -> String {
        self.journal.failed().await
    }

    pub(crate) fn journal(&self) -> Arc<Journal> {
        Arc::clone(&self.journal)
    }

    /// What is kept under the keys that begin so: the rest of each key, and its value.
    pub(crate) fn read(&self, prefix: &str) -> io::Result<Vec<(String, Bytes)>> {
        self.try_read(prefix).map_err(io::Error::other)
    }

    fn try_read(&self, prefix: &str) -> Result<Vec<(String, Bytes)>, redb::Error> {
        let table = match self.database.begin_read()?.open_table(RECORDS) {
            Err(TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            table => table?,
        };
        let mut records = Vec::new();
        for record in table.range(prefix..end_of(prefix).as_str())? {
            let (key, value) = record?;
            let rest = key.value().strip_prefix(prefix).unwrap_or_default().to_owned();
            records.push((rest, Bytes::copy_from_slice(value.value())));
        }
        Ok(records)
    }
}

impl Drop for Data {
    /// Waits for the last commit.
    fn drop(&mut self) {
        self.journal.close();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the thread that writes the emulators' data panicked");
        }
    }
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// Another process has it.
    #[error("{} is in use by another process; stop that one, or name another folder", .0.display())]
    InUse(PathBuf),
    /// It has files, and none of them is the data of emulators.
    #[error("{} holds other files and no emulators' data; name an empty folder, or a new one", .0.display())]
    Foreign(PathBuf),
    /// It was written by another version, whose records mean something else.
    #[error(
        "{} was written by another version (its format is {found}, and this one reads {}); \
         use that version, or another folder", .path.display(), FORMAT
    )]
    OtherFormat {
        /// The file.
        path: PathBuf,
        /// What it says of itself.
        found: String,
    },
    /// It cannot be read, or makes no sense.
    #[error("{} cannot be read as the data of emulators", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
    /// The file system refuses.
    #[error("{} cannot be used", .path.display())]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl DataError {
    fn unreadable(path: &Path, source: redb::Error) -> Self {
        Self::Unreadable { path: path.to_owned(), source: Box::new(source) }
    }
}

/// A folder that nothing was put into but by an `open` that did not get to its end.
fn is_empty(folder: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        if name != LOCK && name != NEW_FILE {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What is kept has tokens: nobody else may read it.
fn private(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.mode(0o600).open(path)
}

/// Makes the file beside its place, so that it is there as a whole or not at all.
fn make(folder: &Path) -> Result<(), redb::Error> {
    let new = folder.join(NEW_FILE);
    let mut options = OpenOptions::new();
    let file = private(options.read(true).write(true).create(true).truncate(true), &new)?;
    let database = Builder::new().create_with_backend(FileBackend::new(file)?)?;
    let transaction = database.begin_write()?;
    transaction.open_table(ABOUT)?.insert(FORMAT_KEY, FORMAT)?;
    transaction.commit()?;
    drop(database);
    fs::rename(new, folder.join(FILE))?;
    Ok(File::open(folder)?.sync_all()?)
}

fn open(file: &Path) -> Result<Database, DataError> {
    let other = |found| DataError::OtherFormat { path: file.to_owned(), found };
    let database = match Builder::new().set_cache_size(CACHE_BYTES).open(file) {
        Ok(database) => database,
        Err(DatabaseError::UpgradeRequired(version)) => {
            return Err(other(format!("of redb file version {version}")));
        }
        Err(error) => return Err(DataError::unreadable(file, error.into())),
    };
    match format_of(&database).map_err(|source| DataError::unreadable(file, source))? {
        Some(FORMAT) => Ok(database),
        Some(found) => Err(other(found.to_string())),
        None => Err(other("not stated".to_owned())),
    }
}

fn format_of(database: &Database) -> Result<Option<u64>, redb::Error> {
    match database.begin_read()?.open_table(ABOUT) {
        Err(TableError::TableDoesNotExist(_)) => Ok(None),
        table => Ok(table?.get(FORMAT_KEY)?.map(|format| format.value())),
    }
}

fn commit(database: &Database, changes: &[Change]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut records = transaction.open_table(RECORDS)?;
        for change in changes {
            match change {
                Change::Put(key, value) => {
                    records.insert(key.as_str(), &**value)?;
                }
                Change::Delete(key) => {
                    records.remove(key.as_str())?;
                }
                Change::DeleteUnder(prefix) => {
                    let end = end_of(prefix);
                    records.retain_in(prefix.as_str()..end.as_str(), |_, _| false)?;
                }
            }
        }
    }
    Ok(transaction.commit()?)
}

/// Comes after all keys that begin so. Names end before the last character of all.
fn end_of(prefix: &str) -> String {
    format!("{prefix}\u{10FFFF}")
}

/// The value of a record.
pub(crate) fn record(value: &impl Serialize) -> Bytes {
    // Records have text keys and no parts that fail.
    serde_json::to_vec(value).unwrap_or_default().into()
}

/// The inverse of [`record`].
pub(crate) fn parse<T: DeserializeOwned>(record: &[u8]) -> io::Result<T> {
    serde_json::from_slice(record).map_err(|error| {
        // Without the text: it may be a token.
        let (kind, column) = (error.classify(), error.column());
        io::Error::other(format!("a record cannot be read ({kind:?} at byte {column})"))
    })
}

#[cfg(test)]
mod tests;
