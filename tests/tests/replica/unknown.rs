//! Jobs of users whom somebody has made up: what they cost, and that they end.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use shared::ports::{Bucket as _, Hints, Randomness};
use tests::memory::{QueueSettings, pass};
use tokio_util::sync::CancellationToken;
use worker::claim::Sighting;
use worker::sweep::{Memory, Sweep, Swept, UnknownUsers};

use crate::house::{House, Notebook, clock, job};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const JOBS: u64 = 3000;

/// Requests to the bucket.
#[derive(Debug, Default, PartialEq, Eq)]
struct Cost {
    reads: u64,
    writes: u64,
    deletions: u64,
    listings: u64,
}

fn cost(house: &House) -> Cost {
    let bucket = &house.fleet.bucket;
    let requests = bucket.take_requests();
    Cost {
        reads: requests.reads(),
        writes: requests.writes(),
        deletions: bucket.take_deletions(),
        listings: bucket.take_listings(),
    }
}

fn sweep(house: &House, name: &str) -> Sweep {
    let store = house.fleet.replica(name);
    Sweep {
        bucket: store.bucket(),
        store,
        jobs: Arc::new(house.jobs.clone()),
        unknown: Some(UnknownUsers {
            after: 7 * DAY,
            dead: Arc::new(house.dead.clone()),
            outcomes: Some(Arc::new(house.outcomes.clone())),
        }),
        events: None,
        clock: Arc::new(clock()),
        random: Arc::new(Randomness::seeded(name.len() as u64)),
        every: Duration::from_secs(600),
    }
}

/// Parks these jobs by a replica, which then ends.
async fn park(house: &House, jobs: impl Iterator<Item = Value>) {
    let replica = house.start("a", Notebook::default(), |b| b);
    jobs.for_each(|job| house.jobs.publish(&job, ""));
    house.jobs.drained().await;
    replica.end().await;
}

async fn turn(sweep: &Sweep, seen: &mut Option<Sighting>, memory: &mut Memory) -> Swept {
    sweep.turn(seen, memory, &CancellationToken::new()).await.unwrap().unwrap()
}

async fn parked(house: &House) -> usize {
    let (mut count, mut page) = (0, None);
    loop {
        let listing = house.fleet.bucket.list("parked/", page).await.unwrap();
        count += listing.objects.len();
        page = listing.next_page;
        if page.is_none() {
            return count;
        }
    }
}

/// Whoever may publish can make users up. Each job costs two reads and a write; a sweep costs
/// the pages of its listings, and the marker; and after a week everything is gone again.
#[tokio::test(start_paused = true)]
async fn jobs_of_made_up_users_cost_little_and_end() {
    let house = House::new(QueueSettings::default());
    let made_up = |n: u64| job(&format!("job-{n}"), &format!("made-up-{n}"), "k");
    cost(&house);
    park(&house, (0..JOBS).map(made_up)).await;
    let Cost { reads, writes, deletions, .. } = cost(&house);
    // The record is read once before the write and once after it; a replica that starts reads one
    // object to see that the bucket is there.
    assert_eq!((reads, writes, deletions), (2 * JOBS + 1, JOBS, 0));
    assert_eq!(house.statuses()["parked"], 3000);
    house.outcomes.take();

    let sweep = sweep(&house, "sweeper");
    let (mut seen, mut memory) = (None, Memory::default());
    for _ in 0..3 {
        let found = turn(&sweep, &mut seen, &mut memory).await;
        assert_eq!(found, Swept { jobs: JOBS, users: JOBS, ..Swept::default() });
        // The marker is read and written twice; three pages of jobs and one of records.
        let expected = Cost { reads: 1, writes: 2, deletions: 0, listings: 4 };
        assert_eq!(cost(&house), expected);
        pass(Duration::from_secs(600)).await;
    }

    pass(6 * DAY).await;
    assert_eq!(turn(&sweep, &mut seen, &mut memory).await.ended, 0, "a week is not over");
    pass(DAY).await;
    cost(&house);
    let swept = turn(&sweep, &mut seen, &mut memory).await;
    assert_eq!(swept, Swept { ended: JOBS, ..Swept::default() });
    let Cost { reads, writes, deletions, listings } = cost(&house);
    println!(
        "{JOBS} jobs ended: {reads} reads, {writes} writes, {deletions} deletions, {listings} listings"
    );
    assert!(reads <= 4 * JOBS + 1, "claim, record, job, and the record once more: {reads}");
    // The job and the claim, which was just written: so that is asked for twice.
    assert!(deletions <= 3 * JOBS, "{deletions}");
    assert!(writes <= JOBS + 5 && listings <= JOBS + 4, "{writes}, {listings}");
    assert_eq!(parked(&house).await, 0);
    assert_eq!(house.statuses(), [("rejected".to_owned(), 3000)].into());
    let outcome = house.outcomes.outcomes().remove(0);
    assert_eq!((&outcome["effect"], &outcome["repeatable"]), (&"none".into(), &true.into()));
    let letters = house.dead.take();
    assert_eq!(letters.len(), 3000);
    for letter in letters {
        let reason = &letter.attributes["reason"];
        assert!(reason.starts_with("unknown_user: nobody consented"), "{reason}");
        assert_eq!(letter.attributes["effect"], "none");
        assert!(letter.attributes.contains_key("fleet-job"));
    }
    assert_eq!(turn(&sweep, &mut seen, &mut memory).await, Swept::default());
}

