//! What is stored sealed.
//!
//! Of a token record and of a parked job the secret part is sealed, so that people and
//! sweeps can still read the rest; what is remembered of ended jobs is sealed whole. The
//! cipher is AES-256-GCM with a random nonce, and the object's name is the associated
//! data, so that nothing opens under another name:
//!
//! ```json
//! "sealed": {"key": "5c1e0b7a9d24f638", "nonce": "<base64>", "content": "<base64>"}
//! ```
//!
//! Inside a partial seal stands `clear`, the digest of the members outside it: SHA-256 over
//! their one spelling (names sorted by their UTF-8 bytes, no white space, the shortest
//! escapes, integers only). So whoever can write the bucket cannot change a clear member
//! either; what remains to them is to delete an object or to put an older one back.
//!
//! A keyring comes to a running fleet in three steps. With one that has no primary key
//! everything is still written plain, and what is sealed opens. With a primary key and
//! [`Sealing::accept_unsealed`], records are written sealed, plain objects are still read
//! and counted, and objects whose sealed form the release before does not know are still
//! written plain. Without that, plain objects are refused.

mod clear;
mod not_opened;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::keyring::{self, KeyId, Keyring, NONCE_LEN};

pub use not_opened::NotOpened;

/// The version of objects that are sealed whole.
const WHOLE_VERSION: u32 = 1;

/// Seals what is stored and opens it again; see the [module's page](self). Clones share
/// their counts.
#[derive(Clone, Debug, Default)]
pub struct Sealing {
    keyring: Option<Keyring>,
    accepts_unsealed: bool,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    plain: AtomicU64,
    unbound: AtomicU64,
}

/// How many objects were read that this release would have stored otherwise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UnsealedReads {
    /// Without any seal, while the keyring has a primary key.
    pub plain: u64,
    /// Sealed by the release before this one: the clear members are not bound.
    pub unbound: u64,
}

/// The stored form of what is sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Seal {
    key: String,
    nonce: String,
    content: String,
}

/// The content of an object that has a secret part.
#[derive(Debug)]
pub enum Opened {
    /// It is not sealed, and may be read as it is.
    Plain,
    /// It was sealed.
    Sealed {
        /// The object without its seal.
        clear: Value,
        /// The secret part, as JSON. It may have the member `clear`, to be ignored.
        secret: Zeroizing<Vec<u8>>,
    },
}

/// How an object with a secret part is stored.
enum Form {
    /// It is no JSON object.
    NoObject,
    Plain,
    /// Sealed by the release before this one.
    Unbound,
    /// Sealed with this key, its clear members bound.
    Bound(KeyId),
}

/// What stands inside a partial seal, as far as it concerns all of them.
#[derive(Deserialize)]
struct Inside {
    #[serde(default)]
    clear: Option<String>,
}

/// The secret part and the digest of the clear one.
#[derive(Serialize)]
struct Secret<'a, T> {
    #[serde(flatten)]
    secret: &'a T,
    clear: &'a str,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Whole {
    version: u32,
    sealed: Seal,
}

impl Sealing {
    /// Seals with the primary key of `keyring` and opens with any of its keys. Without a
    /// keyring everything is stored as it is, and what is sealed is not read.
    pub fn new(keyring: Option<Keyring>) -> Self {
        Self { keyring, accepts_unsealed: false, counts: Arc::default() }
    }

    /// Whether plain objects are read although there is a primary key: while a keyring is
    /// being introduced, and never longer.
    #[must_use]
    pub fn accept_unsealed(mut self, accepts: bool) -> Self {
        self.accepts_unsealed = accepts;
        self
    }

    /// The keyring in use.
    pub fn keyring(&self) -> Option<&Keyring> {
        self.keyring.as_ref()
    }

    /// What was read since the start that is not sealed as it should be.
    pub fn unsealed_reads(&self) -> UnsealedReads {
        UnsealedReads {
            plain: self.counts.plain.load(Ordering::Relaxed),
            unbound: self.counts.unbound.load(Ordering::Relaxed),
        }
    }

