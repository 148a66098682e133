//! Jobs that fail again and again.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_failing_job_of_a_key_is_tried_where_it_is() {
    let house = house().await;
    let left = Mutex::new(4);
    let script = Script::of(move |job| {
        let mut left = left.lock().unwrap();
        if job.id == "a1" && *left > 0 {
            *left -= 1;
            return Verdict::retry("the API failed");
        }
        Verdict::done(Value::Null)
    });
    let replica = house.start("a", script.clone(), |b| b);
    for id in ["a1", "a2", "a3", "a4"] {
        house.jobs.publish(&job(id, "ann", "k"), "ann");
    }
    house.jobs.drained().await;
    let ran: Vec<_> = script.ran.lock().unwrap().iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(ran, ["a1", "a1", "a1", "a1", "a1", "a2", "a3", "a4"]);
    assert_eq!(house.jobs.deliveries(), 4, "each was delivered once");
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_of_a_key_that_never_works_is_rejected_and_its_key_is_tried_for_less() {
    let house = house().await;
    let script = Script::of(|job| {
        if job.id == "good" { Verdict::done(Value::Null) } else { Verdict::retry("it failed") }
    });
    let hour = 60 * MINUTE;
    let replica = house.start("a", script.clone(), |b| b.ordered_retry(hour));
    for id in ["bad-1", "bad-2", "good", "bad-3"] {
        house.jobs.publish(&job(id, "ann", "k"), "ann");
    }
    let began = now();
    house.jobs.drained().await;
    let last = |id: &str| {
        let ran = script.ran.lock().unwrap();
        ran.iter().rev().find(|(ran, _)| ran == id).unwrap().1.since(began)
    };
    assert_eq!(last("bad-1").as_secs(), 60 * 60, "as long as it may be tried");
    assert!(last("bad-2") <= hour + 5 * MINUTE + SECOND, "{:?}", last("bad-2"));
    assert!(last("good") <= hour + 5 * MINUTE + 2 * SECOND);
    assert!(last("bad-3") > hour + 20 * MINUTE, "its key works again: {:?}", last("bad-3"));
    let reasons: Vec<_> =
        house.dead.take().iter().map(|m| m.attributes["reason"].clone()).collect();
    assert_eq!(reasons.len(), 3);
    assert!(reasons[0].starts_with("tried for too long"), "{reasons:?}");
    assert_eq!(house.jobs.deliveries(), 4);
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_job_that_waits_as_long_as_the_api_asked_is_held() {
    let house = House::new(QueueSettings { max_attempts: 5, ..QueueSettings::default() });
    house.users(["ann".to_owned()]).await;
    for after in [90, 3600] {
        let script = Script::first(vec![Verdict::RateLimited {
            http_status: Some(429),
            after: Some(Duration::from_secs(after)),
            limit: Limit::default(),
        }]);
        let replica = house.start("a", script.clone(), |b| b);
        let before = house.jobs.deliveries();
        house.jobs.publish(&job(&format!("{after}"), "ann", "k"), "");
        house.jobs.drained().await;
        let times = script.times(&format!("{after}"));
        assert_eq!(times[1].since(times[0]).as_secs(), after);
        assert_eq!((times.len(), house.jobs.deliveries() - before), (2, 1));
        replica.end().await;
    }
    assert_eq!(house.jobs.dead_lettered(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_job_that_fails_for_ever_does_not_spin_without_a_retry_policy() {
    let unpaced = (Duration::ZERO, Duration::ZERO);
    let house = House::new(QueueSettings {
        backoff: unpaced,
        max_attempts: 20,
        ..QueueSettings::default()
    });
    house.users(["ann".to_owned()]).await;
    let script = Script::of(|_| Verdict::retry("it fails"));
    let replica = house.start("a", script.clone(), |b| b.retry_budget(Duration::ZERO));
    house.jobs.publish(&job("poison", "ann", "k"), "");
    let began = now();
    pass(10 * MINUTE).await;
    assert!(house.jobs.deliveries() <= 30, "{} deliveries", house.jobs.deliveries());
    house.jobs.drained().await;
    assert!(now().since(began) > 5 * MINUTE, "{:?}", now().since(began));
    assert_eq!(house.jobs.dead_lettered(), 0, "Pub/Sub made no letter of its own");
    let letter = house.dead.take().remove(0);
    assert_eq!(letter.attributes["repeatable"], "true");
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_held_user_leaves_the_replica_to_others() {
    let house = House::new(QueueSettings { max_outstanding: 256, ..QueueSettings::default() });
    house.users((0..50).map(|n| format!("user-{n}")).chain(["slow".to_owned()])).await;
    let notebook = Notebook::taking(Duration::from_millis(20));
    let ran = notebook.clone();
    let replica = house.start("a", Mixed(notebook), |b| b.concurrency(16));
    for n in 0..300 {
        house.jobs.publish(&job(&format!("slow-{n}"), "slow", "k"), "");
    }
    pass(SECOND).await;
    let mut waits = Vec::new();
    for round in 0..20 {
        for n in 0..50 {
            house.jobs.publish(&job(&format!("{round}-{n}"), &format!("user-{n}"), "k"), "");
        }
        let published = now();
        pass(10 * SECOND).await;
        for n in 0..50 {
            let began = ran.began(&format!("{round}-{n}"));
            waits.push(began.map_or(Duration::MAX, |began| began.since(published)));
        }
    }
    waits.sort();
    let p99 = waits[waits.len() * 99 / 100];
    assert!(p99 < 2 * SECOND, "{p99:?}");
    let slow = ran.ids().iter().filter(|id| id.starts_with("slow")).count();
    assert_eq!(slow, 1, "the API was asked once");
    replica.end().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_retry_policy_a_held_users_messages_come_back_ever_more_slowly() {
    let unpaced = (Duration::ZERO, Duration::ZERO);
    let house = House::new(QueueSettings { backoff: unpaced, ..QueueSettings::default() });
    house.users(["slow".to_owned()]).await;
    let notebook = Notebook::default();
    let replica = house.start("a", Mixed(notebook.clone()), |b| b);
    for n in 0..300 {
        house.jobs.publish(&job(&format!("slow-{n}"), "slow", "k"), "");
    }
    pass(10 * MINUTE).await;
    assert!(house.dead.is_empty(), "{} messages ran out of attempts", house.dead.len());
    assert_eq!(house.jobs.dead_lettered(), 0);
    assert_eq!(notebook.ids().len(), 1, "the API was asked once");
    replica.end().await;
}

/// The slow user's API asks to wait for an hour; others take what the notebook says.
#[derive(Debug, Clone)]
struct Mixed(Notebook);

impl Handler for Mixed {
    fn handle<'a>(&'a self, job: &'a Job, session: &'a Session<'a>) -> BoxFuture<'a, Verdict> {
        async move {
            let verdict = self.0.handle(job, session).await;
            if job.user.as_str() == "slow" {
                let after = Some(Duration::from_secs(3600));
                return Verdict::RateLimited {
                    http_status: Some(429),
                    after,
                    limit: Limit::default(),
                };
            }
            verdict
        }
        .boxed()
    }
}

/// Only a job that was tried can have been tried for too long.
#[tokio::test(start_paused = true)]
async fn a_job_that_never_ran_says_so_in_its_letter() {
    let house = House::new(QueueSettings { max_attempts: 1, ..QueueSettings::default() });
    house.users(["ann".to_owned()]).await;
    let slow = Notebook::taking(5 * SECOND);
    let replica = house.start("a", slow.clone(), |b| b);
    for id in ["runs", "waits"] {
        house.jobs.publish(&job(id, "ann", "k"), "ann");
    }
    pass(SECOND).await;
    replica.end().await;
    assert_eq!(slow.ids(), ["runs"]);
    let letter = house.dead.take().remove(0);
    let told = |name: &str| letter.attributes[name].as_str();
    assert_eq!((told("fleet-job"), told("effect")), ("waits", "none"));
    assert_eq!(told("reason"), "it did not run in the last delivery that is permitted");
}

/// Each end of a replica takes an attempt from the jobs of a key that it gives back. The last
/// permitted one ends in a dead letter that says that nothing was done, so that a redrive does
/// the job.
#[tokio::test(start_paused = true)]
async fn five_replicas_that_end_in_a_row_lose_no_job_of_a_failing_key() {
    let house = House::new(QueueSettings { max_attempts: 5, ..QueueSettings::default() });
    house.users(["ann".to_owned()]).await;
    let is_down = Arc::new(AtomicBool::new(true));
    let script = {
        let is_down = Arc::clone(&is_down);
        Script::of(move |job| match job.id.as_str() {
            "first" if is_down.load(Ordering::Relaxed) => {
                Verdict::retry("the API is down").effect(Effect::None)
            }
            _ => posted(),
        })
    };
    let ids = ["first", "second", "third"];
    for id in ids {
        house.jobs.publish(&job(id, "ann", "k"), "ann");
    }
    for n in 0..5 {
        let replica = house.start(&format!("r-{n}"), script.clone(), |b| b.drain(SECOND));
        pass(10 * MINUTE).await;
        replica.end().await;
    }
    is_down.store(false, Ordering::Relaxed);
    let replica = house.start("last", script.clone(), |b| b);
    house.jobs.drained().await;
    assert_eq!(house.jobs.dead_lettered(), 0, "Pub/Sub made none, which would tell nothing");
    let letters = house.dead.take();
    let done = house.statuses().get("done").copied().unwrap_or_default();
    assert_eq!(letters.len() + done, ids.len(), "each has one end");
    for letter in letters {
        assert_eq!(letter.attributes["effect"], "none");
        house.jobs.publish_raw(letter.data.to_vec(), "ann");
    }
    house.jobs.drained().await;
    assert_eq!(house.statuses()["done"], ids.len());
    assert_eq!((script.times("second").len(), script.times("third").len()), (1, 1));
    replica.end().await;
}
