//! Who tells, in virtual time and over a bucket in memory.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use shared::ports::{Bucket as _, Generation};
use tests::memory::{Fleet, WriteFault};
use worker::events::state::Occasion;
use worker::events::{Events, Told, object_of};
use worker::removal::remove_traces;

use super::topic::{EventTopic, ann, revoke, revoked_user, stored, teller};

const WAITS: Occasion = Occasion::Waits(None);

async fn all_tell(fleet: &Fleet, topic: &Arc<EventTopic>, occasion: &Occasion) -> usize {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let tellers: Vec<Events> = names.iter().map(|name| teller(fleet, name, topic)).collect();
    let user = ann();
    let told = join_all(tellers.iter().map(|events| events.tell(&user, occasion, None))).await;
    told.into_iter().filter(|told| *told.as_ref().unwrap() == Told::Published).count()
}

/// Eight replicas see each change at the same moment, and a ninth sees it later.
#[tokio::test(start_paused = true)]
async fn one_of_many_tells_each_change() {
    for latency in [0, 40, 700] {
        let fleet = Fleet::new(false);
        let topic = Arc::new(EventTopic::default());
        let user = revoked_user(&fleet, "ann").await;
        fleet.bucket.set_latency(Duration::from_millis(latency));
        for round in 0..3 {
            assert_eq!(all_tell(&fleet, &topic, &WAITS).await, 1, "{latency} ms");
            let late = teller(&fleet, "late", &topic);
            assert_eq!(late.tell(&user, &WAITS, None).await.unwrap(), Told::Nothing);
            assert_eq!(topic.words(), ["ann needed revoked"], "round {round}");
            fleet.replica("web").set_credentials(&user, fleet.login(&user)).await.unwrap();
            assert_eq!(all_tell(&fleet, &topic, &Occasion::Changed).await, 1);
            assert_eq!(topic.words(), ["ann granted"], "round {round}");
            assert_eq!(stored(&fleet, &user).await.unwrap()["told"], true);
            revoke(&fleet, &user).await;
        }
    }
}

/// Nobody told that the consent was given anew, and the need after that is told all the same.
#[tokio::test(start_paused = true)]
async fn the_need_of_another_login_is_another_need() {
    let fleet = Fleet::new(false);
    let topic = Arc::new(EventTopic::default());
    let user = revoked_user(&fleet, "ann").await;
    let events = teller(&fleet, "a", &topic);
    events.tell(&user, &WAITS, None).await.unwrap();
    fleet.replica("web").set_credentials(&user, fleet.login(&user)).await.unwrap();
    revoke(&fleet, &user).await;
    events.tell(&user, &WAITS, None).await.unwrap();
    assert_eq!(topic.words(), ["ann needed revoked", "ann needed revoked"]);
}

/// What an application needs to ask its user is in the event, and nothing else of the record.
#[tokio::test(start_paused = true)]
async fn a_need_says_what_is_missing_and_where_to_allow_it() {
    let fleet = Fleet::new(false);
    let topic = Arc::new(EventTopic::default());
    let user = fleet.user("ann").await;
    let parked = "parked/ann/00000000000000000001-one.json";
    fleet.bucket.put(parked, "{}".into(), Generation::ABSENT).await.unwrap();
    let scopes = Occasion::Waits(Some(vec!["drive".to_owned()]));
    teller(&fleet, "a", &topic).tell(&user, &scopes, None).await.unwrap();
    let told = topic.take().remove(0);
    assert_eq!(
        told.data,
        json!({
            "user": "ann", "reason": "scopes_missing", "missing_scopes": ["drive"],
            "waiting_jobs": 1,
            "connect_link": "https://connect.example.com/connect?scopes=drive&user_hint=ann",
        })
    );
}

/// The answer to any write is lost, or the write itself: the change is told once.
#[tokio::test(start_paused = true)]
async fn a_write_without_an_answer_is_recognised() {
    for fault in [
        WriteFault::ReplyLost,
        WriteFault::NotApplied,
        WriteFault::ConflictWithItself,
        WriteFault::Late(Duration::from_secs(2)),
    ] {
        for write in 0..2 {
            let fleet = Fleet::new(false);
            let topic = Arc::new(EventTopic::default());
            let user = revoked_user(&fleet, "ann").await;
            let events = teller(&fleet, "a", &topic);
            for _ in 0..write {
                fleet.bucket.fail_write("events/", WriteFault::Slow(Duration::ZERO));
            }
            fleet.bucket.fail_write("events/", fault);
            assert_eq!(events.tell(&user, &WAITS, None).await.unwrap(), Told::Published);
            tests::memory::pass(Duration::from_secs(10)).await;
            let other = teller(&fleet, "b", &topic);
            assert_eq!(other.tell(&user, &Occasion::Untold, None).await.unwrap(), Told::Nothing);
            assert_eq!(topic.words(), ["ann needed revoked"], "{fault:?}, write {write}");
        }
    }
}

