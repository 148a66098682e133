//! What becomes of a result: a grant thrown away, an error kept.

use super::*;

/// A holder that does not reach the bucket for 40 s when it has its answer, and a replica
/// that takes its lease over meanwhile and spends the same refresh token.
pub(super) async fn late_commit(fleet: &Fleet, user: &UserId) -> (TokenStore, TokenStore) {
    fleet.provider.set_latency(seconds(1));
    let (winner, link) = fleet.linked_replica("winner");
    let loser = fleet.replica("loser");
    let slow = asks(&winner, user);
    pass(Duration::from_millis(500)).await;
    link.cut(true);
    pass(Duration::from_millis(500)).await;
    let late = asks(&loser, user);
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
    let served = asks(&winner, &user);
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
    let waiters: Vec<_> = replicas.iter().map(|r| asks(r, &user)).collect();
    let now = shared::ports::Clock::wall(&VirtualClock::new(SignedDuration::ZERO));
    for waiter in waiters {
        let credentials = waiter.await.unwrap().unwrap();
        assert!(credentials.expires_at().unwrap() > now + SignedDuration::from_mins(50));
    }
    assert_eq!(fleet.provider.calls(), 1);
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
