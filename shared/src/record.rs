//! The token record: one user's credential, as stored in `tokens/<user>.json`.
//!
//! This file has the record's values; [`RecordCodec`] makes them the bytes that are
//! stored and back, with the secrets sealed where there is a keyring.

mod bad;
mod blocked;
mod codec;
mod hints;
mod later;

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ports::Generation;
use crate::reason::{ConsentReason, Reason};
use crate::secret::Secret;
use crate::user_id::UserId;

pub use bad::BadRecord;
pub use blocked::Blocked;
pub use codec::RecordCodec;
pub use hints::{HintedState, RecordHints};
pub use later::Later;

/// The version that this program writes.
pub const RECORD_VERSION: u32 = 1;

/// The latest version that it reads: the next release's, which may add members and change the
/// meaning of none. What it adds is kept by whoever writes the record again ([`Later`]).
pub const LATEST_READ: u32 = RECORD_VERSION + 1;

/// A record larger than this is not one: reads stop here.
pub const MAX_RECORD_BYTES: usize = 256 * 1024;

/// Names one answer of the provider: the access token that came with it. Kept
/// by writes that keep the token, so that a token that an API rejected can be
/// told from its successor without comparing secrets.
///
/// What stands before the first full stop names the login or import that it comes
/// from: successors keep it. So a login whose reply was lost knows what became of it.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GrantId(pub String);

impl GrantId {
    /// The answer to a refresh of this grant, told from its like by a random `name`, of
    /// which 16 hex digits are enough: every cached user has one in memory.
    #[must_use]
    pub fn successor(&self, name: &str) -> Self {
        Self(format!("{}.{}", self.login(), name.get(..16).unwrap_or(name)))
    }

    /// Whether it came from a refresh, and not with the login itself.
    pub fn is_renewed(&self) -> bool {
        self.0.contains('.')
    }

    /// Whether both come from one login.
    pub fn is_kin_of(&self, other: &Self) -> bool {
        self.login() == other.login()
    }

    /// The login or import that it comes from.
    pub fn login(&self) -> &str {
        self.0.split('.').next().unwrap_or_default()
    }
}

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
    /// Why it was revoked or blocked: the name of a [`Reason`], or what the
    /// provider said, as earlier versions stored it.
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
    /// The provider refuses this user for now, though the grant may live.
    pub blocked: Option<Box<Blocked>>,
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
    /// What a later version has beyond this one.
    pub later: Option<Box<Later>>,
    /// When its values last changed. A re-seal changes how they are stored, and
    /// none of them.
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
    /// Why the user must consent, if they must. A blocked user's access token may still be
    /// usable, and is used.
    pub fn trouble(&self) -> Option<ConsentReason> {
        if !self.is_active() {
            let reason = Reason::of_revoked_record(self.reason.as_deref());
            return Some(ConsentReason::Revoked { reason, at: self.updated_at });
        }
        let Blocked { code, since, .. } = *self.blocked.clone()?;
        let named = self.reason.as_deref().and_then(Reason::named);
        let reason = named.unwrap_or_else(|| Reason::of_refusal(&code, ""));
        Some(ConsentReason::Blocked { reason, code, since })
    }

    /// Whether the provider still honours it, as far as is known.
    pub fn is_active(&self) -> bool {
        self.state == State::Active
    }

    /// Whether its user is blocked, and the time has come to try whether still, by this wall
    /// clock.
    pub fn is_to_be_tried(&self, now: Timestamp) -> bool {
        let blocked = self.blocked.as_ref().filter(|_| self.is_active());
        blocked.is_some_and(|blocked| blocked.remaining(self.updated_at, now).is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::GrantId;
    use crate::protocol::testing::record;

    #[test]
    fn grants_know_their_login() {
        let login = GrantId("a".into());
        let second = login.successor("1").successor("2");
        assert_eq!(second, GrantId("a.2".into()), "it does not grow");
        assert!(second.is_kin_of(&login) && !second.is_kin_of(&GrantId("ab".into())));
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:#?}", record("u/1"));
        assert!(!shown.contains("fake-") && !shown.contains("u/1"), "{shown}");
    }
}
