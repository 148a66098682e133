//! Ends of jobs that could not be written: stored, and written once by whoever sweeps, over
//! an in-memory bucket and in virtual time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use jiff::SignedDuration;
use serde_json::json;
use shared::UserId;
use shared::ports::{Bucket, Generation, Randomness};
use shared::sealing::Sealing;
use tests::memory::{FaultyBucket, VirtualClock, WriteFault, pass};
use tokio_util::sync::CancellationToken;
use worker::Effect;
use worker::outbox::{Memory, Outbox, OutboxSweep, Own, Sight, StoredEnding, Swept, Writable};
use worker::outcome::Status;
use worker::pubsub::{Outgoing, PublishError, Topic};

const DEAD: &str = "projects/p/topics/dead";
const OUTCOMES: &str = "projects/p/topics/outcomes";

/// What was published, to whichever topic, in order.
type Log = Arc<Mutex<Vec<(&'static str, String)>>>;

/// A topic that takes messages, or does not.
#[derive(Debug)]
struct Named {
    name: &'static str,
    log: Log,
    is_down: AtomicBool,
}

impl Topic for Named {
    fn name(&self) -> &str {
        self.name
    }

    fn publish(&self, message: Outgoing) -> BoxFuture<'static, Result<String, PublishError>> {
        let topic = self.name.to_owned();
        if self.is_down.load(Ordering::SeqCst) {
            let why = "down for the test".to_owned();
            let error = PublishError::Unavailable { topic, why, source: None };
            return async { Err(error) }.boxed();
        }
        let told: serde_json::Value = serde_json::from_slice(&message.data).unwrap();
        let id = told["job"].as_str().or(told["id"].as_str()).unwrap().to_owned();
        if id.starts_with("odd") && self.name == OUTCOMES {
            let source = Arc::new(std::fmt::Error);
            let why = "INVALID_ARGUMENT".to_owned();
            return async { Err(PublishError::Refused { topic, why, source }) }.boxed();
        }
        self.log.lock().unwrap().push((self.name, id));
        async { Ok("1".to_owned()) }.boxed()
    }
}

struct World {
    bucket: Arc<FaultyBucket>,
    dead: Arc<Named>,
    outcomes: Arc<Named>,
    log: Log,
    seen: Arc<Mutex<Vec<String>>>,
}

impl World {
    fn new() -> Self {
        let log = Log::default();
        let topic = |name| {
            let (log, is_down) = (Arc::clone(&log), AtomicBool::new(false));
            Arc::new(Named { name, log, is_down })
        };
        Self {
            bucket: Arc::default(),
            dead: topic(DEAD),
            outcomes: topic(OUTCOMES),
            log: Arc::clone(&log),
            seen: Arc::default(),
        }
    }

    fn bucket(&self) -> Arc<dyn Bucket> {
        Arc::<FaultyBucket>::clone(&self.bucket)
    }

    fn sweep(&self, name: &str) -> OutboxSweep {
        let all = Arc::clone(&self.seen);
        let (dead, outcomes): (Arc<dyn Topic>, Arc<dyn Topic>) =
            (Arc::<Named>::clone(&self.dead), Arc::<Named>::clone(&self.outcomes));
        OutboxSweep {
            bucket: self.bucket(),
            sealing: Sealing::default(),
            own: Own { dead: Some(dead), outcomes: Some(outcomes) },
            clock: Arc::new(VirtualClock::new(SignedDuration::ZERO)),
            random: Arc::new(Randomness::seeded(name.len() as u64)),
            holder: name.to_owned(),
            on_sight: Arc::new(move |sight| {
                let seen = match sight {
                    Sight::TopicTakes(topic) => topic,
                    Sight::BucketTakes => "bucket",
                    Sight::NothingWaits => "nothing waits",
                };
                all.lock().unwrap().push(seen.to_owned());
            }),
        }
    }

    async fn store(&self, ending: &StoredEnding) {
        Outbox::new(self.bucket(), Sealing::default()).store(ending).await.unwrap();
    }

    fn take_seen(&self) -> Vec<String> {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }

    async fn left(&self) -> usize {
        self.bucket.list("endings/", None).await.unwrap().objects.len()
    }

