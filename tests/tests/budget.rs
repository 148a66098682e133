//! What the protocol costs, by counting requests: protocol.md's table of reads
//! (class B) and writes (class A), and one refresh per expiry.
//!
//! A conditional write that the bucket refuses changes nothing and is not
//! charged. A replica may meet one per expiry: the remembered lease generation,
//! tried once, that another replica was faster to use. They are counted apart.
#![allow(
    clippy::unwrap_used,
    clippy::unchecked_time_subtraction,
    reason = "a test fails by panicking"
)]

use std::time::Duration;

use shared::{TokenStore, UserId};
use tests::memory::{Fleet, Requests, pass};
use tokio::task::JoinSet;
use tokio::time::Instant;

const LIFE: Duration = Duration::from_secs(3600);
const FLEETS: [u64; 3] = [1, 8, 64];

/// A fleet with latencies as in production, and a user known to it.
async fn fleet(replicas: u64) -> (Fleet, UserId, Vec<TokenStore>) {
    let fleet = Fleet::new(true);
    let user = fleet.user("u").await;
    fleet.bucket.set_latency(Duration::from_millis(30));
    fleet.provider.set_latency(Duration::from_millis(200));
    let stores = (0..replicas).map(|i| fleet.replica(&format!("replica {i}"))).collect();
    fleet.bucket.take_requests();
    (fleet, user, stores)
}

/// One call on every replica at once.
async fn use_all(stores: &[TokenStore], user: &UserId) {
    let mut callers = JoinSet::new();
    for store in stores {
        let (store, user) = (store.clone(), user.clone());
        callers.spawn(async move { store.get_credentials(&user).await });
    }
    while let Some(result) = callers.join_next().await {
        result.unwrap().unwrap();
    }
}

/// Every replica uses the user every `pause` for `duration`.
async fn keep_using(stores: &[TokenStore], user: &UserId, pause: Duration, duration: Duration) {
    let end = Instant::now() + duration;
    while Instant::now() < end {
        use_all(stores, user).await;
        pass(pause).await;
    }
}

fn leases(stores: &[TokenStore]) -> u64 {
    stores.iter().map(|s| s.counts().leases).sum()
}

