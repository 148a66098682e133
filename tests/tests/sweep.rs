//! Sweeps of very many parked jobs, over an in-memory bucket with a latency and in virtual time:
//! one replica at a time, several users at a time, and on from where another one was.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::SignedDuration;
use serde_json::{Value, json};
use shared::ConsentReason;
use shared::ports::{Bucket as _, Clock as _, Randomness};
use tests::memory::{Fleet, Heard, VirtualClock, pass};
use tokio_util::sync::CancellationToken;
use worker::job::{Job, Received};
use worker::parking::{Parked, Parking};
use worker::sweep::{Memory, Sweep, Swept};

const LATENCY: Duration = Duration::from_millis(20);
/// How many users a sweep goes through at a time.
const AT_ONCE: usize = 24;

fn clock() -> VirtualClock {
    VirtualClock::new(SignedDuration::ZERO)
}

fn sweep(fleet: &Fleet, name: &str, topic: &Heard) -> Sweep {
    let store = fleet.replica(name);
    Sweep {
        bucket: store.bucket(),
        store,
        jobs: Arc::new(topic.clone()),
        unknown: None,
        events: None,
        clock: Arc::new(clock()),
        random: Arc::new(Randomness::seeded(name.len() as u64)),
        every: Duration::from_secs(600),
    }
}

fn user(number: usize) -> String {
    format!("user-{number:05}")
}

/// Parks so many jobs of each of so many users, for `why`.
async fn park(fleet: &Fleet, users: usize, jobs: usize, why: &ConsentReason) {
    let store = fleet.replica("parker");
    let parking = Parking::new(store.bucket(), store);
    for number in 0..users {
        for job in 0..jobs {
            let id = format!("{}-{job}", user(number));
            let received = Received {
                data: json!({"id": id, "user": user(number), "kind": "k"}).to_string().into(),
                attributes: std::collections::HashMap::new(),
                ordering_key: String::new(),
                message_id: format!("{job}"),
                publish_time: Some(jiff::Timestamp::UNIX_EPOCH),
                delivery_attempt: None,
            };
            let job = Job::of(&received).unwrap();
            let parked = parking.park(&job, &received, why, clock().wall()).await.unwrap();
            assert_eq!(parked, Parked::Stored { moved: false });
        }
    }
}

/// Parks jobs of users who have consented since.
async fn due(users: usize, jobs: usize) -> (Fleet, Heard) {
    let fleet = Fleet::new(false);
    park(&fleet, users, jobs, &ConsentReason::Unknown).await;
    for number in 0..users {
        fleet.user(&user(number)).await;
    }
    fleet.bucket.set_latency(LATENCY);
    (fleet, Heard::new("jobs"))
}

/// The IDs of the jobs that were published, each of them once.
fn published(topic: &Heard) -> BTreeSet<String> {
    let id = |job: Value| job["id"].as_str().unwrap().to_owned();
    let all: Vec<String> = topic.outcomes().into_iter().map(id).collect();
    let once: BTreeSet<String> = all.iter().cloned().collect();
    assert_eq!(once.len(), all.len(), "some went on twice");
    once
}

/// How long all requests since the last call take one after another.
fn one_after_another(fleet: &Fleet) -> Duration {
    let bucket = &fleet.bucket;
    let requests = bucket.take_requests();
    let all = requests.reads() + requests.writes();
    let all = all + bucket.take_deletions() + bucket.take_listings();
    LATENCY * u32::try_from(all).unwrap()
}

async fn timed(fleet: &Fleet, sweep: &Sweep, memory: &mut Memory) -> (Swept, Duration, Duration) {
    one_after_another(fleet);
    let began = clock().monotonic();
    let swept = sweep.sweep(memory, &CancellationToken::new()).await.unwrap();
    (swept, clock().monotonic().since(began), one_after_another(fleet))
}

/// 20,000 parked jobs behind a latency of 20 ms: of users whose jobs go on, of one such user, of
/// users without a record, and of users who lack a scope, at first and then again.
#[tokio::test(start_paused = true)]
async fn a_sweep_is_ten_times_as_fast_as_its_requests_one_after_another() {
    for (users, jobs) in [(2000, 10), (1, 20_000)] {
        let (fleet, topic) = due(users, jobs).await;
        let sweep = sweep(&fleet, "a", &topic);
        let (swept, took, apart) = timed(&fleet, &sweep, &mut Memory::default()).await;
        println!("{users} users with {jobs} jobs that go on: {took:.1?} for {apart:.1?}");
        assert_eq!(swept.resumed, 20_000);
        assert_eq!(published(&topic).len(), 20_000);
        assert!(took * 10 <= apart, "{took:?} for {apart:?}");
    }
    let fleet = Fleet::new(false);
    park(&fleet, 20_000, 1, &ConsentReason::Unknown).await;
    fleet.bucket.set_latency(LATENCY);
    let topic = Heard::new("jobs");
    let sweeping = sweep(&fleet, "a", &topic);
    let (swept, took, apart) = timed(&fleet, &sweeping, &mut Memory::default()).await;
    println!("20,000 unknown users: {took:.1?}");
    assert_eq!((swept.jobs, swept.users), (20_000, 20_000));
    // One read of each record and each job would be 800 s.
    assert!(took <= Duration::from_secs(1) && apart <= Duration::from_secs(1), "{took:?}");

    let fleet = Fleet::new(false);
    for number in 0..1000 {
        fleet.user(&user(number)).await;
    }
    park(&fleet, 1000, 20, &ConsentReason::MissingScopes(vec!["more".into()])).await;
    fleet.bucket.set_latency(LATENCY);
    let sweeping = sweep(&fleet, "a", &topic);
    let mut memory = Memory::default();
    let (swept, took, apart) = timed(&fleet, &sweeping, &mut memory).await;
    println!("1000 users who lack a scope: {took:.1?} for {apart:.1?}");
    assert_eq!((swept.jobs, swept.users, swept.resumed), (20_000, 1000, 0));
    assert!(took * 10 <= apart, "{took:?} for {apart:?}");
    let (again, took, _) = timed(&fleet, &sweeping, &mut memory).await;
    println!("and again: {took:.1?}");
    assert_eq!(again, swept);
    assert!(took <= Duration::from_secs(1), "nothing has changed: {took:?}");
    assert!(topic.is_empty());
}