    fn published(&self) -> Vec<(&'static str, String)> {
        self.log.lock().unwrap().clone()
    }
}

fn outgoing(data: &serde_json::Value) -> Outgoing {
    Outgoing { data: data.to_string().into(), ..Outgoing::default() }
}

/// A rejected job of ann's whose end is not remembered, buried or told yet.
fn ending(job: &str, second: i64) -> StoredEnding {
    StoredEnding {
        user: Some(UserId::new("ann").unwrap()),
        job: job.to_owned(),
        kind: "api".into(),
        run: 0,
        message_id: format!("m-{job}"),
        status: Status::Rejected,
        effect: Effect::Unknown,
        repeatable: false,
        reason: Some("no answer".into()),
        refused: false,
        rest: vec![
            Writable::Remember {
                object: format!("done/ann/{job}.json"),
                content: Bytes::from_static(b"{}"),
            },
            Writable::DeadLetter {
                topic: DEAD.into(),
                message: outgoing(&json!({"id": job, "user": "ann", "kind": "api"})),
            },
            Writable::Outcome {
                topic: OUTCOMES.into(),
                message: outgoing(&json!({"job": job, "user": "ann", "status": "rejected"})),
            },
        ],
        stored_at: jiff::Timestamp::from_second(second).unwrap(),
    }
}

fn told(jobs: &[&str]) -> Vec<(&'static str, String)> {
    jobs.iter().flat_map(|job| [DEAD, OUTCOMES].map(|topic| (topic, (*job).to_owned()))).collect()
}

fn stop() -> CancellationToken {
    CancellationToken::new()
}

#[tokio::test(start_paused = true)]
async fn what_is_stored_is_written_in_order_and_then_gone() {
    let world = World::new();
    let stored = ending("j", 1);
    world.store(&stored).await;
    world.store(&stored).await;
    assert_eq!(world.left().await, 1, "the same delivery again");
    pass(Duration::from_secs(60)).await;
    let swept = world.sweep("a").turn(&mut Memory::default(), &stop()).await.unwrap();
    assert_eq!(swept, Swept { written: 1, left: 0, refused: 0 });
    assert_eq!(world.published(), told(&["j"]));
    assert!(world.bucket.get("done/ann/j.json").await.unwrap().is_some());
    let seen = ["bucket", "bucket", DEAD, "bucket", OUTCOMES];
    assert_eq!(world.take_seen(), seen, "it is claimed, and written again after each part");
    assert_eq!(world.left().await, 0);
    assert_eq!(world.bucket.take_requests().too_fast, 0, "an object changes once a second");
}

/// While a topic takes nothing, the oldest end is tried each minute and no other.
#[tokio::test(start_paused = true)]
async fn the_oldest_is_tried_until_its_topic_takes_something() {
    let world = World::new();
    for (job, second) in [("late", 9), ("first", 1), ("second", 5)] {
        world.store(&ending(job, second)).await;
    }
    world.outcomes.is_down.store(true, Ordering::SeqCst);
    let (sweep, mut memory) = (world.sweep("a"), Memory::default());
    for _ in 0..3 {
        pass(Duration::from_secs(60)).await;
        let swept = sweep.turn(&mut memory, &stop()).await.unwrap();
        assert_eq!(swept, Swept { written: 0, left: 3, refused: 0 });
    }
    assert_eq!(world.published(), [(DEAD, "first".to_owned())], "a letter is written once");
    world.outcomes.is_down.store(false, Ordering::SeqCst);
    pass(Duration::from_secs(60)).await;
    sweep.turn(&mut memory, &stop()).await.unwrap();
    assert_eq!(world.left().await, 0);
    let published = world.published();
    assert_eq!(published[..2], [(DEAD, "first".to_owned()), (OUTCOMES, "first".to_owned())]);
    let mut all = published;
    all.sort();
    let mut expected = told(&["first", "late", "second"]);
    expected.sort();
    assert_eq!(all, expected, "each part once");
}

