//! How a delivery ends when what it needs for that is not there.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use shared::ports::{Bucket as _, Generation};
use shared::sealing::Sealing;
use tests::memory::{QueueSettings, pass};
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
async fn a_job_whose_outcome_no_topic_takes_acts_once_and_is_told_later() {
    let house = house().await;
    house.outcomes.close();
    let script = Script::of(|_| posted());
    let replica = house.start("a", script.clone(), |b| b);
    house.jobs.publish(&job("first", "ann", "k"), "");
    pass(MINUTE).await;
    house.jobs.publish(&job("second", "bob", "k"), "");
    pass(MINUTE).await;
    assert_eq!((runs(&script), house.jobs.deliveries(), house.jobs.acknowledged()), (1, 1, 0));
    let why = replica.ready.check().unwrap_err();
    assert!(why.contains("outcomes takes no messages"), "{why}");
    house.outcomes.open();
    house.jobs.drained().await;
    assert_eq!((runs(&script), house.jobs.deliveries()), (2, 2), "each acted once");
    assert_eq!(house.statuses()["done"], 2);
    pass(2 * SECOND).await;
    assert_eq!(replica.ready.check(), Ok(()));
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_received_before_the_trouble_does_not_begin_in_it() {
    let house = house().await;
    house.outcomes.close();
    let script = Script::of(|_| posted());
    let replica = house.start("a", script.clone(), |b| b);
    for n in 0..10 {
        house.jobs.publish(&job(&format!("{n}"), "ann", "k"), "");
    }
    pass(MINUTE).await;
    assert_eq!(runs(&script), 1, "one end is unwritten, so nothing else begins");
    house.outcomes.open();
    house.jobs.drained().await;
    assert_eq!((runs(&script), house.jobs.deliveries()), (10, 10));
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_spent_job_without_a_dead_topic_is_held_until_it_can_be_told() {
    let house = house().await;
    house.dead.close();
    let script = Script::of(|_| lost());
    let replica = house.start("a", script.clone(), |b| b);
    house.jobs.publish(&job("j", "ann", "k"), "ann");
    pass(10 * MINUTE).await;
    assert_eq!((runs(&script), house.jobs.acknowledged()), (1, 0));
    assert!(replica.ready.check().is_err());
    house.dead.open();
    house.jobs.drained().await;
    let letter = house.dead.take().remove(0);
    assert_eq!(
        (&*letter.attributes["effect"], &*letter.attributes["repeatable"]),
        ("unknown", "false")
    );
    let outcome = &house.outcomes.outcomes()[0];
    assert_eq!((&outcome["status"], &outcome["effect"]), (&json!("rejected"), &json!("unknown")));
    assert_eq!(runs(&script), 1);
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_end_that_waits_too_long_goes_to_the_outbox_and_from_there_to_its_topics() {
    let house = house().await;
    house.dead.close();
    let script = Script::of(|job| if job.id == "lost" { lost() } else { posted() });
    let replica = house.start("a", script.clone(), |b| b);
    house.jobs.publish(&job("lost", "ann", "k"), "");
    pass(17 * MINUTE).await;
    assert_eq!(house.jobs.acknowledged(), 1, "the bucket has its end");
    let kept = house.fleet.bucket.list("endings/", None).await.unwrap().objects;
    assert_eq!(kept.len(), 1, "{kept:?}");
    house.jobs.publish(&job("next", "bob", "k"), "");
    pass(5 * MINUTE).await;
    assert_eq!(runs(&script), 1, "nothing is received while the topic takes nothing");
    house.dead.open();
    house.jobs.drained().await;
    pass(MINUTE).await;
    assert_eq!(runs(&script), 2);
    assert_eq!(house.dead.take().len(), 1);
    let mut told: Vec<_> = house.outcomes.outcomes().iter().map(|o| o["job"].clone()).collect();
    told.sort_by_key(Value::to_string);
    assert_eq!(told, ["lost", "next"]);
    pass(2 * MINUTE).await;
    assert!(house.fleet.bucket.list("endings/", None).await.unwrap().objects.is_empty());
    replica.end().await;
}

/// Refuses outcomes that hold `what`, as a schema may.
fn refuse(house: &House, what: &'static str) {
    house.outcomes.refuse(move |message| {
        let holds = message.data.windows(what.len()).any(|part| part == what.as_bytes());
        holds.then(|| PublishError::Refused {
            topic: "outcomes".to_owned(),
            why: "INVALID_ARGUMENT".to_owned(),
            source: Arc::from(Box::<dyn std::error::Error + Send + Sync>::from("schema")),
        })
    });
}

#[tokio::test(start_paused = true)]
async fn an_outcome_that_is_refused_for_itself_is_cut_down_and_stops_nobody() {
    for (what, told) in [("\"result\":{", 2), ("\"attempt\":", 2), ("refused-job", 1)] {
        let house = house().await;
        refuse(&house, what);
        let script = Script::of(|job| {
            let result = if job.id == "other" { Value::Null } else { json!({"a": 1}) };
            Verdict::done(result).effect(Effect::Done).repeatable(false)
        });
        let replica = house.start("a", script.clone(), |b| b);
        house.jobs.publish(&job("refused-job", "ann", "k"), "");
        house.jobs.publish(&job("other", "bob", "k"), "");
        house.jobs.drained().await;
        assert_eq!((runs(&script), house.jobs.deliveries()), (2, 2), "{what}");
        assert_eq!(house.outcomes.len(), told, "{what}");
        for outcome in house.outcomes.outcomes() {
            assert_eq!((&outcome["status"], &outcome["effect"]), (&json!("done"), &json!("done")));
        }
        let kept = house.fleet.bucket.list("endings/", None).await.unwrap().objects;
        assert_eq!(kept.len(), 2 - told, "{what}: what no topic takes is kept");
        pass(2 * SECOND).await;
        assert_eq!(replica.ready.check(), Ok(()), "{what}");
        replica.end().await;
    }
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
async fn at_the_end_ends_that_no_topic_takes_go_to_the_outbox() {
    let house = house().await;
    house.outcomes.close();
    let script = Script::of(|_| posted());
    let first = house.start("a", script.clone(), |b| b.drain(10 * SECOND));
    house.jobs.publish(&job("j", "ann", "k"), "ann");
    pass(5 * SECOND).await;
    let asked = now();
    first.end().await;
    assert!(now().since(asked) < 20 * SECOND);
    assert_eq!(house.jobs.acknowledged(), 1);
    house.outcomes.open();
    let second = house.start("b", script.clone(), |b| b);
    pass(2 * MINUTE).await;
    assert_eq!((runs(&script), house.outcomes.len()), (1, 1), "told by the next replica");
    second.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_job_of_a_key_is_tried_where_it_is() {
    let house = house().await;
    let left = Mutex::new(4);
    let script = Script::of(move |job| {
        let mut left = left.lock().unwrap();
        if job.id == "a1" && *left > 0 {
            *left -= 1;
            return Verdict::retry("the API failed");
        }
        Verdict::done(Value::Null)
    });
    let replica = house.start("a", script.clone(), |b| b);
    for id in ["a1", "a2", "a3", "a4"] {
        house.jobs.publish(&job(id, "ann", "k"), "ann");
    }
    house.jobs.drained().await;
    let ran: Vec<_> = script.ran.lock().unwrap().iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(ran, ["a1", "a1", "a1", "a1", "a1", "a2", "a3", "a4"]);
    assert_eq!(house.jobs.deliveries(), 4, "each was delivered once");
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_of_a_key_that_never_works_is_rejected_and_its_key_is_tried_for_less() {
    let house = house().await;
    let script = Script::of(|job| {
        if job.id == "good" { Verdict::done(Value::Null) } else { Verdict::retry("it failed") }
    });
    let hour = 60 * MINUTE;
    let replica = house.start("a", script.clone(), |b| b.ordered_retry(hour));
    for id in ["bad-1", "bad-2", "good", "bad-3"] {
        house.jobs.publish(&job(id, "ann", "k"), "ann");
    }
    let began = now();
    house.jobs.drained().await;
    let last = |id: &str| {
        let ran = script.ran.lock().unwrap();
        ran.iter().rev().find(|(ran, _)| ran == id).unwrap().1.since(began)
    };
    assert_eq!(last("bad-1").as_secs(), 60 * 60, "as long as it may be tried");
    assert!(last("bad-2") <= hour + 5 * MINUTE + SECOND, "{:?}", last("bad-2"));
    assert!(last("good") <= hour + 5 * MINUTE + 2 * SECOND);
    assert!(last("bad-3") > hour + 20 * MINUTE, "its key works again: {:?}", last("bad-3"));
    let reasons: Vec<_> =
        house.dead.take().iter().map(|m| m.attributes["reason"].clone()).collect();
    assert_eq!(reasons.len(), 3);
    assert!(reasons[0].starts_with("tried for too long"), "{reasons:?}");
    assert_eq!(house.jobs.deliveries(), 4);
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_waits_as_long_as_the_api_asked_is_held() {
    let house = House::new(QueueSettings { max_attempts: 5, ..QueueSettings::default() });
    house.users(["ann".to_owned()]).await;
    for after in [90, 3600] {
        let script = Script::first(vec![Verdict::RateLimited {
            http_status: Some(429),
            after: Some(Duration::from_secs(after)),
            limit: Limit::default(),
        }]);
        let replica = house.start("a", script.clone(), |b| b);
        let before = house.jobs.deliveries();
        house.jobs.publish(&job(&format!("{after}"), "ann", "k"), "");
        house.jobs.drained().await;
        let times = script.times(&format!("{after}"));
        assert_eq!(times[1].since(times[0]).as_secs(), after);
        assert_eq!((times.len(), house.jobs.deliveries() - before), (2, 1));
        replica.end().await;
    }
    assert_eq!(house.jobs.dead_lettered(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_fails_for_ever_does_not_spin_without_a_retry_policy() {
    let unpaced = (Duration::ZERO, Duration::ZERO);
    let house = House::new(QueueSettings {
        backoff: unpaced,
        max_attempts: 20,
        ..QueueSettings::default()
    });
    house.users(["ann".to_owned()]).await;
    let script = Script::of(|_| Verdict::retry("it fails"));
    let replica = house.start("a", script.clone(), |b| b.retry_budget(Duration::ZERO));
    house.jobs.publish(&job("poison", "ann", "k"), "");
    let began = now();
    pass(10 * MINUTE).await;
    assert!(house.jobs.deliveries() <= 30, "{} deliveries", house.jobs.deliveries());
    house.jobs.drained().await;
    assert!(now().since(began) > 5 * MINUTE, "{:?}", now().since(began));
    assert_eq!(house.jobs.dead_lettered(), 0, "Pub/Sub made no letter of its own");
    let letter = house.dead.take().remove(0);
    assert_eq!(letter.attributes["repeatable"], "true");
    replica.end().await;
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
async fn a_held_user_leaves_the_replica_to_others() {
    let house = House::new(QueueSettings { max_outstanding: 256, ..QueueSettings::default() });
    house.users((0..50).map(|n| format!("user-{n}")).chain(["slow".to_owned()])).await;
    let notebook = Notebook::taking(Duration::from_millis(20));
    let ran = notebook.clone();
    let replica = house.start("a", Mixed(notebook), |b| b.concurrency(16));
    for n in 0..300 {
        house.jobs.publish(&job(&format!("slow-{n}"), "slow", "k"), "");
    }
    pass(SECOND).await;
    let mut waits = Vec::new();
    for round in 0..20 {
        for n in 0..50 {
            house.jobs.publish(&job(&format!("{round}-{n}"), &format!("user-{n}"), "k"), "");
        }
        let published = now();
        pass(10 * SECOND).await;
        for n in 0..50 {
            let began = ran.began(&format!("{round}-{n}"));
            waits.push(began.map_or(Duration::MAX, |began| began.since(published)));
        }
    }
    waits.sort();
    let p99 = waits[waits.len() * 99 / 100];
    assert!(p99 < 2 * SECOND, "{p99:?}");
    let slow = ran.ids().iter().filter(|id| id.starts_with("slow")).count();
    assert_eq!(slow, 1, "the API was asked once");
    replica.end().await;
}

/// The slow user's API asks to wait for an hour; others take what the notebook says.
#[derive(Debug, Clone)]
struct Mixed(Notebook);

impl Handler for Mixed {
    fn handle<'a>(&'a self, job: &'a Job, session: &'a Session<'a>) -> BoxFuture<'a, Verdict> {
        async move {
            let verdict = self.0.handle(job, session).await;
            if job.user.as_str() == "slow" {
                let after = Some(Duration::from_secs(3600));
                return Verdict::RateLimited {
                    http_status: Some(429),
                    after,
                    limit: Limit::default(),
                };
            }
            verdict
        }
        .boxed()
    }
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

/// A refusal by the bucket stops jobs whichever part of an end it was that it did not take.
#[tokio::test(start_paused = true)]
async fn nothing_begins_while_the_bucket_does_not_keep_an_end_that_was_refused_for_itself() {
    let house = house().await;
    refuse(&house, "refused-job");
    let script = Script::of(|_| posted());
    let replica = house.start("a", script.clone(), |b| b);
    house.jobs.publish(&job("before", "bob", "k"), "");
    house.jobs.drained().await;
    house.fleet.bucket.set_down(true);
    house.jobs.publish(&job("refused-job", "bob", "k"), "");
    pass(5 * SECOND).await;
    house.jobs.publish(&job("after", "bob", "k"), "");
    pass(5 * MINUTE).await;
    assert_eq!(runs(&script), 2, "an end is neither written nor kept");
    let why = replica.ready.check().unwrap_err();
    assert!(why.contains("the bucket takes no objects"), "{why}");
    house.fleet.bucket.set_down(false);
    house.jobs.drained().await;
    assert_eq!((runs(&script), house.jobs.deliveries()), (3, 3));
    replica.end().await;
}

/// The bucket did not keep an end, and then its topic takes it: nothing is to be written to
/// the bucket any more that could tell that it takes objects again.
#[tokio::test(start_paused = true)]
async fn a_bucket_that_nobody_needs_any_more_pauses_nobody() {
    let house = house().await;
    let script = Script::of(|_| posted());
    let replica = house.start("a", script.clone(), |b| b);
    house.jobs.publish(&job("before", "bob", "k"), "");
    house.jobs.drained().await;
    house.outcomes.close();
    house.fleet.bucket.set_down(true);
    house.jobs.publish(&job("first", "bob", "k"), "");
    pass(20 * MINUTE).await;
    let why = replica.ready.check().unwrap_err();
    assert!(why.contains("takes no objects") && why.contains("takes no messages"), "{why}");
    house.outcomes.open();
    house.fleet.bucket.set_down(false);
    house.jobs.publish(&job("second", "bob", "k"), "");
    pass(3 * MINUTE).await;
    assert_eq!((runs(&script), house.jobs.backlog()), (3, 0));
    assert_eq!(replica.ready.check(), Ok(()));
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

/// Each end of a replica takes an attempt from the jobs of a key that it gives back. The last
/// permitted one ends in a dead letter that says that nothing was done, so that a redrive does
/// the job.
#[tokio::test(start_paused = true)]
async fn five_replicas_that_end_in_a_row_lose_no_job_of_a_failing_key() {
    let house = House::new(QueueSettings { max_attempts: 5, ..QueueSettings::default() });
    house.users(["ann".to_owned()]).await;
    let is_down = Arc::new(AtomicBool::new(true));
    let script = {
        let is_down = Arc::clone(&is_down);
        Script::of(move |job| match job.id.as_str() {
            "first" if is_down.load(Ordering::Relaxed) => {
                Verdict::retry("the API is down").effect(Effect::None)
            }
            _ => posted(),
        })
    };
    let ids = ["first", "second", "third"];
    for id in ids {
        house.jobs.publish(&job(id, "ann", "k"), "ann");
    }
    for n in 0..5 {
        let replica = house.start(&format!("r-{n}"), script.clone(), |b| b.drain(SECOND));
        pass(10 * MINUTE).await;
        replica.end().await;
    }
    is_down.store(false, Ordering::Relaxed);
    let replica = house.start("last", script.clone(), |b| b);
    house.jobs.drained().await;
    assert_eq!(house.jobs.dead_lettered(), 0, "Pub/Sub made none, which would tell nothing");
    let letters = house.dead.take();
    let done = house.statuses().get("done").copied().unwrap_or_default();
    assert_eq!(letters.len() + done, ids.len(), "each has one end");
    for letter in letters {
        assert_eq!(letter.attributes["effect"], "none");
        house.jobs.publish_raw(letter.data.to_vec(), "ann");
    }
    house.jobs.drained().await;
    assert_eq!(house.statuses()["done"], ids.len());
    assert_eq!((script.times("second").len(), script.times("third").len()), (1, 1));
    replica.end().await;
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
