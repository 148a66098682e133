//! An answer of the token endpoint that comes when nobody expects it any more.

use super::*;

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
    let calls: Vec<_> = replicas.iter().flat_map(|r| users.iter().map(|u| asks(r, u))).collect();
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
    let caller = asks(&store, &user);
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
        let caller = asks(&store, &user);
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
