//! Nobody waits behind somebody else's jobs, and nobody's jobs overtake each other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use serde_json::Value;
use tests::memory::{QueueSettings, pass};
use tests::report;
use tokio::sync::{Barrier, Notify};
use worker::{Handler, Job, Session, Verdict};

use crate::house::{House, Notebook, job, now};

const WORK: Duration = Duration::from_millis(50);
const CONCURRENCY: usize = 16;
const QUIET: usize = 99;

/// How long a quiet user's job waits at the 99th percentile, with so many jobs of
/// one noisy user published ahead.
async fn quiet_p99(noisy: usize, ordered: bool) -> Duration {
    let house =
        House::new(QueueSettings { max_outstanding: 4 * CONCURRENCY, ..QueueSettings::default() });
    house.users((0..QUIET).map(|n| format!("quiet-{n}")).chain(["noisy".to_owned()])).await;
    for n in 0..noisy {
        let key = if ordered { "noisy" } else { "" };
        house.jobs.publish(&job(&format!("noisy-{n}"), "noisy", "k"), key);
    }
    for n in 0..QUIET {
        let user = format!("quiet-{n}");
        house.jobs.publish(&job(&user, &user, "k"), &user);
    }
    let began = now();
    let notebook = Notebook::taking(WORK);
    let replica = house.start("a", notebook.clone(), |b| b.concurrency(CONCURRENCY));
    house.jobs.drained().await;
    let mut waits: Vec<Duration> =
        (0..QUIET).map(|n| notebook.began(&format!("quiet-{n}")).unwrap().since(began)).collect();
    waits.sort();
    replica.end().await;
    waits[(QUIET * 99) / 100]
}

#[tokio::test(start_paused = true)]
async fn a_noisy_user_does_not_hold_up_quiet_ones() {
    let alone = quiet_p99(0, true).await;
    let beside = quiet_p99(CONCURRENCY, true).await;
    let ratio = |wait: Duration| wait.as_secs_f64() / alone.as_secs_f64();
    report::say(format!(
        "a quiet user's p99 wait: {alone:?} alone, {beside:?} beside a noisy user ({:.2} times)",
        ratio(beside)
    ));
    assert!(alone > Duration::ZERO, "there is something to wait for");
    assert!(beside <= 2 * alone, "{beside:?} instead of {alone:?}");
    // What a replica holds is bounded, so a backlog of one user that is deeper than
    // that does delay the others: the limit that the README names.
    let flooded = quiet_p99(20 * CONCURRENCY, false).await;
    report::say(format!(
        "behind a backlog of {} unordered jobs of one user: {flooded:?} ({:.0} times)",
        20 * CONCURRENCY,
        ratio(flooded)
    ));
}

