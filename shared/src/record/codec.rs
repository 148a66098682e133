//! From a record to the stored bytes and back: the one place that knows the
//! stored form, and the one that seals and opens.
//!
//! Without a keyring `refresh_token` and `access_token` are stored as they are.
//! With one, both are sealed together, so that neither can be exchanged for that
//! of another version:
//!
//! ```json
//! "sealed": {"key": "5c1e0b7a9d24f638", "nonce": "<base64>", "content": "<base64>"}
//! ```
//!
//! The cipher is AES-256-GCM with a random nonce; the object's name is the
//! associated data, so that a record opens under its own name only. All other
//! fields stay in the clear and are not bound by the seal: whoever may write the
//! bucket can revoke a user, or bring back an older record of theirs, but cannot
//! read a token, pass one user's off as another's, or have it sent elsewhere (the
//! client and the endpoint are the configured ones, never the record's).

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::keyring::{KeyId, Keyring, NONCE_LEN, NotOpened, Sealed};
use crate::ports::Generation;
use crate::secret::Secret;
use crate::user_id::UserId;

use super::{
    BadRecord, Blocked, GrantId, MAX_RECORD_BYTES, RECORD_VERSION, State, TokenRecord, WriteId,
};

/// Makes records the bytes that are stored, and back.
///
/// ```
/// use shared::Keyring;
/// use shared::record::RecordCodec;
///
/// let keyring = Keyring::new("2026-01-02T03:04:05Z".parse()?);
/// let sealing = RecordCodec::new(Some(keyring));
/// assert!(sealing.keyring().is_some());
/// # Ok::<(), jiff::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct RecordCodec {
    keyring: Option<Keyring>,
}

impl RecordCodec {
    /// Seals and opens with `keyring`; without one, stores secrets as they are.
    pub fn new(keyring: Option<Keyring>) -> Self {
        Self { keyring }
    }

    /// The keyring in use.
    pub fn keyring(&self) -> Option<&Keyring> {
        self.keyring.as_ref()
    }

    /// The bytes to store: sealed with the primary key if there is a keyring.
    #[expect(clippy::missing_panics_doc, reason = "serializing plain values cannot fail")]
    pub fn encode(&self, record: &TokenRecord) -> Bytes {
        let sealed = self.keyring.as_ref().map(|keyring| {
            let secrets = Secrets {
                refresh_token: Some(record.refresh_token.clone()),
                access_token: record.access_token.clone(),
            };
            WireSeal::from(keyring.seal(&record.user.token_object(), secrets.to_json()))
        });
        let plain = sealed.is_none();
        let wire = Wire {
            version: RECORD_VERSION,
            user: record.user.as_str().to_owned(),
            sub: record.sub.clone(),
            state: record.state,
            reason: record.reason.clone(),
            refresh_token: plain.then(|| record.refresh_token.clone()),
            access_token: record.access_token.clone().filter(|_| plain),
            sealed,
            expires_at: record.expires_at,
            expires_in: record.expires_in.map(|d| d.as_secs()),
            scopes: record.scopes.clone(),
            token_uri: record.token_uri.clone(),
            client_id: record.client_id.clone(),
            blocked: record.blocked.clone(),
            grant_id: record.grant_id.clone(),
            write_id: record.write_id.clone(),
            holder: record.holder.clone(),
            lease_generation: record.lease_generation.map(|g| g.0),
            created_at: record.created_at,
            updated_at: record.updated_at,
        };
        let mut bytes = serde_json::to_vec_pretty(&wire).expect("plain values only");
        bytes.push(b'\n');
        bytes.into()
    }

