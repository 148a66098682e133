//! The endpoint's answers, by whom they are about.

use shared::{ConsentReason, Error, Health, Login, Policy, UserId};
use tests::memory::{AnswerFault, Fleet, WriteFault, pass};

use super::{HOUR, expired_user, seconds};

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

/// A refresh had succeeded a moment before: what the endpoint says from then on about a made-up
/// token is not its word for a dead grant.
#[tokio::test(start_paused = true)]
async fn a_client_that_dies_under_a_busy_replica_is_everybodys_trouble() {
    for code in ["invalid_client", "deleted_client"] {
        let fleet = Fleet::new(true);
        let users = expired_users(&fleet, 4).await;
        let store = fleet.replica("a");
        store.get_credentials(&users[0]).await.unwrap();
        fleet.provider.refuse_client(Some(code));
        // Within a ttl of a success a refusal is still taken for the user's.
        store.get_credentials(&users[1]).await.unwrap_err();
        pass(seconds(31)).await;
        let error = store.get_credentials(&users[2]).await.unwrap_err();
        assert!(matches!(error, Error::Misconfigured(_)), "{code}: {error}");
        assert!(matches!(store.health(), Health::Misconfigured(_)), "{code}");
        assert_eq!(store.read_record(&users[2]).await.unwrap().blocked, None, "{code}");
        fleet.provider.refuse_client(None);
        pass(seconds(61)).await;
        store.get_credentials(&users[3]).await.unwrap();
        assert_eq!(store.health(), Health::Ready);
    }
}

/// Answers that make no sense count against a grant: one that another replica renewed
/// meanwhile has nothing against it.
#[tokio::test(start_paused = true)]
async fn two_odd_answers_an_hour_apart_block_nobody_who_was_served_between() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    let (here, there) = (fleet.replica("here"), fleet.replica("there"));
    for _ in 0..1000 {
        fleet.provider.fail(AnswerFault::UnknownError);
    }
    here.get_credentials(&user).await.unwrap_err();
    fleet.provider.forget_faults();
    there.get_credentials(&user).await.unwrap();
    here.get_credentials(&user).await.unwrap();
    pass(HOUR + seconds(60)).await;
    fleet.provider.fail(AnswerFault::UnknownError);
    here.get_credentials(&user).await.unwrap();
    assert_eq!(fleet.provider.questions(), 0);
    // The same grant for an hour: its user is left alone from then on.
    pass(HOUR + seconds(60)).await;
    for _ in 0..10_000 {
        fleet.provider.fail(AnswerFault::UnknownError);
    }
    for _ in 0..30 {
        here.get_credentials(&user).await.unwrap_err();
        pass(seconds(120)).await;
    }
    let error = here.get_credentials(&user).await.unwrap_err();
    assert!(matches!(error, Error::NeedsConsent(ConsentReason::Blocked { .. })), "{error}");
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
