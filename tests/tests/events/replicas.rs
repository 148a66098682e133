//! Real replicas, whose users' grants end at the provider.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::stage::{Cloud, Inbox, Letter, Stage, Worker, full};
use worker::pubsub::{Admin, Outgoing, Publisher, SubscriptionPlan};

const USERS: usize = 50;
const REPLICAS: usize = 8;

fn user(number: usize) -> String {
    format!("user-{number:02}")
}

/// The stage, whose commands publish events, and what comes out of it.
async fn stage_with_events() -> anyhow::Result<(Stage, Inbox)> {
    let mut stage = Stage::set(Cloud::embedded().await?).await?;
    let made = stage.fleet(&["setup", "--events-topic", "events"]).await?;
    anyhow::ensure!(made.code == 0, "{}", made.stderr);
    let admin = Admin::connect(&stage.connection()).await.map_err(anyhow::Error::msg)?;
    let plan = SubscriptionPlan {
        name: full("subscriptions", "events"),
        topic: full("topics", "events"),
        dead_topic: None,
        ordering: false,
        min_backoff: Duration::from_secs(1),
    };
    admin.create_subscription(&plan).await.map_err(anyhow::Error::msg)?;
    for (name, value) in [
        ("FLEET_EVENTS_TOPIC", "events"),
        ("FLEET_PUBLIC_URL", "https://connect.example.com"),
        // A token that was refused a moment after it was issued is not renewed before this.
        ("FLEET_LEASE_TTL", "3s"),
    ] {
        stage.variables.push((name.to_owned(), value.to_owned()));
    }
    let inbox = stage.inbox("events").await?;
    Ok((stage, inbox))
}

/// Everything that was published to the events topic before this is called.
async fn all_so_far(stage: &Stage, inbox: &mut Inbox) -> anyhow::Result<Vec<Letter>> {
    let publisher = Publisher::open(&stage.connection(), &full("topics", "events")).await?;
    let end = Outgoing { data: "\"end\"".into(), ..Outgoing::default() };
    publisher.publish(end).await?;
    let mut letters = Vec::new();
    loop {
        let (data, attributes) = inbox.next().await?;
        if data == "end" {
            return Ok(letters);
        }
        letters.push((data, attributes));
    }
}

/// How often each type of event came, and of how many users.
fn counted(letters: &[Letter]) -> BTreeMap<&str, (usize, usize)> {
    let mut users: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (data, attributes) in letters {
        let of = users.entry(&attributes["ce-type"]).or_default();
        of.push(data["user"].as_str().unwrap());
    }
    let distinct = |users: &[&str]| users.iter().collect::<BTreeSet<_>>().len();
    users.into_iter().map(|(word, users)| (word, (users.len(), distinct(&users)))).collect()
}

fn jobs(round: usize) -> Vec<Value> {
    let job = |number: usize, job: usize| json!({"id": format!("{round}-{number}-{job}"), "user": user(number), "kind": "profile"});
    (0..USERS).flat_map(|number| (0..4).map(move |of| job(number, of))).collect()
}

/// Jobs without an ordering key reach any replica: all of them meet each user whose grant has
/// ended.
async fn park_everybody(stage: &Stage, outcomes: &mut Inbox, round: usize) -> anyhow::Result<()> {
    let jobs = jobs(round);
    stage.publish(&jobs, &["--unordered"]).await?;
    let seen = outcomes.outcomes(jobs.len()).await?;
    let parked = seen.values().filter(|outcome| outcome["status"] == "parked").count();
    assert_eq!(parked, jobs.len(), "{seen:?}");
    Ok(())
}

/// A person at a time would take minutes: each command waits a second before it may write
/// what it told.
async fn consent_anew(stage: &Stage) -> anyhow::Result<()> {
    let consent = async |number: usize| {
        let user = user(number);
        let file = stage.path(&format!("{user}.json")).display().to_string();
        stage.write_authorized_user(&user, &file)?;
        let made = stage.fleet(&["users", "import", &file, "--user", &user]).await?;
        anyhow::ensure!(made.code == 0, "{}", made.stderr);
        Ok(())
    };
    stream::iter(0..USERS).map(consent).buffer_unordered(8).try_collect().await
}

async fn stop(workers: Vec<Worker>) -> anyhow::Result<()> {
    for worker in &workers {
        worker.signal(Signal::TERM)?;
    }
    for mut worker in workers {
        assert_eq!(worker.ended().await?, 0, "{}", worker.log_text());
    }
    Ok(())
}

async fn start(stage: &Stage) -> anyhow::Result<Vec<Worker>> {
    let mut workers = Vec::new();
    for _ in 0..REPLICAS {
        workers.push(stage.start_worker(&["--per-user", "4"])?);
    }
    for worker in &mut workers {
        worker.wait_for(|line| line["message"] == "taking jobs").await?;
    }
    Ok(workers)
}

