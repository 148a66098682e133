//! The keys that seal stored secrets.
//!
//! A keyring has one *primary* key, which seals, and any number of older ones,
//! which only open. Rotation therefore needs no pause: the new primary seals
//! whatever is written next, and everything else still opens. Records that are
//! never written otherwise are finished by
//! [`TokenStore::reseal`](crate::TokenStore::reseal); once no record names an old
//! key any more, [`Keyring::remove`] it.
//!
//! A process opens only what its own keyring has. Where replicas cannot all get
//! the new file at one moment, roll it out in two steps: [`Keyring::add`] and
//! deploy, then [`Keyring::promote`] and deploy. [`Keyring::rotate`] does both at
//! once, for fleets that restart together. The first keyring of a running fleet comes
//! the same way: one that is [open only](Keyring::open_only) has no primary key yet.
//!
//! The file is JSON:
//!
//! ```json
//! {
//!   "version": 1,
//!   "primary": "5c1e0b7a9d24f638",
//!   "keys": [
//!     {"id": "5c1e0b7a9d24f638", "key": "<32 bytes, base64>", "created_at": "2026-01-02T03:04:05Z"}
//!   ]
//! }
//! ```
//!
//! It is as secret as everything that it seals: keep it where the OAuth client's
//! file is kept, and keep a copy, because without it no sealed record opens again.
//!
//! Where a key in Cloud KMS wraps the keys ([`WrappedKeyring`]), the file has version 2, names
//! that KMS key, and holds in the place of every key what KMS made of it, bound to the key's
//! ID. Such a file is of no use without the right to decrypt with the KMS key; processes
//! unwrap it at their start and keep the keys in memory only:
//!
//! ```json
//! {
//!   "version": 2,
//!   "kms_key": "projects/P/locations/L/keyRings/R/cryptoKeys/K",
//!   "primary": "5c1e0b7a9d24f638",
//!   "keys": [
//!     {"id": "5c1e0b7a9d24f638", "wrapped": "<ciphertext, base64>", "created_at": "2026-01-02T03:04:05Z"}
//!   ]
//! }
//! ```

mod file;
mod key;
mod wrapped;

use std::fmt;
use std::str::FromStr as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use crate::ports::InvalidKmsKey;
use crate::secret::Secret;

pub use file::{KeyringFile, KeyringFileError};
pub use key::KeyId;
pub use wrapped::WrappedKeyring;

use key::Key;
pub(crate) use key::{NONCE_LEN, NotOpened, Sealed};
use wrapped::WRAPPED_VERSION;

/// The version of files whose keys are not wrapped.
pub const KEYRING_VERSION: u32 = 1;

/// Keys that seal and open stored secrets; see the [module's page](self).
///
/// Never empty. A clone costs one reference count per key. `Debug` shows key IDs
/// only; the memory of a key is zeroed when its last clone is dropped.
#[derive(Clone)]
pub struct Keyring {
    primary: Option<KeyId>,
    keys: Vec<Arc<Key>>,
}

impl Keyring {
    /// A keyring with one fresh key, made at `now`.
    pub fn new(now: Timestamp) -> Self {
        let key = Key::generate(now);
        Self { primary: Some(key.id().clone()), keys: vec![Arc::new(key)] }
    }

    /// A keyring with one fresh key that opens and does not seal: for a fleet that runs
    /// without one, until every process has it and the key can be promoted.
    pub fn open_only(now: Timestamp) -> Self {
        Self { primary: None, keys: vec![Arc::new(Key::generate(now))] }
    }

    /// Adds a fresh key and makes it the primary one. Older keys still open.
    /// Returns its ID.
    pub fn rotate(&mut self, now: Timestamp) -> KeyId {
        let id = self.add(now);
        self.primary = Some(id.clone());
        id
    }

    /// Adds a fresh key that opens, and does not seal yet. Returns its ID.
    pub fn add(&mut self, now: Timestamp) -> KeyId {
        let key = Key::generate(now);
        let id = key.id().clone();
        self.keys.push(Arc::new(key));
        id
    }

    /// Makes a key of this keyring the primary one.
    ///
    /// # Errors
    /// [`BadKeyring::NoSuchKey`].
    pub fn promote(&mut self, id: &KeyId) -> Result<(), BadKeyring> {
        if self.key(id).is_none() {
            return Err(BadKeyring::NoSuchKey(id.clone()));
        }
        self.primary = Some(id.clone());
        Ok(())
    }

