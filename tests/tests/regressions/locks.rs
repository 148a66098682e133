//! Locks that end too early, too late, or never.

use super::*;

#[tokio::test(start_paused = true)]
async fn ttl_shorter_than_the_work() {
    // As a policy it is refused.
    let policy = Policy { lease_ttl: seconds(2), ..Policy::default() };
    let text = policy.check().unwrap_err().to_string();
    assert!(text.contains("2s") && text.contains("3s"), "{text}");
    // As an accident (taking the lease took most of it) nothing is sent.
    let fleet = Fleet::new(true);
    let user = fleet.expired_user("u").await;
    fleet.bucket.fail_write("leases/", WriteFault::Slow(seconds(21)));
    let store = fleet.replica("a");
    let error = store.get_credentials(&user).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    assert_eq!(fleet.provider.calls(), 0);
    // The lease is waited out like any other, and then it works.
    store.get_credentials(&user).await.unwrap();
    assert_eq!((fleet.provider.calls(), fleet.provider.reuse()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn timeout_falls_through_unlocked() {
    let fleet = Fleet::new(true);
    let user = fleet.expired_user("u").await;
    fleet.orphan_lease(&user, 600_000).await;
    let before = fleet.lease(&user).await;
    let store = fleet.replica("a");
    let started = Instant::now();
    let error = store.get_credentials(&user).await.unwrap_err();
    assert!(matches!(error, Error::Busy(_)) && error.is_transient(), "{error}");
    assert_eq!(started.elapsed(), store.policy().wait_limit);
    pass(seconds(60)).await;
    assert_eq!(fleet.provider.calls(), 0, "nothing was sent without the lease");
    assert_eq!(fleet.lease(&user).await, before);
}

#[tokio::test(start_paused = true)]
async fn release_deletes_another_owners_lock() {
    let fleet = Fleet::new(true);
    let user = fleet.expired_user("u").await;
    let (winner, loser) = late_commit(&fleet, &user).await;
    let lease = fleet.lease(&user).await.unwrap();
    let body = lease.body.clone().unwrap();
    assert_eq!(body.holder, loser.holder(), "the old holder left the new one's lease alone");
    // It needed no release either: guarding a replaced version, it is void.
    assert!(Generation(body.guards) < fleet.token_generation(&user).await);
    assert!(winner.shutdown(seconds(1)).await && loser.shutdown(seconds(1)).await);
    assert_eq!(fleet.lease(&user).await, Some(lease));
}

#[tokio::test(start_paused = true)]
async fn two_waiters_break_one_stale_lock() {
    let fleet = Fleet::new(true);
    let user = fleet.expired_user("u").await;
    fleet.orphan_lease(&user, 20_000).await;
    fleet.bucket.set_latency(Duration::from_millis(40));
    fleet.provider.set_latency(seconds(2));
    let replicas: Vec<_> = (0..8).map(|i| fleet.replica(&format!("r{i}"))).collect();
    let waiters: Vec<_> = replicas.iter().map(|r| asks(r, &user)).collect();
    for waiter in waiters {
        waiter.await.unwrap().unwrap();
    }
    assert_eq!((fleet.provider.calls(), fleet.provider.reuse()), (1, 0));
    assert_eq!(replicas.iter().map(|r| r.counts().takeovers).sum::<u64>(), 1);
}

#[tokio::test(start_paused = true)]
async fn orphan_lock_after_a_crash() {
    let fleet = Fleet::new(true);
    let user = fleet.expired_user("u").await;
    fleet.orphan_lease(&user, 30_000).await;
    let store = fleet.replica("a");
    let started = Instant::now();
    store.get_credentials(&user).await.unwrap();
    let waited = started.elapsed();
    assert!(waited >= seconds(30) && waited < seconds(33), "{waited:?}");
    assert_eq!(fleet.provider.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn future_dated_lock_never_expires() {
    let fleet = Fleet::new(true);
    let user = fleet.expired_user("u").await;
    fleet.orphan_lease(&user, 20_000).await;
    let dated = fleet.lease(&user).await.unwrap().body.unwrap().acquired_at;
    for (name, hours) in [("slow", -5), ("fast", 5)] {
        let clock = VirtualClock::new(SignedDuration::from_hours(hours));
        let store = fleet.replica_with_clock(name, clock);
        let now = shared::ports::Clock::wall(&VirtualClock::new(SignedDuration::ZERO));
        assert!(dated > now + SignedDuration::from_hours(24 * 365 * 50));
        let started = Instant::now();
        store.get_credentials(&user).await.unwrap();
        if name == "slow" {
            assert!(started.elapsed() < seconds(23), "{:?}", started.elapsed());
            pass(HOUR).await;
            fleet.orphan_lease(&user, 20_000).await;
        } else {
            assert!(started.elapsed() >= seconds(20), "nor is it broken early");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lock_convoy() {
    let fleet = Fleet::new(true);
    let user = fleet.expired_user("u").await;
    fleet.bucket.set_latency(Duration::from_millis(20));
    fleet.provider.set_latency(Duration::from_millis(500));
    let replicas: Vec<_> = (0..64).map(|i| fleet.replica(&format!("r{i}"))).collect();
    let started = Instant::now();
    let waiters: Vec<_> = replicas.iter().map(|r| asks(r, &user)).collect();
    for waiter in waiters {
        waiter.await.unwrap().unwrap();
    }
    // One after the other would be 64 times the work; all of them see the one
    // commit at their next look.
    assert!(started.elapsed() < seconds(4), "{:?}", started.elapsed());
    assert_eq!(replicas.iter().map(|r| r.counts().leases).sum::<u64>(), 1);
}

#[tokio::test(start_paused = true)]
async fn in_process_entry_wedged_by_a_cancelled_caller() {
    let fleet = Fleet::new(true);
    let user = fleet.expired_user("u").await;
    fleet.provider.set_latency(seconds(3));
    fleet.bucket.set_latency(Duration::from_millis(100));
    let store = fleet.replica("a");
    // Cancelled at every point of the way, and once by a panic of its own.
    for after in [0, 50, 150, 250, 350, 1000, 3000] {
        let caller = asks(&store, &user);
        pass(Duration::from_millis(after)).await;
        caller.abort();
        drop(caller.await);
    }
    let panicking = tokio::spawn({
        let (store, user) = (store.clone(), user.clone());
        async move {
            let credentials = store.get_credentials(&user).await;
            panic!("a caller's own fault, with {credentials:?}");
        }
    });
    assert!(panicking.await.unwrap_err().is_panic());
    store.get_credentials(&user).await.unwrap();
    assert_eq!((fleet.provider.calls(), fleet.provider.reuse()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lease_with_an_absurd_ttl() {
    for unreadable in [false, true] {
        let fleet = Fleet::new(true);
        let user = fleet.expired_user("u").await;
        fleet.orphan_lease(&user, u64::MAX).await;
        if unreadable {
            let at = fleet.lease(&user).await.unwrap().generation;
            fleet.bucket.put(&user.lease_object(), "{".into(), at).await.unwrap();
        }
        let store = fleet.replica("a");
        let started = Instant::now();
        while let Err(error) = store.get_credentials(&user).await {
            assert!(matches!(error, Error::Busy(_)), "{error}");
        }
        let waited = started.elapsed();
        assert!(waited >= seconds(600) && waited < seconds(605), "{waited:?}");
        assert_eq!(fleet.provider.calls(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_own_takeover_that_arrived_late_is_waited_out_as_a_strangers() {
    let fleet = Fleet::new(true);
    let user = fleet.expired_user("u").await;
    fleet.orphan_lease(&user, 5_000).await;
    // The reply of the takeover is lost, the lease still shows the orphan, and the
    // second try meets the first, which has arrived meanwhile.
    fleet.bucket.fail_write("leases/", WriteFault::Late(seconds(1)));
    fleet.bucket.fail_write("leases/", WriteFault::Slow(seconds(2)));
    let store = fleet.replica("a");
    let started = Instant::now();
    store.get_credentials(&user).await.unwrap();
    assert!(started.elapsed() < seconds(12), "{:?}", started.elapsed());
    let counts = store.counts();
    assert_eq!((counts.leases, counts.takeovers), (1, 1));
    assert_eq!((fleet.provider.calls(), fleet.provider.reuse()), (1, 0));
}
