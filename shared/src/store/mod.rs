//! The token store: one credential per user in a bucket, shared by a fleet.

mod audit;
mod builder;
mod check;
mod counters;
mod credentials;
mod drive;
mod entry;
mod inquiring;
mod landing;
mod obtaining;
mod rejected;
mod requests;
mod reseal;
mod retry;
mod revoke;
mod served;
mod write;

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::error::Error;
use crate::policy::Policy;
use crate::ports::{
    Audit, Bucket, BucketError, Clock, Monotonic, Provider, Randomness, TokenEndpoint,
};
use crate::protocol::{Breaker, Identity, Inquiry, Stored, Trouble};
use crate::record::{RecordCodec, TokenRecord};
use crate::sealing::Sealing;
use crate::user_id::UserId;

pub use builder::Builder;
pub use counters::Counts;
pub use credentials::Credentials;
pub use reseal::Resealed;
pub use revoke::Revoked;
pub use write::{Imported, Login};

use counters::Counters;
use entry::Entries;
use served::ScopeSets;

/// How many users are kept in memory unless the builder is told otherwise.
pub const DEFAULT_CACHED_USERS: usize = 100_000;

/// Whether a replica can make fresh credentials at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Nothing is known that would prevent it.
    Ready,
    /// The provider does not accept the OAuth client. Ends with the next answer about a
    /// user's grant, here or at another replica.
    Misconfigured(Arc<str>),
    /// Refreshes fail for many users: the token endpoint is down.
    EndpointDown,
}

/// Hands out fresh credentials of users, and keeps them fresh.
///
/// Cheap to clone; clones share everything. Must be used inside a tokio runtime.
/// Many processes over one bucket are safe together by the refresh protocol; all
/// of them must use it.
#[derive(Clone)]
pub struct TokenStore(Arc<Inner>);

pub(crate) struct Inner {
    bucket: Arc<dyn Bucket>,
    endpoint: Arc<dyn TokenEndpoint>,
    /// Where the grants of users who were deleted meanwhile are ended.
    provider: Option<Arc<dyn Provider>>,
    codec: RecordCodec,
    audit: Arc<dyn Audit>,
    clock: Arc<dyn Clock>,
    random: Arc<Randomness>,
    policy: Arc<Policy>,
    identity: Identity,
    entries: Entries,
    scope_sets: ScopeSets,
    /// Whether a refresh-ahead that tokens do not allow was reported.
    cap_reported: AtomicBool,
    breaker: Mutex<Breaker>,
    inquiry: tokio::sync::Mutex<Inquiry>,
    counters: Counters,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl TokenStore {
    /// A fresh credential of `user`: usable, or obtained or adopted by this very
    /// call. A usable token in memory costs no I/O; one that is due is returned
    /// at once and renewed in the background; otherwise the caller waits for at
    /// most the policy's wait limit, together with every other caller of this
    /// user in this process.
    ///
    /// A token that was renewed is returned as soon as the provider has answered, while the
    /// answer is being stored: end the process by [`TokenStore::shutdown`].
    ///
    /// Cancelling it cancels the wait, never a refresh.
    ///
    /// # Errors
    /// See [`Error`]; [`Error::NeedsConsent`] when only the user can help.
    pub async fn get_credentials(&self, user: &UserId) -> Result<Credentials, Error> {
        self.get_credentials_ahead(user, Duration::ZERO).await
    }

    /// The same for a caller who hands the token on to others, whose libraries ask for another
    /// when theirs has a few minutes left: the background renewal begins when less than `ahead`
    /// is left, at most a quarter of the token's life, or where the policy says so earlier.
    ///
    /// Cancelling it cancels the wait, never a refresh.
    ///
    /// # Errors
    /// As [`TokenStore::get_credentials`].
    pub async fn get_credentials_ahead(
        &self,
        user: &UserId,
        ahead: Duration,
    ) -> Result<Credentials, Error> {
        let entry = self.0.entries.of(user);
        let at_hand = self.serve(&entry, &mut entry.lock(), ahead);
        match at_hand {
            Some(served) => Ok(Credentials(served)),
            None => self.obtain(&entry, Duration::ZERO).await.map(Credentials),
        }
    }

    /// The same for a caller who needs a token that is good for `at_least` so long yet: one with
    /// less left is renewed, and the caller waits for that. The bound is what a new token has:
    /// asked for more than its life less one lease ttl, the store renews at most once per ttl,
    /// and what it returns may have less.
    ///
    /// Other callers go on with the token at hand meanwhile, and when the renewal fails.
    /// Cancelling it cancels the wait, never a refresh.
    ///
    /// # Errors
    /// As [`TokenStore::get_credentials`].
    pub async fn get_credentials_lasting(
        &self,
        user: &UserId,
        at_least: Duration,
    ) -> Result<Credentials, Error> {
        let entry = self.0.entries.of(user);
        self.obtain(&entry, at_least).await.map(Credentials)
    }

    /// What [`TokenStore::get_credentials`] would return at once; `None` where it would
    /// have to wait. A token that is due is renewed in the background here too.
    pub fn credentials_in_memory(&self, user: &UserId) -> Option<Credentials> {
        let entry = self.0.entries.of(user);
        self.serve(&entry, &mut entry.lock(), Duration::ZERO).map(Credentials)
    }

    /// The stored record of `user`, read now, past the memory of this process.
    ///
    /// # Errors
    /// [`Error::NeedsConsent`] when there is none, [`Error::Corrupt`] when it
    /// cannot be read, [`Error::Unavailable`] when the bucket does not answer.
    pub async fn read_record(&self, user: &UserId) -> Result<TokenRecord, Error> {
        let stored = self.0.read(user).await?;
        stored.map(|s| s.record).ok_or(Error::NeedsConsent(crate::ConsentReason::Unknown))
    }

    /// One page of the stored users, in the order of their encoded names, and
    /// the token of the next page. Objects under `tokens/` whose name is not an
    /// encoded user ID are left out.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn list_users(
        &self,
        page: Option<String>,
    ) -> Result<(Vec<UserId>, Option<String>), Error> {
        let listing = self.0.bucket.list("tokens/", page).await.map_err(unavailable)?;
        let users = listing.objects.iter().filter_map(|(name, _)| UserId::of_token_object(name));
        Ok((users.collect(), listing.next_page))
    }

