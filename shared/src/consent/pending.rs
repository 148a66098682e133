//! A login under way, as the browser keeps it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::SessionKey;

const PURPOSE: &str = "pending login";

/// Most scopes begin like this. In a cookie, of which browsers keep 4096 bytes, one character
/// stands for it that no scope has.
const GOOGLE: &str = "https://www.googleapis.com/auth/";
const SHORT: char = '"';

/// Holds secrets; it has no `Debug` and leaves the process sealed only.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Pending {
    pub(super) state: String,
    pub(super) verifier: String,
    pub(super) nonce: String,
    /// What the provider is asked for.
    #[serde(with = "short")]
    pub(super) scopes: Vec<String>,
    /// So many of `scopes`, the first ones, are wanted now; the others were allowed before.
    pub(super) wanted: usize,
    pub(super) next: String,
    /// Whose access is to grow: nobody else's login will do.
    pub(super) user: Option<String>,
    pub(super) redirect_uri: String,
    pub(super) started_at: Timestamp,
    /// This is the second round, with `prompt=consent`.
    pub(super) repeated: bool,
    /// The person wants to allow no more than this.
    pub(super) only: bool,
    /// The record may be replaced by another account's.
    pub(super) replace: bool,
}

/// Scopes in one text: no scope has a space (RFC 6749, section 3.3).
mod short {
    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::{GOOGLE, SHORT};

    pub(super) fn serialize<S: Serializer>(scopes: &[String], to: S) -> Result<S::Ok, S::Error> {
        let short = |scope: &String| match scope.strip_prefix(GOOGLE) {
            Some(rest) => format!("{SHORT}{rest}"),
            None => scope.clone(),
        };
        to.serialize_str(&scopes.iter().map(short).collect::<Vec<_>>().join(" "))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
        let text = String::deserialize(from)?;
        let long = |scope: &str| match scope.strip_prefix(SHORT) {
            Some(rest) => format!("{GOOGLE}{rest}"),
            None => scope.to_owned(),
        };
        Ok(text.split(' ').filter(|scope| !scope.is_empty()).map(long).collect())
    }
}

impl Pending {
    pub(super) fn seal(&self, key: &SessionKey) -> String {
        let content = serde_json::to_vec(self).unwrap_or_default();
        key.seal(PURPOSE, &content)
    }

    pub(super) fn open(key: &SessionKey, sealed: &str) -> Option<Self> {
        serde_json::from_slice(&key.open(PURPOSE, sealed)?).ok()
    }

    /// What is wanted now.
    pub(super) fn wanted(&self) -> &[String] {
        &self.scopes[..self.wanted.min(self.scopes.len())]
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
