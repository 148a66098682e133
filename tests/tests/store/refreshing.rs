//! Refreshing, and what it costs.

use std::time::Duration;

use jiff::SignedDuration;
use shared::ports::Bucket as _;
use shared::{Error, UserId};
use tests::memory::{AnswerFault, Fleet, VirtualClock, WriteFault, pass};
use tokio::task::JoinSet;

use super::{HOUR, asks, current, expired_user, plant_lease, seconds};

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
async fn a_call_that_joins_a_slow_commit_is_not_given_what_expired_meanwhile() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    fleet.provider.set_lifetime(seconds(60));
    fleet.provider.set_latency(seconds(1));
    let (store, link) = fleet.linked_replica("a");
    let first = asks(&store, &user);
    pass(Duration::from_millis(500)).await;
    link.cut(true);
    // The one for whom it was obtained is served before it is stored.
    first.await.unwrap().unwrap();
    pass(seconds(70)).await;
    let late = asks(&store, &user);
    pass(seconds(1)).await;
    link.cut(false);
    let late = late.await.unwrap().unwrap();
    let now = shared::ports::Clock::wall(&VirtualClock::new(SignedDuration::ZERO));
    assert!(late.expires_at().unwrap() > now, "expired at {:?}", late.expires_at());
    assert_eq!((fleet.provider.calls(), fleet.provider.reuse()), (2, 0));
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
