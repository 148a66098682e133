//! Parked jobs and logins that come at the worst moment, over an in-memory bucket
//! and in virtual time.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use jiff::SignedDuration;
use serde_json::json;
use shared::adapters::RetryingBucket;
use shared::ports::{Bucket, BucketError, Clock as _, Generation, Randomness};
use shared::{ConsentReason, Grant, TokenStore, UserId};
use tests::memory::{AtGate, Fleet, GatedBucket, VirtualClock};
use tokio_util::sync::CancellationToken;
use worker::claim::Sighting;
use worker::job::{Job, Received};
use worker::parking::{Claim, Claimed, Parked, Parking, Renewed, prefix_of};
use worker::pubsub::{Outgoing, PublishError, Topic as JobTopic};
use worker::resuming::resume_user;
use worker::sweep::{Memory, Sweep, Swept};

/// A topic that remembers what it was given, and refuses from a message on.
#[derive(Debug, Default)]
struct Topic {
    messages: Mutex<Vec<String>>,
    refuses: Mutex<Option<String>>,
}

impl Topic {
    fn jobs(&self) -> Vec<String> {
        self.messages.lock().unwrap().clone()
    }
}

impl JobTopic for Topic {
    fn name(&self) -> &'static str {
        "t"
    }

    fn publish(&self, message: Outgoing) -> BoxFuture<'static, Result<String, PublishError>> {
        let job: serde_json::Value = serde_json::from_slice(&message.data).unwrap();
        let id = job["id"].as_str().unwrap().to_owned();
        // As Pub/Sub's client does, which pauses the key of a message that failed.
        let refuses = self.refuses.lock().unwrap();
        if refuses.as_ref().is_some_and(|first| id[..3] == first[..3] && id >= *first) {
            let why = "refused for the test".to_owned();
            let topic = "t".to_owned();
            return async { Err(PublishError::Unavailable { topic, why, source: None }) }.boxed();
        }
        self.messages.lock().unwrap().push(id.clone());
        async { Ok(id) }.boxed()
    }
}

fn received(user: &str, id: &str, second: i64) -> Received {
    Received {
        data: json!({"id": id, "user": user, "kind": "profile"}).to_string().into(),
        attributes: HashMap::new(),
        ordering_key: user.to_owned(),
        message_id: format!("m-{id}"),
        publish_time: Some(jiff::Timestamp::from_second(second).unwrap()),
        delivery_attempt: None,
    }
}

fn unknown() -> ConsentReason {
    ConsentReason::Unknown
}

/// As the store hands it out, which tries again.
fn bucket(fleet: &Fleet) -> Arc<dyn Bucket> {
    retrying(Arc::<tests::memory::FaultyBucket>::clone(&fleet.bucket))
}

fn retrying(inner: Arc<dyn Bucket>) -> Arc<RetryingBucket> {
    let pauses = (Duration::from_millis(100), Duration::from_secs(5));
    let (clock, random) = (Arc::new(clock()), Arc::new(Randomness::seeded(1)));
    Arc::new(RetryingBucket::new(inner, clock, random, pauses, Duration::from_secs(45)))
}

fn clock() -> VirtualClock {
    VirtualClock::new(SignedDuration::ZERO)
}

/// The bucket as the parker sees it: `happens` comes before its request of this number. The
/// second value counts its requests.
fn interrupted(
    inner: Arc<dyn Bucket>,
    before: usize,
    happens: impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static,
) -> (Arc<GatedBucket>, Arc<AtomicUsize>) {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let bucket = GatedBucket::new(inner, move |_| {
        if counted.fetch_add(1, Ordering::SeqCst) == before {
            happens().map(Ok).boxed()
        } else {
            async { Ok(()) }.boxed()
        }
    });
    (Arc::new(bucket), requests)
}

