//! Who resumes a user, and until when.

use super::*;

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

pub(super) async fn left(fleet: &Fleet) -> Vec<String> {
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
