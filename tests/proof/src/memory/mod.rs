//! The store's ports in memory and virtual time, with faults on demand.
//!
//! [`Fleet`] is a bucket and a provider with any number of replicas over them.
//! Everything runs on tokio's paused clock: time passes only when every task
//! waits for it, so a test that takes ten virtual minutes takes milliseconds.

mod bucket;
mod clock;
mod gated;
mod heard;
mod link;
mod provider;
mod pubsub;
mod scenes;

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use shared::ports::{Audit, Bucket, NoAudit, Randomness};
use shared::sealing::Sealing;
use shared::{Credentials, Error, Grant, Keyring, Policy, TokenStore, UserId};
use tokio::task::JoinHandle;

pub use bucket::{FaultyBucket, Requests, WriteFault};
pub use clock::VirtualClock;
pub use gated::{AtGate, GatedBucket};
pub use heard::Heard;
pub use link::Link;
pub use provider::{AnswerFault, Provider};
pub use pubsub::{Consumer, Queue, QueueSettings};

/// Replicas over one bucket and one provider.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// The bucket that all replicas share.
    pub bucket: Arc<FaultyBucket>,
    /// The provider.
    pub provider: Arc<Provider>,
    /// The policy of every replica that is started from now on.
    pub policy: Policy,
    /// The keyring of every replica that is started from now on.
    pub keyring: Option<Keyring>,
    /// Whether they read plain records all the same.
    pub accept_unsealed: bool,
    /// Where they tell what they do.
    pub audit: Arc<dyn Audit>,
    /// How many users replicas keep in memory, unless the default.
    pub cached_users: usize,
}

impl Fleet {
    /// An empty bucket, and a provider that rotates refresh tokens or not. Its
    /// access tokens live for an hour.
    pub fn new(rotating: bool) -> Self {
        Self {
            bucket: Arc::new(FaultyBucket::default()),
            provider: Arc::new(Provider::new(rotating, Duration::from_secs(3600))),
            policy: Policy::default(),
            keyring: None,
            accept_unsealed: false,
            cached_users: shared::DEFAULT_CACHED_USERS,
            audit: Arc::new(NoAudit),
        }
    }

    /// A replica whose wall clock is right. `name` seeds its randomness.
    ///
    /// # Panics
    /// When the policy cannot work.
    pub fn replica(&self, name: &str) -> TokenStore {
        self.replica_with_clock(name, VirtualClock::new(SignedDuration::ZERO))
    }

    /// A replica with this clock.
    ///
    /// # Panics
    /// When the policy cannot work.
    pub fn replica_with_clock(&self, name: &str, clock: VirtualClock) -> TokenStore {
        self.over(name, clock, Arc::<FaultyBucket>::clone(&self.bucket))
    }

    /// A replica whose way to the bucket can be cut.
    ///
    /// # Panics
    /// When the policy cannot work.
    pub fn linked_replica(&self, name: &str) -> (TokenStore, Link) {
        let link = Link::default();
        let clock = VirtualClock::new(SignedDuration::ZERO);
        (self.over(name, clock, link.to(Arc::<FaultyBucket>::clone(&self.bucket))), link)
    }

    fn over(&self, name: &str, clock: VirtualClock, bucket: Arc<dyn Bucket>) -> TokenStore {
        let seed = name.bytes().fold(7_u64, |seed, b| seed.wrapping_mul(31) + u64::from(b));
        let endpoint: Arc<dyn shared::ports::TokenEndpoint> =
            Arc::<Provider>::clone(&self.provider);
        let provider: Arc<dyn shared::ports::Provider> = Arc::<Provider>::clone(&self.provider);
        TokenStore::builder(bucket, endpoint)
            .provider(provider)
            .policy(self.policy.clone())
            .sealing(Sealing::new(self.keyring.clone()).accept_unsealed(self.accept_unsealed))
            .audit(Arc::clone(&self.audit))
            .cached_users(self.cached_users)
            .clock(Arc::new(clock))
            .randomness(Arc::new(Randomness::seeded(seed)))
            .holder(name)
            .build()
            .expect("the policy works")
    }

    /// A user at the provider whose grant, with a live access token, is stored.
    ///
    /// # Panics
    /// When the ID is no user ID or the bucket fails.
    pub async fn user(&self, id: &str) -> UserId {
        let user = UserId::new(id).expect("a user ID");
        let grant = self.provider.consent(id);
        self.replica("importer").import(&user, grant, true).await.expect("imports");
        self.bucket.settle();
        user
    }

    /// A fresh grant of an existing user, as a login brings it.
    pub fn login(&self, user: &UserId) -> Grant {
        self.provider.consent(user.as_str())
    }
}

/// A caller in a task of its own, who wants a credential of `user`.
pub fn asks(store: &TokenStore, user: &UserId) -> JoinHandle<Result<Credentials, Error>> {
    let (store, user) = (store.clone(), user.clone());
    tokio::spawn(async move { store.get_credentials(&user).await })
}

/// Lets virtual time pass, and everything that waits for it happen.
pub async fn pass(duration: Duration) {
    VirtualClock::new(SignedDuration::ZERO).pass(duration).await;
}