/// A bucket that takes one mutation per second and name, as the store hands it out, which
/// tries again.
fn once_per_second(fleet: &Fleet) -> Arc<RetryingBucket> {
    let inner: Arc<dyn Bucket> = Arc::<tests::memory::FaultyBucket>::clone(&fleet.bucket);
    let changed_at = Mutex::new(HashMap::<String, tokio::time::Instant>::new());
    retrying(Arc::new(GatedBucket::new(inner, move |request| {
        let AtGate::Change(name) = request else { return async { Ok(()) }.boxed() };
        let now = tokio::time::Instant::now();
        let mut changed_at = changed_at.lock().unwrap();
        if changed_at.get(name).is_some_and(|at| now - *at < Duration::from_secs(1)) {
            return async { Err(BucketError::Throttled) }.boxed();
        }
        changed_at.insert(name.to_owned(), now);
        async { Ok(()) }.boxed()
    })))
}

/// The states from which a login wakes a job up.
#[derive(Debug, Clone, Copy)]
enum Before {
    Unknown,
    Revoked,
    ScopeMissing,
    Blocked,
}

impl Before {
    async fn make(self, fleet: &Fleet) -> ConsentReason {
        match self {
            Self::Unknown => {
                fleet.login(&ann());
                ConsentReason::Unknown
            }
            Self::Revoked => {
                fleet.user("ann").await;
                fleet.provider.revoke("ann");
                tests::memory::pass(Duration::from_secs(4000)).await;
                let error = fleet.replica("finds-out").get_credentials(&ann()).await.unwrap_err();
                let shared::Error::NeedsConsent(why) = error else { panic!("{error}") };
                why
            }
            Self::ScopeMissing => {
                fleet.user("ann").await;
                ConsentReason::MissingScopes(vec!["more".into()])
            }
            Self::Blocked => {
                fleet.user("ann").await;
                fleet.provider.deny("ann", Some("admin_policy_enforced"));
                tests::memory::pass(Duration::from_secs(4000)).await;
                let error = fleet.replica("finds-out").get_credentials(&ann()).await.unwrap_err();
                let shared::Error::NeedsConsent(why) = error else { panic!("{error}") };
                why
            }
        }
    }
}

fn ann() -> UserId {
    UserId::new("ann").unwrap()
}

async fn log_in(store: &TokenStore, grant: Grant) {
    let scopes = vec!["more".to_owned(), "openid".to_owned()];
    store.set_credentials(&ann(), Grant { scopes, ..grant }).await.unwrap();
}

/// A login between any two steps of parking: afterwards the job was published
/// again, or its delivery goes on. It never sleeps beside an active credential, and it runs
/// once, though what was written a moment ago cannot be deleted yet.
///
/// It fails without the second look of `Parking::park`.
#[tokio::test(start_paused = true)]
async fn a_login_at_any_moment_of_parking_wakes_the_job() {
    for (before, is_known_absent) in [
        (Before::Unknown, false),
        (Before::Unknown, true),
        (Before::Revoked, false),
        (Before::ScopeMissing, false),
        (Before::Blocked, false),
    ] {
        let mut moments = 0;
        for step in 0.. {
            let fleet = Fleet::new(false);
            let why = before.make(&fleet).await;
            let topic = Arc::new(Topic::default());
            let other = fleet.replica("web");
            let slow = once_per_second(&fleet);
            let happens = {
                let all = (fleet.clone(), Arc::clone(&topic), other, Arc::clone(&slow));
                move || {
                    let (fleet, topic, other, slow) = all.clone();
                    async move {
                        log_in(&other, fleet.login(&ann())).await;
                        resume_user(&*slow, &other, &*topic, &clock(), &ann()).await.unwrap();
                    }
                    .boxed()
                }
            };
            let (seen, requests) = interrupted(Arc::<RetryingBucket>::clone(&slow), step, happens);
            let endpoint: Arc<dyn shared::ports::TokenEndpoint> =
                Arc::<tests::memory::Provider>::clone(&fleet.provider);
            let reader = TokenStore::builder(Arc::<GatedBucket>::clone(&seen), endpoint)
                .clock(Arc::new(clock()))
                .build()
                .unwrap();
            let parking = Parking::new(Arc::<GatedBucket>::clone(&seen), reader);
            if is_known_absent {
                parking.note_absent(&ann(), clock().wall());
            }
            let received = received("ann", "job", 1);
            let job = Job::of(&received).unwrap();
            let parked = parking.park(&job, &received, &why, clock().wall()).await.unwrap();
            let happened = requests.load(Ordering::SeqCst) > step;
            if parked == (Parked::Stored { moved: true }) {
                let worker = fleet.replica("worker");
                resume_user(&*slow, &worker, &*topic, &clock(), &ann()).await.unwrap();
            }
            let left = fleet.bucket.list("parked/", None).await.unwrap().objects;
            if !happened {
                let stored = Parked::Stored { moved: false };
                assert_eq!((parked, left.len()), (stored, 1), "nobody logged in");
                break;
            }
            moments += 1;
            let published = topic.jobs().len();
            assert!(
                left.is_empty() && (parked == Parked::RunIt || published == 1),
                "{before:?}, login before request {step}: {parked:?}, {published} published, {left:?}"
            );
            assert!(published + usize::from(parked == Parked::RunIt) == 1, "and only once");
        }
        let requests = if is_known_absent { 2 } else { 3 };
        assert_eq!(moments, requests, "{before:?}: two looks and the write between them");
    }
}

