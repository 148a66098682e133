//! The token store's plain behaviour, on memory ports in virtual time.
#![allow(
    clippy::unwrap_used,
    clippy::unchecked_time_subtraction,
    reason = "a test fails by panicking"
)]

mod endpoint;
mod leases;
mod logins;
mod refreshing;
mod rejecting;

use std::time::Duration;

use shared::UserId;
use shared::ports::{Bucket as _, Generation};
use shared::protocol::Lease;
use tests::memory::{Fleet, asks, pass};

const HOUR: Duration = Duration::from_secs(3600);

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// Leaves an expired token behind.
async fn expired_user(fleet: &Fleet, id: &str) -> UserId {
    let user = fleet.user(id).await;
    pass(HOUR + seconds(1)).await;
    fleet.bucket.take_requests();
    user
}

/// A lease of a holder that is gone.
async fn plant_lease(fleet: &Fleet, user: &UserId, guards: Generation, ttl_ms: u64) {
    let lease = Lease {
        holder: "gone".into(),
        attempt: "gone".into(),
        guards: guards.0,
        ttl_ms,
        acquired_at: "2126-01-01T00:00:00Z".parse().unwrap(),
    };
    let name = user.lease_object();
    let before =
        fleet.bucket.get(&name).await.unwrap().map_or(Generation::ABSENT, |o| o.generation);
    fleet.bucket.put(&name, lease.encode(), before).await.unwrap();
}

async fn current(fleet: &Fleet, user: &UserId) -> Generation {
    fleet.bucket.get(&user.token_object()).await.unwrap().unwrap().generation
}
