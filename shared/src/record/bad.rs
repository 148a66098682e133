//! Why stored bytes are not the record they should be.

use crate::sealing::NotOpened;

use super::{LATEST_READ, MAX_RECORD_BYTES};

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
    #[error("it has version {0}, and this program reads versions up to {LATEST_READ}")]
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
    /// It does not open, or is not sealed although it has to be.
    #[error("{0}")]
    Sealed(#[from] NotOpened),
}

impl BadRecord {
    /// What an operator can do about it.
    pub fn remedy(&self) -> &'static str {
        const RESTORE: &str = "restore it, or delete the user and let them consent again";
        match self {
            Self::Sealed(why) => why.remedy().unwrap_or(RESTORE),
            Self::Version(_) => "run a newer version of this program",
            Self::NotARecord { .. } | Self::OtherUser | Self::NoRefreshToken | Self::TooLarge => {
                RESTORE
            }
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