/// Eight replicas, fifty users whose grants end at the provider, twice.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_users_are_needed_once_each_and_again_after_a_new_consent() -> anyhow::Result<()> {
    let (stage, mut events) = stage_with_events().await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    for number in 0..USERS {
        stage.write_expired_user(&user(number)).await?;
        stage.google.revoke_user(&user(number));
    }
    let workers = start(&stage).await?;
    park_everybody(&stage, &mut outcomes, 1).await?;
    stop(workers).await?;
    let told = all_so_far(&stage, &mut events).await?;
    assert_eq!(counted(&told), BTreeMap::from([("fleet.consent.needed", (USERS, USERS))]));
    for (data, attributes) in &told {
        let id = data["user"].as_str().unwrap();
        assert_eq!(data["reason"], "revoked");
        assert!(data["waiting_jobs"].as_u64() >= Some(1), "{data}");
        let link = format!("https://connect.example.com/connect?user_hint={id}");
        assert_eq!(data["connect_link"], link);
        assert_eq!((&*attributes["ce-specversion"], &*attributes["ce-subject"]), ("1.0", id));
        let source = "//storage.googleapis.com/projects/_/buckets/stage-tokens";
        assert_eq!(attributes["ce-source"], source);
    }

    // Everybody consents anew: their jobs go on, and the applications hear of it.
    consent_anew(&stage).await?;
    let workers = start(&stage).await?;
    let done = outcomes.outcomes(4 * USERS).await?;
    assert!(done.values().all(|outcome| outcome["status"] == "done"), "{done:?}");
    let told = all_so_far(&stage, &mut events).await?;
    assert_eq!(counted(&told), BTreeMap::from([("fleet.consent.granted", (USERS, USERS))]));

    // And ends it again, beside the same replicas.
    for number in 0..USERS {
        stage.google.revoke_user(&user(number));
    }
    park_everybody(&stage, &mut outcomes, 2).await?;
    stop(workers).await?;
    let told = all_so_far(&stage, &mut events).await?;
    assert_eq!(counted(&told), BTreeMap::from([("fleet.consent.needed", (USERS, USERS))]));
    Ok(())
}

/// A topic that does not exist stops no job: the replica says so, does its jobs and parks what
/// must wait. When the topic is there the next replica's sweep tells what was not told.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_events_topic_stops_no_job() -> anyhow::Result<()> {
    let (stage, _) = stage_with_events().await?;
    let (pubsub, _) = stage.cloud.embedded.as_ref().unwrap();
    pubsub.delete_topic(&full("topics", "events")).unwrap();
    // Importing her is a consent, of which nobody can be told yet.
    stage.user("ann", Duration::ZERO).await?;
    stage.write_expired_user("zoe").await?;
    stage.google.revoke_user("zoe");
    let mut worker = stage.worker(&[]).await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    let job = |user: &str| json!({"id": user, "user": user, "kind": "profile"});
    stage.publish(&[job("ann"), job("zoe")], &[]).await?;
    let seen = outcomes.outcomes(2).await?;
    assert_eq!(
        (&seen["ann"]["status"], &seen["zoe"]["status"]),
        (&json!("done"), &json!("parked"))
    );
    let line = worker.wait_for(|line| line["severity"] == "ERROR").await?;
    let said = line["message"].as_str().unwrap();
    assert!(
        said.contains("--events-topic") && said.contains("Jobs are done all the same"),
        "{said}"
    );
    stop(vec![worker]).await?;
    let doctor = stage.fleet(&["doctor", "--json"]).await?;
    let report: Value = serde_json::from_str(&doctor.stdout)?;
    assert!(report.to_string().contains("correct --events-topic"), "{report}");

    let made = stage.fleet(&["setup", "--events-topic", "events"]).await?;
    assert_eq!(made.code, 0, "{}", made.stderr);
    let admin = Admin::connect(&stage.connection()).await.map_err(anyhow::Error::msg)?;
    let plan = SubscriptionPlan {
        name: full("subscriptions", "events-again"),
        topic: full("topics", "events"),
        dead_topic: None,
        ordering: false,
        min_backoff: Duration::from_secs(1),
    };
    admin.create_subscription(&plan).await.map_err(anyhow::Error::msg)?;
    let mut events = stage.inbox("events-again").await?;
    // The first sweep comes within a twentieth of the interval.
    let worker = stage.worker(&["--sweep", "60s"]).await?;
    let mut told = [events.next().await?.0, events.next().await?.0];
    told.sort_by_key(|data| data["user"].to_string());
    assert_eq!(told[0], json!({"user": "ann"}));
    assert_eq!((&told[1]["user"], &told[1]["reason"]), (&json!("zoe"), &json!("revoked")));
    stop(vec![worker]).await
}

/// An operator ends a grant: the applications hear of it, and nothing of the user is kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_by_an_operator_is_told_and_leaves_nothing() -> anyhow::Result<()> {
    let (stage, mut events) = stage_with_events().await?;
    stage.user("ann", Duration::ZERO).await?;
    let revoked = stage.fleet(&["users", "revoke", "ann", "--yes"]).await?;
    assert_eq!(revoked.code, 0, "{}", revoked.stderr);
    let told = all_so_far(&stage, &mut events).await?;
    let words: Vec<_> = told.iter().map(|(_, attributes)| &*attributes["ce-type"]).collect();
    assert_eq!(words, ["fleet.consent.granted", "fleet.consent.ended"]);
    assert_eq!(told[1].0, json!({"user": "ann", "reason": "disconnected"}));
    let left = stage.cloud.objects(tests::stage::BUCKET, "events/").await?;
    assert_eq!(left, Vec::<String>::new());
    // Where nobody is told, the object goes too.
    stage.user("ann", Duration::ZERO).await?;
    let deleted = stage.fleet(&["users", "delete", "ann", "--yes", "--events-topic", ""]).await?;
    assert_eq!(deleted.code, 0, "{}", deleted.stderr);
    let left = stage.cloud.objects(tests::stage::BUCKET, "events/").await?;
    assert_eq!(left, Vec::<String>::new());
    Ok(())
}