    /// Whether this replica can make fresh credentials, by what it saw last.
    pub fn health(&self) -> Health {
        match self.0.breaker().trouble(self.0.now()) {
            None => Health::Ready,
            Some(Trouble::Endpoint) => Health::EndpointDown,
            Some(Trouble::Client(why)) => Health::Misconfigured(Arc::clone(why)),
        }
    }

    /// Totals since the store was built.
    pub fn counts(&self) -> Counts {
        self.0.counters.read()
    }

    /// How many users are in memory now; at most [`Builder::cached_users`], and
    /// those with a refresh under way.
    pub fn cached_users(&self) -> usize {
        self.0.entries.len()
    }

    /// The bucket that the store was built over, with its requests tried again as the store's
    /// own are; for what else is kept about users.
    pub fn bucket(&self) -> Arc<dyn Bucket> {
        Arc::clone(&self.0.bucket)
    }

    /// How records are sealed; for what else is kept about users.
    pub fn sealing(&self) -> &Sealing {
        self.0.codec.sealing()
    }

    /// How this process is named in leases and records.
    pub fn holder(&self) -> &str {
        &self.0.identity.holder
    }

    /// The policy in force.
    pub fn policy(&self) -> &Policy {
        &self.0.policy
    }

    /// Waits until no refresh is under way, at most for `limit`: a grant that was
    /// obtained must be stored before the process ends. Nothing new is sent, a late answer
    /// is awaited under its lease (the longest takes
    /// [`Policy::longest_flight`](crate::Policy::longest_flight)), and flights that have
    /// nothing to lose are given up. Returns whether all ended.
    pub async fn shutdown(&self, limit: Duration) -> bool {
        self.0.stopping.cancel();
        self.0.tasks.close();
        tokio::select! {
            biased;
            () = self.0.tasks.wait() => true,
            () = self.0.clock.sleep(limit) => false,
        }
    }
}

impl Inner {
    fn breaker(&self) -> std::sync::MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Monotonic {
        self.clock.monotonic()
    }

    /// Reads a user's record for the operations that do not fly.
    async fn read(&self, user: &UserId) -> Result<Option<Stored>, Error> {
        let name = user.token_object();
        let Some(object) = self.bucket.get(&name).await.map_err(unavailable)? else {
            return Ok(None);
        };
        match self.codec.decode(user, &object.content) {
            Ok(record) => Ok(Some(Stored { record, generation: object.generation })),
            Err(why) => Err(Error::Corrupt { object: name, why }),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "it is passed to map_err")]
fn unavailable(error: BucketError) -> Error {
    Error::Unavailable(error.to_string().into())
}

impl fmt::Debug for TokenStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenStore")
            .field("bucket", &self.0.bucket)
            .field("holder", &self.0.identity.holder)
            .field("cached_users", &self.0.entries.len())
            .finish_non_exhaustive()
    }
}
