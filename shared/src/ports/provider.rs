//! The identity provider, as a login sees it.

use std::fmt;

use futures_util::future::BoxFuture;
use serde_json::{Map, Value};

use super::{Answer, EndpointError, Limits};
use crate::profile::ProfileError;
use crate::secret::Secret;

/// What the token endpoint granted for an authorization code (RFC 6749, section
/// 4.1.4; OpenID Connect Core 1.0, section 3.1.3.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeAnswer {
    /// The tokens; providers give no refresh token to somebody they know. Scopes are
    /// absent when they are as asked.
    pub answer: Answer,
    /// The ID token, not yet checked.
    pub id_token: Option<Secret>,
}

/// Whether a revocation found anything to revoke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocation {
    /// The grant ended.
    Revoked,
    /// The provider did not honour the token any more.
    AlreadyInvalid,
}

/// Exchanges codes and tells profiles.
pub trait Provider: Send + Sync + fmt::Debug + 'static {
    /// Exchanges an authorization code and waits for the whole answer within
    /// `limits`. [`EndpointError::InvalidGrant`] when the code is not accepted.
    fn exchange<'a>(
        &'a self,
        code: &'a Secret,
        verifier: &'a Secret,
        redirect_uri: &'a str,
        limits: Limits,
    ) -> BoxFuture<'a, Result<CodeAnswer, EndpointError>>;

    /// The profile that an access token gives.
    fn profile<'a>(
        &'a self,
        access_token: &'a Secret,
    ) -> BoxFuture<'a, Result<Map<String, Value>, ProfileError>>;

    /// Ends the grant of a refresh token (RFC 7009).
    fn revoke<'a>(
        &'a self,
        refresh_token: &'a Secret,
        limits: Limits,
    ) -> BoxFuture<'a, Result<Revocation, EndpointError>>;
}
