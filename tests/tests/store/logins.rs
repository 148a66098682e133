//! Logins, imports and deletions beside refreshes.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use jiff::SignedDuration;
use shared::ports::{Bucket as _, Generation, TokenEndpoint};
use shared::{ConsentReason, Error, Grant, Imported, Login, TokenStore, UserId};
use tests::memory::{FaultyBucket, Fleet, GatedBucket, Provider, VirtualClock, WriteFault, pass};

use super::{asks, current, expired_user, plant_lease, seconds};

#[tokio::test(start_paused = true)]
async fn a_login_during_a_refresh_wins() {
    let fleet = Fleet::new(true);
    let user = expired_user(&fleet, "u").await;
    fleet.provider.set_latency(seconds(2));
    let store = fleet.replica("a");
    let waiter = asks(&store, &user);
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

/// What the refresh brought is ended, unless it brought nothing that its user has not ended.
#[tokio::test(start_paused = true)]
async fn a_deleted_user_is_not_resurrected_by_a_refresh() {
    for rotating in [true, false] {
        let fleet = Fleet::new(rotating);
        let user = expired_user(&fleet, "u").await;
        fleet.provider.set_latency(seconds(2));
        let store = fleet.replica("a");
        let waiter = asks(&store, &user);
        pass(seconds(1)).await;
        assert!(fleet.replica("admin").delete(&user).await.unwrap());
        let error = waiter.await.unwrap().unwrap_err();
        assert_eq!(error, Error::NeedsConsent(ConsentReason::Unknown));
        assert!(fleet.bucket.get(&user.token_object()).await.unwrap().is_none());
        assert_eq!(store.counts().orphans, 1);
        assert!(!store.delete(&user).await.unwrap(), "nothing left to delete");
        pass(seconds(1)).await;
        let ended = fleet.provider.ended();
        assert_eq!(ended.len(), usize::from(rotating), "{ended:?}");
        assert!(ended.iter().all(|token| token.starts_with("fake-refresh-u#1-")), "{ended:?}");
    }
}

/// Somebody logs in between any two requests of a disconnection: the new grant is stored at its
/// end, or it was ended like the old one.
#[tokio::test(start_paused = true)]
async fn a_login_beside_a_revocation_is_kept_or_ended_and_never_dropped() {
    for before in 0.. {
        let fleet = Fleet::new(true);
        let user = expired_user(&fleet, "u").await;
        plant_lease(&fleet, &user, current(&fleet, &user).await, 30_000).await;
        let grant = fleet.login(&user);
        let token = grant.refresh_token.clone().unwrap();
        let login = Mutex::new(Some((fleet.replica("web"), user.clone(), grant)));
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        let gated = GatedBucket::new(Arc::<FaultyBucket>::clone(&fleet.bucket), move |_| {
            let comes = counted.fetch_add(1, Ordering::SeqCst) == before;
            let login = comes.then(|| login.lock().unwrap().take()).flatten();
            async move {
                if let Some((web, user, grant)) = login {
                    web.set_credentials(&user, grant).await.unwrap();
                }
                Ok(())
            }
            .boxed()
        });
        let endpoint: Arc<dyn TokenEndpoint> = Arc::<Provider>::clone(&fleet.provider);
        let admin = TokenStore::builder(Arc::new(gated), endpoint)
            .clock(Arc::new(VirtualClock::new(SignedDuration::ZERO)))
            .build()
            .unwrap();
        admin.revoke(&user, &*fleet.provider).await.unwrap();
        let stored = fleet.replica("reader").read_record(&user).await.ok();
        let is_stored = stored.is_some_and(|record| record.refresh_token == token);
        let was_ended = fleet.provider.ended().contains(&token.expose().to_owned());
        if requests.load(Ordering::SeqCst) <= before {
            assert!(before >= 4, "{before} requests");
            return;
        }
        assert!(is_stored != was_ended, "before request {before}: {is_stored}, {was_ended}");
    }
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

/// Only of the refresh token that is stored it is known whose it is.
#[tokio::test(start_paused = true)]
async fn another_refresh_token_does_not_keep_the_account_of_the_one_before() {
    let fleet = Fleet::new(true);
    let user = UserId::new("u").unwrap();
    let store = fleet.replica("a");
    let named = Grant { sub: Some("1097".to_owned()), ..fleet.login(&user) };
    let same = Grant { sub: None, ..named.clone() };
    let other = Grant { sub: None, ..fleet.login(&user) };
    for (grant, sub) in [(named, Some("1097")), (same, Some("1097")), (other, None)] {
        assert_eq!(store.set_credentials(&user, grant).await, Ok(Login::Stored));
        assert_eq!(store.read_record(&user).await.unwrap().sub.as_deref(), sub);
    }
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
