//! One key, and what it seals.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use jiff::Timestamp;
use zeroize::Zeroizing;

/// Length of a nonce in bytes.
pub(crate) const NONCE_LEN: usize = 12;

const LONGEST_ID: usize = 64;

/// Names a key, in the clear, in whatever it sealed: 1 to 64 of
/// `A–Z a–z 0–9 - _`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct KeyId(Box<str>);

impl KeyId {
    /// The ID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text is not the ID of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key ID is 1 to {LONGEST_ID} of A-Z a-z 0-9 - _")]
pub struct InvalidKeyId;

impl FromStr for KeyId {
    type Err = InvalidKeyId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if text.is_empty() || text.len() > LONGEST_ID || !text.bytes().all(plain) {
            return Err(InvalidKeyId);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// 256 bits, with the cipher made ready.
pub(crate) struct Key {
    id: KeyId,
    bytes: Zeroizing<[u8; 32]>,
    created_at: Timestamp,
    cipher: RandomizedNonceKey,
}

/// What a key sealed: all that is needed to open it, but the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) key: KeyId,
    pub(crate) nonce: [u8; NONCE_LEN],
    /// Ciphertext and tag.
    pub(crate) content: Vec<u8>,
}

/// Why nothing was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotOpened {
    /// The keyring does not have that key.
    UnknownKey,
    /// It was altered, or sealed for another context.
    Broken,
}

impl Key {
    pub(crate) fn new(id: KeyId, bytes: Zeroizing<[u8; 32]>, created_at: Timestamp) -> Self {
        let cipher = RandomizedNonceKey::new(&AES_256_GCM, &*bytes).expect("256 bits are a key");
        Self { id, bytes, created_at, cipher }
    }

    /// Keys and nonces come from the cipher library's own generator, not from the
    /// seeded randomness of the store: a key that can be guessed, or a nonce that
    /// two processes draw alike, would undo the cipher.
    pub(crate) fn generate(created_at: Timestamp) -> Self {
        let mut id = [0_u8; 8];
        let mut bytes = Zeroizing::new([0_u8; 32]);
        aws_lc_rs::rand::fill(&mut id).expect("the system has randomness");
        aws_lc_rs::rand::fill(&mut *bytes).expect("the system has randomness");
        let id = format!("{:016x}", u64::from_be_bytes(id));
        Self::new(KeyId(id.into()), bytes, created_at)
    }

    pub(crate) fn id(&self) -> &KeyId {
        &self.id
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    pub(crate) fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// Seals `plain` with `context` as associated data and a random nonce. With
    /// random 96-bit nonces a key is good for 2³² seals: at 25 records a second,
    /// five years.
    pub(crate) fn seal(&self, context: &str, mut plain: Zeroizing<Vec<u8>>) -> Sealed {
        // Room for the tag, so that appending it leaves no copy of the text behind.
        let mut content = Zeroizing::new(Vec::with_capacity(plain.len() + AES_256_GCM.tag_len()));
        content.append(&mut plain);
        let nonce = self
            .cipher
            .seal_in_place_append_tag(Aad::from(context), &mut *content)
            .expect("a record is far below the cipher's limit");
        Sealed {
            key: self.id.clone(),
            nonce: *nonce.as_ref(),
            content: std::mem::take(&mut *content),
        }
    }

    pub(crate) fn open(
        &self,
        context: &str,
        sealed: Sealed,
    ) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
        let mut content = Zeroizing::new(sealed.content);
        let nonce = Nonce::assume_unique_for_key(sealed.nonce);
        let opened = self.cipher.open_in_place(nonce, Aad::from(context), &mut content);
        let length = opened.map_err(|_| NotOpened::Broken)?.len();
        content.truncate(length);
        Ok(content)
    }
}

/// The bytes are not shown.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::generate(Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn opens_what_it_sealed_for_the_same_context_only() {
        let key = key();
        let sealed = key.seal("a", Zeroizing::new(b"fake".to_vec()));
        assert_eq!(&**key.open("a", sealed.clone()).unwrap(), b"fake");
        assert_eq!(key.open("b", sealed.clone()), Err(NotOpened::Broken));
        let mut short = sealed.clone();
        short.content.truncate(7);
        assert_eq!(key.open("a", short), Err(NotOpened::Broken));
        let same_id = Key::new(key.id().clone(), Zeroizing::new([7; 32]), Timestamp::UNIX_EPOCH);
        assert_eq!(same_id.open("a", sealed), Err(NotOpened::Broken));
    }

    #[test]
    fn ids_are_plain() {
        assert!("a-B_9".parse::<KeyId>().is_ok());
        for text in ["", "a b", "ä", "\u{1b}[0m", &"x".repeat(65)] {
            assert_eq!(text.parse::<KeyId>(), Err(InvalidKeyId), "{text:?}");
        }
        let id = key().id().clone();
        assert_eq!(id.as_str().parse(), Ok(id));
    }

    #[test]
    fn debug_shows_no_bytes() {
        let key = Key::new("k".parse().unwrap(), Zeroizing::new([171; 32]), Timestamp::UNIX_EPOCH);
        let shown = format!("{key:?}");
        assert!(!shown.contains("171") && !shown.contains("ab"), "{shown}");
    }
}
