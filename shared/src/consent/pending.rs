//! A login under way, as the browser keeps it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::SessionKey;

const PURPOSE: &str = "pending login";

/// Holds secrets; it has no `Debug` and leaves the process sealed only.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Pending {
    pub(super) state: String,
    pub(super) verifier: String,
    pub(super) nonce: String,
    /// What the provider is asked for.
    pub(super) scopes: Vec<String>,
    /// What is wanted now: all of `scopes`, unless those also hold what was allowed before.
    #[serde(default)]
    pub(super) wanted: Vec<String>,
    pub(super) next: String,
    /// Whose access is to grow: nobody else's login will do.
    pub(super) user: Option<String>,
    pub(super) redirect_uri: String,
    pub(super) started_at: Timestamp,
    /// This is the second round, with `prompt=consent`.
    pub(super) repeated: bool,
    /// Asks for what was allowed before, or has been told not to: a grant that allows less
    /// than the one before is what the person wants.
    #[serde(default)]
    pub(super) narrows: bool,
    /// The record may be replaced by another account's.
    #[serde(default)]
    pub(super) other_account: bool,
}

impl Pending {
    pub(super) fn seal(&self, key: &SessionKey) -> String {
        let content = serde_json::to_vec(self).unwrap_or_default();
        key.seal(PURPOSE, &content)
    }

    pub(super) fn open(key: &SessionKey, sealed: &str) -> Option<Self> {
        serde_json::from_slice(&key.open(PURPOSE, sealed)?).ok()
    }

    pub(super) fn digest(&self) -> String {
        digest(&self.state)
    }
}

/// How much of the digest tells logins of one browser apart.
pub(super) const NAME_LENGTH: usize = 8;

/// Names a login without telling its `state`: 128 bits in hexadecimal.
pub(super) fn digest(state: &str) -> String {
    let hash = Sha256::digest(state.as_bytes());
    let mut first = [0; 16];
    first.copy_from_slice(&hash[..16]);
    format!("{:032x}", u128::from_be_bytes(first))
}