/// However long a sweep takes, no other replica begins one meanwhile.
#[tokio::test(start_paused = true)]
async fn one_replica_sweeps_at_a_time() {
    let (fleet, topic) = due(3000, 1).await;
    fleet.bucket.set_latency(LATENCY * 50);
    let (a, b) = (sweep(&fleet, "a", &topic), sweep(&fleet, "b2", &topic));
    let sweeping = tokio::spawn(async move {
        let swept = a.turn(&mut None, &mut Memory::default(), &CancellationToken::new()).await;
        (swept.unwrap().unwrap(), clock().monotonic())
    });
    pass(Duration::from_secs(60)).await;
    let (mut seen, mut memory) = (None, Memory::default());
    let stop = CancellationToken::new();
    let mut looks = 0;
    while !sweeping.is_finished() {
        assert_eq!(b.turn(&mut seen, &mut memory, &stop).await.unwrap(), None);
        looks += 1;
        pass(Duration::from_secs(60)).await;
    }
    let (swept, _) = sweeping.await.unwrap();
    println!("{looks} looks of another replica");
    assert!(looks > 20, "it takes far longer than an interval and than a claim lives");
    assert_eq!(swept.resumed, 3000);
    assert_eq!(published(&topic).len(), 3000);
}

/// A replica that is stopped leaves the rest to whoever looks next, and one that dies to whoever
/// has seen its marker stand still; neither begins from the start.
#[tokio::test(start_paused = true)]
async fn another_replica_goes_on_where_a_sweep_was() {
    for is_stopped in [true, false] {
        let (fleet, topic) = due(3000, 1).await;
        fleet.bucket.set_latency(LATENCY * 10);
        let (first, stop) = (sweep(&fleet, "a", &topic), CancellationToken::new());
        let task = tokio::spawn({
            let stop = stop.clone();
            async move { first.turn(&mut None, &mut Memory::default(), &stop).await }
        });
        pass(Duration::from_secs(250)).await;
        let second = sweep(&fleet, "b2", &topic);
        let never = CancellationToken::new();
        let (mut seen, mut memory) = (None, Memory::default());
        let mut turn = async || second.turn(&mut seen, &mut memory, &never).await.unwrap();
        assert_eq!(turn().await, None, "the first is at work");
        if is_stopped {
            stop.cancel();
            let swept = task.await.unwrap().unwrap().unwrap();
            assert_eq!(swept.resumed, topic.len() as u64, "what was begun has ended");
        } else {
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
            // What it had under way ends by itself or is taken over: claims are left here.
            assert_eq!(turn().await, None);
            pass(Duration::from_secs(600)).await;
        }
        let before = topic.len();
        assert!((1000..2900).contains(&before), "{before}");
        // Users of the part that was swept who park again wait for the next sweep.
        let marker = fleet.bucket.get("sweeps/parked.json").await.unwrap().unwrap();
        let marker: Value = serde_json::from_slice(&marker.content).unwrap();
        let next = marker["progress"]["next"].as_str().unwrap().to_owned();
        assert!(next.as_str() > "parked/user-0", "{next}");
        let swept = turn().await.expect("it is free");
        println!("{before} by the first, {} by the second, from {next}", swept.resumed);
        let all = published_at_least_once(&topic);
        let missing = 3000 - all.len();
        if is_stopped {
            assert_eq!((missing, topic.len()), (0, 3000), "each once");
        } else {
            assert!(missing <= AT_ONCE, "those whose claims are held: {missing}");
            assert!(topic.len() <= all.len() + AT_ONCE);
        }
    }
}

fn published_at_least_once(topic: &Heard) -> BTreeSet<String> {
    let id = |job: Value| job["id"].as_str().unwrap().to_owned();
    topic.outcomes().into_iter().map(id).collect()
}

/// Replicas that look at the same moment: one of them sweeps.
#[tokio::test(start_paused = true)]
async fn of_replicas_that_look_together_one_sweeps() {
    let (fleet, topic) = due(30, 1).await;
    let sweeps: Vec<Sweep> = (0..8).map(|n| sweep(&fleet, &"r".repeat(n + 1), &topic)).collect();
    let turns = sweeps.iter().map(|sweep| async move {
        sweep.turn(&mut None, &mut Memory::default(), &CancellationToken::new()).await.unwrap()
    });
    let swept: Vec<Swept> = join_all(turns).await.into_iter().flatten().collect();
    assert_eq!(swept.len(), 1);
    assert_eq!(published(&topic).len(), 30);
}