    /// Whether objects are sealed whose sealed form the release before cannot read.
    pub fn seals_new_forms(&self) -> bool {
        self.primary().is_some() && !self.accepts_unsealed
    }

    fn primary(&self) -> Option<&KeyId> {
        self.keyring.as_ref()?.primary()
    }

    /// The seal of `secret` (a JSON object of at most `room` bytes) for the object `name`,
    /// bound to the members of `clear`; `None` when nothing seals.
    ///
    /// # Panics
    /// When one of them is no JSON object, or `clear` has a number that is no integer.
    pub fn seal(
        &self,
        name: &str,
        clear: &impl Serialize,
        secret: &impl Serialize,
        room: usize,
    ) -> Option<Seal> {
        self.primary()?;
        let clear = serde_json::to_value(clear).expect("plain values only");
        let clear = clear::digest(clear.as_object().expect("a JSON object"));
        let secret = Secret { secret, clear: &clear };
        // Sized beforehand, so that growing it leaves no copy of a secret behind.
        let mut plain = Zeroizing::new(Vec::with_capacity(room + 128));
        serde_json::to_writer(&mut *plain, &secret).expect("plain values only");
        self.seal_bytes(name, plain)
    }

    /// `None` when nothing seals.
    fn seal_bytes(&self, name: &str, plain: Zeroizing<Vec<u8>>) -> Option<Seal> {
        self.keyring.as_ref()?.seal(name, plain).map(Seal::from)
    }

    /// Whether the content of an object is stored without any seal.
    pub fn is_plain(content: &[u8]) -> bool {
        has_seal(content) == Some(false)
    }

    /// Opens the content of the object `name`, which has a secret part.
    ///
    /// # Errors
    /// [`NotOpened`]. Content that is no JSON object counts as plain: its reader says what
    /// is wrong with it.
    pub fn open(&self, name: &str, content: &[u8]) -> Result<Opened, NotOpened> {
        let (opened, form) = self.look(name, content)?;
        self.count(&form);
        Ok(opened)
    }

    /// Opens without counting.
    fn look(&self, name: &str, content: &[u8]) -> Result<(Opened, Form), NotOpened> {
        match has_seal(content) {
            None => return Ok((Opened::Plain, Form::NoObject)),
            Some(false) => {
                self.refuse_plain()?;
                return Ok((Opened::Plain, Form::Plain));
            }
            Some(true) => {}
        }
        let mut object = clear::parse(content).map_err(|_| NotOpened::Malformed)?;
        let members = object.as_object_mut().ok_or(NotOpened::Malformed)?;
        let seal = members.remove(clear::SEALED).ok_or(NotOpened::Malformed)?;
        let seal: Seal = serde_json::from_value(seal).map_err(|_| NotOpened::Malformed)?;
        let (key, secret) = self.open_bytes(name, seal)?;
        let inside: Result<Inside, _> = serde_json::from_slice(&secret);
        let sealed = inside.map_err(|_| NotOpened::Broken(key.clone()))?.clear;
        if sealed.as_ref().is_some_and(|sealed| *sealed != clear::digest(members)) {
            return Err(NotOpened::Altered(key));
        }
        let form = sealed.map_or(Form::Unbound, |_| Form::Bound(key));
        Ok((Opened::Sealed { clear: object, secret }, form))
    }

    /// Whether the content of the object `name` is stored as it would be now: sealed with
    /// the primary key and bound, or plain where nothing seals.
    pub fn is_current(&self, name: &str, content: &[u8]) -> bool {
        match self.look(name, content) {
            Ok((_, Form::Bound(key))) => Some(&key) == self.primary(),
            Ok((_, Form::Plain | Form::NoObject)) => self.primary().is_none(),
            Ok((_, Form::Unbound)) | Err(_) => false,
        }
    }

    fn primary_name(&self) -> Option<&str> {
        self.primary().map(KeyId::as_str)
    }

