//! Grants that nobody uses are kept alive, over a fleet in memory and in virtual time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::SignedDuration;
use shared::ports::{Bucket as _, Clock as _, Hints, Randomness};
use shared::record::{HintedState, RecordHints};
use shared::{Keyring, Resealed, UserId};
use tests::memory::{Fleet, VirtualClock, pass};
use tokio_util::sync::CancellationToken;
use worker::keep_alive::{KeepAlive, Kept, Period};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

fn clock() -> VirtualClock {
    VirtualClock::new(SignedDuration::ZERO)
}

fn keep_alive(fleet: &Fleet, name: &str) -> KeepAlive {
    let seed = name.bytes().fold(3_u64, |seed, b| seed.wrapping_mul(31) + u64::from(b));
    let store = fleet.replica(name);
    KeepAlive {
        bucket: store.bucket(),
        store,
        events: None,
        clock: Arc::new(clock()),
        random: Arc::new(Randomness::seeded(seed)),
        period: Period::new(30 * DAY).unwrap(),
    }
}

async fn turn(fleet: &Fleet) -> Kept {
    let stop = CancellationToken::new();
    keep_alive(fleet, "once").turn(&mut None, &stop).await.unwrap().unwrap()
}

async fn users(fleet: &Fleet, count: usize) {
    for number in 0..count {
        fleet.user(&format!("u{number:03}")).await;
    }
    fleet.bucket.take_requests();
    fleet.bucket.take_listings();
}

/// What a listing says of a user's record.
async fn hints(fleet: &Fleet, user: &UserId) -> Option<RecordHints> {
    let listed = fleet.bucket.list(&user.token_object(), None).await.unwrap();
    listed.hints.get(&user.token_object()).and_then(RecordHints::read)
}

/// Two hundred users, stored on one day and never used, three replicas, three months: each
/// grant is refreshed once in thirty days, on a day of its own; the bucket is listed about once
/// a day, and no record is read but of who is refreshed.
#[tokio::test(start_paused = true)]
async fn unused_grants_are_refreshed_once_per_period() {
    let fleet = Fleet::new(true);
    users(&fleet, 200).await;
    let stop = CancellationToken::new();
    let replicas: Vec<_> =
        ["a", "b", "c"].map(|name| tokio::spawn(keep_alive(&fleet, name).run(stop.clone()))).into();
    let mut calls = vec![0];
    for _ in 0..90 {
        pass(DAY).await;
        calls.push(fleet.provider.calls());
    }
    stop.cancel();
    for replica in replicas {
        replica.await.unwrap();
    }
    let total = fleet.provider.calls();
    assert!((400..=600).contains(&total), "{total} refreshes of 200 users in 90 days");
    let busiest = calls.windows(2).map(|days| days[1] - days[0]).max().unwrap();
    assert!(busiest <= 35, "{busiest} of 200 on one day");
    let listings = fleet.bucket.take_listings();
    assert!((80..=110).contains(&listings), "{listings} in 90 days");
    let requests = fleet.bucket.take_requests();
    assert_eq!(requests.token_writes, total, "one write per refresh");
    // A replica that meets a user for the first time looks at the record twice.
    assert!(requests.token_reads <= 2 * total, "{requests:?} for {total} refreshes");
    let now = clock().wall();
    for number in 0..200 {
        let user = UserId::new(format!("u{number:03}")).unwrap();
        let hints = hints(&fleet, &user).await.unwrap();
        let idle = now.duration_since(hints.refreshed);
        assert!(idle <= SignedDuration::from_hours(24 * 32), "{user:?} for {idle:?}");
    }
}

/// Who is used, revoked or blocked is left alone, and costs nothing.
#[tokio::test(start_paused = true)]
async fn nobody_else_is_refreshed() {
    let fleet = Fleet::new(true);
    let used = fleet.user("used").await;
    let revoked = fleet.user("revoked").await;
    let blocked = fleet.user("blocked").await;
    fleet.provider.revoke("revoked");
    fleet.provider.deny("blocked", Some("admin_policy_enforced"));
    pass(Duration::from_secs(4000)).await;
    let store = fleet.replica("worker");
    store.get_credentials(&revoked).await.unwrap_err();
    store.get_credentials(&blocked).await.unwrap_err();
    assert_eq!(hints(&fleet, &revoked).await.unwrap().state, HintedState::Revoked);
    assert_eq!(hints(&fleet, &blocked).await.unwrap().state, HintedState::Blocked);
    for _ in 0..12 {
        pass(10 * DAY).await;
        store.get_credentials(&used).await.unwrap();
        let before = (fleet.provider.calls(), fleet.bucket.take_requests());
        assert_eq!(turn(&fleet).await, Kept { listed: 3, due: 0, alive: 0 });
        assert_eq!(fleet.provider.calls(), before.0);
        assert_eq!(fleet.bucket.take_requests().token_reads, 0);
        pass(Duration::from_secs(10)).await;
    }
}