    /// Reads the bytes of `user`'s record. One that is not sealed is read with a
    /// keyring too, so that a keyring can be introduced while the fleet runs.
    ///
    /// # Errors
    /// [`BadRecord`] when they are not a record of this version and user, or do
    /// not open.
    pub fn decode(&self, user: &UserId, content: &[u8]) -> Result<TokenRecord, BadRecord> {
        #[derive(Deserialize)]
        struct Version {
            version: u32,
        }
        if content.len() > MAX_RECORD_BYTES {
            return Err(BadRecord::TooLarge);
        }
        let Version { version } =
            serde_json::from_slice(content).map_err(|e| BadRecord::not_json(&e))?;
        if version != RECORD_VERSION {
            return Err(BadRecord::Version(version));
        }
        let wire: Wire = serde_json::from_slice(content).map_err(|e| BadRecord::not_json(&e))?;
        if wire.user != user.as_str() {
            return Err(BadRecord::OtherUser);
        }
        let secrets = match wire.sealed {
            Some(_) if wire.refresh_token.is_some() || wire.access_token.is_some() => {
                return Err(BadRecord::MalformedSeal);
            }
            Some(sealed) => self.open(user, sealed.try_into()?)?,
            None => Secrets { refresh_token: wire.refresh_token, access_token: wire.access_token },
        };
        let filled = |secret: &Secret| !secret.expose().is_empty();
        let Some(refresh_token) = secrets.refresh_token.filter(filled) else {
            return Err(BadRecord::NoRefreshToken);
        };
        Ok(TokenRecord {
            user: user.clone(),
            sub: wire.sub,
            state: wire.state,
            reason: wire.reason,
            refresh_token,
            access_token: secrets.access_token.filter(filled),
            expires_at: wire.expires_at,
            expires_in: wire.expires_in.map(Duration::from_secs),
            scopes: wire.scopes,
            token_uri: wire.token_uri,
            client_id: wire.client_id,
            blocked: wire.blocked,
            grant_id: wire.grant_id,
            write_id: wire.write_id,
            holder: wire.holder,
            lease_generation: wire.lease_generation.map(Generation),
            created_at: wire.created_at,
            updated_at: wire.updated_at,
        })
    }

    fn open(&self, user: &UserId, sealed: Sealed) -> Result<Secrets, BadRecord> {
        let key = sealed.key.clone();
        let Some(keyring) = &self.keyring else {
            return Err(BadRecord::NoKeyring(key));
        };
        match keyring.open(&user.token_object(), sealed) {
            Ok(plain) => serde_json::from_slice(&plain).map_err(|_| BadRecord::BrokenSeal(key)),
            Err(NotOpened::UnknownKey) => Err(BadRecord::UnknownKey(key)),
            Err(NotOpened::Broken) => Err(BadRecord::BrokenSeal(key)),
        }
    }

    /// Whether these bytes of a record are stored as [`RecordCodec::encode`] would
    /// store them now: sealed with the primary key, or not sealed without a keyring.
    /// Nothing is opened.
    pub fn is_current(&self, content: &[u8]) -> bool {
        match (sealed_with(content), &self.keyring) {
            (Some(key), Some(keyring)) => key == *keyring.primary(),
            (None, None) => true,
            _ => false,
        }
    }
}

/// The key that sealed these bytes of a record; `None` when they are not sealed.
fn sealed_with(content: &[u8]) -> Option<KeyId> {
    #[derive(Deserialize)]
    struct Seal {
        key: String,
    }
    #[derive(Deserialize)]
    struct Outer {
        sealed: Option<Seal>,
    }
    let outer: Outer = serde_json::from_slice(content).ok()?;
    outer.sealed?.key.parse().ok()
}