/// Two replicas sweep at the same moment.
#[tokio::test(start_paused = true)]
async fn two_sweepers_write_each_part_once() {
    for latency in [0, 20, 300] {
        let world = World::new();
        for n in 0..20 {
            world.store(&ending(&format!("j{n}"), n)).await;
        }
        world.bucket.set_latency(Duration::from_millis(latency));
        let stop = stop();
        let run = |name: &str| tokio::spawn(world.sweep(name).run(stop.clone()));
        let sweeps = [run("a"), run("bb"), run("ccc")];
        pass(Duration::from_secs(30 * 60)).await;
        stop.cancel();
        for sweep in sweeps {
            sweep.await.unwrap();
        }
        let mut published = world.published();
        let count = published.len();
        published.sort();
        published.dedup();
        assert_eq!((count, published.len(), world.left().await), (40, 40, 0), "{latency} ms");
    }
}

/// A sweeper dies after a letter and before it has noted that: ten minutes later another
/// one goes on. Only that letter comes twice.
#[tokio::test(start_paused = true)]
async fn what_a_dead_sweeper_left_is_taken_over() {
    let world = World::new();
    world.store(&ending("j", 1)).await;
    pass(Duration::from_secs(60)).await;
    let dying = world.sweep("a");
    let task = tokio::spawn(async move {
        let mut memory = Memory::default();
        dying.turn(&mut memory, &CancellationToken::new()).await.unwrap();
    });
    // The claim, what is remembered, and a second later the rewrite and the letter.
    pass(Duration::from_millis(1500)).await;
    task.abort();
    assert_eq!(world.published(), [(DEAD, "j".to_owned())]);
    let (other, mut memory) = (world.sweep("bb"), Memory::default());
    let mut minutes = 0;
    while world.left().await > 0 {
        other.turn(&mut memory, &stop()).await.unwrap();
        pass(Duration::from_secs(60)).await;
        minutes += 1;
        assert!(minutes < 20);
    }
    assert!((10..13).contains(&minutes), "{minutes}");
    let letter = (DEAD, "j".to_owned());
    assert_eq!(world.published(), [letter.clone(), letter, (OUTCOMES, "j".to_owned())]);
}

/// Objects that are not for this worker, or not what they should be, stay untouched.
#[tokio::test(start_paused = true)]
async fn what_is_not_ones_own_is_left() {
    let world = World::new();
    let elsewhere = StoredEnding {
        rest: vec![Writable::Outcome {
            topic: "projects/p/topics/of-others".into(),
            message: outgoing(&json!({"job": "other", "user": "ann"})),
        }],
        ..ending("other", 1)
    };
    let refused = StoredEnding { refused: true, ..ending("refused", 1) };
    for ending in [&elsewhere, &refused] {
        world.store(ending).await;
    }
    let put = async |name: &str, content: Bytes| {
        world.bucket.put(name, content, Generation::ABSENT).await.unwrap();
    };
    put("endings/ann/broken.json", Bytes::from_static(b"{")).await;
    // A real one that somebody has copied to another user's name.
    world.store(&ending("copied", 1)).await;
    let names = world.bucket.list("endings/ann/", None).await.unwrap().objects;
    let own = ending("copied", 1).object_name();
    let (name, generation) = names.into_iter().find(|(name, _)| *name == own).unwrap();
    let content = world.bucket.get(&name).await.unwrap().unwrap().content;
    world.bucket.settle();
    world.bucket.delete(&name, generation).await.unwrap();
    put(&name.replace("/ann/", "/bob/"), content).await;
    // And ends that would write what is not theirs.
    for (job, part) in [
        ("token", Writable::Remember { object: "tokens/bob.json".into(), content: Bytes::new() }),
        ("memory", Writable::Remember { object: "done/bob/x.json".into(), content: Bytes::new() }),
        (
            "letter",
            Writable::DeadLetter {
                topic: DEAD.into(),
                message: outgoing(&json!({"id": "x", "user": "bob", "kind": "api"})),
            },
        ),
        (
            "outcome",
            Writable::Outcome {
                topic: OUTCOMES.into(),
                message: outgoing(&json!({"job": "x", "user": "bob"})),
            },
        ),
    ] {
        world.store(&StoredEnding { rest: vec![part], ..ending(job, 1) }).await;
    }
    let before = world.bucket.list("endings/", None).await.unwrap();
    pass(Duration::from_secs(60)).await;
    let swept = world.sweep("a").turn(&mut Memory::default(), &stop()).await.unwrap();
    assert_eq!(swept, Swept { written: 0, left: 8, refused: 1 });
    assert_eq!(world.published(), []);
    assert_eq!(world.bucket.list("endings/", None).await.unwrap(), before);
    assert!(world.bucket.get("tokens/bob.json").await.unwrap().is_none());
}