/// Many who are due at once do not fall upon the provider at once.
#[tokio::test(start_paused = true)]
async fn refreshes_begin_no_faster_than_ten_a_second() {
    let fleet = Fleet::new(false);
    users(&fleet, 300).await;
    pass(100 * DAY).await;
    let began = tokio::time::Instant::now();
    let kept = turn(&fleet).await;
    assert_eq!(kept, Kept { listed: 300, due: 300, alive: 300 });
    assert!(began.elapsed() >= Duration::from_secs(30), "{:?}", began.elapsed());
    assert_eq!(fleet.provider.calls(), 300);
    pass(Duration::from_secs(10)).await;
    assert_eq!(turn(&fleet).await.due, 0);
}

/// Hints lie, or are missing: the record decides, and its next write says how it stands.
#[tokio::test(start_paused = true)]
async fn the_record_decides() {
    let fleet = Fleet::new(false);
    users(&fleet, 1).await;
    let user = UserId::new("u000").unwrap();
    let name = user.token_object();
    let rewrite = async |hints: Hints| {
        let object = fleet.bucket.get(&name).await.unwrap().unwrap();
        pass(Duration::from_secs(2)).await;
        let content: Bytes = object.content;
        fleet.bucket.put_with_hints(&name, content, hints, object.generation).await.unwrap();
        pass(Duration::from_secs(2)).await;
    };
    let long_ago = clock().wall() - SignedDuration::from_hours(24 * 300);
    let state = HintedState::Active;
    rewrite(RecordHints { state, next: None, refreshed: long_ago }.to_stored()).await;
    assert_eq!(turn(&fleet).await, Kept { listed: 1, due: 1, alive: 1 });
    assert_eq!(fleet.provider.calls(), 0, "its token is fresh");
    // As a release wrote it that knew of no hints: it is looked at on its day.
    rewrite(Hints::new()).await;
    for _ in 0..15 {
        pass(DAY).await;
        turn(&fleet).await;
    }
    assert_eq!(fleet.provider.calls(), 1);
    assert_eq!(hints(&fleet, &user).await.unwrap().state, HintedState::Active);
}

/// Every write of a record says what the record says: an import, a refresh, a login, a block, a
/// re-seal and a revocation; and costs no request more than before.
#[tokio::test(start_paused = true)]
async fn every_write_of_a_record_leaves_its_hints() {
    let mut fleet = Fleet::new(true);
    fleet.keyring = Some(Keyring::new(clock().wall()));
    let user = fleet.user("u").await;
    let check = async |fleet: &Fleet, state: HintedState| {
        let record = fleet.replica("reader").read_record(&user).await.unwrap();
        let noted = hints(fleet, &user).await.unwrap();
        assert_eq!(noted.to_stored(), RecordHints::of(&record).to_stored());
        assert_eq!(noted.state, state);
        noted
    };
    let imported = check(&fleet, HintedState::Active).await;
    pass(Duration::from_secs(4000)).await;
    fleet.bucket.take_requests();
    fleet.replica("a").get_credentials(&user).await.unwrap();
    assert_eq!(fleet.bucket.take_requests().token_writes, 1);
    let refreshed = check(&fleet, HintedState::Active).await;
    assert!(refreshed.refreshed > imported.refreshed && refreshed.next > imported.next);
    pass(Duration::from_secs(4000)).await;
    fleet.replica("web").set_credentials(&user, fleet.login(&user)).await.unwrap();
    let login = check(&fleet, HintedState::Active).await;
    assert!(login.refreshed > refreshed.refreshed);
    fleet.keyring.as_mut().unwrap().rotate(clock().wall());
    pass(Duration::from_secs(60)).await;
    assert_eq!(fleet.replica("sealer").reseal(&user).await, Ok(Resealed::Done));
    let resealed = check(&fleet, HintedState::Active).await;
    assert_eq!(resealed, login, "a re-seal is no refresh");
    fleet.provider.deny("u", Some("admin_policy_enforced"));
    pass(Duration::from_secs(4000)).await;
    fleet.replica("a").get_credentials(&user).await.unwrap_err();
    let blocked = check(&fleet, HintedState::Blocked).await;
    assert_eq!(blocked.refreshed, login.refreshed);
    assert!(blocked.next > Some(clock().wall()));
    fleet.provider.deny("u", None);
    fleet.provider.revoke("u");
    pass(Duration::from_secs(4000)).await;
    fleet.replica("a").get_credentials(&user).await.unwrap_err();
    let revoked = check(&fleet, HintedState::Revoked).await;
    assert_eq!(revoked.next, None);
}