    /// The stored form of `plain`, sealed whole where something seals it.
    #[expect(clippy::missing_panics_doc, reason = "serializing plain values cannot fail")]
    pub fn seal_whole(&self, name: &str, plain: &[u8]) -> Bytes {
        let copy = Zeroizing::new(plain.to_vec());
        match self.seal_bytes(name, copy) {
            None => Bytes::copy_from_slice(plain),
            Some(sealed) => {
                let whole = Whole { version: WHOLE_VERSION, sealed };
                serde_json::to_vec(&whole).expect("plain values only").into()
            }
        }
    }

    /// The content of the object `name` that may be sealed whole.
    ///
    /// # Errors
    /// [`NotOpened`].
    pub fn open_whole(&self, name: &str, content: &[u8]) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
        let plain = || Ok(Zeroizing::new(content.to_vec()));
        match has_seal(content) {
            None => return plain(),
            Some(false) => {
                self.refuse_plain()?;
                self.count(&Form::Plain);
                return plain();
            }
            Some(true) => {}
        }
        let whole: Whole = serde_json::from_slice(content).map_err(|_| NotOpened::Malformed)?;
        if whole.version != WHOLE_VERSION {
            return Err(NotOpened::Malformed);
        }
        self.open_bytes(name, whole.sealed).map(|(_, plain)| plain)
    }

    /// The content of the object `name`, which is sealed whole, sealed anew; `None` when it is
    /// as it would be stored now.
    ///
    /// # Errors
    /// As [`Sealing::open_whole`].
    pub fn resealed_whole(&self, name: &str, content: &[u8]) -> Result<Option<Bytes>, NotOpened> {
        let plain = self.open_whole(name, content)?;
        let sealed_by = seal_of(content).map(|seal| seal.key);
        let is_current = sealed_by.as_deref() == self.primary_name();
        Ok((!is_current).then(|| self.seal_whole(name, &plain)))
    }

    fn refuse_plain(&self) -> Result<(), NotOpened> {
        let accepts = self.accepts_unsealed || self.primary().is_none();
        if accepts { Ok(()) } else { Err(NotOpened::Unsealed) }
    }

    fn count(&self, form: &Form) {
        let counter = match form {
            Form::Plain if self.primary().is_some() => &self.counts.plain,
            Form::Unbound => &self.counts.unbound,
            Form::Plain | Form::NoObject | Form::Bound(_) => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn open_bytes(&self, name: &str, seal: Seal) -> Result<(KeyId, Zeroizing<Vec<u8>>), NotOpened> {
        let sealed = seal.decode().ok_or(NotOpened::Malformed)?;
        let key = sealed.key.clone();
        let Some(keyring) = &self.keyring else {
            return Err(NotOpened::NoKeyring(key));
        };
        match keyring.open(name, sealed) {
            Ok(plain) => Ok((key, plain)),
            Err(keyring::NotOpened::UnknownKey) => Err(NotOpened::UnknownKey(key)),
            Err(keyring::NotOpened::Broken) => Err(NotOpened::Broken(key)),
        }
    }
}

/// Reads JSON that has one spelling, which is all that a seal can be bound to: no name twice, no
/// number but integers.
pub(crate) fn check_spelling(content: &[u8]) -> serde_json::Result<()> {
    clear::parse(content).map(drop)
}

/// Whether content is a JSON object with a member `sealed`, of whatever form; `None` when it
/// is no JSON object.
fn has_seal(content: &[u8]) -> Option<bool> {
    #[derive(Deserialize)]
    struct Probe {
        #[serde(default, deserialize_with = "is_there")]
        sealed: bool,
    }
    fn is_there<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| true)
    }
    match serde_json::from_slice::<Probe>(content) {
        Ok(probe) => Some(probe.sealed),
        // The member is there twice.
        Err(error) if error.is_data() && content.trim_ascii_start().starts_with(b"{") => Some(true),
        Err(_) => None,
    }
}

fn seal_of(content: &[u8]) -> Option<Seal> {
    #[derive(Deserialize)]
    struct Outer {
        sealed: Seal,
    }
    serde_json::from_slice::<Outer>(content).ok().map(|outer| outer.sealed)
}

impl From<keyring::Sealed> for Seal {
    fn from(sealed: keyring::Sealed) -> Self {
        Self {
            key: sealed.key.as_str().to_owned(),
            nonce: BASE64.encode(sealed.nonce),
            content: BASE64.encode(sealed.content),
        }
    }
}

