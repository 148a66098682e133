//! Encryption at rest through the store: introducing a keyring, rotating it and
//! re-sealing, while refreshes and logins go on.
#![allow(
    clippy::unwrap_used,
    clippy::unchecked_time_subtraction,
    reason = "a test fails by panicking"
)]

use std::time::Duration;

use bytes::Bytes;
use shared::keyring::KeyId;
use shared::ports::{Bucket as _, Generation};
use shared::protocol::Lease;
use shared::record::BadRecord;
use shared::sealing::NotOpened;
use shared::{Error, Keyring, Login, Resealed, UserId};
use tests::memory::{AnswerFault, Fleet, WriteFault, pass};

const HOUR: Duration = Duration::from_secs(3600);

/// Whether it is the fault that was planted.
type Expected = fn(&BadRecord) -> bool;

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}

fn keyring() -> Keyring {
    Keyring::new("2026-01-01T00:00:00Z".parse().unwrap())
}

fn rotate(fleet: &mut Fleet) -> KeyId {
    let keyring = fleet.keyring.as_mut().unwrap();
    keyring.rotate("2026-02-01T00:00:00Z".parse().unwrap())
}

fn sealed_fleet() -> Fleet {
    Fleet { keyring: Some(keyring()), ..Fleet::new(true) }
}

async fn stored(fleet: &Fleet, user: &UserId) -> (String, Generation) {
    let object = fleet.bucket.get(&user.token_object()).await.unwrap().unwrap();
    (String::from_utf8(object.content.to_vec()).unwrap(), object.generation)
}

async fn store_as(fleet: &Fleet, user: &UserId, content: impl Into<Bytes>) {
    let (_, generation) = stored(fleet, user).await;
    fleet.bucket.settle();
    fleet.bucket.put(&user.token_object(), content.into(), generation).await.unwrap();
}

async fn sealed_with(fleet: &Fleet, user: &UserId) -> Option<String> {
    let (text, _) = stored(fleet, user).await;
    let key = text.split("\"key\": \"").nth(1)?;
    Some(key.split('"').next()?.to_owned())
}

