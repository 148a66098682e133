//! What a model runs on: a store of credentials, a lock service, a token endpoint, a clock.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What is stored for a user. Its tokens are made up, so `Debug` may show them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// What the next refresh presents.
    pub refresh_token: String,
    /// When the access token expires, by the clock of whoever obtained it.
    pub expires_at: Timestamp,
}

/// A grant and the version at which it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// What is stored.
    pub grant: Grant,
    /// Differs after every write.
    pub version: i64,
}

/// A lease as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WallClockLease {
    /// When it ends, by the clock of its holder.
    pub until: Timestamp,
    /// Differs after every write; 0 when there is none.
    pub version: i64,
}

/// Why a request did not succeed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// No answer. It may have been carried out.
    Unavailable,
    /// What was to be replaced has another version.
    Conflict,
    /// The provider does not take this refresh token.
    InvalidGrant,
}

/// The surroundings of one process.
pub trait Site: Sync {
    /// The wall clock of this machine.
    fn now(&self) -> Timestamp;

    /// Waits.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send;

    /// Reads the grant of `user`.
    fn read(&self, user: &str) -> impl Future<Output = Result<Stored, Failure>> + Send;

    /// Writes the grant of `user`: over this version, or over whatever is stored.
    fn write(
        &self,
        user: &str,
        grant: &Grant,
        over: Option<i64>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Has the provider refresh a grant, however long that takes.
    fn refresh(&self, token: &str) -> impl Future<Output = Result<Grant, Failure>> + Send;

    /// Sets the user's key in the lock service unless it is set; `true` when it did. The key
    /// goes by itself after `ttl`.
    fn lock(&self, user: &str, ttl: Duration)
    -> impl Future<Output = Result<bool, Failure>> + Send;

    /// Deletes the user's key in the lock service, whoever set it.
    fn unlock(&self, user: &str) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Reads the user's lease in the lock service.
    fn lease(&self, user: &str) -> impl Future<Output = Result<WallClockLease, Failure>> + Send;

    /// Writes the user's lease over this version, and returns its new one.
    fn write_lease(
        &self,
        user: &str,
        until: Timestamp,
        over: i64,
    ) -> impl Future<Output = Result<i64, Failure>> + Send;
}
