//! Sweeps: replicas in turn, every user in order.

use super::*;

pub(super) fn sweep(fleet: &Fleet, name: &str, topic: &Arc<Topic>) -> Sweep {
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

pub(super) fn names(from: usize, to: usize) -> Vec<String> {
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

/// What an operator has to restore concerns its user alone. Nobody behind these users would
/// ever have a turn, since each sweep begins with them.
#[tokio::test(start_paused = true)]
async fn users_whose_records_cannot_be_read_hold_nobody_else_up() {
    let fleet = Fleet::new(false);
    for n in 0..30 {
        let user = format!("ann-{n:02}");
        park(&fleet, &user, &user, 1).await;
        let record = UserId::new(&user).unwrap().token_object();
        fleet.bucket.put(&record, "no record".into(), Generation::ABSENT).await.unwrap();
    }
    park(&fleet, "zoe", "zoe-00", 1).await;
    fleet.user("zoe").await;
    let topic = Arc::new(Topic::default());
    let stop = CancellationToken::new();
    let swept = sweep(&fleet, "a", &topic).sweep(&mut Memory::default(), &stop).await.unwrap();
    assert_eq!(swept, Swept { resumed: 1, jobs: 30, users: 30, ..Swept::default() });
    assert_eq!(topic.jobs(), ["zoe-00"]);
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
