//! A login or a deletion beside a refresh.

use super::*;

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
        let refresh = asks(&store, &user);
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
async fn delete_during_a_refresh() {
    // At every moment of the refresh: before the lease, under it, at the
    // endpoint, before the commit.
    for after in (0..3000).step_by(100) {
        let fleet = Fleet::new(true);
        let user = fleet.expired_user("u").await;
        fleet.bucket.set_latency(Duration::from_millis(200));
        fleet.provider.set_latency(seconds(1));
        let store = fleet.replica("a");
        let refresh = asks(&store, &user);
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
async fn a_late_read_put_back_over_a_login_in_the_same_process() {
    let fleet = Fleet::new(true);
    let user = fleet.user("u").await;
    let store = fleet.replica("a");
    fleet.bucket.answer_late(&user.token_object(), seconds(5));
    let caller = asks(&store, &user);
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
