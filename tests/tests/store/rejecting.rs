//! Grants that the provider or an API rejects.

use std::time::Duration;

use shared::{ConsentReason, Error, Login, Policy};
use tests::memory::{AnswerFault, Fleet, WriteFault, pass};
use tokio::task::JoinSet;

use super::{HOUR, asks, expired_user, seconds};

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
    let caller = asks(&store, &user);
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

/// The second caller waits for the first one's flight, and lets it run.
#[tokio::test(start_paused = true)]
async fn two_operators_who_retry_one_user_both_come_to_an_end() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    fleet.provider.fail(AnswerFault::MistakenlyInvalid);
    let store = fleet.replica("a");
    store.get_credentials(&user).await.unwrap_err();
    pass(seconds(60)).await;
    fleet.bucket.fail_write("tokens/", WriteFault::NotApplied);
    let (first, second) = tokio::join!(store.retry(&user), store.retry(&user));
    assert_eq!(first.unwrap().grant_id(), second.unwrap().grant_id());
}
