//! The provider's token endpoint (RFC 6749, section 3.2).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::secret::Secret;

/// The lifetime of an access token whose answer states none (RFC 6749, section
/// 5.1, only recommends it): short, since nothing else tells that one has expired.
pub const UNSTATED_LIFETIME: Duration = Duration::from_secs(300);

/// What the endpoint granted (RFC 6749, section 5.1). It holds an access token or a
/// refresh token, or both: whatever else is missing costs neither.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Answer {
    /// The new access token; some providers grant a refresh token alone.
    pub access_token: Option<Secret>,
    /// The new refresh token, when the provider rotates them.
    pub refresh_token: Option<Secret>,
    /// Lifetime of the access token, counted from when the request was sent. `None`
    /// when the answer states none: then it is [`UNSTATED_LIFETIME`].
    pub expires_in: Option<Duration>,
    /// Granted scopes; `None` when they are as before.
    pub scopes: Option<Vec<String>>,
}

impl Answer {
    /// The lifetime of the access token, stated or not.
    pub fn lifetime(&self) -> Duration {
        self.expires_in.unwrap_or(UNSTATED_LIFETIME)
    }
}

/// Bounds on one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Limits {
    /// On making a connection. Nothing was sent when it ends.
    pub connect: Duration,
    /// On the whole request, from its first byte to the answer's last.
    pub answer: Duration,
}

/// When a request whose answer was lost may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resend {
    /// After 2 s or more: the connection ended, and the request with it.
    Soon,
    /// After 10 s or more, at most a third of the ttl: a gateway gave the request up
    /// (HTTP 504 and 524), and the origin may still carry it out.
    Late,
}

/// Why the endpoint granted nothing, by what may be done next. Messages never
/// hold a request or response body, only the error fields of RFC 6749,
/// section 5.2, with the secrets that were sent removed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum EndpointError {
    /// The refresh token, or the code, is revoked, expired, spent or unknown.
    #[error("the provider ended the grant: {0}")]
    InvalidGrant(Arc<str>),
    /// Every other OAuth code. Whether it is about the client or about this user
    /// alone is not known before the endpoint has been asked with a made-up token.
    #[error("{why}")]
    Refused {
        /// The provider's code, in lower case.
        code: Arc<str>,
        /// Who said what.
        why: Arc<str>,
    },
    /// The request was answered and certainly not carried out; it may be sent again
    /// later.
    #[error("the token endpoint does not serve this request now: {why}")]
    NotNow {
        /// The provider's code, in lower case, if it gave one.
        code: Option<Arc<str>>,
        /// Who said what.
        why: Arc<str>,
        /// How long the endpoint asked to wait, at most 10 min.
        retry_after: Option<Duration>,
    },
    /// Nothing was sent, or it was certainly not accepted; it may be sent again.
    #[error("the token endpoint was not reached: {0}")]
    NotReached(Arc<str>),
    /// The request was sent and its answer was lost: a rotating provider may
    /// have spent the refresh token.
    #[error("the token endpoint's answer was lost: {why}")]
    Ambiguous {
        /// What happened.
        why: Arc<str>,
        /// When the one repetition may be sent.
        resend_after: Resend,
    },
}

/// Trades a refresh token for an access token.
pub trait TokenEndpoint: Send + Sync + fmt::Debug + 'static {
    /// Sends one refresh request and waits for its whole answer within `limits`.
    /// Dropping the future loses the answer: callers run it to its end.
    fn refresh<'a>(
        &'a self,
        refresh_token: &'a Secret,
        limits: Limits,
    ) -> BoxFuture<'a, Result<Answer, EndpointError>>;

    /// The configured client's ID: a record of another client is not sent.
    fn client_id(&self) -> &str;

    /// The configured endpoint's address: a record of another one is not sent.
    fn token_uri(&self) -> &str;
}
