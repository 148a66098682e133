//! A long day leaves nothing behind.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use tests::memory::{AnswerFault, QueueSettings, pass};
use tests::report;
use worker::{Dedupe, Limit, Verdict};

use crate::house::{House, job, now};
use crate::retries::Script;

const USERS: usize = 40;
const HOURS: usize = 24;
const JOBS_PER_HOUR: usize = 240;

/// How many tasks live when nothing is to do.
async fn idle_tasks(house: &House) -> usize {
    house.jobs.drained().await;
    // What was slowed down or waits for its back-off has its time.
    pass(Duration::from_secs(1200)).await;
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

#[tokio::test(start_paused = true)]
async fn a_day_of_jobs_outages_limits_and_panics_leaks_nothing() {
    let house = House::new(QueueSettings::default());
    house.users((0..USERS).map(|n| format!("user-{n}"))).await;
    let serial = AtomicU64::new(0);
    let script = Script::of(move |_| {
        let n = serial.fetch_add(1, Ordering::Relaxed);
        assert!(n % 97 != 3, "a handler's own trouble");
        match n % 50 {
            7 => Verdict::RateLimited {
                http_status: Some(429),
                after: None,
                limit: Limit::default(),
            },
            11 | 12 => {
                Verdict::Retry { why: "flaky".to_owned(), http_status: Some(503), after: None }
            }
            13 => Verdict::reject("never"),
            17 => Verdict::Unauthorized,
            _ => Verdict::done(Value::Null),
        }
    });
    let replica =
        house.start("a", script, |b| b.concurrency(8).per_user(2).dedupe(Dedupe::memory()));
    let began = now();
    let mut after_an_hour = 0;
    for hour in 0..HOURS {
        // The last quarter of the users comes once only.
        for n in 0..JOBS_PER_HOUR {
            let user = format!("user-{}", if hour == 0 { n % USERS } else { n % (USERS * 3 / 4) });
            let key = if n % 3 == 0 { user.as_str() } else { "" };
            house.jobs.publish(&job(&format!("{hour}-{n}"), &user, "k"), key);
            pass(Duration::from_secs(10)).await;
            match n {
                60 => house.fleet.bucket.set_down(true),
                75 => house.fleet.bucket.set_down(false),
                100 => (0..20).for_each(|_| house.fleet.provider.fail(AnswerFault::Transient)),
                120 => house.fleet.provider.forget_faults(),
                _ => {}
            }
        }
        let tasks = idle_tasks(&house).await;
        if hour == 0 {
            after_an_hour = tasks;
        }
        assert!(tasks <= after_an_hour, "hour {hour}: {tasks} tasks instead of {after_an_hour}");
    }
    let statuses = house.statuses();
    report::say(format!(
        "a day of {:?}: {statuses:?}, {} deliveries, {after_an_hour} tasks at the start, the end and each hour, {} users in memory",
        now().since(began),
        house.jobs.deliveries(),
        replica.store.cached_users(),
    ));
    assert!(now().since(began) >= Duration::from_secs(24 * 3600));
    let ended: usize = statuses.values().sum();
    assert_eq!(ended, HOURS * JOBS_PER_HOUR, "every job has ended once");
    assert!(statuses["done"] > statuses["rejected"]);
    assert!(replica.store.cached_users() <= USERS);
    replica.end().await;
    assert_eq!(house.jobs.backlog(), 0);
}
