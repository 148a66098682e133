//! Situations that many tests begin with.

use std::time::Duration;

use shared::UserId;
use shared::ports::{Bucket as _, Generation};
use shared::protocol::{Lease, SeenLease};

use super::{Fleet, pass};

impl Fleet {
    /// A user whose access token has just expired. The requests so far are
    /// forgotten.
    ///
    /// # Panics
    /// As [`Fleet::user`].
    pub async fn expired_user(&self, id: &str) -> UserId {
        let user = self.user(id).await;
        pass(Duration::from_secs(3601)).await;
        self.bucket.take_requests();
        user
    }

    /// The generation of a user's token object.
    ///
    /// # Panics
    /// When there is none.
    pub async fn token_generation(&self, user: &UserId) -> Generation {
        let object = self.bucket.get(&user.token_object()).await.expect("the bucket is up");
        object.expect("the user is stored").generation
    }

    /// A user's lease object as an observer sees it.
    ///
    /// # Panics
    /// When the bucket fails.
    pub async fn lease(&self, user: &UserId) -> Option<SeenLease> {
        let object = self.bucket.get(&user.lease_object()).await.expect("the bucket is up");
        object.map(|o| SeenLease::decode(&o.content, o.generation))
    }

    /// Leaves the lease of a holder that is gone. It claims to have been taken a
    /// century ahead, which must not matter to anybody.
    ///
    /// # Panics
    /// When the bucket fails.
    pub async fn orphan_lease(&self, user: &UserId, ttl_ms: u64) {
        let lease = Lease {
            holder: "gone".into(),
            attempt: "gone".into(),
            guards: self.token_generation(user).await.0,
            ttl_ms,
            acquired_at: "2126-01-01T00:00:00Z".parse().expect("a timestamp"),
        };
        let before = self.lease(user).await.map_or(Generation::ABSENT, |l| l.generation);
        let name = user.lease_object();
        self.bucket.settle();
        self.bucket.put(&name, lease.encode(), before).await.expect("nobody else writes it");
        self.bucket.settle();
    }
}
