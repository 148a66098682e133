//! Why sealed content cannot be had.

use crate::keyring::KeyId;

/// Why an object's content is not used. Quotes nothing but the ID of a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NotOpened {
    /// It is plain, and the keyring has a key that seals.
    #[error("it is not sealed, and this process has a keyring")]
    Unsealed,
    /// It is sealed, and there is no keyring to open it with.
    #[error("it is sealed with key {0}, and no keyring is configured")]
    NoKeyring(KeyId),
    /// It is sealed with a key that the keyring does not have.
    #[error("it is sealed with key {0}, which the keyring does not have")]
    UnknownKey(KeyId),
    /// Its seal does not open: it was altered, or is that of another object.
    #[error("its seal (key {0}) is broken: it was altered, or moved here from another name")]
    Broken(KeyId),
    /// A member outside the seal is not what it was when it was sealed.
    #[error("its clear part is not what was sealed with it (key {0}): it was altered")]
    Altered(KeyId),
    /// The seal, or the object around it, has not the form of one.
    #[error("its seal is malformed")]
    Malformed,
}

impl NotOpened {
    /// What an operator can do about it, where a keyring or a setting is the cure.
    pub fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Unsealed => Some(
                "while a keyring is being introduced, set --accept-unsealed until `fleet users reseal --all` has sealed everything; at any other time somebody else has put it there",
            ),
            Self::NoKeyring(_) => Some("configure the keyring that the other processes have"),
            Self::UnknownKey(_) => {
                Some("give this process the newest keyring, or restore the key from its copy")
            }
            Self::Broken(_) | Self::Altered(_) | Self::Malformed => None,
        }
    }
}