async fn park(fleet: &Fleet, user: &str, id: &str, second: i64) {
    let store = fleet.replica("worker");
    let received = received(user, id, second);
    let job = Job::of(&received).unwrap();
    let parking = Parking::new(bucket(fleet), store);
    let parked = parking.park(&job, &received, &unknown(), clock().wall()).await.unwrap();
    assert_eq!(parked, Parked::Stored { moved: false });
}

fn sweep(fleet: &Fleet, name: &str, topic: &Arc<Topic>) -> Sweep {
    Sweep {
        bucket: bucket(fleet),
        store: fleet.replica(name),
        jobs: Arc::<Topic>::clone(topic),
        unknown: None,
        events: None,
        clock: Arc::new(clock()),
        random: Arc::new(Randomness::seeded(name.len() as u64)),
        every: Duration::from_secs(600),
    }
}

fn names(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|n| format!("ann-{n:02}")).collect()
}

/// One job cannot be published: what came before it went on, and nothing overtook
/// it; another user's jobs did not wait for it.
#[tokio::test(start_paused = true)]
async fn a_sweep_keeps_the_order_and_stops_a_user_at_the_first_failure() {
    let fleet = Fleet::new(false);
    // More than two batches, stored in another order than published.
    for n in (0..40).rev() {
        park(&fleet, "ann", &format!("ann-{n:02}"), n).await;
    }
    park(&fleet, "zoe", "zoe-00", 1).await;
    park(&fleet, "nobody", "waits", 1).await;
    fleet.user("ann").await;
    fleet.user("zoe").await;
    let topic = Arc::new(Topic::default());
    *topic.refuses.lock().unwrap() = Some("ann-20".into());
    let sweep = sweep(&fleet, "a", &topic);
    let stop = CancellationToken::new();
    let swept = sweep.sweep(&mut Memory::default(), &stop).await.unwrap();
    assert_eq!(swept, Swept { resumed: 21, jobs: 21, users: 2, ..Swept::default() });
    let of = |user: &str| topic.jobs().into_iter().filter(|id| id.starts_with(user)).collect();
    let (anns, zoes): (Vec<_>, Vec<_>) = (of("ann"), of("zoe"));
    assert_eq!((anns, zoes), (names(0, 20), vec!["zoe-00".to_owned()]));
    let left = fleet.bucket.list(&prefix_of(&ann()), None).await.unwrap().objects;
    assert_eq!(left.len(), 20, "what was not published is not deleted");
    *topic.refuses.lock().unwrap() = None;
    let swept = sweep.sweep(&mut Memory::default(), &stop).await.unwrap();
    assert_eq!(swept, Swept { resumed: 20, jobs: 1, users: 1, ..Swept::default() });
    assert_eq!(topic.jobs()[21..], names(20, 40));
}