/// Of one made-up user, the look before the write is spared too while it was just made.
#[tokio::test(start_paused = true)]
async fn many_jobs_of_one_made_up_user_are_looked_at_once_each() {
    let house = House::new(QueueSettings::default());
    cost(&house);
    park(&house, (0..JOBS).map(|n| job(&format!("job-{n}"), "made-up", "k"))).await;
    let Cost { reads, writes, .. } = cost(&house);
    println!("{JOBS} jobs of one made-up user: {reads} reads, {writes} writes");
    assert_eq!(writes, JOBS);
    assert!((JOBS..JOBS + JOBS / 100).contains(&reads), "{reads}");
}

/// What stands beside a parked job makes a sweep read it, or not, and decides nothing: neither the
/// lie of somebody who can write the bucket, nor the silence of the release before.
#[tokio::test(start_paused = true)]
async fn a_hint_ends_no_job_and_its_lack_keeps_none() {
    let house = House::new(QueueSettings::default());
    park(&house, (0..2).map(|n| job(&format!("job-{n}"), &format!("made-up-{n}"), "k"))).await;
    let bucket = &house.fleet.bucket;
    let listing = bucket.list("parked/", None).await.unwrap();
    pass(Duration::from_secs(2)).await;
    let hint: Hints = [("reason".to_owned(), "unknown_user".to_owned())].into();
    assert!(listing.objects.iter().all(|(name, _)| listing.hints.get(name) == Some(&hint)));
    for (name, at) in &listing.objects {
        let content = bucket.get(name).await.unwrap().unwrap().content;
        let waits = String::from_utf8(content.to_vec()).unwrap();
        let (content, hints) = if name.contains("made-up-1") {
            (waits.replace("unknown_user", "scopes_missing"), hint.clone())
        } else {
            (waits, Hints::new())
        };
        bucket.put_with_hints(name, content.into(), hints, *at).await.unwrap();
    }
    pass(8 * DAY).await;
    let swept = turn(&sweep(&house, "sweeper"), &mut None, &mut Memory::default()).await;
    assert_eq!(swept.ended, 1);
    let left = bucket.list("parked/", None).await.unwrap().objects;
    assert!(left.len() == 1 && left[0].0.contains("made-up-1"), "{left:?}");
}

/// A user who consents is none that was made up, however long the jobs have waited and whoever
/// remembers that there was no record.
#[tokio::test(start_paused = true)]
async fn who_consents_gets_every_job_however_old() {
    let house = House::new(QueueSettings::default());
    park(&house, (0..3).map(|n| job(&format!("job-{n}"), "ann", "k"))).await;
    pass(8 * DAY).await;
    house.users(["ann".to_owned()]).await;
    let sweep = sweep(&house, "sweeper");
    let swept = turn(&sweep, &mut None, &mut Memory::default()).await;
    assert_eq!((swept.resumed, swept.ended), (3, 0));
    assert!(house.dead.is_empty());
    let notebook = Notebook::default();
    let replica = house.start("b", notebook.clone(), |b| b);
    house.jobs.drained().await;
    replica.end().await;
    assert_eq!(notebook.ids().len(), 3);
}

/// A replica remembers that a user is unknown. The user consents, and a job that is published
/// then, or again, runs without having been parked.
#[tokio::test(start_paused = true)]
async fn a_remembered_absence_does_not_delay_who_has_consented() {
    let house = House::new(QueueSettings::default());
    let notebook = Notebook::default();
    let replica = house.start("a", notebook.clone(), |b| b);
    house.jobs.publish(&job("parks", "ann", "k"), "");
    house.jobs.drained().await;
    pass(Duration::from_secs(1)).await;
    house.users(["ann".to_owned()]).await;
    house.outcomes.take();
    house.jobs.publish(&job("runs", "ann", "k"), "");
    house.jobs.drained().await;
    assert_eq!(notebook.ids(), ["runs"]);
    assert_eq!(house.statuses(), [("done".to_owned(), 1)].into());
    let swept = turn(&sweep(&house, "sweeper"), &mut None, &mut Memory::default()).await;
    assert_eq!(swept.resumed, 1);
    house.jobs.drained().await;
    assert_eq!(notebook.ids(), ["runs", "parks"]);
    replica.end().await;
}

/// A dead topic that takes nothing: the jobs stay parked, and end when it is back, once each.
/// What somebody else has put there stays, and is not read by every sweep.
#[tokio::test(start_paused = true)]
async fn what_no_topic_takes_stays_parked() {
    let house = House::new(QueueSettings::default());
    park(&house, (0..40).map(|n| job(&format!("job-{n}"), &format!("made-up-{n}"), "k"))).await;
    let planted = "parked/made-up-7/00000000000000000000-planted.json";
    let bucket = &house.fleet.bucket;
    bucket.put(planted, "{}".into(), shared::ports::Generation::ABSENT).await.unwrap();
    pass(8 * DAY).await;
    let sweep = sweep(&house, "sweeper");
    let (mut seen, mut memory) = (None, Memory::default());
    house.dead.close();
    let stop = CancellationToken::new();
    let error = sweep.turn(&mut seen, &mut memory, &stop).await.unwrap_err();
    assert!(error.to_string().contains("NOT_FOUND"), "{error}");
    assert_eq!(parked(&house).await, 41, "no claim is left either");
    house.dead.open();
    pass(Duration::from_secs(600)).await;
    let swept = turn(&sweep, &mut seen, &mut memory).await;
    assert_eq!(swept, Swept { ended: 40, jobs: 1, users: 1, ..Swept::default() });
    assert_eq!(house.dead.len(), 40);
    pass(Duration::from_secs(600)).await;
    // It is looked at once more, since its user's other job has ended; and then no longer.
    turn(&sweep, &mut seen, &mut memory).await;
    pass(Duration::from_secs(600)).await;
    cost(&house);
    turn(&sweep, &mut seen, &mut memory).await;
    assert_eq!(cost(&house), Cost { reads: 1, writes: 2, deletions: 0, listings: 2 });
}
