//! The token store's plain behaviour, on memory ports in virtual time.
#![allow(
    clippy::unwrap_used,
    clippy::unchecked_time_subtraction,
    reason = "a test fails by panicking"
)]

use std::time::Duration;

use jiff::SignedDuration;
use shared::ports::{Bucket as _, Generation};
use shared::protocol::Lease;
use shared::{ConsentReason, Error, Health, Imported, Login, Policy, UserId};
use tests::memory::{AnswerFault, FaultyBucket, Fleet, VirtualClock, WriteFault, pass};
use tokio::task::JoinSet;

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

#[tokio::test(start_paused = true)]
async fn a_cold_start_costs_one_read_and_a_usable_token_none() {
    let fleet = Fleet::new(true);
    let user = fleet.user("u").await;
    fleet.bucket.take_requests();
    let store = fleet.replica("a");
    let first = store.get_credentials(&user).await.unwrap();
    let cold = fleet.bucket.take_requests();
    assert_eq!((cold.reads(), cold.writes()), (1, 0));
    let second = store.get_credentials(&user).await.unwrap();
    assert_eq!(first.grant_id(), second.grant_id());
    assert_eq!(fleet.bucket.take_requests().reads(), 0);
    assert_eq!(fleet.provider.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn many_replicas_and_callers_refresh_an_expired_token_once() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    fleet.bucket.set_latency(Duration::from_millis(30));
    fleet.provider.set_latency(Duration::from_millis(200));
    let mut callers = JoinSet::new();
    for replica in 0..8 {
        let store = fleet.replica(&format!("replica {replica}"));
        for _ in 0..20 {
            let (store, user) = (store.clone(), user.clone());
            callers.spawn(async move { store.get_credentials(&user).await });
        }
    }
    let mut grants = std::collections::BTreeSet::new();
    while let Some(result) = callers.join_next().await {
        let credentials = result.unwrap().unwrap();
        grants.insert(credentials.access_token().expose().to_owned());
    }
    assert_eq!(grants.len(), 1, "all have the same token");
    assert_eq!((fleet.provider.calls(), fleet.provider.reuse()), (1, 0));
    let requests = fleet.bucket.take_requests();
    assert_eq!(requests.token_writes, 1);
    assert_eq!(requests.too_fast, 0);
}

#[tokio::test(start_paused = true)]
async fn a_refresh_costs_what_the_budget_says() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    let store = fleet.replica("a");
    store.get_credentials(&user).await.unwrap();
    let first = fleet.bucket.take_requests();
    assert_eq!((first.reads(), first.writes()), (3, 2), "no hint yet, and a first lease");
    pass(HOUR).await;
    store.get_credentials(&user).await.unwrap();
    let later = fleet.bucket.take_requests();
    assert_eq!((later.reads(), later.writes()), (1, 2), "the hint saves the lease's read");
}