/// A topic that takes nothing is not asked for every user.
#[tokio::test(start_paused = true)]
async fn a_sweep_gives_up_when_nobodys_jobs_go_on() {
    let fleet = Fleet::new(false);
    for n in 0..9 {
        let user = format!("ann-{n}");
        park(&fleet, &user, &format!("ann-{n}"), 1).await;
        fleet.user(&user).await;
    }
    let topic = Arc::new(Topic::default());
    *topic.refuses.lock().unwrap() = Some("ann-0".into());
    let stop = CancellationToken::new();
    let error = sweep(&fleet, "a", &topic).sweep(&mut Memory::default(), &stop).await.unwrap_err();
    assert!(error.to_string().contains("refused for the test"), "{error}");
    assert_eq!(fleet.bucket.list("parked/", None).await.unwrap().objects.len(), 9);
}

/// Its deletion fails after it was published: the claim stays and says so, and whoever takes
/// it over deletes the job without publishing it. A claim that does so of other users' jobs
/// is not believed.
#[tokio::test(start_paused = true)]
async fn what_is_not_deleted_does_not_go_on_again() {
    let fleet = Fleet::new(false);
    park(&fleet, "ann", "one", 1).await;
    fleet.user("ann").await;
    let topic = Arc::new(Topic::default());
    let (sweep, mut claims) = (sweep(&fleet, "a", &topic), Memory::default());
    let stop = CancellationToken::new();
    fleet.bucket.refuse_deletes(true);
    let swept = sweep.sweep(&mut claims, &stop).await.unwrap();
    assert_eq!(swept, Swept { resumed: 1, jobs: 0, users: 0, ..Swept::default() });
    park(&fleet, "bob", "two", 1).await;
    let bobs = left(&fleet).await.into_iter().find(|name| name.starts_with("parked/bob/"));
    let bobs = bobs.unwrap();
    let at = fleet.bucket.get(&bobs).await.unwrap().unwrap().generation;
    let claim = format!("{}claim", prefix_of(&ann()));
    let noted = fleet.bucket.get(&claim).await.unwrap().unwrap();
    let mut forged: serde_json::Value = serde_json::from_slice(&noted.content).unwrap();
    forged["published"].as_array_mut().unwrap().push(json!([bobs, at.0]));
    tests::memory::pass(Duration::from_secs(2)).await;
    fleet.bucket.put(&claim, forged.to_string().into(), noted.generation).await.unwrap();
    assert_eq!(sweep.sweep(&mut claims, &stop).await.unwrap().resumed, 0);
    fleet.bucket.refuse_deletes(false);
    tests::memory::pass(Duration::from_secs(600)).await;
    assert_eq!(sweep.sweep(&mut claims, &stop).await.unwrap().resumed, 0);
    assert_eq!(topic.jobs(), ["one"]);
    assert_eq!(left(&fleet).await, [bobs], "bob has not consented");
}

/// A job that waits for a scope goes on when the scopes change, and not before.
#[tokio::test(start_paused = true)]
async fn a_job_that_waits_for_a_scope_is_not_resumed_before_scopes_change() {
    let fleet = Fleet::new(false);
    fleet.user("ann").await;
    let received = received("ann", "scoped", 1);
    let why = ConsentReason::MissingScopes(vec!["more".into()]);
    let parking = Parking::new(bucket(&fleet), fleet.replica("worker"));
    let job = Job::of(&received).unwrap();
    parking.park(&job, &received, &why, clock().wall()).await.unwrap();
    let topic = Arc::new(Topic::default());
    let sweep = sweep(&fleet, "a", &topic);
    let stop = CancellationToken::new();
    let waits = Swept { resumed: 0, jobs: 1, users: 1, ..Swept::default() };
    assert_eq!(sweep.sweep(&mut Memory::default(), &stop).await.unwrap(), waits);
    log_in(&fleet.replica("web"), fleet.login(&ann())).await;
    let went_on = Swept { resumed: 1, jobs: 0, users: 0, ..Swept::default() };
    assert_eq!(sweep.sweep(&mut Memory::default(), &stop).await.unwrap(), went_on);
}

