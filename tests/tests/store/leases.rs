//! Leases that others hold, and callers who wait for them.

use std::time::Duration;

use jiff::SignedDuration;
use shared::Error;
use tests::memory::{Fleet, VirtualClock, pass};

use super::{asks, current, expired_user, plant_lease, seconds};

#[tokio::test(start_paused = true)]
async fn an_orphan_lease_is_taken_over_after_its_ttl_on_the_own_clock() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    let generation = current(&fleet, &user).await;
    plant_lease(&fleet, &user, generation, 20_000).await;
    // A wall clock that is hours ahead must not make a difference.
    let clock = VirtualClock::new(SignedDuration::from_hours(5));
    let store = fleet.replica_with_clock("a", clock);
    let started = tokio::time::Instant::now();
    store.get_credentials(&user).await.unwrap();
    let waited = started.elapsed();
    assert!(waited >= seconds(20) && waited < seconds(21), "{waited:?}");
    assert_eq!(fleet.provider.calls(), 1);
    assert_eq!(store.counts().takeovers, 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_waits_no_longer_than_the_limit() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    let generation = current(&fleet, &user).await;
    plant_lease(&fleet, &user, generation, u64::MAX).await;
    let store = fleet.replica("a");
    let started = tokio::time::Instant::now();
    let error = store.get_credentials(&user).await.unwrap_err();
    assert!(matches!(error, Error::Busy(_)), "{error}");
    assert_eq!(started.elapsed(), store.policy().wait_limit);
    // An absurd ttl counts as ten minutes, observed across calls.
    pass(seconds(560)).await;
    store.get_credentials(&user).await.unwrap();
    assert_eq!(fleet.provider.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_wakes_after_a_takeover_does_not_lose_its_grant() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    // The first holder does not reach the bucket until its lease has lapsed.
    fleet.provider.set_latency(seconds(1));
    let (first, link) = fleet.linked_replica("first");
    let second = fleet.replica("second");
    let slow = asks(&first, &user);
    pass(Duration::from_millis(500)).await;
    link.cut(true);
    // The second takes over and presents the spent refresh token; the provider
    // revokes the family, but the record must follow the holder's commit.
    let late = asks(&second, &user);
    pass(seconds(40)).await;
    link.cut(false);
    let late = late.await.unwrap();
    slow.await.unwrap().unwrap();
    assert!(late.is_ok(), "adopted what the first holder committed: {late:?}");
    let record = second.read_record(&user).await.unwrap();
    assert!(record.is_active());
    assert_eq!(record.holder, "first");
}
