//! From a record to the stored bytes and back: the one place that knows the
//! stored form, and the one that seals and opens.
//!
//! Without a keyring `refresh_token` and `access_token` are stored as they are. With one,
//! both are sealed together, so that neither can be exchanged for that of another version,
//! and all other fields are bound to the seal; see [`crate::sealing`]. Whoever may write the
//! bucket can bring back an older record of a user, but cannot read a token, change any part
//! of a record, pass one user's off as another's, or have it sent elsewhere (the client and
//! the endpoint are the configured ones, never the record's).

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::ports::Generation;
use crate::sealing::{NotOpened, Opened, Seal, Sealing, check_spelling};
use crate::secret::Secret;
use crate::user_id::UserId;

use super::{
    BadRecord, Blocked, GrantId, LATEST_READ, Later, MAX_RECORD_BYTES, RECORD_VERSION, State,
    TokenRecord, WriteId,
};

/// Makes records the bytes that are stored, and back.
///
/// ```
/// use shared::Keyring;
/// use shared::record::RecordCodec;
/// use shared::sealing::Sealing;
///
/// let keyring = Keyring::new("2026-01-02T03:04:05Z".parse()?);
/// let codec = RecordCodec::new(Sealing::new(Some(keyring)));
/// assert!(codec.sealing().keyring().is_some());
/// # Ok::<(), jiff::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct RecordCodec {
    sealing: Sealing,
}

impl RecordCodec {
    /// Seals and opens as `sealing` does.
    pub fn new(sealing: Sealing) -> Self {
        Self { sealing }
    }

    /// How it seals and opens.
    pub fn sealing(&self) -> &Sealing {
        &self.sealing
    }

    /// The bytes to store: sealed with the primary key if there is one.
    #[expect(clippy::missing_panics_doc, reason = "serializing plain values cannot fail")]
    pub fn encode(&self, record: &TokenRecord) -> Bytes {
        let later = record.later.as_deref();
        let secrets = Secrets {
            refresh_token: Some(record.refresh_token.clone()),
            access_token: record.access_token.clone(),
            more: later.and_then(|later| later.secret.as_ref()).map_or_else(Map::new, members),
        };
        let mut wire = Wire {
            version: later.map_or(RECORD_VERSION, |later| later.version),
            user: record.user.as_str().to_owned(),
            sub: record.sub.clone(),
            state: record.state,
            reason: record.reason.clone(),
            refresh_token: None,
            access_token: None,
            sealed: None,
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
            more: later.map_or_else(Map::new, |later| later.clear.clone()),
        };
        let name = record.user.token_object();
        let room = secrets.room(later.and_then(|later| later.secret.as_ref()));
        wire.sealed = self.sealing.seal(&name, &wire, &secrets, room);
        if wire.sealed.is_none() {
            let more;
            Secrets { refresh_token: wire.refresh_token, access_token: wire.access_token, more } =
                secrets;
            wire.more.extend(more);
        }
        let mut bytes = serde_json::to_vec_pretty(&wire).expect("plain values only");
        bytes.push(b'\n');
        bytes.into()
    }

