//! What is tried again, when, and by whom.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::Value;
use shared::ports::Monotonic;
use shared::sealing::Sealing;
use tests::memory::{QueueSettings, pass};
use worker::{Dedupe, Handler, Job, Limit, Session, Verdict};

use crate::house::{House, Notebook, job, now};

type Say = dyn Fn(&Job) -> Verdict + Send + Sync;

/// A handler that says what it is told, and notes when.
#[derive(Clone)]
pub(crate) struct Script {
    say: Arc<Say>,
    pub(crate) ran: Arc<Mutex<Vec<(String, Monotonic)>>>,
}

impl Script {
    pub(crate) fn of(say: impl Fn(&Job) -> Verdict + Send + Sync + 'static) -> Self {
        Self { say: Arc::new(say), ran: Arc::default() }
    }

    /// Says these one after another, then that it is done.
    pub(crate) fn first(verdicts: Vec<Verdict>) -> Self {
        let left = Mutex::new(verdicts.into_iter());
        Self::of(move |_| left.lock().unwrap().next().unwrap_or(Verdict::done(Value::Null)))
    }

    pub(crate) fn times(&self, id: &str) -> Vec<Monotonic> {
        self.ran.lock().unwrap().iter().filter(|(ran, _)| ran == id).map(|(_, at)| *at).collect()
    }
}

impl Handler for Script {
    fn handle<'a>(&'a self, job: &'a Job, _: &'a Session<'a>) -> BoxFuture<'a, Verdict> {
        self.ran.lock().unwrap().push((job.id.clone(), now()));
        let verdict = (self.say)(job);
        async move { verdict }.boxed()
    }
}

fn failed(after: Option<u64>) -> Verdict {
    let after = after.map(Duration::from_secs);
    Verdict::Retry { why: "the API failed".to_owned(), http_status: Some(503), after }
}

fn limited(after: Option<u64>) -> Verdict {
    Verdict::RateLimited {
        http_status: Some(429),
        after: after.map(Duration::from_secs),
        limit: Limit::default(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_blip_is_ridden_out_without_a_new_delivery() {
    let house = House::new(QueueSettings::default());
    house.fleet.user("ann").await;
    let script = Script::first(vec![failed(None), failed(Some(3)), failed(None)]);
    let replica = house.start("a", script.clone(), |b| b);
    house.jobs.publish(&job("j", "ann", "k"), "ann");
    house.jobs.drained().await;
    assert_eq!(house.jobs.deliveries(), 1);
    let outcome = &house.outcomes.outcomes()[0];
    assert_eq!((&outcome["status"], &outcome["attempt"]), (&"done".into(), &4.into()));
    let times = script.times("j");
    assert!(times[1].since(times[0]) >= Duration::from_millis(250), "{times:?}");
    assert!(times[2].since(times[1]) >= Duration::from_secs(3), "as long as the API asked");
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_lasts_is_given_back_within_the_budget() {
    let house = House::new(QueueSettings::default());
    house.fleet.user("ann").await;
    let script =
        Script::of(|job| if job.id == "bad" { failed(None) } else { Verdict::done(Value::Null) });
    let budget = Duration::from_secs(20);
    let replica = house.start("a", script.clone(), |b| b.retry_budget(budget));
    house.jobs.publish(&job("bad", "ann", "k"), "");
    let begun = now();
    pass(Duration::from_secs(1)).await;
    while house.jobs.outstanding() > 0 {
        pass(Duration::from_secs(1)).await;
    }
    let took = now().since(begun);
    assert!(took <= budget + Duration::from_secs(2), "given back after {took:?}");
    let times = script.times("bad");
    assert!(times.len() > 3 && times.last().unwrap().since(times[0]) <= budget, "{times:?}");
    assert!(house.outcomes.is_empty(), "a retry is not published");
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_slows_its_user_across_jobs_and_nobody_else() {
    let house = House::new(QueueSettings::default());
    house.users(["ann".to_owned(), "bob".to_owned()]).await;
    let once = Mutex::new(Some(limited(Some(30))));
    let script = Script::of(move |job| match job.id.as_str() {
        "ann-0" => once.lock().unwrap().take().unwrap_or(Verdict::done(Value::Null)),
        _ => Verdict::done(Value::Null),
    });
    // One slot only: who waits must not take it up.
    let replica = house.start("a", script.clone(), |b| b.concurrency(1).per_user(3));
    for n in 0..3 {
        house.jobs.publish(&job(&format!("ann-{n}"), "ann", "k"), "");
    }
    pass(Duration::from_secs(1)).await;
    house.jobs.publish(&job("ann-late", "ann", "k"), "");
    house.jobs.publish(&job("bob", "bob", "k"), "");
    let limited_at = script.times("ann-0")[0];
    house.jobs.drained().await;
    assert!(script.times("bob")[0].since(limited_at) < Duration::from_secs(2), "bob is served");
    for id in ["ann-0", "ann-late"] {
        let last = *script.times(id).last().unwrap();
        assert!(last.since(limited_at) >= Duration::from_secs(30), "{id} waited");
    }
    assert_eq!(house.jobs.deliveries(), 5, "nothing was given back for it");
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_fails_its_delivery_only() {
    let house = House::new(QueueSettings::default());
    house.users(["ann".to_owned(), "bob".to_owned()]).await;
    let once = Mutex::new(true);
    let script = Script::of(move |job| {
        let first =
            std::mem::take(&mut *once.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        assert!(!(first && job.id == "ann"), "a handler's own trouble");
        Verdict::done(Value::Null)
    });
    let replica = house.start("a", script, |b| b.concurrency(1));
    house.jobs.publish(&job("ann", "ann", "k"), "ann");
    house.jobs.publish(&job("bob", "bob", "k"), "bob");
    house.jobs.drained().await;
    assert_eq!(house.statuses(), [("done".to_owned(), 1), ("rejected".to_owned(), 1)].into());
    let letter = house.dead.take().remove(0);
    assert_eq!(letter.attributes["effect"], "unknown", "nobody knows how far it was");
    assert_eq!(house.jobs.deliveries(), 2);
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_done_job_that_comes_again_does_not_act_again() {
    for (dedupe, replicas) in [("memory", 1), ("bucket", 3)] {
        let house = House::new(QueueSettings::default());
        house.users(["ann".to_owned(), "bob".to_owned()]).await;
        let notebook = Notebook::taking(Duration::from_millis(5));
        for replica in 0..replicas {
            let bucket = Arc::<tests::memory::FaultyBucket>::clone(&house.fleet.bucket);
            let dedupe = if dedupe == "memory" {
                Dedupe::memory()
            } else {
                Dedupe::bucket(bucket, Sealing::default())
            };
            let running =
                house.start(&format!("r{replica}"), notebook.clone(), |b| b.dedupe(dedupe));
            house.jobs.publish(&job("same", "ann", "k"), "ann");
            house.jobs.publish(&job("same", "bob", "k"), "bob");
            house.jobs.publish(&job("same", "ann", "k"), "ann");
            house.jobs.drained().await;
            running.end().await;
        }
        assert_eq!(notebook.ids(), ["same", "same"], "{dedupe}: once for each user");
        let outcomes = house.outcomes.outcomes();
        assert_eq!(outcomes.len(), 3 * replicas);
        assert!(outcomes.iter().all(|outcome| outcome["status"] == "done"));
        let acted = outcomes.iter().filter(|outcome| outcome["attempt"] == 1).count();
        assert_eq!(acted, 2);
    }
}
