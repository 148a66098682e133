//! The token record: one user's credential, as stored in `tokens/<user>.json`.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ports::Generation;
use crate::secret::Secret;
use crate::user_id::UserId;

/// The version that this program writes and reads.
pub const RECORD_VERSION: u32 = 1;

/// A record larger than this is not one: reads stop here.
pub const MAX_RECORD_BYTES: usize = 256 * 1024;

/// Names one answer of the provider: the access token that came with it. Kept
/// by writes that keep the token, so that a token that an API rejected can be
/// told from its successor without comparing secrets.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GrantId(pub String);

/// Names one write of a record; recognises my own write after a lost reply.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WriteId(pub String);

/// Whether the provider still honours the refresh token.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It may be refreshed.
    Active,
    /// The provider rejected it; the user must consent again.
    Revoked,
}

/// One user's credential.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TokenRecord {
    /// Whose it is; equals the user of the object's name.
    pub user: UserId,
    /// The account at the provider, when known.
    pub sub: Option<String>,
    /// Whether it may be refreshed.
    pub state: State,
    /// Why it was revoked, for people.
    pub reason: Option<String>,
    /// The refresh token. Kept in a revoked record, where it tells which
    /// refresh token the provider rejected.
    pub refresh_token: Secret,
    /// The access token, when one was obtained.
    pub access_token: Option<Secret>,
    /// When the access token expires.
    pub expires_at: Option<Timestamp>,
    /// Its lifetime when it was issued.
    pub expires_in: Option<Duration>,
    /// The scopes that the provider reported, sorted.
    pub scopes: Vec<String>,
    /// The token endpoint it belongs to.
    pub token_uri: String,
    /// The OAuth client it was granted to.
    pub client_id: String,
    /// The answer that the access token came from.
    pub grant_id: GrantId,
    /// This write.
    pub write_id: WriteId,
    /// Which process wrote it.
    pub holder: String,
    /// Generation of the lease under which it was committed; saves the next
    /// refresh one read.
    pub lease_generation: Option<Generation>,
    /// When the user first consented.
    pub created_at: Timestamp,
    /// When this was written.
    pub updated_at: Timestamp,
}

/// Secrets are redacted and the user is a digest.
impl fmt::Debug for TokenRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRecord")
            .field("user", &self.user)
            .field("state", &self.state)
            .field("expires_at", &self.expires_at)
            .field("grant_id", &self.grant_id.0)
            .field("write_id", &self.write_id.0)
            .finish_non_exhaustive()
    }
}

impl TokenRecord {
    /// Whether the provider still honours it, as far as is known.
    pub fn is_active(&self) -> bool {
        self.state == State::Active
    }

    /// The bytes to store.
    #[expect(clippy::missing_panics_doc, reason = "serializing plain values cannot fail")]
    pub fn encode(&self) -> Bytes {
        let wire = Wire {
            version: RECORD_VERSION,
            user: self.user.as_str().to_owned(),
            sub: self.sub.clone(),
            state: self.state,
            reason: self.reason.clone(),
            refresh_token: self.refresh_token.expose().to_owned(),
            access_token: self.access_token.as_ref().map(|t| t.expose().to_owned()),
            expires_at: self.expires_at,
            expires_in: self.expires_in.map(|d| d.as_secs()),
            scopes: self.scopes.clone(),
            token_uri: self.token_uri.clone(),
            client_id: self.client_id.clone(),
            grant_id: self.grant_id.clone(),
            write_id: self.write_id.clone(),
            holder: self.holder.clone(),
            lease_generation: self.lease_generation.map(|g| g.0),
            created_at: self.created_at,
            updated_at: self.updated_at,
        };
        let mut bytes = serde_json::to_vec_pretty(&wire).expect("plain values only");
        bytes.push(b'\n');
        bytes.into()
    }

    /// Reads the bytes of `user`'s record.
    ///
    /// # Errors
    /// [`BadRecord`] when they are not a record of this version and user. Its
    /// text never quotes the content.
    pub fn decode(user: &UserId, content: &[u8]) -> Result<Self, BadRecord> {
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
        if wire.refresh_token.is_empty() {
            return Err(BadRecord::NoRefreshToken);
        }
        Ok(Self {
            user: user.clone(),
            sub: wire.sub,
            state: wire.state,
            reason: wire.reason,
            refresh_token: wire.refresh_token.into(),
            access_token: wire.access_token.filter(|t| !t.is_empty()).map(Secret::from),
            expires_at: wire.expires_at,
            expires_in: wire.expires_in.map(Duration::from_secs),
            scopes: wire.scopes,
            token_uri: wire.token_uri,
            client_id: wire.client_id,
            grant_id: wire.grant_id,
            write_id: wire.write_id,
            holder: wire.holder,
            lease_generation: wire.lease_generation.map(Generation),
            created_at: wire.created_at,
            updated_at: wire.updated_at,
        })
    }
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
    refresh_token: String,
    access_token: Option<String>,
    expires_at: Option<Timestamp>,
    expires_in: Option<u64>,
    scopes: Vec<String>,
    token_uri: String,
    client_id: String,
    grant_id: GrantId,
    write_id: WriteId,
    holder: String,
    lease_generation: Option<i64>,
    created_at: Timestamp,
    updated_at: Timestamp,
}

