//! A login meets a refresh of the same user: one good record is left.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use shared::Login;
use tests::memory::{AnswerFault, Fleet, pass};

#[tokio::test(start_paused = true)]
async fn a_callback_during_a_refresh_leaves_one_good_record() {
    let fleet = Fleet::new(true);
    let user = fleet.user("u").await;
    pass(Duration::from_secs(3601)).await;
    let (refreshing, web) = (fleet.replica("worker"), fleet.replica("web"));
    fleet.provider.fail(AnswerFault::Slow(Duration::from_secs(5)));
    let flight = {
        let (store, user) = (refreshing.clone(), user.clone());
        tokio::spawn(async move { store.get_credentials(&user).await })
    };
    pass(Duration::from_secs(2)).await;
    assert_eq!(fleet.provider.calls(), 1, "the refresh is under way");
    let grant = fleet.login(&user);
    let refresh_token = grant.refresh_token.clone().unwrap();
    assert_eq!(web.set_credentials(&user, grant).await.unwrap(), Login::Stored);
    flight.await.unwrap().expect("the worker ends with the login's credential");
    let record = web.read_record(&user).await.unwrap();
    assert!(record.is_active());
    assert_eq!(record.refresh_token, refresh_token, "the login's grant, not the refresh's");
    assert_eq!(fleet.provider.reuse(), 0);
    // And it can be refreshed.
    pass(Duration::from_secs(3601)).await;
    refreshing.get_credentials(&user).await.unwrap();
}