/// What somebody remembers of a marker who has looked and found none.
fn absent() -> Sighting {
    Sighting { generation: Generation::ABSENT, at: clock().monotonic() }
}

#[tokio::test(start_paused = true)]
async fn replicas_take_turns() {
    let fleet = Fleet::new(false);
    park(&fleet, "ann", "one", 1).await;
    let topic = Arc::new(Topic::default());
    let (a, b) = (sweep(&fleet, "a", &topic), sweep(&fleet, "b2", &topic));
    let stop = CancellationToken::new();
    let (mut seen_by_a, mut seen_by_b) = (None, Some(absent()));
    let found = Swept { resumed: 0, jobs: 1, users: 1, ..Swept::default() };
    assert_eq!(a.turn(&mut seen_by_a, &mut Memory::default(), &stop).await.unwrap(), Some(found));
    assert_eq!(
        b.turn(&mut seen_by_b, &mut Memory::default(), &stop).await.unwrap(),
        None,
        "a has swept meanwhile"
    );
    fleet.user("ann").await;
    assert_eq!(topic.jobs().len(), 0);
    // Nobody swept since b looked.
    let went_on = Swept { resumed: 1, jobs: 0, users: 0, ..Swept::default() };
    assert_eq!(b.turn(&mut seen_by_b, &mut Memory::default(), &stop).await.unwrap(), Some(went_on));
    assert_eq!(a.turn(&mut seen_by_a, &mut Memory::default(), &stop).await.unwrap(), None);
    assert_eq!(topic.jobs(), ["one"]);
    assert!(fleet.bucket.list("parked/", None).await.unwrap().objects.is_empty());
}

/// A replica that dies while it sweeps costs the fleet one turn.
#[tokio::test(start_paused = true)]
async fn somebody_sweeps_after_a_replica_that_died_sweeping() {
    let fleet = Fleet::new(false);
    park(&fleet, "ann", "one", 1).await;
    fleet.user("ann").await;
    let topic = Arc::new(Topic::default());
    let stop = CancellationToken::new();
    let mut seen = Some(absent());
    // It takes its turn, and its first listing never ends.
    let dies = sweep(&fleet, "dies", &topic);
    fleet.bucket.set_latency(Duration::from_secs(1));
    let dying = tokio::spawn({
        let stop = stop.clone();
        async move { dies.turn(&mut None, &mut Memory::default(), &stop).await }
    });
    tests::memory::pass(Duration::from_millis(2500)).await;
    dying.abort();
    assert!(dying.await.unwrap_err().is_cancelled());
    fleet.bucket.set_latency(Duration::ZERO);
    fleet.bucket.settle();
    let alive = sweep(&fleet, "alive", &topic);
    assert_eq!(alive.turn(&mut seen, &mut Memory::default(), &stop).await.unwrap(), None);
    tests::memory::pass(Duration::from_secs(599)).await;
    assert_eq!(alive.turn(&mut seen, &mut Memory::default(), &stop).await.unwrap(), None);
    tests::memory::pass(Duration::from_secs(1)).await;
    assert_eq!(
        alive.turn(&mut seen, &mut Memory::default(), &stop).await.unwrap().unwrap().resumed,
        1
    );
}

