//! Why stored bytes are not the record they should be.

use crate::keyring::KeyId;

use super::{MAX_RECORD_BYTES, RECORD_VERSION};

/// Why bytes are not the record they should be. No text quotes the content,
/// except the ID of a key, which is no secret.
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
    #[error("it has version {0}, and this program reads version {RECORD_VERSION}")]
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
    /// It is sealed, and there is no keyring to open it with.
    #[error("its secrets are sealed with key {0}, and no keyring is configured")]
    NoKeyring(KeyId),
    /// It is sealed with a key that the keyring does not have.
    #[error("its secrets are sealed with key {0}, which the keyring does not have")]
    UnknownKey(KeyId),
    /// Its seal does not open: it was altered, or is that of another object.
    #[error("its seal (key {0}) is broken: it was altered, or moved here from another name")]
    BrokenSeal(KeyId),
    /// It has both sealed and plain secrets, or a seal that is not one.
    #[error("its seal is malformed")]
    MalformedSeal,
}

impl BadRecord {
    /// What an operator can do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoKeyring(_) => "configure the keyring that the other processes have",
            Self::UnknownKey(_) => {
                "give this process the newest keyring, or restore the key from its copy"
            }
            Self::Version(_) => "run a newer version of this program",
            Self::NotARecord { .. }
            | Self::OtherUser
            | Self::NoRefreshToken
            | Self::TooLarge
            | Self::BrokenSeal(_)
            | Self::MalformedSeal => "restore it, or delete the user and let them consent again",
        }
    }

    /// `serde_json`'s own text may quote a value, so only its position is kept.
    pub(super) fn not_json(error: &serde_json::Error) -> Self {
        let kind = match error.classify() {
            serde_json::error::Category::Data => "data",
            serde_json::error::Category::Eof => "truncated",
            serde_json::error::Category::Syntax | serde_json::error::Category::Io => "syntax",
        };
        Self::NotARecord { kind, line: error.line(), column: error.column() }
    }
}