#[tokio::test(start_paused = true)]
async fn a_cold_start_is_one_read_and_a_cached_token_nothing() {
    for replicas in FLEETS {
        let (fleet, user, stores) = fleet(replicas).await;
        use_all(&stores, &user).await;
        let cold = Requests { token_reads: replicas, ..Requests::default() };
        assert_eq!(fleet.bucket.take_requests(), cold);
        // Until the earliest refresh-ahead point: 5 min and a fifth.
        keep_using(&stores, &user, Duration::from_secs(60), LIFE - Duration::from_secs(400)).await;
        assert_eq!(fleet.bucket.take_requests(), Requests::default(), "{replicas} replicas");
        assert_eq!(fleet.provider.calls(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn without_faults_there_is_exactly_one_refresh_per_expiry() {
    for replicas in FLEETS {
        let (fleet, user, stores) = fleet(replicas).await;
        use_all(&stores, &user).await;
        fleet.bucket.take_requests();
        let (mut calls, mut written) = (0, 0);
        for expiry in 1..=4_u64 {
            // Busy all the time; the token is renewed ahead of its expiry.
            keep_using(&stores, &user, Duration::from_secs(2), LIFE).await;
            let requests = fleet.bucket.take_requests();
            calls = fleet.provider.calls();
            assert!((expiry..=expiry + 1).contains(&calls), "{calls} after {expiry} lifetimes");
            let refreshes = calls - written;
            written = calls;
            assert_eq!(fleet.provider.reuse(), 0);
            assert_eq!(leases(&stores), calls, "a lease for each");
            assert_eq!(requests.token_writes, refreshes, "{replicas} replicas");
            // Each other replica may have tried the hint once, in vain.
            let refused = requests.lease_writes - refreshes;
            assert!(refused <= (replicas - 1) * refreshes, "{refused} by {replicas} replicas");
            assert_eq!(requests.too_fast, 0);
        }
        assert!(calls >= 4);
    }
}

/// The commit is under way while the job runs.
#[tokio::test(start_paused = true)]
async fn a_first_job_waits_for_the_endpoint_and_not_for_the_commit() {
    let (fleet, user, stores) = fleet(1).await;
    let (trip, endpoint) = (Duration::from_millis(30), Duration::from_millis(200));
    // Token, lease, its write, and the token once more; from then on token and lease alone.
    for (expiry, trips) in [(1, 4), (2, 2), (3, 2)] {
        pass(LIFE).await;
        let cold = fleet.replica(&format!("cold replica {expiry}"));
        let began = Instant::now();
        cold.get_credentials(&user).await.unwrap();
        assert_eq!(began.elapsed(), endpoint + trip * trips, "expiry {expiry}");
        assert!(cold.shutdown(LIFE).await, "the commit is brought to its end");
        assert_eq!((fleet.provider.calls(), fleet.provider.reuse()), (expiry, 0));
    }
    drop(stores);
}

#[tokio::test(start_paused = true)]
async fn the_replica_that_refreshes_pays_two_writes() {
    let (fleet, user, stores) = fleet(1).await;
    // The first time: no lease is known and none exists.
    pass(LIFE).await;
    use_all(&stores, &user).await;
    let first =
        Requests { token_reads: 2, lease_reads: 1, token_writes: 1, lease_writes: 1, too_fast: 0 };
    assert_eq!(fleet.bucket.take_requests(), first, "2 reads, and 1 more the first time");
    // From then on the record remembers its lease.
    for _ in 0..3 {
        pass(LIFE).await;
        use_all(&stores, &user).await;
        let later = Requests { lease_reads: 0, token_reads: 1, ..first };
        assert_eq!(fleet.bucket.take_requests(), later);
    }
    // A stale hint: a login replaced the record and its lease's guard.
    let login = fleet.login(&user);
    stores[0].set_credentials(&user, login).await.unwrap();
    fleet.orphan_lease(&user, 1000).await;
    pass(Duration::from_secs(2)).await;
    let login = fleet.login(&user);
    stores[0].set_credentials(&user, login).await.unwrap();
    pass(LIFE).await;
    fleet.bucket.take_requests();
    use_all(&stores, &user).await;
    let stale = fleet.bucket.take_requests();
    assert_eq!((stale.reads(), stale.token_writes), (2, 1));
    assert_eq!(stale.lease_writes, 2, "the hint was refused, what was read was not");
    assert_eq!(fleet.provider.calls(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_remembered_lease_generation_that_was_refused_is_not_tried_again() {
    let (fleet, user, stores) = fleet(2).await;
    pass(LIFE).await;
    stores[0].get_credentials(&user).await.unwrap();
    pass(LIFE).await;
    // The hint is stale: somebody took the lease and is gone.
    fleet.orphan_lease(&user, 30_000).await;
    fleet.bucket.take_requests();
    let waiter = tokio::spawn({
        let (store, user) = (stores[1].clone(), user.clone());
        async move { store.get_credentials(&user).await }
    });
    pass(Duration::from_secs(5)).await;
    // A login that has to be refreshed keeps the hint of what it replaced.
    let mut login = fleet.login(&user);
    login.access_token = None;
    stores[0].set_credentials(&user, login).await.unwrap();
    waiter.await.unwrap().unwrap();
    let requests = fleet.bucket.take_requests();
    assert_eq!(requests.lease_writes, 2, "one refused, one for the refresh: {requests:?}");
    assert_eq!(fleet.provider.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_others_look_with_two_reads_each_time_and_back_off() {
    for replicas in [8, 64] {
        let (fleet, user, stores) = fleet(replicas).await;
        use_all(&stores, &user).await;
        pass(LIFE - Duration::from_secs(420)).await;
        fleet.bucket.take_requests();
        // Somebody holds the lease, slowly: as long as its ttl.
        let ttl = stores[0].policy().lease_ttl;
        fleet.orphan_lease(&user, 60_000).await;
        pass(Duration::from_secs(200)).await;
        fleet.bucket.take_requests();
        // All have passed their refresh-ahead point and none sees a takeover yet.
        keep_using(&stores, &user, Duration::from_millis(500), ttl).await;
        let looking = fleet.bucket.take_requests();
        assert_eq!(looking.token_reads, looking.lease_reads, "2 reads per look");
        // Pauses from 1 s that grow by half, each half random: at most 1 + 10 looks.
        let looks = looking.token_reads / replicas;
        assert!((3..=11).contains(&looks), "{looks} looks in {ttl:?}");
        assert_eq!(looking.writes(), 0);
        assert_eq!(fleet.provider.calls(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_costs_one_write_per_half_ttl() {
    let (fleet, user, stores) = fleet(1).await;
    pass(LIFE).await;
    use_all(&stores, &user).await;
    pass(LIFE).await;
    fleet.bucket.take_requests();
    let ttl = stores[0].policy().lease_ttl;
    fleet.provider.set_latency(3 * ttl + ttl / 4);
    let limit = stores[0].policy().longest_flight();
    let caller = tokio::spawn({
        let (store, user) = (stores[0].clone(), user.clone());
        async move { store.get_credentials(&user).await }
    });
    pass(limit).await;
    // It left at its own limit; the refresh went on.
    assert!(caller.await.unwrap().is_err());
    let late = fleet.bucket.take_requests();
    let renewals = 6;
    let expected = Requests {
        token_reads: 1,
        lease_writes: 1 + renewals,
        token_writes: 1,
        ..Requests::default()
    };
    assert_eq!(late, expected);
    assert_eq!(stores[0].counts().renewals, renewals);
    assert_eq!(fleet.provider.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_block_costs_one_write_and_nobody_else_a_call() {
    let (fleet, user, stores) = fleet(8).await;
    pass(LIFE).await;
    use_all(&stores, &user).await;
    pass(LIFE).await;
    fleet.bucket.take_requests();
    fleet.provider.deny(user.as_str(), Some("admin_policy_enforced"));
    assert!(stores[0].get_credentials(&user).await.is_err());
    let blocking = fleet.bucket.take_requests();
    // The read and the lease of any refresh, and `blocked`.
    assert_eq!((blocking.token_reads, blocking.token_writes), (1, 1));
    assert_eq!((blocking.lease_reads, blocking.lease_writes), (0, 1));
    for store in &stores {
        assert!(store.get_credentials(&user).await.is_err());
    }
    let knowing = fleet.bucket.take_requests();
    assert_eq!(knowing, Requests { token_reads: 8, ..Requests::default() });
    assert_eq!((fleet.provider.calls(), fleet.provider.questions()), (2, 1));
}
