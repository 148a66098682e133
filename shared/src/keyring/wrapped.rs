//! A keyring whose keys Cloud KMS has wrapped: whoever has the file alone has nothing.

use std::fmt;
use std::str::FromStr as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{BadKeyring, Key, KeyId, Keyring, key_bytes};
use crate::ports::{Kms, KmsError, KmsKey};

/// The version of files whose keys are wrapped.
pub(super) const WRAPPED_VERSION: u32 = 2;

/// A keyring as it lies in its file, every key wrapped by one KMS key. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedKeyring {
    kms_key: KmsKey,
    primary: Option<KeyId>,
    keys: Vec<WrappedKey>,
}

/// What Cloud KMS returned for a key. The ciphertext is no secret.
#[derive(Clone, PartialEq, Eq)]
struct WrappedKey {
    id: KeyId,
    ciphertext: Vec<u8>,
    created_at: Timestamp,
}

impl fmt::Debug for WrappedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WrappedKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl WrappedKeyring {
    /// Has `kms_key` wrap every key of `keyring`. Dropping it leaves nothing behind.
    ///
    /// # Errors
    /// [`KmsError`].
    pub async fn wrap(keyring: &Keyring, kms_key: KmsKey, kms: &dyn Kms) -> Result<Self, KmsError> {
        let primary = keyring.primary.clone();
        let mut wrapped = Self { kms_key, primary, keys: Vec::with_capacity(keyring.keys.len()) };
        for key in &keyring.keys {
            wrapped.push(key, kms).await?;
        }
        Ok(wrapped)
    }

    /// The keys themselves, to be kept in memory only. Dropping it leaves nothing behind.
    ///
    /// # Errors
    /// [`KmsError`].
    pub async fn unwrap(&self, kms: &dyn Kms) -> Result<Keyring, KmsError> {
        let mut keys = Vec::with_capacity(self.keys.len());
        for WrappedKey { id, ciphertext, created_at } in &self.keys {
            let bytes = kms.unwrap(&self.kms_key, id.as_str(), ciphertext).await?;
            let Some(bytes) = key_bytes(&bytes) else {
                let why = format!("what it unwraps for data key {id} is not 32 bytes");
                return Err(KmsError::Refused { key: self.kms_key.clone(), why: why.into() });
            };
            keys.push(Key::new(id.clone(), bytes, *created_at).into());
        }
        Ok(Keyring { primary: self.primary.clone(), keys })
    }

    /// Adds a fresh key that opens, and does not seal yet. Returns its ID. The other keys are
    /// not unwrapped, so whoever may only encrypt can do this.
    ///
    /// # Errors
    /// [`KmsError`]; then nothing is added.
    pub async fn add(&mut self, now: Timestamp, kms: &dyn Kms) -> Result<KeyId, KmsError> {
        let key = Key::generate(now);
        self.push(&key, kms).await?;
        Ok(key.id().clone())
    }

    async fn push(&mut self, key: &Key, kms: &dyn Kms) -> Result<(), KmsError> {
        let ciphertext = kms.wrap(&self.kms_key, key.id().as_str(), key.bytes()).await?;
        let (id, created_at) = (key.id().clone(), key.created_at());
        self.keys.push(WrappedKey { id, ciphertext, created_at });
        Ok(())
    }

    /// Makes a key of this keyring the primary one.
    ///
    /// # Errors
    /// [`BadKeyring::NoSuchKey`].
    pub fn promote(&mut self, id: &KeyId) -> Result<(), BadKeyring> {
        if !self.keys.iter().any(|key| key.id == *id) {
            return Err(BadKeyring::NoSuchKey(id.clone()));
        }
        self.primary = Some(id.clone());
        Ok(())
    }

    /// The KMS key that wrapped the keys.
    pub fn kms_key(&self) -> &KmsKey {
        &self.kms_key
    }

    /// The key that seals, if one does.
    pub fn primary(&self) -> Option<&KeyId> {
        self.primary.as_ref()
    }

    /// Every key and when it was made, in the order of the file.
    pub fn keys(&self) -> impl Iterator<Item = (&KeyId, Timestamp)> {
        self.keys.iter().map(|key| (&key.id, key.created_at))
    }

    /// The file's content.
    pub(super) fn to_json(&self) -> String {
        let keys = self.keys.iter().map(|key| WrappedFileKey {
            id: key.id.to_string(),
            wrapped: BASE64.encode(&key.ciphertext),
            created_at: key.created_at,
        });
        let file = WrappedFile {
            version: WRAPPED_VERSION,
            kms_key: self.kms_key.to_string(),
            primary: self.primary.as_ref().map(ToString::to_string),
            keys: keys.collect(),
        };
        let mut text = serde_json::to_string_pretty(&file).expect("plain values only");
        text.push('\n');
        text
    }

