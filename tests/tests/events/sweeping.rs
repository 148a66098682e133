//! What the sweep tells: after an outage of the topic, and after a crash.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::json;
use shared::ConsentReason;
use shared::ports::{Bucket, Clock as _, Randomness};
use tests::memory::Fleet;
use tokio_util::sync::CancellationToken;
use worker::events::state::Occasion;
use worker::events::{Decided, Told, object_of};
use worker::job::{Job, Received};
use worker::parking::Parking;
use worker::pubsub::{Outgoing, PublishError, Topic};
use worker::removal::remove_traces;
use worker::sweep::{Memory, Sweep, Swept};

use super::topic::{EventTopic, ann, clock, revoked_user, stored, teller};

const WAITS: Occasion = Occasion::Waits(None);

/// Jobs go nowhere in particular.
#[derive(Debug)]
struct Jobs;

impl Topic for Jobs {
    fn name(&self) -> &'static str {
        "projects/p/topics/jobs"
    }

    fn publish(&self, _: Outgoing) -> BoxFuture<'static, Result<String, PublishError>> {
        async { Ok("m".to_owned()) }.boxed()
    }
}

fn sweep(fleet: &Fleet, name: &str, topic: &Arc<EventTopic>) -> Sweep {
    let events = teller(fleet, name, topic);
    Sweep {
        bucket: events.store.bucket(),
        store: events.store.clone(),
        jobs: Arc::new(Jobs),
        unknown: None,
        events: Some(Arc::new(events)),
        clock: Arc::new(clock()),
        random: Arc::new(Randomness::seeded(name.len() as u64)),
        every: Duration::from_secs(600),
    }
}

async fn swept(sweep: &Sweep, claims: &mut Memory) -> Swept {
    sweep.sweep(claims, &CancellationToken::new()).await.unwrap()
}

async fn park(fleet: &Fleet, user: &str, why: &ConsentReason) {
    let received = Received {
        data: json!({"id": "one", "user": user, "kind": "profile"}).to_string().into(),
        attributes: std::collections::HashMap::new(),
        ordering_key: String::new(),
        message_id: "m-one".to_owned(),
        publish_time: None,
        delivery_attempt: None,
    };
    let store = fleet.replica("worker");
    let parking = Parking::new(store.bucket(), store);
    let job = Job::of(&received).unwrap();
    parking.park(&job, &received, why, clock().wall()).await.unwrap();
}

/// A topic that takes nothing: each event is told when it is back, and once.
#[tokio::test(start_paused = true)]
async fn what_the_topic_did_not_take_is_told_later() {
    let fleet = Fleet::new(false);
    let topic = Arc::new(EventTopic::default());
    let users: Vec<String> = (0..8).map(|n| format!("u{n}")).collect();
    for user in &users {
        revoked_user(&fleet, user).await;
    }
    topic.set_down(true);
    let events = teller(&fleet, "a", &topic);
    for user in &users {
        let user = shared::UserId::new(user.as_str()).unwrap();
        let error = events.tell(&user, &WAITS, None).await.unwrap_err();
        assert!(error.to_string().contains("down for the test"), "{error}");
        // Whoever parks the next job of the user does not go on trying.
        assert_eq!(events.tell(&user, &WAITS, None).await.unwrap(), Told::Nothing);
    }
    let (a, b) = (sweep(&fleet, "a", &topic), sweep(&fleet, "b2", &topic));
    let mut claims = Memory::default();
    assert_eq!(swept(&a, &mut claims).await.untold, 8, "and it is not asked for every user");
    topic.set_down(false);
    assert_eq!(swept(&b, &mut Memory::default()).await.untold, 0);
    let mut told = topic.words();
    told.sort();
    let expected: Vec<String> = users.iter().map(|u| format!("{u} needed revoked")).collect();
    assert_eq!(told, expected);
    assert_eq!(swept(&a, &mut claims).await.untold, 0);
    assert_eq!(topic.words(), Vec::<String>::new());
}