/// Eight replicas for a day: about one sweep per interval, and a job is resumed
/// within two; nothing is published twice.
#[tokio::test(start_paused = true)]
async fn a_fleet_sweeps_about_once_per_interval() {
    let fleet = Fleet::new(false);
    let topic = Arc::new(Topic::default());
    let stop = CancellationToken::new();
    let names: Vec<String> = (0..8).map(|n| "r".repeat(n + 1)).collect();
    let replicas: Vec<_> = names
        .iter()
        .map(|name| tokio::spawn(sweep(&fleet, name, &topic).run(stop.clone())))
        .collect();
    tests::memory::pass(Duration::from_secs(60)).await;
    fleet.bucket.take_requests();
    for hour in 0..24 {
        let id = format!("job-{hour:02}");
        park(&fleet, &id, &id, 1).await;
        fleet.user(&id).await;
        tests::memory::pass(Duration::from_secs(1300)).await;
        assert_eq!(topic.jobs().last(), Some(&id), "within two intervals");
        tests::memory::pass(Duration::from_secs(2300)).await;
    }
    assert_eq!(topic.jobs().len(), 24, "once each: {:?}", topic.jobs());
    stop.cancel();
    for replica in replicas {
        replica.await.unwrap();
    }
    let sweeps = fleet.bucket.take_listings();
    let intervals = 24 * 6;
    assert!((intervals * 2 / 3..=intervals * 2).contains(&sweeps), "{sweeps} in {intervals}");
}

async fn left(fleet: &Fleet) -> Vec<String> {
    let listed = fleet.bucket.list("parked/", None).await.unwrap().objects;
    listed.into_iter().map(|(name, _)| name).collect()
}

/// Two logins, an import or a sweep at the same time: one of them resumes the user.
#[tokio::test(start_paused = true)]
async fn resumers_at_the_same_time_publish_each_job_once() {
    for (latency, apart) in [(0, 0), (40, 0), (40, 30), (40, 100), (700, 500), (40, 1500)] {
        let fleet = Fleet::new(false);
        for n in 0..40 {
            park(&fleet, "ann", &format!("ann-{n:02}"), n).await;
        }
        fleet.user("ann").await;
        tests::memory::pass(Duration::from_secs(5)).await;
        fleet.bucket.set_latency(Duration::from_millis(latency));
        let topic = Arc::new(Topic::default());
        let slow = once_per_second(&fleet);
        let resume = |name: &str, after: u64| {
            let (store, topic, slow) = (fleet.replica(name), Arc::clone(&topic), Arc::clone(&slow));
            async move {
                tests::memory::pass(Duration::from_millis(after)).await;
                resume_user(&*slow, &store, &*topic, &clock(), &ann()).await.unwrap()
            }
        };
        let sweeping = sweep(&fleet, "sweep", &topic);
        let stop = CancellationToken::new();
        let (a, b, c, _) =
            tokio::join!(resume("a", 0), resume("b", apart), resume("c", 2 * apart), async {
                sweeping.sweep(&mut Memory::default(), &stop).await.unwrap()
            },);
        assert_eq!(topic.jobs(), names(0, 40), "in their order, {latency} ms, {apart} ms apart");
        assert_eq!(left(&fleet).await, Vec::<String>::new(), "{a:?} {b:?} {c:?}");
        assert!(!(a.held || b.held || c.held), "who met a claim has waited for its end");
    }
}

/// Whatever stands where the claim should, and however it came there, it is one: nothing
/// goes on before it stood still for ten minutes.
#[tokio::test(start_paused = true)]
async fn a_claim_is_taken_over_when_it_stood_still() {
    let fleet = Fleet::new(false);
    park(&fleet, "ann", "one", 1).await;
    fleet.user("ann").await;
    let claim = format!("{}claim", prefix_of(&ann()));
    let planted = Bytes::from_static(b"no claim of ours");
    fleet.bucket.put(&claim, planted, Generation::ABSENT).await.unwrap();
    let topic = Arc::new(Topic::default());
    let stop = CancellationToken::new();
    // An interval so long that only the look at the claim can be what resumes.
    let every = Duration::from_secs(24 * 60 * 60);
    let sweep = Sweep { every, ..sweep(&fleet, "a", &topic) };
    let sweeping = tokio::spawn(sweep.run(stop.clone()));
    let resumed = resume_user(&*bucket(&fleet), &fleet.replica("b"), &*topic, &clock(), &ann())
        .await
        .unwrap();
    assert!(resumed.held && topic.jobs().is_empty(), "{resumed:?}");
    // The first sweep comes within a twentieth of the interval.
    tests::memory::pass(every / 20 + Duration::from_secs(601)).await;
    assert_eq!(topic.jobs(), ["one"]);
    tests::memory::pass(Duration::from_secs(600)).await;
    assert_eq!(left(&fleet).await, Vec::<String>::new());
    stop.cancel();
    sweeping.await.unwrap();
}