    /// Reads the bytes of `user`'s record.
    ///
    /// # Errors
    /// [`BadRecord`] when they are not a record of this version or the next and of this user,
    /// do not open, or are not sealed although they have to be.
    pub fn decode(&self, user: &UserId, content: &[u8]) -> Result<TokenRecord, BadRecord> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
            #[serde(default)]
            user: Option<String>,
        }
        if content.len() > MAX_RECORD_BYTES {
            return Err(BadRecord::TooLarge);
        }
        let head: Head = serde_json::from_slice(content).map_err(|e| BadRecord::not_json(&e))?;
        if !(RECORD_VERSION..=LATEST_READ).contains(&head.version) {
            return Err(BadRecord::Version(head.version));
        }
        if head.version > RECORD_VERSION {
            // What is kept of it must be sealable.
            check_spelling(content).map_err(|e| BadRecord::not_json(&e))?;
        }
        // Before opening, which would only say that it does not open.
        if head.user.is_some_and(|name| name != user.as_str()) {
            return Err(BadRecord::OtherUser);
        }
        let (wire, secrets) = self.open(user, content)?;
        if wire.user != user.as_str() {
            return Err(BadRecord::OtherUser);
        }
        // Members that nobody knows are no reason to refuse a record; only the next version's
        // are kept, which alone may have any.
        let later = (head.version > RECORD_VERSION).then(|| Later::of(&wire, &secrets));
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
            later: later.map(Box::new),
            updated_at: wire.updated_at,
        })
    }

    fn open(&self, user: &UserId, content: &[u8]) -> Result<(Wire, Secrets), BadRecord> {
        match self.sealing.open(&user.token_object(), content)? {
            Opened::Plain => {
                let mut wire: Wire =
                    serde_json::from_slice(content).map_err(|e| BadRecord::not_json(&e))?;
                let secrets = Secrets {
                    refresh_token: wire.refresh_token.take(),
                    access_token: wire.access_token.take(),
                    more: Map::new(),
                };
                Ok((wire, secrets))
            }
            Opened::Sealed { clear, secret } => {
                let wire: Wire =
                    serde_json::from_value(clear).map_err(|e| BadRecord::not_json(&e))?;
                if wire.refresh_token.is_some() || wire.access_token.is_some() {
                    return Err(NotOpened::Malformed.into());
                }
                let secrets = serde_json::from_slice(&secret);
                Ok((wire, secrets.map_err(|_| NotOpened::Malformed)?))
            }
        }
    }

    /// Whether these bytes of `user`'s record are stored as [`RecordCodec::encode`] would
    /// store them now: sealed with the primary key, or not sealed without one.
    pub fn is_current(&self, user: &UserId, content: &[u8]) -> bool {
        self.sealing.is_current(&user.token_object(), content)
    }
}

