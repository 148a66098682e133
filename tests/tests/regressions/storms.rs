//! More requests to the token endpoint than there are tokens to replace.

use super::*;

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