/// The stored form, version 1. Unknown fields are ignored: a field that an old
/// reader must not miss comes with a new version.
#[derive(Serialize, Deserialize)]
struct Wire {
    version: u32,
    user: String,
    sub: Option<String>,
    state: State,
    reason: Option<String>,
    #[serde(default, with = "exposed", skip_serializing_if = "Option::is_none")]
    refresh_token: Option<Secret>,
    #[serde(default, with = "exposed", skip_serializing_if = "Option::is_none")]
    access_token: Option<Secret>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed: Option<WireSeal>,
    expires_at: Option<Timestamp>,
    expires_in: Option<u64>,
    scopes: Vec<String>,
    token_uri: String,
    client_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    blocked: Option<Box<Blocked>>,
    grant_id: GrantId,
    write_id: WriteId,
    holder: String,
    lease_generation: Option<i64>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// What is sealed: the fields that hold secrets.
#[derive(Serialize, Deserialize)]
struct Secrets {
    #[serde(default, with = "exposed", skip_serializing_if = "Option::is_none")]
    refresh_token: Option<Secret>,
    #[serde(default, with = "exposed", skip_serializing_if = "Option::is_none")]
    access_token: Option<Secret>,
}

impl Secrets {
    fn to_json(&self) -> Zeroizing<Vec<u8>> {
        // Sized beforehand, so that growing it leaves no copy of a secret behind: an
        // escaped byte takes six.
        let length = |s: &Option<Secret>| s.as_ref().map_or(0, |s| s.expose().len());
        let room = 64 + 6 * (length(&self.refresh_token) + length(&self.access_token));
        let mut plain = Zeroizing::new(Vec::with_capacity(room));
        serde_json::to_writer(&mut *plain, self).expect("plain values only");
        plain
    }
}

/// The stored form is the one place where a secret is written out.
mod exposed {
    use super::{Deserialize as _, Deserializer, Secret, Serializer};