/// Why bytes are not the record they should be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum BadRecord {
    /// Truncated, not JSON, or fields missing or of the wrong type.
    #[error("it is not a token record ({kind} at line {line}, column {column})")]
    NotARecord {
        /// `syntax`, `data` or `truncated`.
        kind: &'static str,
        /// Line of the first fault.
        line: usize,
        /// Column of the first fault.
        column: usize,
    },
    /// Written by another version of the program.
    #[error("it has version {0}, and this program reads version {RECORD_VERSION}; run a newer one")]
    Version(u32),
    /// The record names another user than the object: it was copied or moved.
    #[error("it is the record of another user than its name says")]
    OtherUser,
    /// It cannot be refreshed, so it is of no use.
    #[error("it has no refresh token")]
    NoRefreshToken,
    /// Too large to be a record.
    #[error("it is larger than {MAX_RECORD_BYTES} bytes")]
    TooLarge,
}

impl BadRecord {
    /// `serde_json`'s own text may quote a value, so only its position is kept.
    fn not_json(error: &serde_json::Error) -> Self {
        let kind = match error.classify() {
            serde_json::error::Category::Data => "data",
            serde_json::error::Category::Eof => "truncated",
            serde_json::error::Category::Syntax | serde_json::error::Category::Io => "syntax",
        };
        Self::NotARecord { kind, line: error.line(), column: error.column() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record() -> TokenRecord {
        TokenRecord {
            user: UserId::new("u/1").unwrap(),
            sub: Some("1097".into()),
            state: State::Active,
            reason: None,
            refresh_token: "fake-refresh".into(),
            access_token: Some("fake-access".into()),
            expires_at: Some("2026-01-02T03:04:05.678Z".parse().unwrap()),
            expires_in: Some(Duration::from_secs(3599)),
            scopes: vec!["email".into(), "openid".into()],
            token_uri: "https://oauth2.googleapis.com/token".into(),
            client_id: "client".into(),
            grant_id: GrantId("g".into()),
            write_id: WriteId("w".into()),
            holder: "h".into(),
            lease_generation: Some(Generation(7)),
            created_at: "2026-01-02T03:04:05Z".parse().unwrap(),
            updated_at: "2026-01-02T03:04:05Z".parse().unwrap(),
        }
    }

    #[test]
    fn round_trips() {
        let record = record();
        assert_eq!(TokenRecord::decode(&record.user, &record.encode()), Ok(record));
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:#?}", record());
        assert!(!shown.contains("fake-") && !shown.contains("u/1"), "{shown}");
    }

    #[test]
    fn says_what_is_wrong_without_quoting_it() {
        let good = record();
        let text = String::from_utf8(good.encode().to_vec()).unwrap();
        let other = UserId::new("u/2").unwrap();
        assert_eq!(TokenRecord::decode(&other, text.as_bytes()), Err(BadRecord::OtherUser));
        let newer = text.replacen("\"version\": 1", "\"version\": 9", 1);
        assert_eq!(TokenRecord::decode(&good.user, newer.as_bytes()), Err(BadRecord::Version(9)));
        for cut in 0..text.trim_end().len() {
            let error = TokenRecord::decode(&good.user, &text.as_bytes()[..cut]).unwrap_err();
            assert!(!error.to_string().contains("fake-"), "{error}");
        }
        let wrong_type = text.replacen("\"fake-refresh\"", "{\"x\":\"fake-x\"}", 1);
        let error = TokenRecord::decode(&good.user, wrong_type.as_bytes()).unwrap_err();
        assert!(matches!(error, BadRecord::NotARecord { kind: "data", .. }), "{error}");
        let empty = text.replacen("\"fake-refresh\"", "\"\"", 1);
        assert_eq!(
            TokenRecord::decode(&good.user, empty.as_bytes()),
            Err(BadRecord::NoRefreshToken)
        );
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail_calmly(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let user = UserId::new("u").unwrap();
            prop_assert!(TokenRecord::decode(&user, &bytes).is_err());
        }
    }
}