#[tokio::test(start_paused = true)]
async fn jobs_of_a_key_run_in_order_one_at_a_time_whatever_per_user_allows() {
    let house = House::new(QueueSettings::default());
    house.users(["ann".to_owned(), "bob".to_owned()]).await;
    for n in 0..30 {
        for user in ["ann", "bob"] {
            house.jobs.publish(&job(&format!("{user}-{n:02}"), user, "k"), user);
        }
        house.jobs.publish(&job(&format!("free-{n:02}"), "ann", "k"), "");
    }
    let notebook = Notebook::taking(WORK);
    let replica = house.start("a", notebook.clone(), |b| b.per_user(4));
    house.jobs.drained().await;
    let mut last = BTreeMap::new();
    for (id, user, at) in notebook.ran.lock().unwrap().iter() {
        if id.starts_with("free") {
            continue;
        }
        if let Some((before, began)) = last.insert(user.clone(), (id.clone(), *at)) {
            assert!(before < *id, "{before} before {id}");
            assert!(at.since(began) >= WORK, "{before} had ended when {id} began");
        }
    }
    let began = |id: &str| notebook.began(id).unwrap();
    assert_eq!(began("free-00"), began("free-02"), "jobs without a key run side by side");
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_token_takes_up_no_slot() {
    let house = House::new(QueueSettings::default());
    house.users(["fresh".to_owned()]).await;
    house.fleet.expired_user("slow").await;
    house.fleet.user("fresh-too").await;
    house.fleet.provider.set_latency(Duration::from_secs(8));
    house.jobs.publish(&job("slow", "slow", "k"), "slow");
    house.jobs.publish(&job("quick", "fresh-too", "k"), "fresh-too");
    let notebook = Notebook::taking(WORK);
    let replica = house.start("a", notebook.clone(), |b| b.concurrency(1));
    house.jobs.drained().await;
    assert_eq!(notebook.ids(), ["quick", "slow"], "the only slot was free meanwhile");
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn all_who_wait_for_tokens_wait_at_once() {
    const LATENCY: Duration = Duration::from_secs(8);
    const USERS: usize = 2 * CONCURRENCY;
    let house = House::new(QueueSettings { max_outstanding: 256, ..QueueSettings::default() });
    for n in 0..USERS {
        house.fleet.expired_user(&format!("slow-{n}")).await;
    }
    house.fleet.provider.set_latency(LATENCY);
    for n in 0..3 * USERS {
        let user = format!("slow-{}", n % USERS);
        house.jobs.publish(&job(&format!("{n}"), &user, "k"), &user);
    }
    let began = now();
    let notebook = Notebook::taking(WORK);
    let replica = house.start("a", notebook.clone(), |b| b.concurrency(1));
    house.jobs.drained().await;
    let took = now().since(began);
    let least = LATENCY + WORK * u32::try_from(3 * USERS).unwrap();
    assert!(took >= least && took < least + LATENCY / 2, "{took:?} for {least:?} of work");
    assert_eq!(house.jobs.deliveries(), 3 * USERS as u64, "each was delivered once");
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn what_needs_no_slot_begins_while_all_are_taken() {
    const LONG: Duration = Duration::from_secs(10);
    let house = House::new(QueueSettings::default());
    let users = house.users(["ann".to_owned()]).await;
    house.fleet.expired_user("bob").await;
    house.fleet.provider.set_latency(Duration::from_secs(8));
    let notebook = Notebook::taking(LONG);
    let replica = house.start("a", notebook.clone(), |b| b.concurrency(1));
    replica.store.get_credentials(&users[0]).await.unwrap();
    house.jobs.publish(&job("long", "ann", "k"), "ann");
    while notebook.ids().is_empty() {
        pass(WORK).await;
    }
    house.jobs.publish(&job("cold", "bob", "k"), "bob");
    house.jobs.publish(&job("unknown", "cy", "brew"), "cy");
    let began = now();
    while house.statuses().is_empty() {
        pass(WORK).await;
    }
    let statuses = house.statuses();
    assert!(statuses.contains_key("rejected"), "who needs no slot waits for none: {statuses:?}");
    assert!(now().since(began) < LONG / 2);
    house.jobs.drained().await;
    let waited = notebook.began("cold").unwrap().since(notebook.began("long").unwrap());
    assert!(waited < LONG + WORK, "its token came meanwhile: {waited:?}");
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn who_stands_in_line_goes_back_at_once_at_the_end() {
    const LONG: Duration = Duration::from_secs(25);
    let backoff = (WORK, WORK);
    let house = House::new(QueueSettings { backoff, ..QueueSettings::default() });
    let users = house.users(["ann", "bob", "cy"].map(str::to_owned)).await;
    let long = Notebook::taking(LONG);
    let first = house.start("a", long.clone(), |b| b.concurrency(1).drain(2 * LONG));
    // With their credentials in memory nobody stands aside to wait for them.
    for user in &users {
        first.store.get_credentials(user).await.unwrap();
    }
    // What has no key comes back for itself only.
    let jobs = [("a", "ann"), ("b1", "bob"), ("b2", "bob"), ("c1", "cy"), ("c2", "cy")];
    for (id, user) in jobs {
        house.jobs.publish(&job(id, user, "k"), if user == "bob" { user } else { "" });
    }
    while house.jobs.deliveries() < 5 || long.ids().is_empty() {
        pass(WORK).await;
    }
    let (ending, asked) = (tokio::spawn(first.end()), now());
    let short = Notebook::taking(WORK);
    let second = house.start("b", short.clone(), |b| b);
    while short.ids().len() < 4 {
        pass(WORK).await;
    }
    assert!(now().since(asked) < 20 * WORK, "{:?} after the end", now().since(asked));
    ending.await.unwrap();
    house.jobs.drained().await;
    assert_eq!(long.ids(), ["a"], "the running one came to its end");
    let in_order = |one, two| short.began(one).unwrap() < short.began(two).unwrap();
    assert!(in_order("b1", "b2"), "{:?}", short.ids());
    second.end().await;
}

/// Waits until so many jobs wait, but for those that are named `brief-…`.
#[derive(Debug, Clone)]
struct Together(Arc<Barrier>);

impl Handler for Together {
    fn handle<'a>(&'a self, job: &'a Job, _: &'a Session<'a>) -> BoxFuture<'a, Verdict> {
        async {
            if !job.id.starts_with("brief") {
                self.0.wait().await;
            }
            Verdict::done(Value::Null)
        }
        .boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn jobs_that_are_begun_together_wait_side_by_side() {
    const USERS: usize = 3 * CONCURRENCY;
    let house =
        House::new(QueueSettings { max_outstanding: 4 * USERS, ..QueueSettings::default() });
    let users = house.users((0..USERS).map(|n| format!("user-{n}"))).await;
    let handler = Together(Arc::new(Barrier::new(USERS)));
    let replica = house.start("a", handler, |b| b.concurrency(USERS));
    // With their credentials in memory jobs come as far as the handler at once.
    for user in &users {
        replica.store.get_credentials(user).await.unwrap();
    }
    for round in 0..3 {
        for (n, user) in users.iter().enumerate() {
            // Half of the users have a brief job ahead of the one that waits.
            if n % 2 == 0 {
                let brief = format!("brief-{round}-{n}");
                house.jobs.publish(&job(&brief, user.as_str(), "k"), user.as_str());
            }
            house.jobs.publish(&job(&format!("{round}-{n}"), user.as_str(), "k"), user.as_str());
        }
        let drained = tokio::time::timeout(Duration::from_secs(60), house.jobs.drained()).await;
        drained.expect("nobody is held up by a job that waits");
    }
    let jobs = 3 * (USERS + USERS / 2);
    assert_eq!(house.statuses(), BTreeMap::from([("done".to_owned(), jobs)]));
    assert_eq!(house.jobs.deliveries(), jobs as u64, "each was delivered once");
    replica.end().await;
}

/// Counts its jobs, and wakes somebody with each.
#[derive(Debug, Clone, Default)]
struct Waking(Arc<(AtomicUsize, Notify)>);

impl Handler for Waking {
    fn handle<'a>(&'a self, _: &'a Job, _: &'a Session<'a>) -> BoxFuture<'a, Verdict> {
        let (jobs, woken) = &*self.0;
        jobs.fetch_add(1, Ordering::Relaxed);
        woken.notify_one();
        async { Verdict::done(Value::Null) }.boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn whom_a_job_wakes_does_not_wait_for_all_that_has_come() {
    const JOBS: usize = 10_000;
    let house = House::new(QueueSettings { max_outstanding: JOBS, ..QueueSettings::default() });
    house.users((0..QUIET).map(|n| format!("user-{n}"))).await;
    for n in 0..JOBS {
        house.jobs.publish(&job(&format!("{n}"), &format!("user-{}", n % QUIET), "k"), "");
    }
    let waking = Waking::default();
    let (jobs, woken) = &*waking.0;
    let replica = house.start("a", waking.clone(), |b| b);
    // One thread: those who acknowledge are in this one's place in a real replica.
    let (mut before, mut longest) = (0, 0);
    while before < JOBS {
        woken.notified().await;
        let jobs = jobs.load(Ordering::Relaxed);
        longest = longest.max(jobs - before);
        before = jobs;
    }
    report::say(format!("at most {longest} of {JOBS} jobs between waking and running"));
    assert!(longest <= JOBS / 10, "{longest} jobs");
    house.jobs.drained().await;
    replica.end().await;
}
