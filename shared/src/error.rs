//! What can go wrong with a credential, by what the caller can do about it.

use std::sync::Arc;
use std::time::Duration;

use crate::reason::ConsentReason;
use crate::record::BadRecord;

/// Why a credential could not be had. Variants name the caller's remedy; no
/// text holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Only the user can help: ask for consent, then try again.
    #[error("the user must consent: {0}")]
    NeedsConsent(ConsentReason),
    /// Another replica is refreshing this user, or was a moment ago: try again later.
    #[error("the credential is busy: {0}")]
    Busy(Arc<str>),
    /// The bucket or the token endpoint does not answer: try again later, and
    /// take no new work meanwhile.
    #[error("the credential is not available: {0}")]
    Unavailable(Arc<str>),
    /// The token endpoint does not serve this user now: try this user again after that
    /// time. It says nothing about any other user.
    #[error("the credential is not available for {retry_after:.0?}: {why}")]
    Later {
        /// What the endpoint said.
        why: Arc<str>,
        /// How long to wait, from now.
        retry_after: Duration,
    },
    /// The stored object cannot be read and is left as it is, by logins and
    /// imports too: an operator must restore or delete it, or configure the
    /// keyring that opens it.
    #[error("object {object} cannot be read: {why}; {}", why.remedy())]
    Corrupt {
        /// Name of the object in the bucket.
        object: String,
        /// What is wrong with it.
        why: BadRecord,
    },
    /// The record belongs to another OAuth client; its secret was not sent.
    #[error(
        "object {object} was granted to another OAuth client: its {field} is {stored:?}, the configured one is {configured:?}; use that client's file, or let the user consent to this one"
    )]
    WrongClient {
        /// Name of the object in the bucket.
        object: String,
        /// `client_id` or `token_uri`.
        field: &'static str,
        /// Its value in the record.
        stored: String,
        /// Its value in the configured client.
        configured: String,
    },
    /// The OAuth client or the token endpoint is configured wrongly: an operator
    /// must act; no user is at fault and nothing was written.
    #[error(
        "the OAuth client is not accepted: {0}; check the client file and the provider's console"
    )]
    Misconfigured(Arc<str>),
    /// An active record exists and replacing it was not asked for.
    #[error("object {object} exists and is active; say so explicitly to replace it")]
    Exists {
        /// Name of the object in the bucket.
        object: String,
    },
}

impl Error {
    /// Trying again later can help without anybody's action.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::Unavailable(_) | Self::Later { .. })
    }

    pub(crate) fn waited(limit: Duration) -> Self {
        Self::Busy(
            format!("another replica is renewing it, and {limit:?} have passed; try again").into(),
        )
    }
}

/// The cause that says the most: what HTTP and Google's clients wrap around it names no
/// circumstance.
pub fn innermost<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> &'a (dyn std::error::Error + 'static) {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause
}
