//! An outage in front of a backlog burns no delivery attempts.

use std::time::Duration;

use serde_json::Value;
use tests::memory::{AnswerFault, QueueSettings, pass};
use tests::report;

use crate::house::{House, Notebook, job, now};

const JOBS: usize = 1000;
const USERS: usize = 100;
const OUTAGE: Duration = Duration::from_secs(300);

/// Pub/Sub's lowest limit: anything that gives messages back a few times shows.
fn strict() -> QueueSettings {
    QueueSettings { max_attempts: 5, ..QueueSettings::default() }
}

async fn outage(what: &str, house: House, begin: impl Fn(&House), end: impl Fn(&House)) {
    let notebook = Notebook::taking(Duration::from_millis(20));
    // The replica is up before the trouble begins.
    let replica = house.start("a", notebook.clone(), |b| b.concurrency(16));
    pass(Duration::from_millis(50)).await;
    begin(&house);
    for n in 0..JOBS {
        let user = format!("user-{}", n % USERS);
        house.jobs.publish(&job(&format!("job-{n}"), &user, "k"), &user);
    }
    let began = now();
    pass(OUTAGE).await;
    let held = house.jobs.outstanding();
    let done = notebook.ids().len();
    end(&house);
    house.jobs.drained().await;
    let recovered = now().since(began).saturating_sub(OUTAGE);
    report::say(format!(
        "{what}: {done} jobs done before and during it, {held} held, {} deliveries of {JOBS} jobs, \
         all done {recovered:.1?} after it",
        house.jobs.deliveries()
    ));
    assert_eq!(house.jobs.dead_lettered(), 0);
    assert_eq!(house.statuses()["done"], JOBS);
    assert_eq!(house.jobs.deliveries(), JOBS as u64, "no delivery attempt was burnt");
    assert!(done < JOBS, "the outage stood in front of the jobs");
    assert!(recovered < Duration::from_secs(90), "{recovered:?}");
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn five_minutes_without_the_bucket_dead_letter_none_of_a_thousand_jobs() {
    let house = House::new(strict());
    house.users((0..USERS).map(|n| format!("user-{n}"))).await;
    // A cold replica has to read every user.
    house.fleet.bucket.set_latency(Duration::from_millis(5));
    let down = |down| move |house: &House| house.fleet.bucket.set_down(down);
    outage("five minutes without the bucket", house, down(true), down(false)).await;
}

#[tokio::test(start_paused = true)]
async fn five_minutes_without_the_token_endpoint_dead_letter_none_of_a_thousand_jobs() {
    let house = House::new(strict());
    house.users((0..USERS).map(|n| format!("user-{n}"))).await;
    pass(Duration::from_secs(3601)).await;
    house.fleet.provider.set_latency(Duration::from_millis(5));
    let begin = |house: &House| {
        for _ in 0..10_000 {
            house.fleet.provider.fail(AnswerFault::Transient);
        }
    };
    let end = |house: &House| house.fleet.provider.forget_faults();
    outage("five minutes without the token endpoint", house, begin, end).await;
}

#[tokio::test(start_paused = true)]
async fn parking_waits_for_the_bucket_too() {
    let house = House::new(strict());
    house.fleet.user("ann").await;
    let parks = |_: &worker::Job| worker::Verdict::MissingScopes { scopes: vec!["s".into()] };
    let replica = house.start("a", crate::retries::Script::of(parks), |b| b);
    house.jobs.publish(&job("first", "ann", "k"), "ann");
    house.jobs.drained().await;
    house.fleet.bucket.set_down(true);
    house.jobs.publish(&job("second", "ann", "k"), "ann");
    pass(OUTAGE).await;
    assert_eq!(house.jobs.outstanding(), 1, "held");
    house.fleet.bucket.set_down(false);
    house.jobs.drained().await;
    assert_eq!(house.jobs.deliveries(), 2);
    let outcomes = house.outcomes.outcomes();
    assert!(outcomes.iter().all(|o: &Value| o["status"] == "parked"), "{outcomes:?}");
    replica.end().await;
}

/// Whoever restarts what is not alive must not restart this.
#[tokio::test(start_paused = true)]
async fn a_bucket_that_is_down_at_the_start_makes_no_replica_look_dead() {
    let house = House::new(strict());
    house.users(["ann".to_owned()]).await;
    house.fleet.bucket.set_down(true);
    let replica = house.start("a", Notebook::default(), |b| b);
    for second in 0..300 {
        pass(Duration::from_secs(1)).await;
        assert_eq!(replica.ready.pulse().check(), Ok(()), "after {second} s");
        assert!(replica.ready.check().is_err(), "it takes no jobs");
    }
    house.fleet.bucket.set_down(false);
    house.jobs.publish(&job("j", "ann", "k"), "ann");
    house.jobs.drained().await;
    assert_eq!(replica.ready.check(), Ok(()));
    replica.end().await;
}