    /// Removes a key. What it sealed does not open any more: make sure first that
    /// no record names it.
    ///
    /// # Errors
    /// [`BadKeyring::NoSuchKey`], or [`BadKeyring::IsPrimary`].
    pub fn remove(&mut self, id: &KeyId) -> Result<(), BadKeyring> {
        if self.key(id).is_none() {
            return Err(BadKeyring::NoSuchKey(id.clone()));
        }
        if Some(id) == self.primary.as_ref() {
            return Err(BadKeyring::IsPrimary(id.clone()));
        }
        self.keys.retain(|key| key.id() != id);
        Ok(())
    }

    /// The key that seals, if one does.
    pub fn primary(&self) -> Option<&KeyId> {
        self.primary.as_ref()
    }

    /// The key that was added last.
    #[expect(clippy::missing_panics_doc, reason = "a keyring is never empty")]
    pub fn newest(&self) -> &KeyId {
        self.keys.last().expect("a keyring is never empty").id()
    }

    /// Every key and when it was made, in the order of the file.
    pub fn keys(&self) -> impl Iterator<Item = (&KeyId, Timestamp)> {
        self.keys.iter().map(|key| (key.id(), key.created_at()))
    }

    fn key(&self, id: &KeyId) -> Option<&Key> {
        self.keys.iter().find(|key| key.id() == id).map(|key| &**key)
    }

    /// Seals `plain` with the primary key, bound to `context`; `None` without one.
    pub(crate) fn seal(&self, context: &str, plain: Zeroizing<Vec<u8>>) -> Option<Sealed> {
        Some(self.key(self.primary.as_ref()?)?.seal(context, plain))
    }

    /// Opens what was sealed for `context`.
    pub(crate) fn open(
        &self,
        context: &str,
        sealed: Sealed,
    ) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
        match self.key(&sealed.key) {
            Some(key) => key.open(context, sealed),
            None => Err(NotOpened::UnknownKey),
        }
    }

    /// The file's content.
    #[expect(clippy::missing_panics_doc, reason = "serializing plain values cannot fail")]
    pub fn to_json(&self) -> Secret {
        let encoded: Vec<Zeroizing<String>> =
            self.keys.iter().map(|key| Zeroizing::new(BASE64.encode(key.bytes()))).collect();
        let keys = self.keys.iter().zip(&encoded).map(|(key, encoded)| FileKey {
            id: key.id().as_str(),
            key: encoded,
            created_at: key.created_at(),
        });
        let primary = self.primary.as_ref().map(KeyId::as_str);
        let file = File { version: KEYRING_VERSION, primary, keys: keys.collect() };
        // Sized beforehand, so that growing it leaves no copy of a key behind.
        let mut text = Vec::with_capacity(256 + 256 * self.keys.len());
        serde_json::to_writer_pretty(&mut text, &file).expect("plain values only");
        text.push(b'\n');
        Secret::new(String::from_utf8(text).expect("JSON is UTF-8"))
    }

    /// Reads the content of a file whose keys are not wrapped.
    ///
    /// # Errors
    /// [`BadKeyring`]; its text says what to do and never quotes a key.
    pub fn from_json(content: &[u8]) -> Result<Self, BadKeyring> {
        let version = version_of(content)?;
        if version != KEYRING_VERSION {
            return Err(BadKeyring::Version(version));
        }
        let file: Incoming =
            serde_json::from_slice(content).map_err(|e| BadKeyring::not_json(&e))?;
        let mut keys: Vec<Arc<Key>> = Vec::with_capacity(file.keys.len());
        for (index, entry) in file.keys.iter().enumerate() {
            let id: KeyId = entry.id.parse().map_err(|_| BadKeyring::Id { index })?;
            let bytes = BASE64.decode(&entry.key).map(Zeroizing::new);
            let bytes = bytes.map_err(|_| BadKeyring::Key { id: id.clone() })?;
            let Some(bytes) = key_bytes(&bytes) else {
                return Err(BadKeyring::Key { id });
            };
            if keys.iter().any(|key| *key.id() == id) {
                return Err(BadKeyring::Twice { id });
            }
            keys.push(Arc::new(Key::new(id, bytes, entry.created_at)));
        }
        let is_there = |id: &KeyId| keys.iter().any(|key| key.id() == id);
        let primary = match file.primary.as_deref().map(KeyId::from_str) {
            None if !keys.is_empty() => None,
            Some(Ok(id)) if is_there(&id) => Some(id),
            _ => return Err(BadKeyring::Primary),
        };
        Ok(Self { primary, keys })
    }
}