/// Of users whose records cannot be read nothing is told, and others do not wait for them.
#[tokio::test(start_paused = true)]
async fn damaged_records_keep_nobody_else_from_being_told_of() {
    let fleet = Fleet::new(false);
    let topic = Arc::new(EventTopic::default());
    topic.set_down(true);
    let events = teller(&fleet, "a", &topic);
    for n in 0..6 {
        let user = revoked_user(&fleet, &format!("u{n}")).await;
        events.tell(&user, &WAITS, None).await.unwrap_err();
    }
    topic.set_down(false);
    for n in 0..5 {
        let name = format!("tokens/u{n}.json");
        let record = fleet.bucket.get(&name).await.unwrap().unwrap();
        fleet.bucket.put(&name, "{".into(), record.generation).await.unwrap();
    }
    let found = swept(&sweep(&fleet, "a", &topic), &mut Memory::default()).await;
    assert_eq!(found.untold, 5);
    assert_eq!(topic.words(), ["u5 needed revoked"]);
}

/// The process that wrote the change died before it published it, or after: it is told when its
/// claim has stood still for ten minutes, by one of many, under one ID. Who only is slow is not
/// overtaken.
#[tokio::test(start_paused = true)]
async fn a_crash_between_the_deciding_write_and_publishing_loses_nothing() {
    let fleet = Fleet::new(false);
    let topic = Arc::new(EventTopic::default());
    let user = revoked_user(&fleet, "ann").await;
    let dies = teller(&fleet, "dies", &topic);
    let Decided::Mine(_never_published) = dies.decide(&user, &WAITS, None).await.unwrap() else {
        panic!("there is news")
    };
    let id = stored(&fleet, &user).await.unwrap()["id"].clone();
    let stop = CancellationToken::new();
    let sweeps: Vec<_> = ["r", "rr", "rrr"]
        .map(|name| tokio::spawn(sweep(&fleet, name, &topic).run(stop.clone())))
        .into();
    tests::memory::pass(Duration::from_secs(599)).await;
    assert!(topic.take().is_empty(), "its writer may still be at work");
    tests::memory::pass(Duration::from_secs(3 * 600)).await;
    let told = topic.take();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((json!(told[0].id), &*told[0].word), (id, "needed"));
    stop.cancel();
    for sweep in sweeps {
        sweep.await.unwrap();
    }
}

/// The process died when it had published and not noted it: that is the window in which an
/// event comes twice, with one ID.
#[tokio::test(start_paused = true)]
async fn a_crash_between_publishing_and_noting_tells_it_again_with_the_same_id() {
    let fleet = Fleet::new(false);
    let topic = Arc::new(EventTopic::default());
    let user = revoked_user(&fleet, "ann").await;
    let dies = teller(&fleet, "dies", &topic);
    tokio::select! {
        biased;
        told = dies.tell(&user, &WAITS, None) => panic!("noting takes a second: {told:?}"),
        () = tests::memory::pass(Duration::from_millis(500)) => {}
    }
    let first = topic.take();
    assert_eq!(first.len(), 1);
    let sweep = sweep(&fleet, "a", &topic);
    let mut claims = Memory::default();
    assert_eq!(swept(&sweep, &mut claims).await.untold, 1, "it is claimed");
    tests::memory::pass(Duration::from_secs(601)).await;
    assert_eq!(swept(&sweep, &mut claims).await.untold, 0);
    let again = topic.take();
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].id, first[0].id);
    assert_eq!(stored(&fleet, &user).await.unwrap()["told"], true);
}