/// What somebody has put under a user's prefix does not act as that user, nor as another.
#[tokio::test(start_paused = true)]
async fn a_job_of_another_user_is_left_where_it_is() {
    let fleet = Fleet::new(false);
    park(&fleet, "ann", "ann-00", 1).await;
    let stored = left(&fleet).await.remove(0);
    let foreign = fleet.bucket.get(&stored).await.unwrap().unwrap().content;
    let planted = "parked/zoe/00000000000000000000-ann-00.json";
    fleet.bucket.put(planted, foreign, Generation::ABSENT).await.unwrap();
    park(&fleet, "zoe", "zoe-00", 1).await;
    fleet.user("zoe").await;
    let topic = Arc::new(Topic::default());
    let stop = CancellationToken::new();
    let swept = sweep(&fleet, "a", &topic).sweep(&mut Memory::default(), &stop).await.unwrap();
    assert_eq!(swept, Swept { resumed: 1, jobs: 2, users: 2, ..Swept::default() });
    assert_eq!(topic.jobs(), ["zoe-00"], "ann has not consented");
    assert_eq!(left(&fleet).await, [stored, planted.to_owned()]);
}

/// A job that was parked beside this very grant waits for another one.
#[tokio::test(start_paused = true)]
async fn a_job_waits_until_the_grant_is_another() {
    let fleet = Fleet::new(false);
    park(&fleet, "ann", "ann-00", 1).await;
    fleet.user("ann").await;
    let name = left(&fleet).await.remove(0);
    let object = fleet.bucket.get(&name).await.unwrap().unwrap();
    let mut parked: serde_json::Value = serde_json::from_slice(&object.content).unwrap();
    let record = fleet.replica("reader").read_record(&ann()).await.unwrap();
    parked["grant_id"] = json!(record.grant_id.0);
    parked["reason"] = json!("revoked");
    fleet.bucket.put(&name, parked.to_string().into(), object.generation).await.unwrap();
    let topic = Arc::new(Topic::default());
    let resume = || async {
        resume_user(&*bucket(&fleet), &fleet.replica("b"), &*topic, &clock(), &ann()).await.unwrap()
    };
    assert_eq!(resume().await.published, 0);
    log_in(&fleet.replica("web"), fleet.login(&ann())).await;
    assert_eq!(resume().await.published, 1);
}

