//! Builds a store.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::adapters::RetryingBucket;
use crate::policy::{BadPolicy, Policy};
use crate::ports::{Audit, Bucket, Clock, NoAudit, Provider, Randomness, TokenEndpoint};
use crate::protocol::Identity;
use crate::record::RecordCodec;
use crate::sealing::Sealing;

use super::counters::Counters;
use super::entry::Entries;
use super::served::ScopeSets;
use super::{DEFAULT_CACHED_USERS, Inner, TokenStore};

/// Configures a [`TokenStore`].
#[derive(Debug)]
pub struct Builder {
    bucket: Arc<dyn Bucket>,
    endpoint: Arc<dyn TokenEndpoint>,
    provider: Option<Arc<dyn Provider>>,
    sealing: Sealing,
    audit: Arc<dyn Audit>,
    clock: Arc<dyn Clock>,
    random: Arc<Randomness>,
    policy: Policy,
    holder: Option<String>,
    cached_users: usize,
}

impl Builder {
    /// Replaces the default [`Policy`].
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Seals the secrets of every record that is written from now on, and opens
    /// those that are sealed; see [`crate::sealing`]. Default: none, secrets are
    /// stored as they are, and sealed records cannot be read.
    #[must_use]
    pub fn sealing(mut self, sealing: Sealing) -> Self {
        self.sealing = sealing;
        self
    }

    /// Where a grant is ended that a refresh brought for a user who was deleted meanwhile.
    /// Default: nowhere; it lives on at the provider, and nobody has its refresh token.
    #[must_use]
    pub fn provider(mut self, provider: Arc<dyn Provider>) -> Self {
        self.provider = Some(provider);
        self
    }

    /// Where it is told what is done to users' grants. Default: nowhere.
    #[must_use]
    pub fn audit(mut self, audit: Arc<dyn Audit>) -> Self {
        self.audit = audit;
        self
    }

    /// Replaces the system's clocks.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Replaces the system's randomness.
    #[must_use]
    pub fn randomness(mut self, random: Arc<Randomness>) -> Self {
        self.random = random;
        self
    }

    /// Names this process in leases and records; one name per process start.
    /// Default: random.
    #[must_use]
    pub fn holder(mut self, holder: impl Into<String>) -> Self {
        self.holder = Some(holder.into());
        self
    }

    /// How many users are kept in memory, besides those with a refresh under way,
    /// which stay; a user who is dropped costs one read when next used. The number
    /// is divided among shards, so that some are dropped a little before it is
    /// reached. Default [`DEFAULT_CACHED_USERS`], about 1 KiB each and the tokens.
    #[must_use]
    pub fn cached_users(mut self, users: usize) -> Self {
        self.cached_users = users;
        self
    }

    /// The store.
    ///
    /// # Errors
    /// [`BadPolicy`] when the policy cannot work.
    pub fn build(self) -> Result<TokenStore, BadPolicy> {
        self.policy.check()?;
        let holder = self.holder.unwrap_or_else(|| self.random.id());
        let seed = || self.random.seed();
        let hasher = ahash::RandomState::with_seeds(seed(), seed(), seed(), seed());
        Ok(TokenStore(Arc::new(Inner {
            identity: Identity {
                client_id: self.endpoint.client_id().into(),
                token_uri: self.endpoint.token_uri().into(),
                holder: holder.into(),
            },
            entries: Entries::new(self.cached_users.max(1), hasher),
            bucket: Arc::new(RetryingBucket::new(
                self.bucket,
                Arc::clone(&self.clock),
                Arc::clone(&self.random),
                (self.policy.retry_min, self.policy.retry_max),
                self.policy.wait_limit,
            )),
            endpoint: self.endpoint,
            provider: self.provider,
            codec: RecordCodec::new(self.sealing),
            audit: self.audit,
            clock: self.clock,
            random: self.random,
            policy: Arc::new(self.policy),
            scope_sets: ScopeSets::default(),
            cap_reported: AtomicBool::new(false),
            breaker: Mutex::default(),
            inquiry: tokio::sync::Mutex::default(),
            counters: Counters::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        })))
    }
}

impl TokenStore {
    /// A store over `bucket` that refreshes at `endpoint`.
    pub fn builder(bucket: Arc<dyn Bucket>, endpoint: Arc<dyn TokenEndpoint>) -> Builder {
        Builder {
            bucket,
            endpoint,
            provider: None,
            sealing: Sealing::default(),
            audit: Arc::new(NoAudit),
            clock: Arc::new(crate::adapters::SystemClock::default()),
            random: Arc::new(Randomness::from_system()),
            policy: Policy::default(),
            holder: None,
            cached_users: DEFAULT_CACHED_USERS,
        }
    }
}