/// The process died after it had parked the job and before it told that: the sweep finds the
/// job. What it has told is not read again at each turn.
#[tokio::test(start_paused = true)]
async fn a_sweep_tells_of_parked_jobs_that_nobody_told() {
    let fleet = Fleet::new(false);
    let topic = Arc::new(EventTopic::default());
    let user = revoked_user(&fleet, "ann").await;
    let error = fleet.replica("worker").get_credentials(&user).await.unwrap_err();
    let shared::Error::NeedsConsent(why) = error else { panic!("{error}") };
    park(&fleet, "ann", &why).await;
    let zoe = fleet.user("zoe").await;
    park(&fleet, "zoe", &ConsentReason::MissingScopes(vec!["drive".into()])).await;
    let sweep = sweep(&fleet, "a", &topic);
    let mut claims = Memory::default();
    swept(&sweep, &mut claims).await;
    assert_eq!(topic.words(), ["ann needed revoked", "zoe needed scopes_missing"]);
    tests::memory::pass(Duration::from_secs(2)).await;
    fleet.bucket.take_requests();
    swept(&sweep, &mut claims).await;
    let requests = fleet.bucket.take_requests();
    assert_eq!(requests.token_reads, 0, "by the listings nothing has changed");
    // Ann consents in a process that tells nobody.
    fleet.replica("cli").set_credentials(&user, fleet.login(&user)).await.unwrap();
    swept(&sweep, &mut claims).await;
    assert_eq!(topic.words(), ["ann granted"]);
    assert_eq!(stored(&fleet, &zoe).await.unwrap()["missing_scopes"], json!(["drive"]));
}

/// Untold for so long that it is not true any more: the sweep tells what is.
#[tokio::test(start_paused = true)]
async fn an_old_need_is_not_told_after_the_consent() {
    let fleet = Fleet::new(false);
    let topic = Arc::new(EventTopic::default());
    let user = revoked_user(&fleet, "ann").await;
    topic.set_down(true);
    teller(&fleet, "a", &topic).tell(&user, &WAITS, None).await.unwrap_err();
    fleet.replica("cli").set_credentials(&user, fleet.login(&user)).await.unwrap();
    topic.set_down(false);
    let sweep = sweep(&fleet, "a", &topic);
    swept(&sweep, &mut Memory::default()).await;
    assert_eq!(topic.words(), ["ann granted"]);
}

/// A person disconnects while the topic takes nothing: the sweep tells it, and removes what was
/// kept for that.
#[tokio::test(start_paused = true)]
async fn a_disconnection_is_told_later_too() {
    let fleet = Fleet::new(false);
    let topic = Arc::new(EventTopic::default());
    let user = fleet.user("ann").await;
    let events = teller(&fleet, "web", &topic);
    events.store.delete(&user).await.unwrap();
    topic.set_down(true);
    let bucket = events.store.bucket();
    let removed = remove_traces(&*bucket, &user, true, Some(&events)).await.unwrap();
    events.publish(removed.tell.unwrap()).await.unwrap_err();
    // As the remedy of `fleet users delete` says.
    let again = remove_traces(&*bucket, &user, false, Some(&events)).await.unwrap();
    assert!(again.tell.is_none());
    topic.set_down(false);
    let sweep = sweep(&fleet, "a", &topic);
    swept(&sweep, &mut Memory::default()).await;
    assert_eq!(topic.words(), ["ann ended disconnected"]);
    assert_eq!(stored(&fleet, &ann()).await, None);
}

/// What somebody has put under `events/` tells nothing that the record does not say, and its
/// hints are not believed where it is read.
#[tokio::test(start_paused = true)]
async fn a_planted_object_tells_no_lies() {
    let fleet = Fleet::new(false);
    let topic = Arc::new(EventTopic::default());
    let user = fleet.user("ann").await;
    let planted = json!({
        "version": 1, "user": "ann", "state": "ended", "reason": "disconnected",
        "missing_scopes": [], "login": null, "id": "planted", "told": false, "claim": null,
        "changed_at": "2026-01-01T00:00:00Z",
    });
    let content = planted.to_string().into();
    let absent = shared::ports::Generation::ABSENT;
    fleet.bucket.put(&object_of(&user), content, absent).await.unwrap();
    let sweep = sweep(&fleet, "a", &topic);
    swept(&sweep, &mut Memory::default()).await;
    assert_eq!(topic.words(), ["ann granted"]);
    for foreign in ["events/no-user", "events/a/b.json"] {
        fleet.bucket.put(foreign, "{}".into(), absent).await.unwrap();
    }
    assert_eq!(swept(&sweep, &mut Memory::default()).await.untold, 0);
    assert!(topic.take().is_empty());
    assert!(fleet.bucket.get("events/no-user").await.unwrap().is_some(), "it is left alone");
}
