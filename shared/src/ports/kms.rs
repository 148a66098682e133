//! A key management service that wraps the data keys of a keyring (Cloud KMS).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use zeroize::Zeroizing;

/// The full name of a key in Cloud KMS:
/// `projects/P/locations/L/keyRings/R/cryptoKeys/K`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KmsKey(Arc<str>);

impl KmsKey {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text is not the name of a key in Cloud KMS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a Cloud KMS key is named projects/PROJECT/locations/LOCATION/keyRings/RING/cryptoKeys/KEY, without a version"
)]
pub struct InvalidKmsKey;

impl FromStr for KmsKey {
    type Err = InvalidKmsKey;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const COLLECTIONS: [&str; 4] = ["projects", "locations", "keyRings", "cryptoKeys"];
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
        let id = |part: &str| {
            !part.is_empty()
                && !part.starts_with('.')
                && part.len() <= 100
                && part.bytes().all(plain)
        };
        let parts: Vec<&str> = text.split('/').collect();
        let collections = parts.iter().step_by(2).eq(&COLLECTIONS);
        // A colon is only in the ID of a project that belongs to a domain.
        let colons = parts.iter().skip(2).any(|part| part.contains(':'));
        if parts.len() != 8 || !collections || colons || !parts.iter().all(|part| id(part)) {
            return Err(InvalidKmsKey);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for KmsKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is asked of a KMS key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KmsUse {
    /// Wrapping a data key.
    Encrypt,
    /// Unwrapping one.
    Decrypt,
}

impl KmsUse {
    /// The smallest role that allows it.
    pub const fn role(self) -> &'static str {
        match self {
            Self::Encrypt => "roles/cloudkms.cryptoKeyEncrypter",
            Self::Decrypt => "roles/cloudkms.cryptoKeyDecrypter",
        }
    }

    const fn verb(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypt",
            Self::Decrypt => "decrypt",
        }
    }
}

/// Why a data key was not wrapped or unwrapped. No text holds one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KmsError {
    /// It may succeed later as it is: no answer, a passing refusal, or a damaged answer.
    #[error("Cloud KMS cannot be reached for {key}: {why}")]
    Unreachable {
        /// The KMS key.
        key: KmsKey,
        /// What happened.
        why: Arc<str>,
    },
    /// The identity of this process may not, or there is no such key.
    #[error(
        "this process may not {} with Cloud KMS key {key}, or there is no such key: grant its identity {} on it (gcloud kms keys add-iam-policy-binding {key} --role={} --member=MEMBER); Google says: {why}",
        wanted.verb(), wanted.role(), wanted.role()
    )]
    Denied {
        /// The KMS key.
        key: KmsKey,
        /// What was asked of it.
        wanted: KmsUse,
        /// Google's message.
        why: Arc<str>,
    },
    /// The version of the key that is needed is not enabled.
    #[error("Cloud KMS key {key} cannot be used: {why}; {}", enabling(key, why))]
    NotEnabled {
        /// The KMS key.
        key: KmsKey,
        /// Google's message, which names version and state.
        why: Arc<str>,
    },
    /// What it was asked to unwrap was not wrapped by it under that ID.
    #[error(
        "Cloud KMS key {key} does not unwrap data key {id}: the keyring was altered, or names another KMS key than the one that wrapped it; restore the keyring from its copy (Google says: {why})"
    )]
    NotWrapped {
        /// The KMS key.
        key: KmsKey,
        /// ID of the data key.
        id: String,
        /// Google's message.
        why: Arc<str>,
    },
    /// Anything else.
    #[error("Cloud KMS refuses {key}: {why}")]
    Refused {
        /// The KMS key.
        key: KmsKey,
        /// Google's message.
        why: Arc<str>,
    },
}

/// How a version is used again, as far as that is possible in its state. Google's message
/// begins with the name of the version and ends with its state.
fn enabling(key: &KmsKey, why: &str) -> String {
    let version = why.split_whitespace().find(|word| word.starts_with(key.as_str()));
    let version = version.map_or_else(|| format!("VERSION --key={key}"), str::to_owned);
    let enable = format!("gcloud kms keys versions enable {version}");
    if why.contains("DESTROY_SCHEDULED") {
        format!(
            "restore it before it is destroyed: gcloud kms keys versions restore {version}, then {enable}"
        )
    } else if why.contains("DESTROYED") {
        "what it wrapped is lost: restore a copy of the keyring that another key or version wrapped, or users must consent again"
            .to_owned()
    } else {
        enable
    }
}

/// Wraps and unwraps data keys. Dropping a call is harmless.
pub trait Kms: fmt::Debug + Send + Sync {
    /// `plain` as only `key` unwraps it again, and only for the data key `id`.
    ///
    /// # Errors
    /// [`KmsError`].
    fn wrap<'a>(
        &'a self,
        key: &'a KmsKey,
        id: &'a str,
        plain: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>, KmsError>>;

    /// What was wrapped for the data key `id`.
    ///
    /// # Errors
    /// [`KmsError`].
    fn unwrap<'a>(
        &'a self,
        key: &'a KmsKey,
        id: &'a str,
        wrapped: &'a [u8],
    ) -> BoxFuture<'a, Result<Zeroizing<Vec<u8>>, KmsError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "projects/p/locations/eu/keyRings/fleet/cryptoKeys/keyring";

    #[test]
    fn a_key_is_named_in_full_and_without_a_version() {
        assert_eq!(KEY.parse::<KmsKey>().unwrap().as_str(), KEY);
        assert!(KEY.replace("/p/", "/example.com:p/").parse::<KmsKey>().is_ok());
        for other in [
            "keyring",
            "projects/p/locations/eu/keyRings/fleet",
            &format!("{KEY}/cryptoKeyVersions/1"),
            &format!("/{KEY}"),
            &format!("{KEY}:decrypt"),
            &KEY.replace("/eu/", "//"),
            &KEY.replace("/eu/", "/../"),
            &KEY.replace("fleet", "fl eet"),
            &KEY.replace("keyRings", "keyrings"),
        ] {
            assert_eq!(other.parse::<KmsKey>(), Err(InvalidKmsKey), "{other}");
        }
    }

    #[test]
    fn the_remedy_follows_from_the_state_of_the_version() {
        let says = |state: &str| {
            let why =
                format!("{KEY}/cryptoKeyVersions/2 is not enabled, current state is: {state}.");
            KmsError::NotEnabled { key: KEY.parse().unwrap(), why: why.into() }.to_string()
        };
        let enable = format!("gcloud kms keys versions enable {KEY}/cryptoKeyVersions/2");
        assert!(says("DISABLED").ends_with(&enable), "{}", says("DISABLED"));
        assert!(says("DESTROY_SCHEDULED").contains("versions restore"));
        assert!(!says("DESTROYED").contains("gcloud") && says("DESTROYED").contains("lost"));
    }
}