    /// Reads content of this version.
    pub(super) fn from_json(content: &[u8]) -> Result<Self, BadKeyring> {
        let file: WrappedFile =
            serde_json::from_slice(content).map_err(|e| BadKeyring::not_json(&e))?;
        let kms_key = file.kms_key.parse().map_err(|_| BadKeyring::KmsKey)?;
        let mut keys: Vec<WrappedKey> = Vec::with_capacity(file.keys.len());
        for (index, entry) in file.keys.into_iter().enumerate() {
            let id: KeyId = entry.id.parse().map_err(|_| BadKeyring::Id { index })?;
            let ciphertext = BASE64.decode(&entry.wrapped).unwrap_or_default();
            if ciphertext.is_empty() {
                return Err(BadKeyring::Wrapped { id });
            }
            if keys.iter().any(|key| key.id == id) {
                return Err(BadKeyring::Twice { id });
            }
            keys.push(WrappedKey { id, ciphertext, created_at: entry.created_at });
        }
        let primary = file.primary.as_deref().map(KeyId::from_str).transpose();
        let primary = primary.map_err(|_| BadKeyring::Primary)?;
        let is_there = primary.as_ref().is_none_or(|id| keys.iter().any(|key| key.id == *id));
        if keys.is_empty() || !is_there {
            return Err(BadKeyring::Primary);
        }
        Ok(Self { kms_key, primary, keys })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrappedFile {
    version: u32,
    kms_key: String,
    /// None seals yet where it is `null`.
    #[serde(deserialize_with = "Option::deserialize")]
    primary: Option<String>,
    keys: Vec<WrappedFileKey>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrappedFileKey {
    id: String,
    wrapped: String,
    created_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;
    use serde_json::{Value, json};
    use zeroize::Zeroizing;

    use super::*;

    /// Adds the key's name and the data key's ID, and turns the bits over.
    #[derive(Debug)]
    struct Reversing;

    impl Kms for Reversing {
        fn wrap<'a>(
            &'a self,
            key: &'a KmsKey,
            id: &'a str,
            plain: &'a [u8],
        ) -> BoxFuture<'a, Result<Vec<u8>, KmsError>> {
            let text = [format!("{key} {id} ").as_bytes(), plain].concat();
            async move { Ok(text.iter().map(|b| !b).collect()) }.boxed()
        }

        fn unwrap<'a>(
            &'a self,
            key: &'a KmsKey,
            id: &'a str,
            wrapped: &'a [u8],
        ) -> BoxFuture<'a, Result<Zeroizing<Vec<u8>>, KmsError>> {
            let text: Vec<u8> = wrapped.iter().map(|b| !b).collect();
            let plain = text.strip_prefix(format!("{key} {id} ").as_bytes()).map(<[u8]>::to_vec);
            let error = KmsError::NotWrapped { key: key.clone(), id: id.into(), why: "".into() };
            async move { plain.map(Zeroizing::new).ok_or(error) }.boxed()
        }
    }

    fn kms_key() -> KmsKey {
        "projects/p/locations/eu/keyRings/fleet/cryptoKeys/keyring".parse().unwrap()
    }

    #[tokio::test]
    async fn opens_what_the_plain_keyring_sealed_and_grows_without_unwrapping() {
        let plain = Keyring::new(Timestamp::UNIX_EPOCH);
        let sealed = plain.seal("x", Zeroizing::new(b"fake".to_vec())).unwrap();
        let mut wrapped = WrappedKeyring::wrap(&plain, kms_key(), &Reversing).await.unwrap();
        let text = wrapped.to_json();
        assert!(!text.contains(&BASE64.encode(plain.keys[0].bytes())), "{text}");
        assert_eq!(WrappedKeyring::from_json(text.as_bytes()).as_ref(), Ok(&wrapped));
        let opened = wrapped.unwrap(&Reversing).await.unwrap();
        assert_eq!(&**opened.open("x", sealed).unwrap(), b"fake");
        assert_eq!(opened.primary(), plain.primary());

        let added = wrapped.add(Timestamp::UNIX_EPOCH, &Reversing).await.unwrap();
        assert_eq!(wrapped.primary(), plain.primary());
        wrapped.promote(&added).unwrap();
        let opened = wrapped.unwrap(&Reversing).await.unwrap();
        assert_eq!((opened.primary(), opened.keys().count()), (Some(&added), 2));
        let none = "none".parse::<KeyId>().unwrap();
        assert_eq!(wrapped.promote(&none), Err(BadKeyring::NoSuchKey(none)));
    }

    /// The ID is bound: of two keys none stands in for the other.
    #[tokio::test]
    async fn a_wrapped_key_under_another_id_is_not_unwrapped() {
        let plain = Keyring::new(Timestamp::UNIX_EPOCH);
        let mut wrapped = WrappedKeyring::wrap(&plain, kms_key(), &Reversing).await.unwrap();
        wrapped.add(Timestamp::UNIX_EPOCH, &Reversing).await.unwrap();
        let other = wrapped.keys[1].ciphertext.clone();
        wrapped.keys[0].ciphertext = other;
        let error = wrapped.unwrap(&Reversing).await.unwrap_err();
        assert!(matches!(error, KmsError::NotWrapped { .. }), "{error}");
    }

    #[tokio::test]
    async fn says_what_is_wrong_with_a_file() {
        let plain = Keyring::open_only(Timestamp::UNIX_EPOCH);
        let wrapped = WrappedKeyring::wrap(&plain, kms_key(), &Reversing).await.unwrap();
        assert_eq!(wrapped.primary(), None);
        let good: Value = serde_json::from_str(&wrapped.to_json()).unwrap();
        for (path, to, says) in [
            ("/kms_key", json!("projects/p"), "projects/PROJECT"),
            ("/primary", json!("other"), "primary key"),
            ("/keys", json!([]), "primary key"),
            ("/keys/0/id", json!(""), "key 0 (from 0)"),
            ("/keys/0/wrapped", json!("fake key!"), "base64"),
            ("/keys/0/wrapped", json!(7), "not a keyring"),
        ] {
            let mut value = good.clone();
            *value.pointer_mut(path).unwrap() = to;
            let error = WrappedKeyring::from_json(value.to_string().as_bytes()).unwrap_err();
            assert!(error.to_string().contains(says), "{says}: {error}");
            assert!(!error.to_string().contains("fake"), "{error}");
        }
    }
}
