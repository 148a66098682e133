//! The provider's token endpoint (RFC 6749, section 3.2).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::secret::Secret;

/// What the endpoint granted (RFC 6749, section 5.1).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Answer {
    /// The new access token.
    pub access_token: Secret,
    /// The new refresh token, when the provider rotates them.
    pub refresh_token: Option<Secret>,
    /// Lifetime of the access token, counted from the answer.
    pub expires_in: Option<Duration>,
    /// Granted scopes; `None` when they are as before.
    pub scopes: Option<Vec<String>>,
}

/// Why the endpoint granted nothing, by what may be done next. Messages never
/// hold a request or response body, only the error fields of RFC 6749,
/// section 5.2.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum EndpointError {
    /// The refresh token is revoked, expired, spent or unknown.
    #[error("the provider rejected the refresh token (invalid_grant): {0}")]
    InvalidGrant(Arc<str>),
    /// The client is wrong, or the answer cannot be understood. The user's
    /// grant is not at fault; trying again does not help.
    #[error("{0}")]
    Misconfigured(Arc<str>),
    /// The request was certainly not carried out; it may be sent again.
    #[error("the token endpoint is not available: {0}")]
    Transient(Arc<str>),
    /// The request was sent and its answer was lost: a rotating provider may
    /// have spent the refresh token.
    #[error("the token endpoint's answer was lost: {0}")]
    Ambiguous(Arc<str>),
}

/// Trades a refresh token for an access token.
pub trait TokenEndpoint: Send + Sync + fmt::Debug + 'static {
    /// Sends one refresh request and waits at most `timeout` for its whole
    /// answer. Dropping the future loses the answer: callers run it to its end.
    fn refresh<'a>(
        &'a self,
        refresh_token: &'a Secret,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Answer, EndpointError>>;

    /// The configured client's ID: a record of another client is not sent.
    fn client_id(&self) -> &str;

    /// The configured endpoint's address: a record of another one is not sent.
    fn token_uri(&self) -> &str;
}