#[tokio::test(start_paused = true)]
async fn a_due_token_is_returned_at_once_and_renewed_behind_the_caller() {
    let fleet = Fleet::new(true);
    let user = fleet.user("u").await;
    let store = fleet.replica("a");
    let old = store.get_credentials(&user).await.unwrap();
    pass(HOUR - seconds(120)).await;
    fleet.bucket.set_latency(seconds(1));
    let started = tokio::time::Instant::now();
    let due = store.get_credentials(&user).await.unwrap();
    assert_eq!(started.elapsed(), Duration::ZERO, "nobody waits");
    assert_eq!(due.grant_id(), old.grant_id());
    pass(seconds(10)).await;
    let new = store.get_credentials(&user).await.unwrap();
    assert_ne!(new.grant_id(), old.grant_id());
    assert_eq!(fleet.provider.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn looks_in_the_refresh_ahead_window_back_off() {
    let fleet = Fleet::new(true);
    let user = fleet.user("u").await;
    let store = fleet.replica("a");
    store.get_credentials(&user).await.unwrap();
    // Somebody holds the lease on this generation and is slow about it.
    let generation = current(&fleet, &user).await;
    plant_lease(&fleet, &user, generation, 30_000).await;
    pass(HOUR - seconds(200)).await;
    fleet.bucket.take_requests();
    for _ in 0..290 {
        store.get_credentials(&user).await.unwrap();
        pass(Duration::from_millis(100)).await;
    }
    let requests = fleet.bucket.take_requests();
    assert!(requests.lease_reads >= 3, "{requests:?}");
    assert!(requests.reads() <= 24, "{requests:?}");
    assert_eq!(requests.writes(), 0);
    assert_eq!(fleet.provider.calls(), 0);
}

async fn current(fleet: &Fleet, user: &UserId) -> Generation {
    fleet.bucket.get(&user.token_object()).await.unwrap().unwrap().generation
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
async fn lost_replies_are_recognised_as_own_writes() {
    for fault in [WriteFault::ReplyLost, WriteFault::ConflictWithItself, WriteFault::NotApplied] {
        for object in ["leases/", "tokens/"] {
            let fleet = Fleet::new(true);
            let user = expired_user(&fleet, "u").await;
            fleet.bucket.fail_write(object, fault);
            let store = fleet.replica("a");
            store.get_credentials(&user).await.unwrap();
            // The commit of a served token may still be under way.
            assert!(store.shutdown(seconds(60)).await);
            let record = store.read_record(&user).await.unwrap();
            assert_eq!(record.holder, "a", "{fault:?} on {object}");
            assert_eq!((fleet.provider.calls(), fleet.provider.reuse()), (1, 0));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_commit_is_retried_and_its_token_served_meanwhile() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    for _ in 0..30 {
        fleet.bucket.fail_write("tokens/", WriteFault::NotApplied);
    }
    let store = fleet.replica("a");
    let started = tokio::time::Instant::now();
    let served = store.get_credentials(&user).await.unwrap();
    assert!(started.elapsed() < seconds(1), "served before it is stored");
    assert_eq!(store.read_record(&user).await.unwrap().holder, "importer");
    pass(seconds(200)).await;
    let record = store.read_record(&user).await.unwrap();
    assert_eq!(record.access_token.as_ref(), Some(served.access_token()));
    assert_eq!(fleet.provider.calls(), 1, "the commit is retried, never the refresh");
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_caller_cancels_its_wait_and_not_the_refresh() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    fleet.provider.set_latency(seconds(3));
    let store = fleet.replica("a");
    let wait = tokio::time::timeout(seconds(1), store.get_credentials(&user)).await;
    assert!(wait.is_err());
    store.get_credentials(&user).await.unwrap();
    assert_eq!((fleet.provider.calls(), fleet.provider.reuse()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn shutdown_waits_for_the_commit() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    fleet.provider.set_latency(seconds(3));
    let store = fleet.replica("a");
    drop(tokio::time::timeout(seconds(1), store.get_credentials(&user)).await);
    assert!(store.shutdown(seconds(20)).await);
    assert_eq!(store.read_record(&user).await.unwrap().holder, "a");
}

#[tokio::test(start_paused = true)]
async fn invalid_grant_revokes_the_stored_token_and_only_that() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    fleet.provider.revoke("u");
    let store = fleet.replica("a");
    let error = store.get_credentials(&user).await.unwrap_err();
    assert!(matches!(error, Error::NeedsConsent(ConsentReason::Revoked { .. })), "{error}");
    // Known from the bucket now: nobody asks the provider again.
    let other = fleet.replica("b");
    assert!(matches!(other.get_credentials(&user).await, Err(Error::NeedsConsent(_))));
    assert_eq!(fleet.provider.calls(), 1);
    // Consent heals it.
    assert_eq!(store.set_credentials(&user, fleet.login(&user)).await, Ok(Login::Stored));
    assert!(store.get_credentials(&user).await.is_ok());
    assert!(other.get_credentials(&user).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_retried_and_the_lost_grant_is_counted() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    fleet.provider.fail(AnswerFault::AnswerLost);
    let store = fleet.replica("a");
    let error = store.get_credentials(&user).await.unwrap_err();
    assert!(matches!(error, Error::NeedsConsent(_)), "rotated, and nobody has the successor");
    let counts = store.counts();
    assert_eq!((counts.ambiguous_requests, counts.lost_grants), (1, 1));
    // A provider that does not rotate is asked again and nothing is lost.
    let fleet = Fleet::new(false);
    let user = expired_user(&fleet, "u").await;
    fleet.provider.fail(AnswerFault::AnswerLost);
    let store = fleet.replica("a");
    store.get_credentials(&user).await.unwrap();
    assert_eq!(store.counts().lost_grants, 0);
}

#[tokio::test(start_paused = true)]
async fn a_transient_failure_is_retried_within_the_lease_and_nothing_is_written() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    for _ in 0..2 {
        fleet.provider.fail(AnswerFault::Transient);
    }
    let store = fleet.replica("a");
    store.get_credentials(&user).await.unwrap();
    assert_eq!(fleet.provider.calls(), 3);
    pass(HOUR).await;
    for _ in 0..1000 {
        fleet.provider.fail(AnswerFault::Transient);
    }
    let error = store.get_credentials(&user).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    assert!(store.read_record(&user).await.unwrap().is_active());
}

#[tokio::test(start_paused = true)]
async fn a_wrong_client_revokes_nobody_and_is_not_retried() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    fleet.provider.fail(AnswerFault::Misconfigured);
    let store = fleet.replica("a");
    let error = store.get_credentials(&user).await.unwrap_err();
    assert!(matches!(error, Error::Misconfigured(_)), "{error}");
    assert_eq!(fleet.provider.calls(), 1);
    assert!(matches!(store.health(), Health::Misconfigured(_)));
    assert!(store.read_record(&user).await.unwrap().is_active());
    // Mended: the standing lease is waited out, then all is well.
    store.get_credentials(&user).await.unwrap();
    assert_eq!(store.health(), Health::Ready);
}

#[tokio::test(start_paused = true)]
async fn another_clients_record_is_an_error_and_its_secret_is_not_sent() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    let object = fleet.bucket.get(&user.token_object()).await.unwrap().unwrap();
    let text = String::from_utf8(object.content.to_vec()).unwrap();
    let foreign = text.replace("test-client", "another-client");
    fleet.bucket.put(&user.token_object(), foreign.into(), object.generation).await.unwrap();
    let error = fleet.replica("a").get_credentials(&user).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("tokens/u.json") && text.contains("another-client"), "{text}");
    assert_eq!(fleet.provider.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_record_is_named_and_never_overwritten() {
    let fleet = Fleet::new(true);
    let user = fleet.user("u").await;
    let name = user.token_object();
    let object = fleet.bucket.get(&name).await.unwrap().unwrap();
    let half = object.content.slice(..object.content.len() / 2);
    fleet.bucket.put(&name, half.clone(), object.generation).await.unwrap();
    let store = fleet.replica("a");
    let login = fleet.login(&user);
    for error in [
        store.get_credentials(&user).await.unwrap_err(),
        store.set_credentials(&user, login.clone()).await.unwrap_err(),
        store.import(&user, login, true).await.unwrap_err(),
    ] {
        assert!(error.to_string().contains("tokens/u.json"), "{error}");
        assert!(!error.to_string().contains("fake-"), "{error}");
    }
    assert_eq!(fleet.bucket.get(&name).await.unwrap().unwrap().content, half);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_rejections_of_one_grant_cost_one_refresh() {
    let fleet = Fleet::new(true);
    let user = fleet.user("u").await;
    let store = fleet.replica("a");
    let used = store.get_credentials(&user).await.unwrap();
    pass(seconds(600)).await;
    fleet.provider.set_latency(Duration::from_millis(100));
    let mut callers = JoinSet::new();
    for _ in 0..1000 {
        let (store, used) = (store.clone(), used.clone());
        callers.spawn(async move { store.renew(&used).await });
    }
    while let Some(result) = callers.join_next().await {
        assert_ne!(result.unwrap().unwrap().grant_id(), used.grant_id());
    }
    assert_eq!(fleet.provider.calls(), 1);
    // An API that answers 401 to everything: the new grant is not believed dead.
    let fresh = store.get_credentials(&user).await.unwrap();
    assert!(matches!(store.renew(&fresh).await, Err(Error::Busy(_))));
    assert!(store.get_credentials(&user).await.is_ok(), "others keep using it");
    assert_eq!(fleet.provider.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_login_during_a_refresh_wins() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    fleet.provider.set_latency(seconds(2));
    let store = fleet.replica("a");
    let waiter = tokio::spawn({
        let (store, user) = (store.clone(), user.clone());
        async move { store.get_credentials(&user).await }
    });
    pass(seconds(1)).await;
    let mut login = fleet.login(&user);
    login.scopes.push("more".into());
    let new_refresh_token = login.refresh_token.clone().unwrap();
    fleet.replica("web").set_credentials(&user, login).await.unwrap();
    waiter.await.unwrap().unwrap();
    let record = store.read_record(&user).await.unwrap();
    assert_eq!(record.refresh_token, new_refresh_token);
    assert!(record.scopes.contains(&"more".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_user_is_not_resurrected_by_a_refresh() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    fleet.provider.set_latency(seconds(2));
    let store = fleet.replica("a");
    let waiter = tokio::spawn({
        let (store, user) = (store.clone(), user.clone());
        async move { store.get_credentials(&user).await }
    });
    pass(seconds(1)).await;
    assert!(fleet.replica("admin").delete(&user).await.unwrap());
    let error = waiter.await.unwrap().unwrap_err();
    assert_eq!(error, Error::NeedsConsent(ConsentReason::Unknown));
    assert!(fleet.bucket.get(&user.token_object()).await.unwrap().is_none());
    assert_eq!(store.counts().orphans, 1);
    assert!(!store.delete(&user).await.unwrap(), "nothing left to delete");
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_wakes_after_a_takeover_does_not_lose_its_grant() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    // The first holder does not reach the bucket until its lease has lapsed.
    fleet.provider.set_latency(seconds(1));
    let (first, link) = fleet.linked_replica("first");
    let second = fleet.replica("second");
    let slow = tokio::spawn({
        let (store, user) = (first.clone(), user.clone());
        async move { store.get_credentials(&user).await }
    });
    pass(Duration::from_millis(500)).await;
    link.cut(true);
    // The second takes over and presents the spent refresh token; the provider
    // revokes the family, but the record must follow the holder's commit.
    let late = tokio::spawn({
        let (store, user) = (second.clone(), user.clone());
        async move { store.get_credentials(&user).await }
    });
    pass(seconds(40)).await;
    link.cut(false);
    let late = late.await.unwrap();
    slow.await.unwrap().unwrap();
    assert!(late.is_ok(), "adopted what the first holder committed: {late:?}");
    let record = second.read_record(&user).await.unwrap();
    assert!(record.is_active());
    assert_eq!(record.holder, "first");
}

#[tokio::test(start_paused = true)]
async fn imports_do_not_replace_unless_told_to() {
    let fleet = Fleet::new(true);
    let user = UserId::new("u").unwrap();
    let store = fleet.replica("a");
    let grant = fleet.login(&user);
    assert_eq!(store.import(&user, grant.clone(), false).await, Ok(Imported::Created));
    assert_eq!(store.import(&user, grant, false).await, Ok(Imported::Unchanged));
    let other = fleet.login(&user);
    let error = store.import(&user, other.clone(), false).await.unwrap_err();
    assert!(matches!(error, Error::Exists { .. }), "{error}");
    assert_eq!(store.import(&user, other, true).await, Ok(Imported::Replaced));
}

#[tokio::test(start_paused = true)]
async fn a_login_without_a_refresh_token_stores_nothing() {
    let fleet = Fleet::new(true);
    let user = UserId::new("u").unwrap();
    let store = fleet.replica("a");
    let mut login = fleet.login(&user);
    login.refresh_token = None;
    assert_eq!(store.set_credentials(&user, login.clone()).await, Ok(Login::ConsentAgain));
    assert!(matches!(store.read_record(&user).await, Err(Error::NeedsConsent(_))));
    let user = fleet.user("u").await;
    assert_eq!(store.set_credentials(&user, login).await, Ok(Login::SignedIn));
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_endpoint_opens_the_breaker() {
    let mut fleet = Fleet::new(true);
    fleet.policy = Policy { breaker_threshold: 3, ..Policy::default() };
    let mut users = Vec::new();
    for i in 0..50 {
        users.push(fleet.user(&format!("u{i}")).await);
    }
    pass(HOUR + seconds(1)).await;
    fleet.bucket.take_requests();
    for _ in 0..10_000 {
        fleet.provider.fail(AnswerFault::Transient);
    }
    let store = fleet.replica("a");
    for user in &users {
        assert!(matches!(store.get_credentials(user).await, Err(Error::Unavailable(_))));
    }
    let writes = fleet.bucket.take_requests().lease_writes;
    assert!(writes < 10, "{writes} leases were taken for 50 users");
    assert_eq!(store.health(), Health::EndpointDown);
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_is_down_fails_within_the_limit_and_heals() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    fleet.bucket.set_down(true);
    let store = fleet.replica("a");
    let started = tokio::time::Instant::now();
    let error = store.get_credentials(&user).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    assert!(started.elapsed() <= store.policy().wait_limit);
    fleet.bucket.set_down(false);
    store.get_credentials(&user).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn users_are_listed_page_by_page() {
    let fleet = Fleet::new(true);
    for id in ["a/b", "ann", "😀"] {
        fleet.user(id).await;
    }
    let bucket: &FaultyBucket = &fleet.bucket;
    bucket.put("tokens/not an id.json", "{}".into(), Generation::ABSENT).await.unwrap();
    let (users, next) = fleet.replica("a").list_users(None).await.unwrap();
    let ids: Vec<_> = users.iter().map(UserId::as_str).collect();
    assert_eq!(ids, ["😀", "a/b", "ann"]);
    assert_eq!(next, None);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_joins_a_slow_commit_is_not_given_what_expired_meanwhile() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    fleet.provider.set_lifetime(seconds(60));
    fleet.provider.set_latency(seconds(1));
    let (store, link) = fleet.linked_replica("a");
    let first = tokio::spawn({
        let (store, user) = (store.clone(), user.clone());
        async move { store.get_credentials(&user).await }
    });
    pass(Duration::from_millis(500)).await;
    link.cut(true);
    // The one for whom it was obtained is served before it is stored.
    first.await.unwrap().unwrap();
    pass(seconds(70)).await;
    let late = tokio::spawn({
        let (store, user) = (store.clone(), user.clone());
        async move { store.get_credentials(&user).await }
    });
    pass(seconds(1)).await;
    link.cut(false);
    let late = late.await.unwrap().unwrap();
    let now = shared::ports::Clock::wall(&VirtualClock::new(SignedDuration::ZERO));
    assert!(late.expires_at().unwrap() > now, "expired at {:?}", late.expires_at());
    assert_eq!((fleet.provider.calls(), fleet.provider.reuse()), (2, 0));
}

// The endpoint's answers, by whom they are about.

/// Some users whose tokens have just expired.
async fn expired_users(fleet: &Fleet, count: usize) -> Vec<UserId> {
    let mut users = Vec::new();
    for i in 0..count {
        users.push(fleet.user(&format!("u{i}")).await);
    }
    pass(HOUR + seconds(1)).await;
    users
}

#[tokio::test(start_paused = true)]
async fn one_user_who_is_refused_stops_nobody_else() {
    for code in ["admin_policy_enforced", "access_denied", "invalid_client", "invalid_request"] {
        let fleet = Fleet::new(true);
        let users = expired_users(&fleet, 13).await;
        fleet.provider.deny("u0", Some(code));
        let stores = [fleet.replica("a"), fleet.replica("b"), fleet.replica("c")];
        let error = stores[0].get_credentials(&users[0]).await.unwrap_err();
        assert!(matches!(error, Error::NeedsConsent(ConsentReason::Blocked { .. })), "{error}");
        assert!(error.to_string().contains(code), "{error}");
        for store in &stores {
            assert_eq!(store.health(), Health::Ready);
            for user in &users[1..] {
                store.get_credentials(user).await.unwrap();
            }
            let error = store.get_credentials(&users[0]).await.unwrap_err();
            assert!(matches!(error, Error::NeedsConsent(_)), "known without a call: {error}");
        }
        assert_eq!((fleet.provider.calls(), fleet.provider.questions()), (13, 1), "{code}");
        let record = stores[0].read_record(&users[0]).await.unwrap();
        assert!(record.is_active() && record.blocked.is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn a_blocked_user_is_tried_again_ever_more_seldom_and_resumes_alone() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    fleet.provider.deny("u", Some("admin_policy_enforced"));
    let stores = [fleet.replica("a"), fleet.replica("b")];
    // Two replicas ask every minute for a day.
    for _ in 0..24 * 60 {
        for store in &stores {
            assert!(matches!(store.get_credentials(&user).await, Err(Error::NeedsConsent(_))));
        }
        pass(seconds(60)).await;
    }
    // After 0, 10, 30, 70, 150, 310, 630 and 1270 minutes.
    assert_eq!(fleet.provider.calls(), 8);
    fleet.provider.deny("u", None);
    pass(24 * HOUR).await;
    stores[0].get_credentials(&user).await.unwrap();
    stores[1].get_credentials(&user).await.unwrap();
    let record = stores[0].read_record(&user).await.unwrap();
    assert_eq!((record.blocked, record.reason), (None, None));
    assert_eq!((fleet.provider.calls(), fleet.provider.reuse()), (9, 0));
}

#[tokio::test(start_paused = true)]
async fn a_blocked_user_goes_on_while_a_token_is_usable() {
    let fleet = Fleet::new(true);
    let user = fleet.user("u").await;
    fleet.provider.deny("u", Some("access_denied"));
    let store = fleet.replica("a");
    let before = store.get_credentials(&user).await.unwrap();
    // Inside the refresh-ahead window.
    pass(HOUR - seconds(200)).await;
    fleet.bucket.take_requests();
    for _ in 0..100 {
        let now = store.get_credentials(&user).await.unwrap();
        assert_eq!(now.grant_id(), before.grant_id());
        pass(seconds(1)).await;
    }
    assert!(store.read_record(&user).await.unwrap().blocked.is_some());
    assert_eq!(fleet.provider.calls(), 1);
    let requests = fleet.bucket.take_requests();
    assert!(requests.reads() < 30, "looks back off: {requests:?}");
    assert_eq!((requests.token_writes, requests.lease_writes), (1, 1));
    pass(seconds(100)).await;
    assert!(matches!(store.get_credentials(&user).await, Err(Error::NeedsConsent(_))));
}

#[tokio::test(start_paused = true)]
async fn a_login_lifts_the_block() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    fleet.provider.deny("u", Some("access_denied"));
    let store = fleet.replica("a");
    store.get_credentials(&user).await.unwrap_err();
    fleet.provider.deny("u", None);
    pass(seconds(2)).await;
    // Signing in without a new refresh token would leave the block, and the person waiting.
    let mut login = fleet.login(&user);
    let refresh_token = login.refresh_token.take();
    assert_eq!(store.set_credentials(&user, login.clone()).await, Ok(Login::ConsentAgain));
    login.refresh_token = refresh_token;
    assert_eq!(store.set_credentials(&user, login).await, Ok(Login::Stored));
    store.get_credentials(&user).await.unwrap();
    assert_eq!(store.read_record(&user).await.unwrap().blocked, None);
}

#[tokio::test(start_paused = true)]
async fn a_providers_own_word_for_a_dead_grant_is_learned() {
    for word in ["invalid_request", "invalid_client"] {
        let fleet = Fleet::new(true);
        fleet.provider.set_dead_word(word);
        let users = expired_users(&fleet, 3).await;
        fleet.provider.revoke("u0");
        let store = fleet.replica("a");
        // Nothing has ever succeeded: it may be the client.
        let error = store.get_credentials(&users[0]).await.unwrap_err();
        assert!(matches!(error, Error::Misconfigured(_)), "{error}");
        assert!(matches!(store.health(), Health::Misconfigured(_)));
        pass(seconds(31)).await;
        // The probe is another user and ends it.
        assert!(matches!(store.get_credentials(&users[0]).await, Err(Error::Misconfigured(_))));
        pass(seconds(31)).await;
        store.get_credentials(&users[1]).await.unwrap();
        assert_eq!(store.health(), Health::Ready);
        pass(seconds(60)).await;
        let error = store.get_credentials(&users[0]).await.unwrap_err();
        assert!(matches!(error, Error::NeedsConsent(ConsentReason::Blocked { .. })), "{error}");
        assert_eq!(store.health(), Health::Ready);
        store.get_credentials(&users[2]).await.unwrap();
        assert_eq!(fleet.provider.questions(), 3, "and once more when something succeeded");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_refused_stops_no_job_that_has_a_token() {
    let fleet = Fleet::new(true);
    let (young, old) = (fleet.user("young").await, expired_user(&fleet, "old").await);
    let store = fleet.replica("a");
    store.set_credentials(&young, fleet.login(&young)).await.unwrap();
    fleet.provider.refuse_client(Some("unauthorized_client"));
    assert!(matches!(store.get_credentials(&old).await, Err(Error::Misconfigured(_))));
    assert!(matches!(store.health(), Health::Misconfigured(_)));
    store.get_credentials(&young).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn one_users_retry_after_holds_one_user() {
    let fleet = Fleet::new(true);
    let users = expired_users(&fleet, 3).await;
    fleet.provider.fail(AnswerFault::NotNow(Some(seconds(600))));
    let stores = [fleet.replica("a"), fleet.replica("b")];
    let error = stores[0].get_credentials(&users[0]).await.unwrap_err();
    let Error::Later { retry_after, .. } = error else { panic!("{error}") };
    assert_eq!(retry_after, seconds(600));
    for user in &users[1..] {
        stores[0].get_credentials(user).await.unwrap();
    }
    assert_eq!(stores[0].health(), Health::Ready);
    let calls = fleet.provider.calls();
    pass(seconds(300)).await;
    let error = stores[0].get_credentials(&users[0]).await.unwrap_err();
    let Error::Later { retry_after, .. } = error else { panic!("{error}") };
    assert_eq!(retry_after, seconds(300));
    assert_eq!(fleet.provider.calls(), calls, "it waits as it was told");
    // Another replica was told nothing; the fleet asks once per ttl at most.
    stores[1].get_credentials(&users[0]).await.unwrap();
    pass(seconds(300)).await;
    stores[0].get_credentials(&users[0]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_short_retry_after_is_waited_for_within_the_lease() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    fleet.provider.fail(AnswerFault::NotNow(Some(seconds(7))));
    let store = fleet.replica("a");
    let started = tokio::time::Instant::now();
    store.get_credentials(&user).await.unwrap();
    assert!((7..9).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    assert_eq!(fleet.provider.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_outage_that_another_replica_saw_end_is_over_here_too() {
    let mut fleet = Fleet::new(true);
    fleet.policy = Policy { breaker_threshold: 3, ..Policy::default() };
    let users = expired_users(&fleet, 4).await;
    for _ in 0..200 {
        fleet.provider.fail(AnswerFault::Transient);
    }
    let (here, there) = (fleet.replica("here"), fleet.replica("there"));
    for user in &users[..3] {
        here.get_credentials(user).await.unwrap_err();
    }
    assert_eq!(here.health(), Health::EndpointDown);
    fleet.provider.forget_faults();
    pass(seconds(1)).await;
    there.get_credentials(&users[3]).await.unwrap();
    assert_eq!(here.health(), Health::EndpointDown, "it does not know yet");
    here.get_credentials(&users[3]).await.unwrap();
    assert_eq!(here.health(), Health::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_probe_whose_lease_needs_a_second_write_stays_the_probe() {
    let mut fleet = Fleet::new(true);
    fleet.policy = Policy { breaker_threshold: 1, ..Policy::default() };
    let user = expired_user(&fleet, "u").await;
    let store = fleet.replica("a");
    store.get_credentials(&user).await.unwrap();
    pass(HOUR).await;
    for _ in 0..50 {
        fleet.provider.fail(AnswerFault::Transient);
    }
    store.get_credentials(&user).await.unwrap_err();
    assert_eq!(store.health(), Health::EndpointDown);
    fleet.provider.forget_faults();
    pass(seconds(31)).await;
    // The remembered lease generation is stale by now, and its write is lost as well.
    fleet.bucket.fail_write("leases/", WriteFault::NotApplied);
    let calls = fleet.provider.calls();
    store.get_credentials(&user).await.unwrap();
    assert_eq!(fleet.provider.calls(), calls + 1);
}

#[tokio::test(start_paused = true)]
async fn a_mistaken_invalid_grant_is_believed_only_when_said_twice_after_a_lost_answer() {
    // An overlapping refresh: the provider lost the first answer, and says by mistake that
    // the grant is dead.
    let fleet = Fleet::new(false);
    let user = expired_user(&fleet, "u").await;
    fleet.provider.fail(AnswerFault::AnswerLost);
    fleet.provider.fail(AnswerFault::MistakenlyInvalid);
    let store = fleet.replica("a");
    store.get_credentials(&user).await.unwrap();
    assert_eq!(fleet.provider.calls(), 3);
    assert_eq!(store.counts().lost_grants, 0);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_record_is_presented_again_when_an_operator_asks_and_never_else() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    fleet.provider.fail(AnswerFault::MistakenlyInvalid);
    let store = fleet.replica("a");
    let error = store.get_credentials(&user).await.unwrap_err();
    assert!(matches!(error, Error::NeedsConsent(ConsentReason::Revoked { .. })), "{error}");
    for _ in 0..100 {
        store.get_credentials(&user).await.unwrap_err();
        pass(seconds(60)).await;
    }
    assert_eq!(fleet.provider.calls(), 1);
    let granted = store.retry(&user).await.unwrap();
    assert_eq!(fleet.provider.calls(), 2);
    let record = store.read_record(&user).await.unwrap();
    assert!(record.is_active() && record.reason.is_none());
    let other = fleet.replica("b").get_credentials(&user).await.unwrap();
    assert_eq!(other.access_token(), granted.access_token());
    // One that is dead stays as it is; one presentation each.
    fleet.provider.revoke("u");
    pass(HOUR).await;
    store.get_credentials(&user).await.unwrap_err();
    let before = store.read_record(&user).await.unwrap();
    pass(seconds(31)).await;
    let calls = fleet.provider.calls();
    assert!(matches!(store.retry(&user).await, Err(Error::NeedsConsent(_))));
    assert_eq!(fleet.provider.calls(), calls + 1);
    assert_eq!(store.read_record(&user).await.unwrap(), before);
}

#[tokio::test(start_paused = true)]
async fn a_grant_without_an_access_token_is_stored_and_its_user_blocked() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    fleet.provider.fail(AnswerFault::NoAccessToken);
    let store = fleet.replica("a");
    let before = store.read_record(&user).await.unwrap();
    let error = store.get_credentials(&user).await.unwrap_err();
    assert!(matches!(error, Error::NeedsConsent(ConsentReason::Blocked { .. })), "{error}");
    let record = store.read_record(&user).await.unwrap();
    assert_ne!(record.refresh_token, before.refresh_token, "the only one that works is kept");
    assert!(record.is_active() && record.access_token.is_none());
    assert_eq!(record.blocked.unwrap().code, "no_access_token");
    pass(seconds(601)).await;
    store.get_credentials(&user).await.unwrap();
    assert_eq!((fleet.provider.calls(), fleet.provider.reuse()), (2, 0));
    assert_eq!(store.read_record(&user).await.unwrap().blocked, None);
}

#[tokio::test(start_paused = true)]
async fn a_commit_whose_reply_was_lost_and_that_was_revoked_meanwhile_is_not_handed_out() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    fleet.provider.set_latency(seconds(1));
    let (store, link) = fleet.linked_replica("a");
    fleet.bucket.fail_write("tokens/", WriteFault::ReplyLost);
    let caller = tokio::spawn({
        let (store, user) = (store.clone(), user.clone());
        async move { store.get_credentials(&user).await }
    });
    pass(Duration::from_millis(1050)).await;
    link.cut(true);
    drop(caller.await);
    // Stored, though its writer does not know; the grant ends, and another replica finds
    // out when the token is due again.
    fleet.provider.revoke("u");
    pass(HOUR).await;
    let other = fleet.replica("b");
    assert!(matches!(other.get_credentials(&user).await, Err(Error::NeedsConsent(_))));
    link.cut(false);
    pass(seconds(30)).await;
    let error = store.get_credentials(&user).await.unwrap_err();
    assert!(matches!(error, Error::NeedsConsent(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_login_is_tried_for_its_time() {
    let fleet = Fleet::new(true);
    let user = UserId::new("u").unwrap();
    let (store, link) = fleet.linked_replica("web");
    fleet.bucket.fail_write("tokens/", WriteFault::NotApplied);
    let saving = tokio::spawn({
        let (store, user, login) = (store.clone(), user.clone(), fleet.login(&user));
        async move { store.set_credentials(&user, login).await }
    });
    // Its PUT has failed, and then its reads do.
    pass(Duration::from_millis(1)).await;
    link.cut(true);
    pass(seconds(20)).await;
    link.cut(false);
    assert_eq!(saving.await.unwrap(), Ok(Login::Stored), "the person need not consent again");
    // But not for ever.
    link.cut(true);
    let started = tokio::time::Instant::now();
    let error = store.set_credentials(&user, fleet.login(&user)).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable(_)), "{error}");
    assert!(started.elapsed() <= store.policy().wait_limit, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_was_throttled_is_written_again_after_a_second() {
    let fleet = Fleet::new(true);
    let user = UserId::new("u").unwrap();
    let store = fleet.replica("web");
    store.set_credentials(&user, fleet.login(&user)).await.unwrap();
    fleet.bucket.take_requests();
    let started = tokio::time::Instant::now();
    store.set_credentials(&user, fleet.login(&user)).await.unwrap();
    assert!((1000..2000).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    let requests = fleet.bucket.take_requests();
    assert_eq!((requests.token_writes, requests.too_fast), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn an_answer_too_large_to_store_is_a_lost_grant_and_costs_one_call_per_lease() {
    let fleet = Fleet::new(false);
    let user = expired_user(&fleet, "u").await;
    let store = fleet.replica("a");
    for _ in 0..3 {
        fleet.provider.fail(AnswerFault::Vast);
    }
    let error = store.get_credentials(&user).await.unwrap_err();
    let Error::Unavailable(why) = &error else { panic!("{error}") };
    assert!(why.contains("bytes"), "{why}");
    let since = tokio::time::Instant::now();
    assert!(fleet.replica("b").get_credentials(&user).await.is_err());
    assert_eq!(fleet.provider.calls(), 2);
    assert!(since.elapsed() >= Policy::default().lease_ttl, "the lease was left standing");
    assert_eq!(store.counts().lost_grants, 1);
    let record = fleet.replica("reader").read_record(&user).await.unwrap();
    assert!(record.is_active() && record.scopes.len() < 10, "nothing of it was stored");
    // A login can be too large as well; what is stored stays.
    let scopes = (0..4000).map(|n| format!("https://scopes.test/{n:0>60}")).collect();
    let vast = shared::Grant { scopes, ..fleet.login(&user) };
    let error = store.set_credentials(&user, vast).await.unwrap_err();
    assert!(error.to_string().contains("bytes"), "{error}");
    assert_eq!(fleet.replica("reader").read_record(&user).await.unwrap(), record);
}

/// Who needs a token for a long job waits for one; who needs any token goes on with the old one.
#[tokio::test(start_paused = true)]
async fn a_token_with_too_little_left_is_renewed_for_whoever_needs_more() {
    let fleet = Fleet::new(true);
    let ann = fleet.user("ann").await;
    let store = fleet.replica("a");
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let first = store.get_credentials(&ann).await.unwrap();
    pass(minutes(20)).await;
    let lasting = store.get_credentials_lasting(&ann, minutes(30)).await.unwrap();
    assert_eq!(lasting.grant_id(), first.grant_id(), "it has 40 minutes left");
    pass(minutes(15)).await;
    let (one, two) = tokio::join!(
        store.get_credentials_lasting(&ann, minutes(30)),
        store.get_credentials_lasting(&ann, minutes(40)),
    );
    let second = one.unwrap();
    assert_ne!(second.grant_id(), first.grant_id());
    assert_eq!(two.unwrap().grant_id(), second.grant_id(), "both wait for one refresh");
    assert_eq!(fleet.provider.calls(), 1);

    // More than any token has is asked for again and again.
    for _ in 0..10 {
        store.get_credentials_lasting(&ann, minutes(600)).await.unwrap();
    }
    assert_eq!(fleet.provider.calls(), 1, "it is as good as new");
    pass(store.policy().lease_ttl + Duration::from_secs(1)).await;
    store.get_credentials_lasting(&ann, minutes(600)).await.unwrap();
    assert_eq!(fleet.provider.calls(), 2);

    // Another replica has just renewed it: that is taken, and nothing sent.
    let other = fleet.replica("b");
    other.get_credentials(&ann).await.unwrap();
    pass(minutes(40)).await;
    let third = store.get_credentials_lasting(&ann, minutes(30)).await.unwrap();
    let theirs = other.get_credentials_lasting(&ann, minutes(30)).await.unwrap();
    assert_eq!(theirs.grant_id(), third.grant_id());
    assert_eq!(fleet.provider.calls(), 3);
    // The provider serves nobody at the moment: the token at hand is for those whom it suits.
    pass(minutes(40)).await;
    fleet.provider.fail(AnswerFault::NotNow(Some(minutes(10))));
    let refused = store.get_credentials_lasting(&ann, minutes(30)).await;
    assert!(matches!(refused, Err(Error::Later { .. })), "{refused:?}");
    let at_hand = store.get_credentials(&ann).await.unwrap();
    assert_eq!(at_hand.grant_id(), third.grant_id());
}