/// The stored form, version 1. Unknown fields of it are ignored: a field that an old
/// reader must not miss comes with a new version, which it may still read and keep
/// ([`LATEST_READ`]).
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
    sealed: Option<Seal>,
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
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// What is sealed: the fields that hold secrets.
#[derive(Serialize, Deserialize)]
struct Secrets {
    #[serde(default, with = "exposed", skip_serializing_if = "Option::is_none")]
    refresh_token: Option<Secret>,
    #[serde(default, with = "exposed", skip_serializing_if = "Option::is_none")]
    access_token: Option<Secret>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

impl Secrets {
    /// How many bytes it takes at most: an escaped byte takes six.
    fn room(&self, more: Option<&Secret>) -> usize {
        let length = |s: Option<&Secret>| s.map_or(0, |s| s.expose().len());
        let tokens = length(self.refresh_token.as_ref()) + length(self.access_token.as_ref());
        64 + 6 * tokens + length(more)
    }
}

impl Later {
    /// What a record of a later version has beyond this one.
    fn of(wire: &Wire, secrets: &Secrets) -> Self {
        let mut secret = secrets.more.clone();
        // The digest of the clear members, which a seal makes anew.
        secret.remove("clear");
        let secret = (!secret.is_empty()).then(|| Value::Object(secret).to_string().into());
        Self { version: wire.version, clear: wire.more.clone(), secret }
    }
}

fn members(secret: &Secret) -> Map<String, Value> {
    serde_json::from_str(secret.expose()).expect("it was written by `Later::of`")
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::testing::record;
    use proptest::prelude::*;

    use crate::keyring::Keyring;

    fn keyring() -> Keyring {
        Keyring::new(Timestamp::UNIX_EPOCH)
    }

    fn plain() -> RecordCodec {
        RecordCodec::default()
    }

    fn sealing() -> RecordCodec {
        RecordCodec::new(Sealing::new(Some(keyring())))
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
        let keyring = codec.sealing().keyring().unwrap();
        assert!(seen.contains(keyring.primary().unwrap().as_str()), "{seen}");
        assert_eq!(codec.decode(&record.user, &stored), Ok(record));
    }

    #[test]
    fn a_keyring_reads_what_was_stored_before_it_only_when_told_to() {
        let record = record("u");
        let stored = plain().encode(&record);
        let user = &record.user;
        let strict = sealing();
        let error = strict.decode(user, &stored).unwrap_err();
        assert_eq!(error, NotOpened::Unsealed.into());
        assert!(error.remedy().contains("--accept-unsealed"));
        let codec = RecordCodec::new(strict.sealing().clone().accept_unsealed(true));
        assert_eq!(codec.decode(user, &stored).as_ref(), Ok(&record));
        assert!(plain().is_current(user, &stored) && !codec.is_current(user, &stored));
        assert!(codec.is_current(user, &codec.encode(&record)));
    }

    #[test]
    fn rotation_opens_old_seals_and_makes_new_ones() {
        let mut keyring = keyring();
        let old = RecordCodec::new(Sealing::new(Some(keyring.clone())));
        keyring.rotate(Timestamp::UNIX_EPOCH);
        let new = RecordCodec::new(Sealing::new(Some(keyring)));
        let record = record("u");
        let stored = old.encode(&record);
        assert_eq!(new.decode(&record.user, &stored).as_ref(), Ok(&record));
        assert!(!new.is_current(&record.user, &stored));
        let again = new.encode(&record);
        assert!(new.is_current(&record.user, &again));
        let error = old.decode(&record.user, &again).unwrap_err();
        assert!(matches!(error, BadRecord::Sealed(NotOpened::UnknownKey(_))), "{error}");
    }

    #[test]
    fn says_why_a_seal_does_not_open() {
        let codec = sealing();
        let record = record("u");
        let stored = codec.encode(&record);
        let error = plain().decode(&record.user, &stored).unwrap_err();
        assert!(matches!(error, BadRecord::Sealed(NotOpened::NoKeyring(_))), "{error}");
        assert!(error.remedy().contains("keyring"));
        let error = sealing().decode(&record.user, &stored).unwrap_err();
        assert!(matches!(error, BadRecord::Sealed(NotOpened::UnknownKey(_))), "{error}");
        let both = text(&stored).replacen('{', "{\"refresh_token\": \"fake-planted\",", 1);
        let error = codec.decode(&record.user, both.as_bytes()).unwrap_err();
        assert!(matches!(error, BadRecord::Sealed(NotOpened::Altered(_))), "{error}");
        let mut value: Value = serde_json::from_slice(&stored).unwrap();
        for (field, to) in [("key", "\u{1b}[31m"), ("nonce", "AAAA"), ("content", "fake!")] {
            let before = value["sealed"][field].take();
            value["sealed"][field] = to.into();
            let error = codec.decode(&record.user, value.to_string().as_bytes());
            assert_eq!(error, Err(NotOpened::Malformed.into()), "{field}");
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
        assert!(matches!(error, BadRecord::Sealed(NotOpened::Broken(_))), "{error}");
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

    /// A record of the next version: what it has beyond this one stays, sealed where it was, with
    /// whatever this version changes.
    #[test]
    fn the_next_version_is_read_and_kept() {
        for codec in [plain(), sealing()] {
            let record = record("u");
            let later = Later {
                version: LATEST_READ,
                clear: Map::from_iter([("audience".to_owned(), "fake-audience".into())]),
                secret: Some(Secret::from(r#"{"proof_key":"fake-proof-key"}"#)),
            };
            let next = TokenRecord { later: Some(Box::new(later)), ..record.clone() };
            let stored = codec.encode(&next);
            let shown = text(&stored);
            assert!(shown.contains("\"version\": 2") && shown.contains("fake-audience"), "{shown}");
            let is_sealed = codec.sealing().keyring().is_some();
            assert_eq!(shown.contains("fake-proof-key"), !is_sealed, "{shown}");
            let read = codec.decode(&record.user, &stored).unwrap();
            assert!(!format!("{read:?}").contains("fake-"), "{read:?}");
            let again = TokenRecord { access_token: Some("fake-next".into()), ..read };
            let again = codec.decode(&record.user, &codec.encode(&again)).unwrap();
            let kept = |record: &TokenRecord| text(&codec.encode(record));
            assert_eq!(again.access_token, Some("fake-next".into()));
            assert!(kept(&again).contains("fake-audience"));
            assert_eq!(again.later.as_ref().unwrap().told(), (LATEST_READ, 2));
        }
        let stored = text(&plain().encode(&record("u")));
        let decode = |text: &str| plain().decode(&record("u").user, text.as_bytes());
        let twice = stored.replacen("\"version\": 1", "\"version\": 2, \"x\": 1, \"x\": 1.5", 1);
        assert!(matches!(decode(&twice), Err(BadRecord::NotARecord { .. })), "no seal binds it");
        for version in [0, LATEST_READ + 1] {
            let other = stored.replacen("\"version\": 1", &format!("\"version\": {version}"), 1);
            assert_eq!(decode(&other), Err(BadRecord::Version(version)));
        }
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
                later: None,
                updated_at: times.0,
            },
        )
    }

    proptest! {
        #[test]
        fn any_record_round_trips(record in any_record()) {
            for codec in [plain(), sealing()] {
                let stored = codec.encode(&record);
                prop_assert!(codec.is_current(&record.user, &stored));
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
            let mut value: Value =
                serde_json::from_slice(&codec.encode(&record)).unwrap();
            let copied = codec.decode(&other, value.to_string().as_bytes());
            prop_assert_eq!(copied, Err(BadRecord::OtherUser));
            // Even if whoever moved it changes the name inside, too.
            value["user"] = other.as_str().into();
            let moved = codec.decode(&other, value.to_string().as_bytes());
            prop_assert!(matches!(moved, Err(BadRecord::Sealed(NotOpened::Broken(_)))), "{moved:?}");
        }
    }

    /// But for the spelling of the JSON: white space, and digits of an escape.
    #[test]
    fn any_flipped_bit_fails_or_changes_nothing() {
        let codec = sealing();
        let record = record("u/1");
        let stored = codec.encode(&record);
        let mut failed = 0;
        for bit in 0..stored.len() * 8 {
            let mut flipped = stored.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            match codec.decode(&record.user, &flipped) {
                Ok(read) => assert_eq!(read, record, "bit {bit}"),
                Err(error) => {
                    assert!(!error.to_string().contains("fake-"), "{error}");
                    failed += 1;
                }
            }
        }
        assert!(failed > stored.len(), "{failed} of {} bits", stored.len() * 8);
    }

    /// As the release before this one sealed it: the secrets, and nothing that binds the
    /// other fields.
    #[test]
    fn a_seal_of_the_release_before_opens_is_counted_and_sealed_anew() {
        const KEYRING: &str = r#"{"version": 1, "primary": "k", "keys": [{"id": "k",
            "key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "created_at": "2026-01-02T03:04:05Z"}]}"#;
        let keyring = Keyring::from_json(KEYRING.as_bytes()).unwrap();
        let codec = RecordCodec::new(Sealing::new(Some(keyring.clone())));
        let record = record("u");
        let mut value: Value = serde_json::from_slice(&plain().encode(&record)).unwrap();
        let members = value.as_object_mut().unwrap();
        let mut secrets = Map::new();
        for name in ["refresh_token", "access_token"] {
            secrets.extend(members.remove(name).map(|secret| (name.to_owned(), secret)));
        }
        let secrets = serde_json::to_vec(&secrets).unwrap();
        let sealed = keyring.seal("tokens/u.json", zeroize::Zeroizing::new(secrets)).unwrap();
        members.insert("sealed".into(), serde_json::to_value(Seal::from(sealed)).unwrap());
        let stored = value.to_string();
        assert_eq!(codec.decode(&record.user, stored.as_bytes()), Ok(record.clone()));
        assert_eq!(codec.sealing().unsealed_reads().unbound, 1);
        assert!(!codec.is_current(&record.user, stored.as_bytes()));
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
