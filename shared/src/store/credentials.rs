//! A credential as callers get it.

use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;

use crate::ports::Monotonic;
use crate::protocol::Held;
use crate::record::GrantId;
use crate::secret::Secret;
use crate::user_id::UserId;

use super::served::Served;

/// A usable access token of one user. A clone costs one reference count.
///
/// It does not renew itself: ask the store again before each use, and tell it
/// when an API rejects this one ([`TokenStore::renew`](super::TokenStore::renew)).
#[derive(Clone)]
pub struct Credentials(pub(super) Arc<Served>);

impl Credentials {
    pub(super) fn held(&self) -> &Held {
        self.0.held()
    }

    /// When this replica first had its grant.
    pub(super) fn since(&self) -> Monotonic {
        self.0.since()
    }

    /// Whose it is.
    pub fn user(&self) -> &UserId {
        &self.held().record.user
    }

    /// The access token, for an `Authorization: Bearer` header to a host that
    /// may have it.
    pub fn access_token(&self) -> &Secret {
        self.0.access_token()
    }

    /// The provider's answer that it came from.
    pub fn grant_id(&self) -> &GrantId {
        &self.held().record.grant_id
    }

    /// When it expires, by the wall clock of whoever obtained it.
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.held().record.expires_at
    }

    /// The scopes that the provider reported, sorted.
    pub fn scopes(&self) -> &[String] {
        self.0.scopes()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", self.user())
            .field("grant_id", &self.grant_id().0)
            .field("expires_at", &self.expires_at())
            .finish_non_exhaustive()
    }
}
