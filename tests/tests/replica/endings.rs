//! How a delivery ends when what it needs for that is not there.

mod failing;
mod outbox;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use shared::UserId;
use shared::ports::{Bucket as _, Generation};
use shared::sealing::Sealing;
use tests::memory::{AnswerFault, QueueSettings, pass};
use worker::effect::Effect;
use worker::pubsub::PublishError;
use worker::{Dedupe, Handler, Job, Limit, Session, Verdict};

use crate::house::{House, Notebook, job, now};
use crate::retries::Script;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// A POST that the API took, and that may not be repeated.
fn posted() -> Verdict {
    Verdict::done(Value::Null).effect(Effect::Done).repeatable(false)
}

/// A POST of which nobody knows whether the API took it.
fn lost() -> Verdict {
    Verdict::reject("no answer came").effect(Effect::Unknown).repeatable(false)
}

fn runs(script: &Script) -> usize {
    script.ran.lock().unwrap().len()
}

async fn house() -> House {
    let house = House::new(QueueSettings::default());
    house.users(["ann".to_owned(), "bob".to_owned()]).await;
    house
}

#[tokio::test(start_paused = true)]
async fn a_spent_run_ends_whatever_its_verdict() {
    let verdicts: [fn() -> Verdict; 2] = [
        || Verdict::MissingScopes { scopes: vec!["s".to_owned()] },
        || Verdict::retry("the second call failed"),
    ];
    for verdict in verdicts {
        let house = house().await;
        let script = Script::of(move |_| verdict().effect(Effect::Done).repeatable(false));
        let replica = house.start("a", script.clone(), |b| b);
        house.jobs.publish(&job("j", "ann", "k"), "ann");
        house.jobs.drained().await;
        assert_eq!((runs(&script), house.jobs.deliveries()), (1, 1));
        let outcome = &house.outcomes.outcomes()[0];
        assert_eq!((&outcome["status"], &outcome["effect"]), (&json!("rejected"), &json!("done")));
        assert!(house.fleet.bucket.list("parked/", None).await.unwrap().objects.is_empty());
        replica.end().await;
    }
}

/// Posts, and takes long to be answered.
#[derive(Debug, Clone, Default)]
struct SlowPost(Arc<Mutex<u32>>);