    #[expect(clippy::ref_option, reason = "serde passes the field as it is")]
    pub(super) fn serialize<S: Serializer>(
        secret: &Option<Secret>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match secret {
            Some(secret) => serializer.serialize_some(secret.expose()),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Secret>, D::Error> {
        Ok(Option::<String>::deserialize(deserializer)?.map(Secret::from))
    }
}

#[derive(Serialize, Deserialize)]
struct WireSeal {
    key: String,
    nonce: String,
    content: String,
}

impl From<Sealed> for WireSeal {
    fn from(sealed: Sealed) -> Self {
        Self {
            key: sealed.key.as_str().to_owned(),
            nonce: BASE64.encode(sealed.nonce),
            content: BASE64.encode(sealed.content),
        }
    }
}

impl TryFrom<WireSeal> for Sealed {
    type Error = BadRecord;

    fn try_from(wire: WireSeal) -> Result<Self, BadRecord> {
        let nonce = BASE64.decode(wire.nonce).map_err(|_| BadRecord::MalformedSeal)?;
        Ok(Self {
            key: wire.key.parse().map_err(|_| BadRecord::MalformedSeal)?,
            nonce: <[u8; NONCE_LEN]>::try_from(nonce).map_err(|_| BadRecord::MalformedSeal)?,
            content: BASE64.decode(wire.content).map_err(|_| BadRecord::MalformedSeal)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::testing::record;
    use proptest::prelude::*;

    fn keyring() -> Keyring {
        Keyring::new(Timestamp::UNIX_EPOCH)
    }

    fn plain() -> RecordCodec {
        RecordCodec::default()
    }

    fn sealing() -> RecordCodec {
        RecordCodec::new(Some(keyring()))
    }

    fn text(content: &Bytes) -> String {
        String::from_utf8(content.to_vec()).unwrap()
    }

    #[test]
    fn seals_both_secrets_and_nothing_else() {
        let codec = sealing();
        let record = record("u/1");
        let stored = codec.encode(&record);
        let seen = text(&stored);
        assert!(!seen.contains("fake-"), "{seen}");
        assert!(
            !seen.contains("refresh_token") && seen.contains("\"grant_id\": \"first\""),
            "{seen}"
        );
        assert!(seen.contains(codec.keyring().unwrap().primary().as_str()), "{seen}");
        assert_eq!(codec.decode(&record.user, &stored), Ok(record));
    }

    #[test]
    fn a_keyring_reads_what_was_stored_before_it() {
        let record = record("u");
        let stored = plain().encode(&record);
        let codec = sealing();
        assert_eq!(codec.decode(&record.user, &stored).as_ref(), Ok(&record));
        assert!(plain().is_current(&stored) && !codec.is_current(&stored));
        assert!(codec.is_current(&codec.encode(&record)));
    }

    #[test]
    fn rotation_opens_old_seals_and_makes_new_ones() {
        let mut keyring = keyring();
        let old = RecordCodec::new(Some(keyring.clone()));
        keyring.rotate(Timestamp::UNIX_EPOCH);
        let new = RecordCodec::new(Some(keyring));
        let record = record("u");
        let stored = old.encode(&record);
        assert_eq!(new.decode(&record.user, &stored).as_ref(), Ok(&record));
        assert!(!new.is_current(&stored));
        let again = new.encode(&record);
        assert!(new.is_current(&again));
        let error = old.decode(&record.user, &again).unwrap_err();
        assert!(matches!(error, BadRecord::UnknownKey(_)), "{error}");
    }

    #[test]
    fn says_why_a_seal_does_not_open() {
        let codec = sealing();
        let record = record("u");
        let stored = codec.encode(&record);
        let error = plain().decode(&record.user, &stored).unwrap_err();
        assert!(matches!(error, BadRecord::NoKeyring(_)), "{error}");
        assert!(error.remedy().contains("keyring"));
        let error = sealing().decode(&record.user, &stored).unwrap_err();
        assert!(matches!(error, BadRecord::UnknownKey(_)), "{error}");
        let both = text(&stored).replacen('{', "{\"refresh_token\": \"fake-planted\",", 1);
        assert_eq!(codec.decode(&record.user, both.as_bytes()), Err(BadRecord::MalformedSeal));
        let mut value: serde_json::Value = serde_json::from_slice(&stored).unwrap();
        for (field, to) in [("key", "\u{1b}[31m"), ("nonce", "AAAA"), ("content", "fake!")] {
            let before = value["sealed"][field].take();
            value["sealed"][field] = to.into();
            let error = codec.decode(&record.user, value.to_string().as_bytes());
            assert_eq!(error, Err(BadRecord::MalformedSeal), "{field}");
            value["sealed"][field] = before;
        }
    }

    #[test]
    fn a_seal_is_bound_to_the_name_and_to_its_key() {
        let codec = sealing();
        let record = record("u/1");
        let moved = text(&codec.encode(&record)).replace("u/1", "u/2");
        let other = UserId::new("u/2").unwrap();
        let error = codec.decode(&other, moved.as_bytes()).unwrap_err();
        assert!(matches!(error, BadRecord::BrokenSeal(_)), "{error}");
    }

    #[test]
    fn says_what_is_wrong_without_quoting_it() {
        let good = record("u/1");
        let stored = text(&plain().encode(&good));
        let decode = |text: &str| plain().decode(&good.user, text.as_bytes()).unwrap_err();
        let other = UserId::new("u/2").unwrap();
        assert_eq!(plain().decode(&other, stored.as_bytes()), Err(BadRecord::OtherUser));
        let newer = stored.replacen("\"version\": 1", "\"version\": 9", 1);
        assert_eq!(decode(&newer), BadRecord::Version(9));
        for cut in 0..stored.trim_end().len() {
            let error = decode(&stored[..cut]);
            assert!(!error.to_string().contains("fake-"), "{error}");
        }
        let wrong_type = stored.replacen("\"fake-refresh\"", "{\"x\":\"fake-x\"}", 1);
        let error = decode(&wrong_type);
        assert!(matches!(error, BadRecord::NotARecord { kind: "data", .. }), "{error}");
        let empty = stored.replacen("\"fake-refresh\"", "\"\"", 1);
        assert_eq!(decode(&empty), BadRecord::NoRefreshToken);
    }

    fn any_timestamp() -> impl Strategy<Value = Timestamp> {
        (0_i64..10_000_000_000, 0_i32..1_000_000_000)
            .prop_map(|(s, n)| Timestamp::new(s, n).unwrap())
    }

    fn any_id() -> impl Strategy<Value = String> {
        "[0-9a-f]{32}"
    }

    fn any_record() -> impl Strategy<Value = TokenRecord> {
        let who = ("\\PC{1,40}", proptest::option::of("\\PC{0,20}"), any::<bool>());
        let secrets = (".{1,200}", proptest::option::of(".{1,300}"));
        let times = (any_timestamp(), proptest::option::of(any_timestamp()));
        let life = proptest::option::of(0_u64..1_000_000);
        let lists =
            (proptest::collection::vec("\\PC{0,30}", 0..4), proptest::option::of(any::<i64>()));
        (who, secrets, times, life, lists, any_id(), any_id()).prop_map(
            |(who, secrets, times, life, lists, grant, write)| TokenRecord {
                user: UserId::new(&who.0).unwrap(),
                sub: who.1.clone(),
                state: if who.2 { State::Active } else { State::Revoked },
                reason: who.1,
                refresh_token: secrets.0.into(),
                access_token: secrets.1.map(Secret::from),
                expires_at: times.1,
                expires_in: life.map(Duration::from_secs),
                scopes: lists.0,
                token_uri: "https://token.test/".into(),
                client_id: "client".into(),
                blocked: times.1.map(|next_try| {
                    Box::new(Blocked { code: "access_denied".into(), since: times.0, next_try })
                }),
                grant_id: GrantId(grant),
                write_id: WriteId(write),
                holder: "h".into(),
                lease_generation: lists.1.map(Generation),
                created_at: times.0,
                updated_at: times.0,
            },
        )
    }

    proptest! {
        #[test]
        fn any_record_round_trips(record in any_record()) {
            for codec in [plain(), sealing()] {
                let stored = codec.encode(&record);
                prop_assert!(codec.is_current(&stored));
                prop_assert_eq!(codec.decode(&record.user, &stored), Ok(record.clone()));
            }
        }

        #[test]
        fn any_bytes_decode_or_fail_calmly(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let user = UserId::new("u").unwrap();
            prop_assert!(plain().decode(&user, &bytes).is_err());
            prop_assert!(sealing().decode(&user, &bytes).is_err());
        }

        #[test]
        fn under_another_name_nothing_opens(record in any_record(), other in "\\PC{1,40}") {
            let other = UserId::new(&other).unwrap();
            prop_assume!(other != record.user);
            let codec = sealing();
            let mut value: serde_json::Value =
                serde_json::from_slice(&codec.encode(&record)).unwrap();
            let copied = codec.decode(&other, value.to_string().as_bytes());
            prop_assert_eq!(copied, Err(BadRecord::OtherUser));
            // Even if whoever moved it changes the name inside, too.
            value["user"] = other.as_str().into();
            let moved = codec.decode(&other, value.to_string().as_bytes());
            prop_assert!(matches!(moved, Err(BadRecord::BrokenSeal(_))), "{moved:?}");
        }
    }

    #[test]
    fn any_flipped_bit_fails_or_leaves_the_secrets_alone() {
        let codec = sealing();
        let record = record("u/1");
        let stored = codec.encode(&record);
        let mut failed = 0;
        for bit in 0..stored.len() * 8 {
            let mut flipped = stored.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            match codec.decode(&record.user, &flipped) {
                Ok(read) => {
                    assert_eq!(read.refresh_token, record.refresh_token, "bit {bit}");
                    assert!(
                        read.access_token == record.access_token && read.user == record.user,
                        "bit {bit}"
                    );
                }
                Err(error) => {
                    assert!(!error.to_string().contains("fake-"), "{error}");
                    failed += 1;
                }
            }
        }
        assert!(failed > stored.len(), "{failed} of {} bits", stored.len() * 8);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]

        /// A stored record in which a part was replaced by anything: it is refused, or it is a
        /// record, which is written and read again as it is.
        #[test]
        fn any_damage_is_refused_or_a_record(
            from in any::<proptest::sample::Index>(),
            length in 0_usize..12,
            with in proptest::collection::vec(any::<u8>(), 0..12),
            sealed in any::<bool>(),
        ) {
            let codec = if sealed { sealing() } else { plain() };
            let record = record("u");
            let mut stored = codec.encode(&record).to_vec();
            let from = from.index(stored.len());
            let to = stored.len().min(from + length);
            stored.splice(from..to, with);
            if let Ok(read) = codec.decode(&record.user, &stored) {
                prop_assert_eq!(&read.user, &record.user);
                prop_assert_eq!(codec.decode(&read.user, &codec.encode(&read)), Ok(read));
            }
        }
    }
}
