//! What is asked of the identity provider, and what it answers.

use std::sync::Arc;
use std::time::Duration;

use super::ledger::RefreshOutcome;
use super::token::Secret;

/// What a token request presents. The client's secret comes in the body or as basic
/// authentication, which makes no difference here.
#[derive(Debug, Default)]
pub(super) struct RefreshRequest {
    pub(super) client_id: Option<String>,
    pub(super) client_secret: Option<Secret>,
    pub(super) refresh_token: Option<Secret>,
    /// Separated by spaces; all that was granted if absent.
    pub(super) scope: Option<String>,
}

/// A successful answer of the token endpoint.
#[derive(Debug, Clone)]
pub(super) struct Fresh {
    pub(super) access_token: Secret,
    pub(super) refresh_token: Option<Secret>,
    pub(super) expires_in: u64,
    pub(super) scopes: Vec<String>,
}

/// A refusal of the token endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenError {
    InvalidRequest(&'static str),
    UnsupportedGrantType,
    /// There is no such client.
    UnknownClient,
    WrongSecret,
    /// Never issued.
    UnknownToken,
    /// Issued once, but its grant has ended.
    EndedGrant,
    /// Spent before, which has ended its grant.
    SpentToken,
    InvalidScope,
    /// A code that was never issued, is spent, or is too old.
    UnknownCode,
    /// The redirect URI is not the one that the code was sent to.
    RedirectMismatch,
    /// The code verifier does not match the challenge.
    WrongVerifier,
}

impl TokenError {
    pub(super) fn outcome(self) -> RefreshOutcome {
        match self {
            Self::InvalidRequest(_) | Self::UnsupportedGrantType => RefreshOutcome::Malformed,
            Self::UnknownClient | Self::WrongSecret => RefreshOutcome::InvalidClient,
            Self::UnknownToken
            | Self::EndedGrant
            | Self::UnknownCode
            | Self::RedirectMismatch
            | Self::WrongVerifier => RefreshOutcome::InvalidGrant,
            Self::SpentToken => RefreshOutcome::Reused(None),
            Self::InvalidScope => RefreshOutcome::InvalidScope,
        }
    }
}

/// On whose behalf an API request acts, and what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) sub: String,
    pub(super) scopes: Arc<[String]>,
}

/// A refused API request, and whose it was where that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) sub: Option<String>,
    pub(super) error: AccessError,
}

/// Why an API request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AccessError {
    MissingToken,
    InvalidToken,
    /// The scope that would do.
    MissingScope(&'static str),
    /// Try again after so long.
    Limited(Duration),
}