/// An administrator lifts the policy that stopped a user, who need not log in: a sweep tries,
/// not before the record says, and the jobs go on. Meanwhile nothing is published.
#[tokio::test(start_paused = true)]
async fn the_jobs_of_a_blocked_user_go_on_when_the_policy_is_lifted() {
    let fleet = Fleet::new(false);
    let why = Before::Blocked.make(&fleet).await;
    let received = received("ann", "ann-00", 1);
    let job = Job::of(&received).unwrap();
    let parking = Parking::new(bucket(&fleet), fleet.replica("worker"));
    let parked = parking.park(&job, &received, &why, clock().wall()).await.unwrap();
    assert_eq!(parked, Parked::Stored { moved: false });
    let topic = Arc::new(Topic::default());
    let sweep = sweep(&fleet, "sweeper", &topic);
    let turn = async || {
        let (mut claims, stop) = (Memory::default(), CancellationToken::new());
        sweep.sweep(&mut claims, &stop).await.unwrap().resumed
    };
    // The pauses are 10, 20 and 40 minutes: two tries in the first hour, however often
    // somebody sweeps.
    let before = fleet.provider.calls();
    for _ in 0..60 {
        assert_eq!(turn().await, 0);
        tests::memory::pass(Duration::from_secs(60)).await;
    }
    assert_eq!(fleet.provider.calls() - before, 2, "after 10 and after 30 minutes");
    fleet.provider.deny("ann", None);
    assert_eq!(turn().await, 0, "its time has not come");
    tests::memory::pass(Duration::from_secs(60 * 11)).await;
    assert_eq!(turn().await, 1);
    assert_eq!(topic.jobs(), ["ann-00"]);
    assert!(fleet.replica("reader").read_record(&ann()).await.unwrap().blocked.is_none());
}

/// A write whose answer was lost is read back. Where even that tells nothing, and the user
/// logs in before it is tried again, the job is parked and does not run beside that.
#[tokio::test(start_paused = true)]
async fn a_job_that_may_be_parked_does_not_run_too() {
    let fleet = Fleet::new(false);
    let other = received("ann", "ann-01", 2);
    let job = Job::of(&other).unwrap();
    let parking = Parking::new(bucket(&fleet), fleet.replica("worker"));
    fleet.bucket.fail_write("parked/", tests::memory::WriteFault::ReplyLost);
    let parked = parking.park(&job, &other, &ConsentReason::Unknown, clock().wall()).await;
    assert_eq!(parked.unwrap(), Parked::Stored { moved: false });
    let fleet = Fleet::new(false);
    let received = received("ann", "ann-00", 1);
    let job = Job::of(&received).unwrap();
    let parking = Parking::new(bucket(&fleet), fleet.replica("worker"));
    let parked = || parking.park(&job, &received, &ConsentReason::Unknown, clock().wall());
    let late = Duration::from_secs(1);
    fleet.bucket.fail_write("parked/", tests::memory::WriteFault::Late(late));
    assert!(parked().await.is_err(), "it is not there yet");
    tests::memory::pass(2 * late).await;
    fleet.user("ann").await;
    assert_eq!(parked().await.unwrap(), Parked::Stored { moved: true });
}

/// A claimant that stands still stops publishing long before another takes its claim over,
/// finds that out, and does not release the other's.
#[tokio::test(start_paused = true)]
async fn a_claim_counts_from_its_last_write() {
    let fleet = Fleet::new(false);
    let minutes = |count: u64| tests::memory::pass(Duration::from_secs(60 * count));
    let take = async |holder: &str, seen: Option<Sighting>| {
        Claim::take(&*bucket(&fleet), &clock(), &ann(), holder, seen).await.unwrap()
    };
    let Claimed::Mine(mut first) = take("a", None).await else { panic!("nobody has it") };
    let Claimed::Held(seen) = take("b", None).await else { panic!("a has it") };
    minutes(4).await;
    assert!(first.holds(clock().monotonic()));
    assert_eq!(first.renew(&*bucket(&fleet), &clock(), "a").await.unwrap(), Renewed::Mine);
    minutes(6).await;
    assert!(!first.holds(clock().monotonic()), "five minutes after it was written");
    let Claimed::Held(seen) = take("b", seen).await else { panic!("it was written again") };
    minutes(10).await;
    let Claimed::Mine(second) = take("b", seen).await else { panic!("it stood still") };
    assert_eq!(first.renew(&*bucket(&fleet), &clock(), "a").await.unwrap(), Renewed::Lost);
    first.release(&*bucket(&fleet)).await;
    assert_eq!(left(&fleet).await, [format!("{}claim", prefix_of(&ann()))], "b has it");
    second.release(&*bucket(&fleet)).await;
    assert_eq!(left(&fleet).await, Vec::<String>::new());
}