/// The version that a file's content says it has.
fn version_of(content: &[u8]) -> Result<u32, BadKeyring> {
    #[derive(Deserialize)]
    struct Version {
        version: u32,
    }
    let read: Result<Version, _> = serde_json::from_slice(content);
    read.map(|read| read.version).map_err(|e| BadKeyring::not_json(&e))
}

fn key_bytes(bytes: &[u8]) -> Option<Zeroizing<[u8; 32]>> {
    <[u8; 32]>::try_from(bytes).ok().map(Zeroizing::new)
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("primary", &self.primary)
            .field("keys", &self.keys().map(|(id, _)| id).collect::<Vec<_>>())
            .finish()
    }
}

#[derive(Serialize)]
struct File<'a> {
    version: u32,
    primary: Option<&'a str>,
    keys: Vec<FileKey<'a>>,
}

#[derive(Serialize)]
struct FileKey<'a> {
    id: &'a str,
    key: &'a str,
    created_at: Timestamp,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Incoming {
    #[serde(rename = "version")]
    _version: u32,
    /// None seals yet where it is `null`.
    #[serde(deserialize_with = "Option::deserialize")]
    primary: Option<String>,
    keys: Vec<IncomingKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IncomingKey {
    id: String,
    key: String,
    created_at: Timestamp,
}

impl Drop for IncomingKey {
    fn drop(&mut self) {
        self.key.zeroize();
    }
}

/// Why a file is not a keyring, or a key not what it is taken for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadKeyring {
    /// Not JSON, or fields missing, unknown or of the wrong type.
    #[error(
        "it is not a keyring (line {line}, column {column}): make one with `fleet keyring new`, or restore it from its copy"
    )]
    NotAKeyring {
        /// Line of the first fault.
        line: usize,
        /// Column of the first fault.
        column: usize,
    },
    /// Written by another version of the program.
    #[error(
        "it has version {0}, and this program reads versions {KEYRING_VERSION} and {WRAPPED_VERSION}; run a newer one"
    )]
    Version(u32),
    /// An ID that is not one.
    #[error("the ID of key {index} (from 0) is not 1 to 64 of A-Z a-z 0-9 - _; restore the file")]
    Id {
        /// Position in the file.
        index: usize,
    },
    /// A key that is not one.
    #[error("key {id} is not the base64 of 32 bytes; restore the file from its copy")]
    Key {
        /// Its ID.
        id: KeyId,
    },
    /// A wrapped key that is not one.
    #[error("wrapped key {id} is not base64; restore the file from its copy")]
    Wrapped {
        /// Its ID.
        id: KeyId,
    },
    /// The file does not name the KMS key that wrapped its keys.
    #[error("\"kms_key\": {}; restore the file from its copy", InvalidKmsKey)]
    KmsKey,
    /// Two keys with one ID.
    #[error("key {id} is there twice; remove the one that sealed nothing")]
    Twice {
        /// Its ID.
        id: KeyId,
    },
    /// The primary key is not among the keys.
    #[error("the primary key is not among the keys; name one of them as \"primary\"")]
    Primary,
    /// No key has this ID.
    #[error("the keyring has no key {0}; name one that it has")]
    NoSuchKey(KeyId),
    /// The primary key cannot be removed.
    #[error("key {0} is the primary one; rotate first, and re-seal what it sealed")]
    IsPrimary(KeyId),
}