/// A lease on the present version whose holder is gone.
async fn plant_lease(fleet: &Fleet, user: &UserId, ttl: Duration) {
    let lease = Lease {
        holder: "gone".into(),
        attempt: "gone".into(),
        guards: stored(fleet, user).await.1.0,
        ttl_ms: u64::try_from(ttl.as_millis()).unwrap(),
        acquired_at: "2026-01-01T00:00:00Z".parse().unwrap(),
    };
    let name = user.lease_object();
    let before = fleet.bucket.get(&name).await.unwrap();
    let before = before.map_or(Generation::ABSENT, |o| o.generation);
    fleet.bucket.put(&name, lease.encode(), before).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn with_a_keyring_no_secret_reaches_the_bucket() {
    let fleet = sealed_fleet();
    let user = fleet.user("u").await;
    let (text, _) = stored(&fleet, &user).await;
    assert!(!text.contains("fake-"), "imported: {text}");
    pass(HOUR + seconds(1)).await;
    let store = fleet.replica("a");
    store.get_credentials(&user).await.unwrap();
    let (text, _) = stored(&fleet, &user).await;
    assert!(!text.contains("fake-") && text.contains("\"holder\": \"a\""), "refreshed: {text}");
    fleet.provider.revoke("u");
    pass(HOUR + seconds(1)).await;
    store.get_credentials(&user).await.unwrap_err();
    let (text, _) = stored(&fleet, &user).await;
    assert!(!text.contains("fake-") && text.contains("\"revoked\""), "revoked: {text}");
}

#[tokio::test(start_paused = true)]
async fn a_keyring_is_introduced_while_records_are_in_use() {
    let mut fleet = Fleet::new(true);
    let (used, idle) = (fleet.user("used").await, fleet.user("idle").await);
    // A replica that has the key already, and one that seals with it.
    let mut keyring = Keyring::open_only("2026-01-01T00:00:00Z".parse().unwrap());
    fleet.keyring = Some(keyring.clone());
    let early = fleet.replica("early");
    early.get_credentials(&used).await.unwrap();
    let primary = keyring.newest().clone();
    keyring.promote(&primary).unwrap();
    let primary = primary.to_string();
    fleet.keyring = Some(keyring);
    let strict = fleet.replica("strict");
    let error = strict.get_credentials(&idle).await.unwrap_err();
    assert!(error.to_string().contains("not sealed"), "{error}");
    fleet.accept_unsealed = true;
    let store = fleet.replica("a");
    store.get_credentials(&used).await.unwrap();
    assert_eq!(sealed_with(&fleet, &used).await, None, "reading seals nothing");
    pass(HOUR + seconds(1)).await;
    store.get_credentials(&used).await.unwrap();
    assert_eq!(sealed_with(&fleet, &used).await.as_ref(), Some(&primary), "the next write does");
    assert_eq!(store.reseal(&used).await, Ok(Resealed::AlreadyCurrent));
    assert_eq!(sealed_with(&fleet, &idle).await, None);
    assert_eq!(store.reseal(&idle).await, Ok(Resealed::Done));
    assert_eq!(sealed_with(&fleet, &idle).await, Some(primary));
    assert_eq!(store.counts().resealed, 1);
    assert!(store.sealing().unsealed_reads().plain > 0, "plain records were counted");
    assert!(early.read_record(&idle).await.is_ok(), "replicas with the key open it");
    assert!(strict.get_credentials(&idle).await.is_ok(), "nothing has to be accepted any more");
}

#[tokio::test(start_paused = true)]
async fn without_a_keyring_there_is_nothing_to_seal() {
    let fleet = Fleet::new(true);
    let user = fleet.user("u").await;
    let store = fleet.replica("a");
    fleet.bucket.take_requests();
    assert_eq!(store.reseal(&user).await, Ok(Resealed::AlreadyCurrent));
    let requests = fleet.bucket.take_requests();
    assert_eq!((requests.reads(), requests.writes()), (1, 0));
    let nobody = UserId::new("nobody").unwrap();
    assert!(matches!(store.reseal(&nobody).await, Err(Error::NeedsConsent(_))));
}

#[tokio::test(start_paused = true)]
async fn rotation_goes_on_without_a_pause_and_resealing_finishes_it() {
    let mut fleet = sealed_fleet();
    let (used, idle) = (fleet.user("used").await, fleet.user("idle").await);
    let old = fleet.keyring.as_ref().unwrap().primary().unwrap().clone();
    let new = rotate(&mut fleet);
    let store = fleet.replica("a");
    store.get_credentials(&used).await.unwrap();
    store.get_credentials(&idle).await.unwrap();
    pass(HOUR + seconds(1)).await;
    store.get_credentials(&used).await.unwrap();
    assert_eq!(sealed_with(&fleet, &used).await.as_deref(), Some(new.as_str()));
    assert_eq!(sealed_with(&fleet, &idle).await.as_deref(), Some(old.as_str()));
    let before = store.read_record(&idle).await.unwrap();
    fleet.bucket.take_requests();
    assert_eq!(store.reseal(&idle).await, Ok(Resealed::Done));
    let cost = fleet.bucket.take_requests();
    assert_eq!((cost.token_writes, cost.lease_writes), (1, 1));
    assert!(cost.reads() <= 3, "{cost:?}");
    let after = store.read_record(&idle).await.unwrap();
    assert_eq!(sealed_with(&fleet, &idle).await.as_deref(), Some(new.as_str()));
    assert_ne!(after.write_id, before.write_id);
    assert!(after.lease_generation.is_some());
    assert_eq!(
        (after.grant_id, after.refresh_token, after.access_token, after.updated_at),
        (before.grant_id, before.refresh_token, before.access_token, before.updated_at)
    );
    assert_eq!(fleet.provider.calls(), 1, "only the refresh of the used one");
    // The old key is not needed any more.
    fleet.keyring.as_mut().unwrap().remove(&old).unwrap();
    let later = fleet.replica("later");
    for user in [&used, &idle] {
        later.get_credentials(user).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn the_refresh_after_a_reseal_costs_what_any_refresh_does() {
    let mut fleet = sealed_fleet();
    let user = fleet.user("u").await;
    rotate(&mut fleet);
    let store = fleet.replica("a");
    store.get_credentials(&user).await.unwrap();
    assert_eq!(store.reseal(&user).await, Ok(Resealed::Done));
    pass(HOUR + seconds(1)).await;
    fleet.bucket.take_requests();
    store.get_credentials(&user).await.unwrap();
    let cost = fleet.bucket.take_requests();
    assert_eq!((cost.reads(), cost.writes()), (1, 2), "the re-seal left its lease as the hint");
    assert_eq!((fleet.provider.calls(), fleet.provider.reuse()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_open_is_named_and_never_overwritten() {
    let mut fleet = sealed_fleet();
    let user = fleet.user("u").await;
    let other = fleet.user("v").await;
    let (good, _) = stored(&fleet, &user).await;
    let (foreign, _) = stored(&fleet, &other).await;
    let keyring = fleet.keyring.clone();
    let content = good.split("\"content\": \"").nth(1).unwrap();
    let another = if content.starts_with('A') { "B" } else { "A" };
    let flipped = good.replace(content, &format!("{another}{}", &content[1..]));
    assert_ne!(flipped, good);
    let moved = foreign.replace("\"user\": \"v\"", "\"user\": \"u\"");
    let cases: [(&str, &str, Option<Keyring>, Expected); 4] = [
        ("no keyring", &good, None, |why| {
            matches!(why, BadRecord::Sealed(NotOpened::NoKeyring(_)))
        }),
        ("unknown key", &good, Some(self::keyring()), |why| {
            matches!(why, BadRecord::Sealed(NotOpened::UnknownKey(_)))
        }),
        ("moved", &moved, keyring.clone(), |why| {
            matches!(why, BadRecord::Sealed(NotOpened::Broken(_)))
        }),
        ("flipped", &flipped, keyring, |why| {
            matches!(why, BadRecord::Sealed(NotOpened::Broken(_)))
        }),
    ];
    for (name, content, keyring, expected) in cases {
        store_as(&fleet, &user, content.to_owned()).await;
        fleet.keyring = keyring;
        let store = fleet.replica("a");
        let login = fleet.login(&user);
        for error in [
            store.get_credentials(&user).await.unwrap_err(),
            store.set_credentials(&user, login.clone()).await.unwrap_err(),
            store.import(&user, login.clone(), true).await.unwrap_err(),
            store.reseal(&user).await.unwrap_err(),
            store.read_record(&user).await.unwrap_err(),
        ] {
            let text = error.to_string();
            assert!(text.contains("tokens/u.json") && !text.contains("fake-"), "{name}: {text}");
            let Error::Corrupt { why, .. } = error else { panic!("{name}: {text}") };
            assert!(expected(&why), "{name}: {text}");
        }
        assert_eq!(stored(&fleet, &user).await.0, content, "{name}");
    }
    assert_eq!(fleet.provider.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_commit_never_lands_on_a_record_that_became_unreadable() {
    let fleet = sealed_fleet();
    let user = fleet.user("u").await;
    pass(HOUR + seconds(1)).await;
    fleet.provider.set_latency(seconds(2));
    let store = fleet.replica("a");
    let waiter = tokio::spawn({
        let (store, user) = (store.clone(), user.clone());
        async move { store.get_credentials(&user).await }
    });
    pass(seconds(1)).await;
    store_as(&fleet, &user, "broken").await;
    assert!(matches!(waiter.await.unwrap(), Err(Error::Corrupt { .. })));
    assert_eq!(stored(&fleet, &user).await.0, "broken");
}

#[tokio::test(start_paused = true)]
async fn a_reseal_stands_back_from_a_refresh() {
    let mut fleet = sealed_fleet();
    let user = fleet.user("u").await;
    pass(HOUR + seconds(1)).await;
    fleet.provider.set_latency(seconds(3));
    // The refresher does not know the new key yet, but seals with its own.
    let refresher = fleet.replica("refresher");
    let new = rotate(&mut fleet);
    let sealer = fleet.replica("sealer");
    let waiter = tokio::spawn({
        let (store, user) = (refresher.clone(), user.clone());
        async move { store.get_credentials(&user).await }
    });
    pass(seconds(1)).await;
    let busy = sealer.reseal(&user).await.unwrap();
    let Resealed::Busy { retry_after } = busy else { panic!("{busy:?}") };
    assert!(retry_after <= sealer.policy().lease_ttl, "{retry_after:?}");
    assert!(matches!(refresher.reseal(&user).await, Ok(Resealed::Busy { .. })), "its own flight");
    waiter.await.unwrap().unwrap();
    assert_eq!(sealer.reseal(&user).await, Ok(Resealed::Done));
    assert_eq!(sealed_with(&fleet, &user).await.as_deref(), Some(new.as_str()));
    assert_eq!((fleet.provider.calls(), fleet.provider.reuse()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_waits_for_a_reseal_and_spends_its_token_once() {
    let mut fleet = sealed_fleet();
    let user = fleet.user("u").await;
    rotate(&mut fleet);
    pass(HOUR + seconds(1)).await;
    fleet.bucket.fail_write("tokens/", WriteFault::Slow(seconds(3)));
    let sealer = fleet.replica("sealer");
    let sealing = tokio::spawn({
        let (store, user) = (sealer.clone(), user.clone());
        async move { store.reseal(&user).await }
    });
    pass(seconds(1)).await;
    // Here and elsewhere.
    let other = fleet.replica("other");
    let (elsewhere, here) =
        tokio::join!(other.get_credentials(&user), sealer.get_credentials(&user));
    assert_eq!(sealing.await.unwrap(), Ok(Resealed::Done));
    assert_eq!(elsewhere.unwrap().grant_id(), here.unwrap().grant_id());
    assert_eq!((fleet.provider.calls(), fleet.provider.reuse()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_outlived_its_lease_is_merged_onto_a_reseal() {
    let mut fleet = sealed_fleet();
    let user = fleet.user("u").await;
    rotate(&mut fleet);
    pass(HOUR + seconds(1)).await;
    // The refresher does not reach the bucket until its lease has been taken over.
    fleet.provider.set_latency(seconds(1));
    let (refresher, link) = fleet.linked_replica("refresher");
    let waiter = tokio::spawn({
        let (store, user) = (refresher.clone(), user.clone());
        async move { store.get_credentials(&user).await }
    });
    pass(Duration::from_millis(500)).await;
    link.cut(true);
    pass(Duration::from_millis(500)).await;
    let sealer = fleet.replica("sealer");
    let busy = sealer.reseal(&user).await.unwrap();
    let Resealed::Busy { retry_after } = busy else { panic!("{busy:?}") };
    pass(retry_after).await;
    assert_eq!(sealer.reseal(&user).await, Ok(Resealed::Done), "the dead lease was taken over");
    link.cut(false);
    assert!(refresher.shutdown(refresher.policy().longest_flight()).await);
    let new = waiter.await.unwrap().unwrap();
    let record = refresher.read_record(&user).await.unwrap();
    assert_eq!(record.grant_id, *new.grant_id(), "the grant is not lost");
    assert_eq!((fleet.provider.calls(), fleet.provider.reuse()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_reseal_loses_no_login() {
    let mut fleet = sealed_fleet();
    let user = fleet.user("u").await;
    let new = rotate(&mut fleet);
    fleet.bucket.fail_write("tokens/", WriteFault::Slow(seconds(3)));
    let sealer = fleet.replica("sealer");
    let sealing = tokio::spawn({
        let (store, user) = (sealer.clone(), user.clone());
        async move { store.reseal(&user).await }
    });
    pass(seconds(1)).await;
    let login = fleet.login(&user);
    let refresh_token = login.refresh_token.clone().unwrap();
    assert_eq!(fleet.replica("web").set_credentials(&user, login).await, Ok(Login::Stored));
    assert_eq!(sealing.await.unwrap(), Ok(Resealed::AlreadyCurrent), "the login sealed it");
    let record = sealer.read_record(&user).await.unwrap();
    assert_eq!(record.refresh_token, refresh_token);
    assert_eq!(sealed_with(&fleet, &user).await.as_deref(), Some(new.as_str()));
}

#[tokio::test(start_paused = true)]
async fn a_reseal_recognises_its_own_write() {
    for fault in [WriteFault::ReplyLost, WriteFault::ConflictWithItself, WriteFault::NotApplied] {
        for object in ["leases/", "tokens/"] {
            let mut fleet = sealed_fleet();
            let user = fleet.user("u").await;
            rotate(&mut fleet);
            fleet.bucket.fail_write(object, fault);
            let done = fleet.replica("a").reseal(&user).await;
            assert_eq!(done, Ok(Resealed::Done), "{fault:?} on {object}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reseal_sends_its_write_within_the_ttl_or_not_at_all() {
    let mut fleet = sealed_fleet();
    let user = fleet.user("u").await;
    rotate(&mut fleet);
    let before = stored(&fleet, &user).await;
    let sealer = fleet.replica("sealer");
    fleet.bucket.fail_write("leases/", WriteFault::Slow(sealer.policy().lease_ttl));
    fleet.bucket.take_requests();
    let late = sealer.reseal(&user).await.unwrap_err();
    assert!(matches!(late, Error::Busy(_)), "{late}");
    assert_eq!(fleet.bucket.take_requests().token_writes, 0);
    assert_eq!(stored(&fleet, &user).await, before);
}

#[tokio::test(start_paused = true)]
async fn an_orphan_lease_is_waited_out_across_calls() {
    let mut fleet = sealed_fleet();
    let user = fleet.user("u").await;
    rotate(&mut fleet);
    plant_lease(&fleet, &user, seconds(20)).await;
    let store = fleet.replica("a");
    let first = store.reseal(&user).await;
    assert_eq!(first, Ok(Resealed::Busy { retry_after: seconds(20) }));
    pass(seconds(15)).await;
    let second = store.reseal(&user).await;
    assert_eq!(second, Ok(Resealed::Busy { retry_after: seconds(5) }));
    pass(seconds(5)).await;
    assert_eq!(store.reseal(&user).await, Ok(Resealed::Done));
    assert_eq!(store.counts().takeovers, 1);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_record_is_resealed_and_stays_revoked() {
    let mut fleet = sealed_fleet();
    let user = fleet.user("u").await;
    let store = fleet.replica("a");
    pass(HOUR + seconds(1)).await;
    fleet.provider.revoke("u");
    let revoked = store.get_credentials(&user).await.unwrap_err();
    let new = rotate(&mut fleet);
    let sealer = fleet.replica("sealer");
    assert_eq!(sealer.reseal(&user).await, Ok(Resealed::Done));
    assert_eq!(sealed_with(&fleet, &user).await.as_deref(), Some(new.as_str()));
    assert_eq!(sealer.get_credentials(&user).await.unwrap_err(), revoked, "reason and time kept");
}

#[tokio::test(start_paused = true)]
async fn a_deleted_user_is_not_resurrected_by_a_reseal() {
    let mut fleet = sealed_fleet();
    let user = fleet.user("u").await;
    rotate(&mut fleet);
    fleet.bucket.fail_write("tokens/", WriteFault::Slow(seconds(3)));
    let sealer = fleet.replica("sealer");
    let sealing = tokio::spawn({
        let (store, user) = (sealer.clone(), user.clone());
        async move { store.reseal(&user).await }
    });
    pass(seconds(1)).await;
    assert!(fleet.replica("admin").delete(&user).await.unwrap());
    assert!(matches!(sealing.await.unwrap(), Err(Error::NeedsConsent(_))));
    assert!(fleet.bucket.get(&user.token_object()).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_reseal_ends_by_itself() {
    let mut fleet = sealed_fleet();
    let user = fleet.user("u").await;
    let new = rotate(&mut fleet);
    fleet.bucket.set_latency(seconds(1));
    let store = fleet.replica("a");
    assert!(tokio::time::timeout(Duration::from_millis(2500), store.reseal(&user)).await.is_err());
    assert!(store.shutdown(seconds(20)).await);
    assert_eq!(sealed_with(&fleet, &user).await.as_deref(), Some(new.as_str()));
}

#[tokio::test(start_paused = true)]
async fn a_failing_endpoint_does_not_keep_a_record_from_being_resealed() {
    let mut fleet = sealed_fleet();
    let user = fleet.user("u").await;
    let new = rotate(&mut fleet);
    pass(HOUR + seconds(1)).await;
    for _ in 0..1000 {
        fleet.provider.fail(AnswerFault::Transient);
    }
    let store = fleet.replica("a");
    assert!(matches!(store.get_credentials(&user).await, Err(Error::Unavailable(_))));
    // The failed series left its lease standing; it is respected and then taken over.
    let busy = store.reseal(&user).await.unwrap();
    let Resealed::Busy { retry_after } = busy else { panic!("{busy:?}") };
    pass(retry_after).await;
    assert_eq!(store.reseal(&user).await, Ok(Resealed::Done));
    assert_eq!(sealed_with(&fleet, &user).await.as_deref(), Some(new.as_str()));
}