impl Seal {
    fn decode(self) -> Option<keyring::Sealed> {
        let nonce = BASE64.decode(self.nonce).ok()?;
        Some(keyring::Sealed {
            key: self.key.parse().ok()?,
            nonce: <[u8; NONCE_LEN]>::try_from(nonce).ok()?,
            content: BASE64.decode(self.content).ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    const NAME: &str = "parked/u/1-j.json";

    fn keyring() -> Keyring {
        Keyring::new(Timestamp::UNIX_EPOCH)
    }

    fn sealing() -> Sealing {
        Sealing::new(Some(keyring()))
    }

    fn clear() -> Value {
        json!({"version": 1, "user": "u", "reason": "revoked", "list": [1, {"a": null}]})
    }

    fn sealed_by(sealing: &Sealing) -> Vec<u8> {
        let mut object = clear();
        let seal = sealing.seal(NAME, &object, &json!({"data": "fake-data"}), 64).unwrap();
        object["sealed"] = serde_json::to_value(&seal).unwrap();
        serde_json::to_vec_pretty(&object).unwrap()
    }

    fn changed(content: &[u8], change: impl Fn(&mut Value)) -> Vec<u8> {
        let mut value = serde_json::from_slice(content).unwrap();
        change(&mut value);
        serde_json::to_vec(&value).unwrap()
    }

    #[test]
    fn a_sealed_part_opens_with_what_was_clear_beside_it() {
        let sealing = sealing();
        let content = sealed_by(&sealing);
        assert!(!String::from_utf8_lossy(&content).contains("fake-data"));
        // Written anew by something that keeps the content: white space and order are free.
        for content in [content.clone(), changed(&content, |_| {})] {
            let Ok(Opened::Sealed { clear: read, secret }) = sealing.open(NAME, &content) else {
                panic!("it opens");
            };
            assert_eq!(read, clear());
            let secret: Value = serde_json::from_slice(&secret).unwrap();
            assert_eq!(secret["data"], "fake-data");
            assert!(sealing.is_current(NAME, &content));
        }
        assert_eq!(sealing.unsealed_reads(), UnsealedReads::default());
    }

    /// Whoever can write the bucket cannot change what stands outside the seal.
    #[test]
    fn no_clear_member_can_be_changed_added_or_removed() {
        let sealing = sealing();
        let content = sealed_by(&sealing);
        let key = sealing.primary().unwrap().clone();
        let changes: [&dyn Fn(&mut Value); 5] = [
            &|object| object["user"] = json!("v"),
            &|object| object["list"][1]["a"] = json!(0),
            &|object| object["more"] = Value::Null,
            &|object| object["list"] = json!([1]),
            &|object| drop(object.as_object_mut().unwrap().remove("reason")),
        ];
        for change in changes {
            let error = sealing.open(NAME, &changed(&content, change)).unwrap_err();
            assert_eq!(error, NotOpened::Altered(key.clone()));
        }
        let text = String::from_utf8(content.clone()).unwrap();
        let twice = text.replacen('{', r#"{"reason": "revoked","#, 1);
        assert_eq!(sealing.open(NAME, twice.as_bytes()).unwrap_err(), NotOpened::Malformed);
        let two_seals = text.replacen('{', r#"{"sealed": {},"#, 1);
        assert_eq!(sealing.open(NAME, two_seals.as_bytes()).unwrap_err(), NotOpened::Malformed);
        let none = changed(&content, |object| object["sealed"] = Value::Null);
        assert_eq!(sealing.open(NAME, &none).unwrap_err(), NotOpened::Malformed);
        let moved = sealing.open("parked/v/1-j.json", &content).unwrap_err();
        assert_eq!(moved, NotOpened::Broken(key));
    }

    #[test]
    fn plain_objects_are_read_only_while_a_keyring_comes() {
        let plain = serde_json::to_vec(&clear()).unwrap();
        let without = Sealing::default();
        assert!(matches!(without.open(NAME, &plain), Ok(Opened::Plain)));
        assert!(without.is_current(NAME, &plain) && !without.seals_new_forms());
        assert_eq!(without.seal(NAME, &clear(), &json!({}), 0), None);

        let open_only = Sealing::new(Some(Keyring::open_only(Timestamp::UNIX_EPOCH)));
        assert!(matches!(open_only.open(NAME, &plain), Ok(Opened::Plain)));
        assert!(open_only.is_current(NAME, &plain) && !open_only.seals_new_forms());
        assert_eq!(open_only.seal(NAME, &clear(), &json!({}), 0), None);
        assert_eq!(open_only.seal_whole(NAME, b"{}"), b"{}".as_slice());

        let strict = sealing();
        assert!(Sealing::is_plain(&plain) && !Sealing::is_plain(&sealed_by(&strict)));
        assert!(!Sealing::is_plain(&strict.seal_whole(NAME, &plain)) && !Sealing::is_plain(b"x"));
        assert_eq!(strict.open(NAME, &plain).unwrap_err(), NotOpened::Unsealed);
        assert_eq!(strict.open_whole(NAME, &plain).unwrap_err(), NotOpened::Unsealed);
        assert!(!strict.is_current(NAME, &plain) && strict.seals_new_forms());

        let lenient = strict.clone().accept_unsealed(true);
        assert!(matches!(lenient.open(NAME, &plain), Ok(Opened::Plain)));
        assert_eq!(**lenient.open_whole(NAME, &plain).unwrap(), *plain);
        assert_eq!(lenient.unsealed_reads(), UnsealedReads { plain: 2, unbound: 0 });
        assert!(!lenient.seals_new_forms());

        // What is no object at all is for its reader to name.
        assert!(matches!(strict.open(NAME, &plain[..9]), Ok(Opened::Plain)));
    }

    /// The release before wrote only secrets into the seal.
    #[test]
    fn a_seal_that_binds_nothing_is_read_and_counted() {
        let sealing = sealing();
        let mut object = clear();
        let plain = Zeroizing::new(br#"{"data":"fake-data"}"#.to_vec());
        object["sealed"] = serde_json::to_value(sealing.seal_bytes(NAME, plain)).unwrap();
        let content = serde_json::to_vec(&object).unwrap();
        assert!(matches!(sealing.open(NAME, &content), Ok(Opened::Sealed { .. })));
        assert!(!sealing.is_current(NAME, &content));
        assert_eq!(sealing.unsealed_reads(), UnsealedReads { plain: 0, unbound: 1 });
    }

    #[test]
    fn what_is_sealed_whole_opens_under_its_name_and_with_its_key() {
        let mut keyring = keyring();
        let old = Sealing::new(Some(keyring.clone()));
        let content = old.seal_whole(NAME, b"fake-content");
        assert!(!String::from_utf8_lossy(&content).contains("fake-content"));
        assert_eq!(**old.open_whole(NAME, &content).unwrap(), *b"fake-content");
        let key = old.primary().unwrap().clone();
        let error = |sealing: &Sealing, name, content: &[u8]| {
            sealing.open_whole(name, content).unwrap_err()
        };
        assert_eq!(error(&old, "done/v.json", &content), NotOpened::Broken(key.clone()));
        assert_eq!(error(&sealing(), NAME, &content), NotOpened::UnknownKey(key.clone()));
        assert_eq!(error(&Sealing::default(), NAME, &content), NotOpened::NoKeyring(key.clone()));
        let later = changed(&content, |object| object["version"] = json!(2));
        assert_eq!(error(&old, NAME, &later), NotOpened::Malformed);
        keyring.rotate(Timestamp::UNIX_EPOCH);
        let new = Sealing::new(Some(keyring));
        let again = new.resealed_whole(NAME, &content).unwrap().unwrap();
        assert_eq!(**new.open_whole(NAME, &again).unwrap(), *b"fake-content");
        assert_eq!(new.resealed_whole(NAME, &again), Ok(None));
        assert_eq!(Sealing::default().resealed_whole(NAME, b"{}"), Ok(None));
    }
}