impl BadKeyring {
    /// `serde_json`'s own text may quote a value, so only its position is kept.
    fn not_json(error: &serde_json::Error) -> Self {
        Self::NotAKeyring { line: error.line(), column: error.column() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn now() -> Timestamp {
        "2026-01-02T03:04:05Z".parse().unwrap()
    }

    fn seal(keyring: &Keyring) -> Sealed {
        keyring.seal("tokens/u.json", Zeroizing::new(b"fake-plain".to_vec())).unwrap()
    }

    #[test]
    fn round_trips_through_its_file() {
        let mut keyring = Keyring::new(now());
        let first = seal(&keyring);
        keyring.rotate(now());
        let read = Keyring::from_json(keyring.to_json().expose().as_bytes()).unwrap();
        assert_eq!(read.primary(), keyring.primary());
        assert_eq!(read.keys().collect::<Vec<_>>(), keyring.keys().collect::<Vec<_>>());
        assert_eq!(&**read.open("tokens/u.json", first).unwrap(), b"fake-plain");
        let value: Value = serde_json::from_str(keyring.to_json().expose()).unwrap();
        assert_eq!(value["version"], 1);
        assert_eq!(value["keys"].as_array().unwrap().len(), 2);
        assert_eq!(value["keys"][1]["id"], value["primary"]);
    }

    #[test]
    fn rotation_seals_anew_and_opens_both() {
        let mut keyring = Keyring::new(now());
        let old = seal(&keyring);
        let added = keyring.add(now());
        assert_eq!(seal(&keyring).key, old.key, "an added key does not seal yet");
        keyring.promote(&added).unwrap();
        let new = seal(&keyring);
        assert_eq!(new.key, added);
        assert!(keyring.open("tokens/u.json", old.clone()).is_ok());
        assert!(keyring.open("tokens/u.json", new).is_ok());
        assert_eq!(keyring.remove(&added), Err(BadKeyring::IsPrimary(added)));
        keyring.remove(&old.key.clone()).unwrap();
        assert_eq!(keyring.open("tokens/u.json", old.clone()), Err(NotOpened::UnknownKey));
        assert_eq!(keyring.promote(&old.key), Err(BadKeyring::NoSuchKey(old.key)));
    }

    #[test]
    fn a_keyring_without_a_primary_key_opens_and_does_not_seal() {
        let keyring = Keyring::open_only(now());
        let plain = || Zeroizing::new(b"fake-plain".to_vec());
        assert!(keyring.primary().is_none() && keyring.seal("x", plain()).is_none());
        let mut read = Keyring::from_json(keyring.to_json().expose().as_bytes()).unwrap();
        assert_eq!(read.primary(), None);
        let id = read.keys().next().unwrap().0.clone();
        read.promote(&id).unwrap();
        let sealed = read.seal("x", plain()).unwrap();
        assert!(keyring.open("x", sealed).is_ok(), "every process that has the file opens it");
    }

    #[test]
    fn two_seals_of_one_text_differ() {
        let keyring = Keyring::new(now());
        let (one, other) = (seal(&keyring), seal(&keyring));
        assert_ne!((one.nonce, one.content), (other.nonce, other.content));
    }

    #[test]
    fn debug_shows_no_key() {
        let keyring = Keyring::new(now());
        let shown = format!("{keyring:?} {:?}", keyring.to_json());
        let value: Value = serde_json::from_str(keyring.to_json().expose()).unwrap();
        assert!(!shown.contains(value["keys"][0]["key"].as_str().unwrap()), "{shown}");
        assert!(shown.contains(keyring.primary().unwrap().as_str()), "{shown}");
    }

    #[test]
    fn says_what_is_wrong_without_quoting_it() {
        let good: Value =
            serde_json::from_str(Keyring::new(now()).to_json().expose()).expect("JSON");
        let change = |path: &str, to: Value| {
            let mut value = good.clone();
            *value.pointer_mut(path).unwrap() = to;
            value
        };
        let mut twice = good.clone();
        let key = twice["keys"][0].clone();
        twice["keys"].as_array_mut().unwrap().push(key);
        for (value, says) in [
            (json!([1]), "fleet keyring new"),
            (change("/version", json!(9)), "version 9"),
            (change("/primary", json!("other")), "primary key"),
            (change("/keys", json!([])), "primary key"),
            (change("/keys/0/id", json!("")), "key 0 (from 0)"),
            (change("/keys/0/key", json!("ZmFrZS1zaG9ydA==")), "32 bytes"),
            (change("/keys/0/key", json!("fake key!")), "32 bytes"),
            (change("/keys/0/key", json!(7)), "not a keyring"),
            (twice, "twice"),
        ] {
            let text = Keyring::from_json(value.to_string().as_bytes()).unwrap_err().to_string();
            assert!(text.contains(says), "{says}: {text}");
            assert!(!text.contains("fake") && !text.contains("ZmFr"), "{text}");
        }
    }
}
