//! The ways in which shared credentials get lost elsewhere, one test each, named
//! after what went wrong.
#![allow(
    clippy::unwrap_used,
    clippy::unchecked_time_subtraction,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::SignedDuration;
use shared::ports::{Bucket as _, Generation};
use shared::{ConsentReason, Credentials, Error, Health, Login, Policy, TokenStore, UserId};
use tests::memory::{AnswerFault, Fleet, VirtualClock, WriteFault, pass};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

const HOUR: Duration = Duration::from_secs(3600);

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

/// A caller in a task of its own.
fn call(store: &TokenStore, user: &UserId) -> JoinHandle<Result<Credentials, Error>> {
    let (store, user) = (store.clone(), user.clone());
    tokio::spawn(async move { store.get_credentials(&user).await })
}

/// A holder that does not reach the bucket for 40 s when it has its answer, and a replica
/// that takes its lease over meanwhile and spends the same refresh token.
async fn late_commit(fleet: &Fleet, user: &UserId) -> (TokenStore, TokenStore) {
    fleet.provider.set_latency(seconds(1));
    let (winner, link) = fleet.linked_replica("winner");
    let loser = fleet.replica("loser");
    let slow = call(&winner, user);
    pass(Duration::from_millis(500)).await;
    link.cut(true);
    pass(Duration::from_millis(500)).await;
    let late = call(&loser, user);
    pass(seconds(40)).await;
    link.cut(false);
    let late = late.await.unwrap();
    slow.await.unwrap().unwrap();
    assert!(late.is_ok(), "the loser adopts what the winner stored: {late:?}");
    assert_eq!(loser.counts().takeovers, 1);
    (winner, loser)
}

#[tokio::test(start_paused = true)]
async fn the_loser_destroys_the_winners_grant() {
    let fleet = Fleet::new(true);
    let user = fleet.expired_user("u").await;
    let (winner, loser) = late_commit(&fleet, &user).await;
    assert_eq!(fleet.provider.reuse(), 1, "the loser did spend the spent refresh token");
    let record = loser.read_record(&user).await.unwrap();
    assert!(record.is_active(), "and revoked nothing");
    assert_eq!(record.holder, winner.holder());
    assert_eq!(loser.counts().needs_consent, 0);
}