impl Handler for SlowPost {
    fn handle<'a>(&'a self, _: &'a Job, session: &'a Session<'a>) -> BoxFuture<'a, Verdict> {
        async {
            let call = session.begin_call(false);
            *self.0.lock().unwrap() += 1;
            pass(6 * SECOND).await;
            call.ended(Effect::Done);
            Verdict::done(Value::Null)
        }
        .boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_cut_at_the_end_is_not_made_again() {
    let house = house().await;
    let slow = SlowPost::default();
    let first = house.start("a", slow.clone(), |b| b.drain(SECOND));
    house.jobs.publish(&job("j", "ann", "k"), "ann");
    pass(SECOND).await;
    first.end().await;
    assert_eq!(*slow.0.lock().unwrap(), 1);
    let outcome = &house.outcomes.outcomes()[0];
    assert_eq!((&outcome["status"], &outcome["effect"]), (&json!("rejected"), &json!("unknown")));
    assert_eq!(house.dead.len(), 1);
    let second = house.start("b", slow.clone(), |b| b);
    pass(MINUTE).await;
    assert_eq!((*slow.0.lock().unwrap(), house.jobs.backlog()), (1, 0));
    second.end().await;
}

#[tokio::test(start_paused = true)]
async fn malformed_messages_are_told_once() {
    let unpaced = (Duration::ZERO, Duration::ZERO);
    let house = House::new(QueueSettings { backoff: unpaced, ..QueueSettings::default() });
    house.dead.close();
    let replica = house.start("a", Notebook::default(), |b| b);
    house.jobs.publish_raw(b"no job".to_vec(), "");
    pass(10 * MINUTE).await;
    assert_eq!((house.jobs.deliveries(), house.jobs.acknowledged()), (1, 0), "it is held");
    assert!(replica.ready.check().is_err());
    house.dead.open();
    house.jobs.drained().await;
    assert_eq!(house.dead.take()[0].attributes["effect"], "none");
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_did_nothing_can_run_again_and_what_is_spent_cannot() {
    let house = house().await;
    let bucket = Arc::<tests::memory::FaultyBucket>::clone(&house.fleet.bucket);
    let broken = Arc::new(Mutex::new(true));
    let mended = Arc::clone(&broken);
    let script = Script::of(move |job| match (job.id.as_str(), *broken.lock().unwrap()) {
        ("none", true) => Verdict::reject("HTTP status 404").effect(Effect::None),
        ("spent", true) => lost(),
        _ => posted(),
    });
    let replica =
        house.start("a", script.clone(), |b| b.dedupe(Dedupe::bucket(bucket, Sealing::default())));
    for id in ["none", "spent"] {
        house.jobs.publish(&job(id, "ann", "k"), "");
    }
    house.jobs.drained().await;
    *mended.lock().unwrap() = false;
    for id in ["none", "spent"] {
        house.jobs.publish(&job(id, "ann", "k"), "");
    }
    house.jobs.drained().await;
    let told: Vec<_> = house.outcomes.outcomes()[2..]
        .iter()
        .map(|o| (o["job"].clone(), o["status"].clone(), o["effect"].clone()))
        .collect();
    let told_of = |id: &str| told.iter().find(|(job, ..)| job == id).unwrap().clone();
    assert_eq!(told_of("none"), (json!("none"), json!("done"), json!("done")));
    assert_eq!(told_of("spent"), (json!("spent"), json!("rejected"), json!("unknown")));
    assert_eq!(runs(&script), 3, "the spent one ran once");
    replica.end().await;
}

/// The end of the replica does not come between a job that is being parked and the
/// acknowledgement of its message: the job would run from both.
#[tokio::test(start_paused = true)]
async fn a_job_that_is_being_parked_at_the_end_is_parked_or_given_back_and_never_both() {
    use tests::memory::WriteFault::{NotApplied, ReplyLost, Slow};
    for (fault, is_parked) in [(Slow(4 * SECOND), true), (ReplyLost, true), (NotApplied, false)] {
        let house = house().await;
        let parks = |_: &Job| Verdict::MissingScopes { scopes: vec!["s".into()] };
        let replica = house.start("a", Script::of(parks), |b| b.drain(SECOND));
        pass(SECOND).await;
        for _ in 0..8 {
            house.fleet.bucket.fail_write("parked/", fault);
        }
        house.jobs.publish(&job("j", "ann", "k"), "");
        pass(SECOND / 2).await;
        replica.end().await;
        let objects = house.fleet.bucket.list("parked/", None).await.unwrap().objects;
        let acknowledged = usize::try_from(house.jobs.acknowledged()).unwrap();
        assert_eq!((objects.len(), acknowledged), (usize::from(is_parked), usize::from(is_parked)));
        assert_eq!(house.jobs.backlog(), usize::from(!is_parked), "{fault:?}");
    }
}

/// A process that is stopped for two minutes loses its messages' leases. What it had begun
/// goes on, and its message's next delivery is added to that; what had not begun goes back.
#[tokio::test(start_paused = true)]
async fn a_replica_that_stood_still_runs_nothing_twice() {
    let house = house().await;
    let notebook = Notebook::taking(5 * MINUTE);
    let replica = house.start("a", notebook.clone(), |b| b);
    for n in 0..4 {
        house.jobs.publish(&job(&format!("{n}"), "ann", "k"), "");
    }
    pass(MINUTE).await;
    assert_eq!((notebook.ids().len(), house.jobs.outstanding()), (1, 4), "one of a user at a time");
    tokio::time::advance(2 * MINUTE).await;
    house.jobs.deliver_again();
    pass(SECOND).await;
    assert_eq!(notebook.ids(), ["0"]);
    assert!(house.jobs.backlog() > 4 && house.jobs.outstanding() <= 2, "three went back");
    pass(60 * MINUTE).await;
    assert_eq!(notebook.ids().len(), 4, "{:?}", notebook.ids());
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_waited_for_a_slot_while_its_replica_stood_still_goes_back() {
    let house = house().await;
    let notebook = Notebook::taking(5 * MINUTE);
    let replica = house.start("a", notebook.clone(), |b| b.concurrency(1));
    house.jobs.publish(&job("first", "ann", "k"), "");
    pass(SECOND).await;
    house.jobs.publish(&job("second", "bob", "k"), "");
    pass(MINUTE).await;
    assert_eq!((notebook.ids().len(), house.jobs.outstanding()), (1, 2));
    tokio::time::advance(2 * MINUTE).await;
    pass(SECOND).await;
    assert_eq!(house.jobs.outstanding(), 1, "another replica may have it");
    house.jobs.drained().await;
    assert_eq!(notebook.ids(), ["first", "second"]);
    assert_eq!(house.jobs.deliveries(), 3);
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_was_held_while_its_replica_stood_still_goes_back() {
    let house = House::new(QueueSettings::default());
    house.fleet.expired_user("cid").await;
    house.users(["ann".to_owned()]).await;
    for _ in 0..1000 {
        house.fleet.provider.fail(AnswerFault::Transient);
    }
    let script = Script::of(|_| Verdict::Retry {
        why: "later".to_owned(),
        http_status: Some(503),
        after: Some(60 * MINUTE),
    });
    let replica = house.start("a", script.clone(), |b| b);
    house.jobs.publish(&job("credential", "cid", "k"), "");
    house.jobs.publish(&job("pause", "ann", "k"), "");
    pass(MINUTE).await;
    assert_eq!((runs(&script), house.jobs.outstanding()), (1, 2));
    tokio::time::advance(2 * MINUTE).await;
    pass(SECOND).await;
    assert_eq!(house.jobs.outstanding(), 0);
    replica.end().await;
}

/// The client extends a lease for a day.
#[tokio::test(start_paused = true)]
async fn a_message_is_held_no_longer_than_its_lease_lasts() {
    let house = House::new(QueueSettings::default());
    house.fleet.expired_user("ann").await;
    house.fleet.provider.refuse_client(Some("invalid_client"));
    let notebook = Notebook::default();
    let replica = house.start("a", notebook.clone(), |b| b);
    house.jobs.publish(&job("j", "ann", "k"), "");
    pass((23 * 60 - 5) * MINUTE).await;
    assert_eq!((house.jobs.deliveries(), house.jobs.outstanding()), (1, 1));
    pass(10 * MINUTE).await;
    assert_eq!((house.jobs.deliveries(), house.jobs.outstanding()), (2, 1));
    house.fleet.provider.refuse_client(None);
    house.jobs.drained().await;
    assert_eq!((notebook.ids().len(), house.jobs.deliveries()), (1, 2));
    replica.end().await;
}

/// Damage to one user's record, seen when a job of theirs is to be parked, is no trouble of the
/// bucket's.
#[tokio::test(start_paused = true)]
async fn a_record_that_cannot_be_read_parks_its_users_jobs_and_stops_nobody() {
    let house = house().await;
    let script = Script::of(|job| match job.user.as_str() {
        "ann" => Verdict::MissingScopes { scopes: vec!["s".to_owned()] },
        _ => posted(),
    });
    let replica = house.start("a", script.clone(), |b| b);
    for user in ["ann", "bob"] {
        replica.store.get_credentials(&UserId::new(user).unwrap()).await.unwrap();
    }
    let bucket = &house.fleet.bucket;
    let record = bucket.get("tokens/ann.json").await.unwrap().unwrap();
    bucket.settle();
    bucket.put("tokens/ann.json", "spoilt".into(), record.generation).await.unwrap();
    house.jobs.publish(&job("a", "ann", "k"), "");
    pass(5 * SECOND).await;
    house.jobs.publish(&job("b", "bob", "k"), "");
    house.jobs.drained().await;
    assert_eq!(house.statuses(), [("done".to_owned(), 1), ("parked".to_owned(), 1)].into());
    assert_eq!(bucket.list("parked/ann/", None).await.unwrap().objects.len(), 1);
    pass(2 * SECOND).await;
    assert_eq!(replica.ready.check(), Ok(()));
    replica.end().await;
}

/// A read that fails pauses the intake; the one that succeeds after it resumes it.
#[tokio::test(start_paused = true)]
async fn a_bucket_that_does_not_say_what_it_remembers_pauses_the_intake_until_it_does() {
    let house = house().await;
    let bucket = Arc::<tests::memory::FaultyBucket>::clone(&house.fleet.bucket);
    let notebook = Notebook::default();
    let replica = house
        .start("a", notebook.clone(), |b| b.dedupe(Dedupe::bucket(bucket, Sealing::default())));
    pass(SECOND).await;
    house.fleet.bucket.set_down(true);
    house.jobs.publish(&job("first", "ann", "k"), "");
    pass(5 * SECOND).await;
    assert!(notebook.ids().is_empty(), "it may have ended before");
    house.fleet.bucket.set_down(false);
    house.jobs.publish(&job("second", "ann", "k"), "");
    house.jobs.drained().await;
    assert_eq!(notebook.ids(), ["first", "second"]);
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_id_counts_for_its_kind_and_its_parameters() {
    let house = house().await;
    let bucket = Arc::<tests::memory::FaultyBucket>::clone(&house.fleet.bucket);
    let notebook = Notebook::default();
    let replica = {
        let (store, builder) = house.builder("a");
        let builder = builder.handler("other", notebook.clone());
        house.run(
            store,
            builder
                .handler("k", notebook.clone())
                .dedupe(Dedupe::bucket(bucket, Sealing::default())),
        )
    };
    let with = |kind: &str, params: Value| json!({"id": "same", "user": "ann", "kind": kind, "params": params});
    for (kind, params) in
        [("k", json!({"a": 1})), ("other", json!({"a": 1})), ("k", json!({"a": 2}))]
    {
        house.jobs.publish(&with(kind, params), "");
        house.jobs.drained().await;
    }
    assert_eq!(notebook.ids(), ["same", "same"], "once for each kind");
    let last = house.outcomes.outcomes().pop().unwrap();
    assert_eq!((&last["status"], &last["effect"]), (&json!("rejected"), &json!("none")));
    assert_eq!(last["error"], "this ID was used with other parameters");
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_comes_again_while_it_is_in_hand_runs_once() {
    let house = house().await;
    let notebook = Notebook::taking(30 * SECOND);
    let replica = house.start("a", notebook.clone(), |b| b);
    house.jobs.publish(&job("j", "ann", "k"), "");
    pass(SECOND).await;
    house.jobs.deliver_again();
    pass(SECOND).await;
    assert_eq!(house.jobs.deliveries(), 2);
    house.jobs.drained().await;
    assert_eq!(notebook.ids(), ["j"]);
    assert_eq!(house.jobs.acknowledged(), 2, "both deliveries are settled alike");
    replica.end().await;
}

/// What is remembered of a job's end cannot be read, so the job may have acted: it is held for
/// an hour in which that can be put right, and then told as an unknown end. It never runs.
#[tokio::test(start_paused = true)]
async fn an_end_that_cannot_be_read_is_held_for_an_hour() {
    for is_mended in [false, true] {
        let house = house().await;
        let bucket = Arc::<tests::memory::FaultyBucket>::clone(&house.fleet.bucket);
        let spoilt = job("j", "ann", "k");
        let identity = Job::decode(spoilt.to_string().as_bytes(), "m").unwrap().identity().hex();
        let name = format!("done/ann/{identity}.json");
        let at = bucket.put(&name, "spoilt".into(), Generation::ABSENT).await.unwrap();
        let notebook = Notebook::default();
        let dedupe = Dedupe::bucket(bucket, Sealing::default());
        let replica = house.start("a", notebook.clone(), |b| b.dedupe(dedupe));
        house.jobs.publish(&spoilt, "");
        house.jobs.publish(&job("other", "bob", "k"), "");
        pass(59 * MINUTE).await;
        assert_eq!(house.jobs.acknowledged(), 1, "bob's");
        assert_eq!((house.jobs.deliveries(), house.dead.len()), (2, 0), "it is held");
        if is_mended {
            house.fleet.bucket.delete(&name, at).await.unwrap();
        }
        house.jobs.drained().await;
        if is_mended {
            assert_eq!(notebook.ids(), ["other", "j"]);
            assert!(house.dead.is_empty());
        } else {
            assert_eq!(notebook.ids(), ["other"], "it never runs");
            let outcome = house.outcomes.outcomes().pop().unwrap();
            assert_eq!(outcome["status"], "rejected");
            assert_eq!(
                (&outcome["effect"], &outcome["repeatable"]),
                (&json!("unknown"), &json!(false))
            );
            assert!(outcome["error"].as_str().unwrap().contains(&name), "{outcome}");
            let letter = house.dead.take().remove(0);
            assert_eq!(letter.attributes["effect"], "unknown");
        }
        replica.end().await;
    }
}