/// A damaged object, one of another user and one that says nothing are as good as none. What a
/// later version wrote is left to later versions.
#[tokio::test(start_paused = true)]
async fn what_is_no_event_does_not_silence_anybody() {
    let planted = json!({
        "version": 1, "user": "zoe", "state": "needed", "reason": "revoked",
        "missing_scopes": [], "login": null, "id": "x", "changed_at": "2026-01-01T00:00:00Z",
        "told": true, "claim": null,
    });
    for content in ["", "no JSON", "{}", &planted.to_string(), &"x".repeat(300_000)] {
        let fleet = Fleet::new(false);
        let topic = Arc::new(EventTopic::default());
        let user = revoked_user(&fleet, "ann").await;
        let bytes = content.to_owned().into();
        fleet.bucket.put(&object_of(&user), bytes, Generation::ABSENT).await.unwrap();
        assert_eq!(all_tell(&fleet, &topic, &WAITS).await, 1);
        assert_eq!(topic.words(), ["ann needed revoked"]);
        assert_eq!(stored(&fleet, &user).await.unwrap()["user"], "ann");
    }
    let fleet = Fleet::new(false);
    let topic = Arc::new(EventTopic::default());
    let user = revoked_user(&fleet, "ann").await;
    let later = json!({"version": 2, "user": "ann", "more": true});
    let bytes = later.to_string().into();
    fleet.bucket.put(&object_of(&user), bytes, Generation::ABSENT).await.unwrap();
    assert_eq!(all_tell(&fleet, &topic, &WAITS).await, 0);
    assert_eq!(stored(&fleet, &user).await.unwrap(), later);
}

/// A record that cannot be read says nothing about consent: nothing is told, and the error says
/// which object it is.
#[tokio::test(start_paused = true)]
async fn nothing_is_told_by_a_damaged_record() {
    let fleet = Fleet::new(false);
    let topic = Arc::new(EventTopic::default());
    let user = ann();
    fleet.bucket.put("tokens/ann.json", "{".into(), Generation::ABSENT).await.unwrap();
    let error = teller(&fleet, "a", &topic).tell(&user, &WAITS, None).await.unwrap_err();
    assert!(error.to_string().contains("tokens/ann.json"), "{error}");
    assert_eq!(stored(&fleet, &user).await, None);
}

/// Who never consented is told of only where that is asked for.
#[tokio::test(start_paused = true)]
async fn users_who_never_consented_are_told_of_when_asked_for() {
    let fleet = Fleet::new(false);
    let topic = Arc::new(EventTopic::default());
    assert_eq!(all_tell(&fleet, &topic, &WAITS).await, 0);
    assert_eq!(stored(&fleet, &ann()).await, None, "nothing is kept of them either");
    let asked = Events { unknown_users: true, ..teller(&fleet, "a", &topic) };
    asked.tell(&ann(), &WAITS, None).await.unwrap();
    asked.tell(&ann(), &WAITS, None).await.unwrap();
    assert_eq!(topic.words(), ["ann needed unknown_user"]);
}

/// Whoever disconnects is told of, and then nothing of it is kept. Where nobody is told, it is
/// removed at once.
#[tokio::test(start_paused = true)]
async fn what_was_told_goes_with_the_record() {
    let fleet = Fleet::new(false);
    let topic = Arc::new(EventTopic::default());
    let user = fleet.user("ann").await;
    let events = teller(&fleet, "a", &topic);
    let bucket = events.store.bucket();
    events.tell(&user, &Occasion::Changed, None).await.unwrap();
    events.store.delete(&user).await.unwrap();
    let removed = remove_traces(&*bucket, &user, true, Some(&events)).await.unwrap();
    assert_eq!(stored(&fleet, &user).await.unwrap()["state"], "ended", "until it is told");
    events.publish(removed.tell.unwrap()).await.unwrap();
    assert_eq!(topic.words(), ["ann granted", "ann ended disconnected"]);
    assert_eq!(stored(&fleet, &user).await, None);
    // Removing somebody who is not there tells nothing.
    let removed = remove_traces(&*bucket, &user, false, Some(&events)).await.unwrap();
    assert!(removed.tell.is_none());
    fleet.user("ann").await;
    events.tell(&user, &Occasion::Changed, None).await.unwrap();
    events.store.delete(&user).await.unwrap();
    let removed = remove_traces(&*bucket, &user, true, None).await.unwrap();
    assert!(removed.tell.is_none());
    assert_eq!(stored(&fleet, &user).await, None);
}