#[tokio::test(start_paused = true)]
async fn a_successful_rotation_discarded_because_the_lease_was_lost() {
    let fleet = Fleet::new(true);
    let user = fleet.expired_user("u").await;
    // The winner does not reach the bucket until long after its lease has been taken
    // over and the loser has, rightly, marked what is stored as revoked.
    fleet.provider.set_latency(seconds(1));
    let (winner, link) = fleet.linked_replica("winner");
    let served = call(&winner, &user);
    pass(Duration::from_millis(500)).await;
    link.cut(true);
    let served = served.await.unwrap().unwrap();
    assert_eq!(fleet.token_generation(&user).await, Generation(1), "not stored yet");
    let loser = fleet.replica("loser");
    let refused = loop {
        match loser.get_credentials(&user).await {
            Err(Error::Busy(_) | Error::Unavailable(_)) => pass(seconds(1)).await,
            other => break other,
        }
    };
    assert!(matches!(refused, Err(Error::NeedsConsent(_))), "{refused:?}");
    assert!(!loser.read_record(&user).await.unwrap().is_active());
    link.cut(false);
    assert!(winner.shutdown(seconds(600)).await);
    let record = loser.read_record(&user).await.unwrap();
    assert!(record.is_active());
    assert_eq!(record.access_token.as_ref(), Some(served.access_token()));
    let counts = winner.counts();
    assert_eq!((counts.orphans, counts.commit_conflicts), (0, 1), "merged onto it");
    let healed = loser.get_credentials(&user).await.unwrap();
    assert_eq!(healed.access_token(), served.access_token());
}

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
    let waiters: Vec<_> = replicas.iter().map(|r| call(r, &user)).collect();
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
    let waiters: Vec<_> = replicas.iter().map(|r| call(r, &user)).collect();
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
        let caller = call(&store, &user);
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
async fn re_login_nulls_the_refresh_token() {
    let fleet = Fleet::new(true);
    let user = fleet.user("u").await;
    let store = fleet.replica("web");
    let before = store.read_record(&user).await.unwrap();
    let mut login = fleet.login(&user);
    login.refresh_token = None;
    assert_eq!(store.set_credentials(&user, login).await, Ok(Login::SignedIn));
    assert_eq!(store.read_record(&user).await.unwrap(), before);
    pass(HOUR).await;
    store.get_credentials(&user).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn logins_new_scope_overwritten_by_a_late_refresh() {
    for rotating in [true, false] {
        let fleet = Fleet::new(rotating);
        let user = fleet.expired_user("u").await;
        fleet.provider.set_latency(seconds(2));
        let store = fleet.replica("a");
        let refresh = call(&store, &user);
        pass(seconds(1)).await;
        let mut login = fleet.login(&user);
        login.scopes.push("drive".into());
        let refresh_token = login.refresh_token.clone().unwrap();
        let web = fleet.replica("web");
        assert_eq!(web.set_credentials(&user, login).await, Ok(Login::Stored));
        let used = refresh.await.unwrap().unwrap();
        assert!(used.scopes().contains(&"drive".to_owned()), "the refresh adopted the login");
        let record = store.read_record(&user).await.unwrap();
        assert!(record.scopes.contains(&"drive".to_owned()));
        assert_eq!(record.refresh_token, refresh_token);
        assert_eq!(record.holder, "web");
    }
}

#[tokio::test(start_paused = true)]
async fn login_whose_reply_was_lost_put_over_what_became_of_it() {
    for rotating in [true, false] {
        for imported in [false, true] {
            let fleet = Fleet::new(rotating);
            let user = UserId::new("u").unwrap();
            let mut grant = fleet.login(&user);
            (grant.access_token, grant.expires_at) = (None, None);
            fleet.bucket.fail_write("tokens/", WriteFault::ReplyLost);
            let web = fleet.replica("web");
            let saving = tokio::spawn({
                let (web, user) = (web.clone(), user.clone());
                async move {
                    if imported {
                        web.import(&user, grant, false).await.map(|_| ())
                    } else {
                        web.set_credentials(&user, grant).await.map(|_| ())
                    }
                }
            });
            // The record is there, its writer does not know it, and a worker is faster.
            pass(Duration::from_millis(1)).await;
            let worker = fleet.replica("worker");
            let used = worker.get_credentials(&user).await.unwrap();
            assert_eq!(saving.await.unwrap(), Ok(()), "it is stored");
            // The worker had its token before it was stored.
            pass(seconds(5)).await;
            let record = worker.read_record(&user).await.unwrap();
            assert_eq!(record.access_token.as_ref(), Some(used.access_token()));
            let here = web.get_credentials(&user).await.unwrap();
            assert_eq!(here.access_token(), used.access_token());
            pass(HOUR).await;
            web.get_credentials(&user).await.unwrap();
            assert_eq!((fleet.provider.calls(), fleet.provider.reuse()), (2, 0));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn loser_returns_an_expired_token() {
    let fleet = Fleet::new(true);
    let user = fleet.user("u").await;
    let replicas: Vec<_> = (0..8).map(|i| fleet.replica(&format!("r{i}"))).collect();
    for replica in &replicas {
        replica.get_credentials(&user).await.unwrap();
    }
    pass(HOUR + seconds(1)).await;
    fleet.bucket.set_latency(Duration::from_millis(30));
    fleet.provider.set_latency(seconds(1));
    let waiters: Vec<_> = replicas.iter().map(|r| call(r, &user)).collect();
    let now = shared::ports::Clock::wall(&VirtualClock::new(SignedDuration::ZERO));
    for waiter in waiters {
        let credentials = waiter.await.unwrap().unwrap();
        assert!(credentials.expires_at().unwrap() > now + SignedDuration::from_mins(50));
    }
    assert_eq!(fleet.provider.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn thundering_herd_at_expiry() {
    let fleet = Fleet::new(true);
    let user = fleet.expired_user("u").await;
    fleet.bucket.set_latency(Duration::from_millis(30));
    fleet.provider.set_latency(Duration::from_millis(200));
    let replicas: Vec<_> = (0..64).map(|i| fleet.replica(&format!("r{i}"))).collect();
    let mut callers = JoinSet::new();
    for replica in &replicas {
        for _ in 0..20 {
            let (store, user) = (replica.clone(), user.clone());
            callers.spawn(async move { store.get_credentials(&user).await });
        }
    }
    let mut tokens = BTreeSet::new();
    while let Some(result) = callers.join_next().await {
        tokens.insert(result.unwrap().unwrap().access_token().expose().to_owned());
    }
    assert_eq!(tokens.len(), 1);
    assert_eq!((fleet.provider.calls(), fleet.provider.reuse()), (1, 0));
    let requests = fleet.bucket.take_requests();
    assert_eq!((requests.token_writes, requests.too_fast), (1, 0));
}

/// Calls of two replicas, every second for an hour; requests to the endpoint.
async fn calls_in_an_hour(fleet: &Fleet, stores: &[TokenStore], user: &UserId) -> u64 {
    let before = fleet.provider.calls();
    for _ in 0..3600 {
        for store in stores {
            store.get_credentials(user).await.unwrap();
        }
        pass(seconds(1)).await;
    }
    fleet.provider.calls() - before
}

#[tokio::test(start_paused = true)]
async fn refresh_storm_from_a_fast_clock() {
    // Two clocks are ahead by more than a token lives: to their replicas every
    // token looks expired when it is issued.
    let fleet = Fleet::new(true);
    fleet.provider.set_lifetime(seconds(600));
    let user = fleet.user("u").await;
    let ahead = || VirtualClock::new(SignedDuration::from_hours(5));
    let stores =
        [fleet.replica_with_clock("fast", ahead()), fleet.replica_with_clock("also fast", ahead())];
    // Each trusts what it obtained itself for half of its life.
    let calls = calls_in_an_hour(&fleet, &stores, &user).await;
    assert!(calls <= 2 * 3600 / 300 + 2, "{calls} calls");
    assert_eq!(fleet.provider.reuse(), 0);
}

#[tokio::test(start_paused = true)]
async fn refresh_storm_from_a_very_short_expires_in() {
    let fleet = Fleet::new(true);
    fleet.provider.set_lifetime(seconds(10));
    let user = fleet.user("u").await;
    let stores = [fleet.replica("a"), fleet.replica("b")];
    // Neither refresh-ahead (5 min) nor min ttl (1 min) exceeds what the token
    // allows: not before three quarters of its life.
    let calls = calls_in_an_hour(&fleet, &stores, &user).await;
    assert!((3600 / 10..=3600 / 7).contains(&calls), "{calls} calls");
    assert_eq!(fleet.provider.reuse(), 0);
}

#[tokio::test(start_paused = true)]
async fn storm_of_401s() {
    let fleet = Fleet::new(true);
    let user = fleet.user("u").await;
    let stores = [fleet.replica("a"), fleet.replica("b")];
    pass(seconds(600)).await;
    fleet.provider.set_latency(Duration::from_millis(100));
    fleet.bucket.set_latency(Duration::from_millis(20));
    let mut callers = JoinSet::new();
    for store in &stores {
        let used = store.get_credentials(&user).await.unwrap();
        for i in 0..500 {
            let (store, used) = (store.clone(), used.clone());
            callers.spawn(async move {
                pass(Duration::from_millis(i)).await;
                store.renew(&used).await
            });
        }
    }
    let mut grants = BTreeSet::new();
    while let Some(result) = callers.join_next().await {
        grants.insert(result.unwrap().unwrap().grant_id().0.clone());
    }
    assert_eq!(grants.len(), 1);
    assert_eq!((fleet.provider.calls(), fleet.provider.reuse()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_api_that_answers_401_to_everything() {
    let fleet = Fleet::new(true);
    let user = fleet.user("u").await;
    let stores = [fleet.replica("a"), fleet.replica("b")];
    let ttl = stores[0].policy().lease_ttl;
    let rounds = 20;
    for _ in 0..rounds * ttl.as_secs() {
        for store in &stores {
            let used = store.get_credentials(&user).await.unwrap();
            match store.renew(&used).await {
                Ok(renewed) => assert_ne!(renewed.grant_id(), used.grant_id()),
                Err(error) => assert!(matches!(error, Error::Busy(_)), "{error}"),
            }
            assert!(store.get_credentials(&user).await.is_ok(), "others keep using it");
        }
        pass(seconds(1)).await;
    }
    let calls = fleet.provider.calls();
    assert!((rounds / 2..=rounds + 1).contains(&calls), "{calls} calls in {rounds} ttls");
}

#[tokio::test(start_paused = true)]
async fn a_transient_error_stored_as_a_permanent_one() {
    for fault in [AnswerFault::Transient, AnswerFault::AnswerLost] {
        let fleet = Fleet::new(false);
        let user = fleet.expired_user("u").await;
        let store = fleet.replica("a");
        let before = store.read_record(&user).await.unwrap();
        for _ in 0..1000 {
            fleet.provider.fail(fault.clone());
        }
        let error = store.get_credentials(&user).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)), "{fault:?}: {error}");
        assert_eq!(store.read_record(&user).await.unwrap(), before, "{fault:?}");
        assert_eq!(store.counts().needs_consent, 0);
        // In memory nothing permanent is kept either.
        while store.get_credentials(&user).await.is_err() {
            fleet.provider.forget_faults();
            pass(seconds(1)).await;
        }
        assert!(store.read_record(&user).await.unwrap().is_active());
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_client_file_revokes_the_fleet() {
    let fleet = Fleet::new(true);
    let mut users = Vec::new();
    for i in 0..10 {
        users.push(fleet.user(&format!("u{i}")).await);
    }
    pass(HOUR).await;
    fleet.provider.refuse_client(Some("invalid_client"));
    let wrong = fleet.replica("wrong");
    for user in &users {
        let error = wrong.get_credentials(user).await.unwrap_err();
        assert!(matches!(error, Error::Misconfigured(_)), "{error}");
    }
    assert!(matches!(wrong.health(), Health::Misconfigured(_)));
    assert_eq!(fleet.provider.calls(), 1, "one user was refused, nobody else was sent");
    assert_eq!(fleet.provider.questions(), 1);
    // One user a ttl, each time another, finds out whether it is over.
    let ttl = wrong.policy().lease_ttl;
    for round in 2..=4 {
        pass(ttl).await;
        for user in &users {
            assert!(matches!(wrong.get_credentials(user).await, Err(Error::Misconfigured(_))));
        }
        assert_eq!(fleet.provider.calls(), round);
    }
    fleet.provider.refuse_client(None);
    pass(ttl).await;
    for user in &users {
        assert_eq!(wrong.read_record(user).await.unwrap().holder, "importer", "nothing written");
    }
    // The lease of the one who was refused last may stand.
    let granted = async {
        for user in users.iter().rev() {
            wrong.get_credentials(user).await.unwrap();
        }
    };
    granted.await;
    assert_eq!(wrong.health(), Health::Ready);
}

#[tokio::test(start_paused = true)]
async fn delete_during_a_refresh() {
    // At every moment of the refresh: before the lease, under it, at the
    // endpoint, before the commit.
    for after in (0..3000).step_by(100) {
        let fleet = Fleet::new(true);
        let user = fleet.expired_user("u").await;
        fleet.bucket.set_latency(Duration::from_millis(200));
        fleet.provider.set_latency(seconds(1));
        let store = fleet.replica("a");
        let refresh = call(&store, &user);
        pass(Duration::from_millis(after)).await;
        assert!(fleet.replica("admin").delete(&user).await.unwrap());
        let outcome = refresh.await.unwrap();
        assert!(store.shutdown(seconds(60)).await);
        if let Err(error) = outcome {
            assert_eq!(error, Error::NeedsConsent(ConsentReason::Unknown), "after {after} ms");
        }
        let token = fleet.bucket.get(&user.token_object()).await.unwrap();
        assert_eq!(token, None, "resurrected after {after} ms");
        // A new consent finds nothing in its way.
        let login = fleet.login(&user);
        store_again(&fleet, &user, login).await;
    }
}

async fn store_again(fleet: &Fleet, user: &UserId, login: shared::Grant) {
    let store = fleet.replica("b");
    assert_eq!(store.set_credentials(user, login).await, Ok(Login::Stored));
    pass(HOUR).await;
    store.get_credentials(user).await.unwrap();
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
async fn a_late_read_put_back_over_a_login_in_the_same_process() {
    let fleet = Fleet::new(true);
    let user = fleet.user("u").await;
    let store = fleet.replica("a");
    fleet.bucket.answer_late(&user.token_object(), seconds(5));
    let caller = call(&store, &user);
    pass(seconds(1)).await;
    let grant = fleet.login(&user);
    let token = grant.access_token.clone();
    store.set_credentials(&user, grant).await.unwrap();
    let joined = caller.await.unwrap().unwrap();
    assert_eq!(Some(joined.access_token()), token.as_ref(), "the login came first");
    let after = store.get_credentials(&user).await.unwrap();
    assert_eq!(Some(after.access_token()), token.as_ref(), "and stays");
    assert_eq!(fleet.provider.calls(), 0);
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

/// Twenty users and four replicas; the answer to each refresh comes `late`.
async fn answers_come(late: Duration) {
    let fleet = Fleet::new(true);
    let mut users = Vec::new();
    for i in 0..20 {
        users.push(fleet.user(&format!("u{i}")).await);
    }
    pass(HOUR + seconds(1)).await;
    fleet.provider.set_latency(late);
    let replicas: Vec<_> = (0..4).map(|i| fleet.replica(&format!("r{i}"))).collect();
    let calls: Vec<_> = replicas.iter().flat_map(|r| users.iter().map(|u| call(r, u))).collect();
    pass(late + seconds(5)).await;
    for outcome in calls {
        match outcome.await.unwrap() {
            Ok(_) => {}
            // A caller leaves at its own limit, and the refresh goes on.
            Err(Error::Busy(_)) => assert!(late > replicas[0].policy().wait_limit),
            Err(other) => panic!("{late:?}: {other}"),
        }
    }
    for user in &users {
        assert!(replicas[0].read_record(user).await.unwrap().is_active(), "{late:?}");
        replicas[3].get_credentials(user).await.unwrap();
    }
    assert_eq!((fleet.provider.calls(), fleet.provider.reuse()), (20, 0), "{late:?}");
    let takeovers: u64 = replicas.iter().map(|r| r.counts().takeovers).sum();
    assert_eq!(takeovers, 0, "{late:?}: the holders are alive and say so");
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_thrown_away_and_its_token_sent_again() {
    for late in [12, 27, 40, 100, 119] {
        answers_come(seconds(late)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_ends_while_its_answer_is_late() {
    let fleet = Fleet::new(true);
    let user = fleet.expired_user("u").await;
    fleet.provider.set_latency(seconds(100));
    let (store, other) = (fleet.replica("a"), fleet.replica("b"));
    let caller = call(&store, &user);
    pass(seconds(1)).await;
    let limit = store.policy().longest_flight();
    let ending = tokio::spawn({
        let store = store.clone();
        async move { store.shutdown(limit).await }
    });
    pass(seconds(30)).await;
    assert!(matches!(other.get_credentials(&user).await, Err(Error::Busy(_))));
    assert!(ending.await.unwrap(), "it goes on renewing, and waits");
    drop(caller.await);
    other.get_credentials(&user).await.unwrap();
    assert_eq!((fleet.provider.calls(), fleet.provider.reuse()), (1, 0));
    assert_eq!(store.read_record(&user).await.unwrap().holder, "a");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_ends_sends_nothing_new() {
    let fleet = Fleet::new(true);
    let user = fleet.expired_user("u").await;
    fleet.bucket.set_latency(seconds(2));
    // Before it has asked for the lease it is given up at once, and after that it sends
    // no refresh.
    for after in [1, 5] {
        let store = fleet.replica("a");
        let caller = call(&store, &user);
        pass(seconds(after)).await;
        assert!(store.shutdown(seconds(10)).await);
        assert!(matches!(caller.await.unwrap(), Err(Error::Busy(_))), "{after}");
        assert_eq!(fleet.provider.calls(), 0, "{after}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_lost_for_good_is_asked_for_twice_and_no_more() {
    for rotating in [false, true] {
        let fleet = Fleet::new(rotating);
        let user = fleet.expired_user("u").await;
        for _ in 0..9 {
            fleet.provider.fail(AnswerFault::AnswerLost);
        }
        let store = fleet.replica("a");
        let started = Instant::now();
        let error = store.get_credentials(&user).await.unwrap_err();
        if !rotating {
            assert!(matches!(error, Error::Unavailable(_)), "{error}");
            assert_eq!(fleet.provider.calls(), 2, "sent again once");
            assert!(started.elapsed() >= seconds(2), "{:?}", started.elapsed());
        }
        assert_eq!(store.counts().ambiguous_requests, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_that_answers_401_while_clocks_differ() {
    // To each replica the other's tokens were issued long ago, or are yet to be.
    let fleet = Fleet::new(true);
    let user = fleet.user("u").await;
    let behind = VirtualClock::new(SignedDuration::from_secs(-300));
    let ahead = VirtualClock::new(SignedDuration::from_secs(300));
    let stores =
        [fleet.replica_with_clock("behind", behind), fleet.replica_with_clock("ahead", ahead)];
    let (ttl, rounds) = (stores[0].policy().lease_ttl, 20);
    for _ in 0..rounds * ttl.as_secs() {
        for store in &stores {
            let used = store.get_credentials(&user).await.unwrap();
            drop(store.renew(&used).await);
        }
        pass(seconds(1)).await;
    }
    let calls = fleet.provider.calls();
    assert!((rounds / 2..=rounds + 1).contains(&calls), "{calls} calls in {rounds} ttls");
}