/// A replica whose stored ends another one has written must not stay paused: nothing else
/// would tell it that the topic takes messages again.
#[tokio::test(start_paused = true)]
async fn a_pause_ends_when_nothing_waits_any_more() {
    let world = World::new();
    let (sweep, mut memory) = (world.sweep("a"), Memory::default());
    sweep.turn(&mut memory, &stop()).await.unwrap();
    assert_eq!(world.take_seen(), ["nothing waits"]);
    world.store(&ending("j", 1)).await;
    world.outcomes.is_down.store(true, Ordering::SeqCst);
    pass(Duration::from_secs(60)).await;
    sweep.turn(&mut memory, &stop()).await.unwrap();
    let seen = world.take_seen();
    assert!(seen.contains(&DEAD.to_owned()), "{seen:?}");
    let not_yet = [OUTCOMES.to_owned(), "nothing waits".to_owned()];
    assert!(!seen.iter().any(|seen| not_yet.contains(seen)), "the outcomes topic takes nothing");
    world.outcomes.is_down.store(false, Ordering::SeqCst);
    pass(Duration::from_secs(60)).await;
    world.sweep("bb").turn(&mut Memory::default(), &stop()).await.unwrap();
    world.take_seen();
    sweep.turn(&mut memory, &stop()).await.unwrap();
    assert_eq!(world.take_seen(), ["nothing waits"]);
}

/// Every write of the object may fail or lose its answer; every part is written, and twice
/// only where an answer was lost.
#[tokio::test(start_paused = true)]
async fn failing_writes_lose_nothing() {
    for fault in [WriteFault::NotApplied, WriteFault::ReplyLost, WriteFault::ConflictWithItself] {
        for write in 0..4 {
            let world = World::new();
            world.store(&ending("j", 1)).await;
            for _ in 0..write {
                world.bucket.fail_write("endings/", WriteFault::Slow(Duration::ZERO));
            }
            world.bucket.fail_write("endings/", fault);
            let stop = stop();
            let sweep = tokio::spawn(world.sweep("a").run(stop.clone()));
            pass(Duration::from_secs(30 * 60)).await;
            stop.cancel();
            sweep.await.unwrap();
            assert_eq!(world.left().await, 0, "{fault:?} at {write}");
            let mut published = world.published();
            published.dedup();
            assert_eq!(published, told(&["j"]), "{fault:?} at {write}");
            let twice = world.published().len() - 2;
            assert!(twice == 0, "{fault:?} at {write}: {twice}");
        }
    }
}

/// A topic that refuses one message takes others: that one is left for people, the others
/// are written.
#[tokio::test(start_paused = true)]
async fn what_is_refused_for_itself_is_not_tried_again() {
    let world = World::new();
    for (job, second) in [("odd", 1), ("j", 2)] {
        world.store(&ending(job, second)).await;
    }
    let (sweep, mut memory) = (world.sweep("a"), Memory::default());
    for _ in 0..5 {
        pass(Duration::from_secs(60)).await;
        sweep.turn(&mut memory, &stop()).await.unwrap();
    }
    let expected = [(DEAD, "odd"), (DEAD, "j"), (OUTCOMES, "j")];
    assert_eq!(world.published(), expected.map(|(topic, job)| (topic, job.to_owned())));
    let left = world.bucket.list("endings/", None).await.unwrap().objects;
    let content = world.bucket.get(&left[0].0).await.unwrap().unwrap().content;
    let stored = StoredEnding::decode(&left[0].0, &content, &Sealing::default()).unwrap();
    assert!(stored.refused && stored.rest.len() == 1 && left.len() == 1, "{stored:?}");
    let other = world.sweep("bb").turn(&mut Memory::default(), &stop()).await.unwrap();
    assert_eq!(other, Swept { written: 0, left: 1, refused: 1 });
}
