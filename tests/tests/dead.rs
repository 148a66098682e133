//! Parked jobs and dead letters: `fleet dead`, the workers' sweep, and logins.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use shared::UserId;
use shared::adapters::{MemoryBucket, SystemClock};
use shared::ports::{Bucket, Clock as _};
use shared::sealing::Sealing;
use tests::stage::{BUCKET, Cloud, LIMITS, PATIENCE, Stage, full};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use worker::Effect;
use worker::outbox::{Outbox, StoredEnding, Writable};
use worker::outcome::Status;
use worker::pubsub::{Intake, IntakeSettings, OUTSTANDING_BYTES, Outgoing, Publisher, Source as _};

/// Google's emulator does not show again what was given back at the end of a
/// stream, so that nothing can be looked at twice there.
#[tokio::test]
async fn on_googles_emulator_dead_letters_are_redriven() -> anyhow::Result<()> {
    let test = "dead::on_googles_emulator_dead_letters_are_redriven";
    let Some(cloud) = Cloud::external_if_found(test).await? else { return Ok(()) };
    let stage = Stage::set(cloud).await?;
    let dead = Publisher::open(&stage.connection(), &full("topics", "jobs-dead")).await?;
    for n in 0..3 {
        let job = job(&format!("j{n}"), "ann", "profile").to_string();
        dead.publish(bury(&job, "HTTP status 404")).await?;
    }
    dead.publish(bury("no job", "malformed job")).await?;
    let counts = redrive(&stage, &["--dead", "--reason", "404"]).await?;
    assert_eq!((&counts["redriven"], &counts["skipped"]), (&json!(3), &json!(0)), "{counts}");
    let mut jobs = stage.inbox("jobs-workers").await?;
    for n in 0..3 {
        let (data, attributes) = jobs.next().await?;
        assert_eq!(data["id"], format!("j{n}"), "in their order");
        assert_eq!(attributes["mine"], "kept");
        assert!(!attributes.contains_key("reason"), "{attributes:?}");
    }
    let parked = stage.fleet(&["dead", "list", "--parked"]).await?;
    assert_eq!(parked.code, 1, "{LIMITS}");
    assert!(parked.stderr.contains("STORAGE_EMULATOR_HOST_GRPC"), "{}", parked.stderr);
    Ok(())
}

async fn embedded_stage() -> anyhow::Result<Stage> {
    Stage::set(Cloud::embedded().await?).await
}

fn job(id: &str, user: &str, kind: &str) -> Value {
    json!({"id": id, "user": user, "kind": kind})
}

const HOUR: Duration = Duration::from_secs(3600);
/// How long dead letters are waited for: longer than those may stay unseen that an earlier
/// look gave back. The server may deliver one at once to the stream of that look, before it
/// has heard that the stream has ended, and it is nobody's then until its lease expires.
const WAIT: &str = "11s";

/// What `fleet dead list --json` shows, by job ID.
async fn list(stage: &Stage, flags: &[&str]) -> anyhow::Result<BTreeMap<String, Value>> {
    let mut args = vec!["dead", "list", "--json", "--wait", WAIT];
    args.extend(flags);
    let output = stage.fleet(&args).await?;
    anyhow::ensure!(output.code == 0, "{}", output.stderr);
    let letters = output.stdout.lines().map(serde_json::from_str::<Value>);
    let named = letters.map(|l| l.map(|l| (l["job"].as_str().unwrap().to_owned(), l)));
    Ok(named.collect::<Result<_, _>>()?)
}

async fn redrive(stage: &Stage, flags: &[&str]) -> anyhow::Result<Value> {
    let mut args = vec!["dead", "redrive", "--json", "--yes", "--wait", WAIT];
    args.extend(flags);
    let output = stage.fleet(&args).await?;
    anyhow::ensure!(output.code == 0, "{}", output.stderr);
    Ok(serde_json::from_str(&output.stdout)?)
}

/// The letter of a job that did nothing.
fn bury(data: &str, reason: &str) -> Outgoing {
    letter(data, &[("reason", reason), ("effect", "none"), ("mine", "kept")])
}

fn letter(data: &str, attributes: &[(&str, &str)]) -> Outgoing {
    let named = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    Outgoing {
        data: data.to_owned().into(),
        attributes: attributes.iter().map(named).collect(),
        ordering_key: String::new(),
    }
}

#[tokio::test]
async fn a_list_ends_when_what_was_there_is_read() -> anyhow::Result<()> {
    a_list_ends(&embedded_stage().await?).await
}

#[tokio::test]
async fn on_googles_emulator_a_list_ends_when_what_was_there_is_read() -> anyhow::Result<()> {
    let test = "dead::on_googles_emulator_a_list_ends_when_what_was_there_is_read";
    let Some(cloud) = Cloud::external_if_found(test).await? else { return Ok(()) };
    a_list_ends(&Stage::set(cloud).await?).await
}

/// Five dead letters are shown, all of them, before the time is over for which the first would
/// be waited for.
async fn a_list_ends(stage: &Stage) -> anyhow::Result<()> {
    let dead = Publisher::open(&stage.connection(), &full("topics", "jobs-dead")).await?;
    for n in 0..5 {
        let job = job(&format!("j{n}"), "ann", "profile").to_string();
        dead.publish(bury(&job, "HTTP status 404")).await?;
    }
    let clock = SystemClock::default();
    let began = clock.monotonic();
    let output = stage.fleet(&["dead", "list", "--json", "--dead"]).await?;
    let took = clock.monotonic().since(began);
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert_eq!(output.stdout.lines().count(), 5, "{}", output.stdout);
    assert!(took < Duration::from_secs(5), "{took:?}");
    Ok(())
}

#[tokio::test]
async fn rejected_jobs_are_listed_and_redriven() -> anyhow::Result<()> {
    let stage = &embedded_stage().await?;
    let mut worker = stage.worker(&[]).await?;
    stage.publish(&[job("brew-1", "ann", "brew")], &["--unordered"]).await?;
    let topic = Publisher::open(&stage.connection(), &full("topics", "jobs")).await?;
    topic.publish(Outgoing { data: "no job".into(), ..Outgoing::default() }).await?;
    for _ in 0..2 {
        worker.wait_for(|line| line["status"] == "rejected").await?;
    }
    assert_eq!(worker.terminate().await?, 0);
    let found = list(stage, &["--dead"]).await?;
    assert_eq!(found.len(), 2, "{found:?}");
    let brew = &found["brew-1"];
    assert_eq!((&brew["user"], &brew["kind"]), (&json!("ann"), &json!("brew")));
    assert!(brew["reason"].as_str().unwrap().contains("unknown kind"), "{brew}");
    let broken = found.values().find(|l| l["malformed"].is_string()).context("malformed")?;
    assert!(broken["reason"].as_str().unwrap().contains("not JSON"), "{broken}");
    assert_eq!(list(stage, &["--dead"]).await?.len(), 2, "looking took nothing away");
    let output = stage.fleet(&["dead", "redrive", "--dead", "--dry-run", "--wait", WAIT]).await?;
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(output.stdout.contains("brew-1"), "{}", output.stdout);
    assert!(output.stderr.contains("nothing was changed"), "{}", output.stderr);
    assert!(output.stderr.contains("malformed") && output.stderr.contains("--force"));
    let counts = redrive(stage, &["--dead"]).await?;
    assert_eq!((&counts["redriven"], &counts["skipped"]), (&json!(1), &json!(1)), "{counts}");
    let mut jobs = stage.inbox("jobs-workers").await?;
    let (data, attributes) = jobs.next().await?;
    assert_eq!(data, job("brew-1", "ann", "brew"), "as it was published");
    let redriven = [("fleet-job", "brew-1"), ("fleet-run", "0"), ("fleet_redrives", "1")];
    for (name, value) in redriven {
        assert_eq!(attributes[name], value, "{attributes:?}");
    }
    for name in ["reason", "effect", "repeatable", "message_id"] {
        assert!(!attributes.contains_key(name), "{attributes:?}");
    }
    assert_eq!(list(stage, &["--dead"]).await?.len(), 1);
    assert_eq!(redrive(stage, &["--dead", "--force"]).await?["redriven"], 1);
    assert_eq!(jobs.next().await?.0, "no job");
    assert!(list(stage, &["--dead"]).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn jobs_that_pubsub_gave_up_are_listed_and_redriven() -> anyhow::Result<()> {
    let stage = &embedded_stage().await?;
    let five = full("subscriptions", "five");
    let settings = json!({
        "topic": full("topics", "jobs"),
        "enableMessageOrdering": true,
        "deadLetterPolicy": {"deadLetterTopic": full("topics", "jobs-dead"), "maxDeliveryAttempts": 5},
        "retryPolicy": {"minimumBackoff": "0s", "maximumBackoff": "1s"},
    });
    let url = format!("http://{}/v1/{five}", stage.cloud.pubsub);
    reqwest::Client::new().put(url).json(&settings).send().await?.error_for_status()?;
    stage.publish(&[job("tired", "ann", "profile")], &[]).await?;
    let mut messages = Intake::open(
        &stage.connection(),
        IntakeSettings {
            subscription: five,
            max_outstanding: 10,
            max_outstanding_bytes: OUTSTANDING_BYTES,
            ack_extension: Duration::from_secs(10),
        },
    )
    .await?;
    for _ in 0..5 {
        let delivery = tokio::time::timeout(PATIENCE, messages.next()).await.context("again")??;
        delivery.settle.nack();
    }
    let sixth = async {
        loop {
            if let Ok(delivery) = messages.next().await {
                panic!("a sixth delivery: {delivery:?}");
            }
        }
    };
    let found = tokio::select! {
        found = list(stage, &["--dead"]) => found?,
        () = sixth => unreachable!("it does not end"),
    };
    let tired = found.get("tired").with_context(|| format!("{found:?}"))?;
    assert_eq!(tired["reason"], "delivered 5 times by five");
    assert_eq!((&tired["effect"], &tired["ended_here"]), (&json!("unknown"), &json!(false)));
    let counts = redrive(stage, &["--dead"]).await?;
    assert_eq!((&counts["redriven"], &counts["unrecorded"]), (&json!(0), &json!(1)), "{counts}");
    let counts = redrive(stage, &["--dead", "--effect", "unrecorded"]).await?;
    assert_eq!(counts["redriven"], 1, "{counts}");
    let mut jobs = stage.inbox("jobs-workers").await?;
    let first = [("kind", "profile")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    assert_eq!(jobs.next().await?.1, first.into(), "the first delivery");
    let (data, attributes) = jobs.next().await?;
    assert_eq!(data["id"], "tired");
    let expected = [("fleet_redrives", "1"), ("fleet-job", "tired"), ("kind", "profile")];
    assert_eq!(attributes, expected.map(|(n, v)| (n.to_owned(), v.to_owned())).into());
    Ok(())
}

#[tokio::test]
async fn filters_choose_what_goes_on() -> anyhow::Result<()> {
    let stage = &embedded_stage().await?;
    let dead = Publisher::open(&stage.connection(), &full("topics", "jobs-dead")).await?;
    for n in 0..6 {
        let (user, kind) = (["ann", "bob"][n % 2], ["api", "profile", "api"][n % 3]);
        let reason = if n < 3 { "HTTP status 404" } else { "HTTP status 410: Gone" };
        dead.publish(bury(&job(&format!("j{n}"), user, kind).to_string(), reason)).await?;
    }
    let jobs = |found: BTreeMap<String, Value>| found.into_keys().collect::<Vec<_>>().join(" ");
    assert_eq!(jobs(list(stage, &["--dead", "--user", "ann"]).await?), "j0 j2 j4");
    let narrow = ["--dead", "--kind", "api", "--reason", "gone", "--user", "bob"];
    assert_eq!(jobs(list(stage, &narrow).await?), "j3 j5");
    let output = stage.fleet(&["dead", "list", "--dead", "--limit", "2", "--wait", WAIT]).await?;
    assert_eq!(output.stdout.lines().count(), 3, "a heading and two: {}", output.stdout);
    assert!(output.stderr.contains("more than 2"), "{}", output.stderr);
    let counts = redrive(stage, &narrow).await?;
    assert_eq!((&counts["redriven"], &counts["left"]), (&json!(2), &json!(0)), "{counts}");
    assert_eq!(jobs(list(stage, &["--dead"]).await?), "j0 j1 j2 j4");
    // Nobody can be asked here.
    let output = stage.fleet(&["dead", "redrive", "--dead"]).await?;
    assert_eq!(output.code, 2, "{}", output.stderr);
    assert!(output.stderr.contains("--yes"), "{}", output.stderr);
    Ok(())
}

/// What has acted, or may have, stays where it is unless somebody asks for that; a letter
/// that was written twice is one job, with the worst that is known of it.
#[tokio::test]
async fn spent_jobs_are_left_where_they_are() -> anyhow::Result<()> {
    let stage = &embedded_stage().await?;
    let dead = Publisher::open(&stage.connection(), &full("topics", "jobs-dead")).await?;
    let all: [(&str, &[(&str, &str)]); 8] = [
        ("nothing", &[("effect", "none"), ("repeatable", "false"), ("message_id", "1")]),
        ("spent", &[("effect", "unknown"), ("repeatable", "false"), ("message_id", "2")]),
        ("acted", &[("effect", "done"), ("repeatable", "false"), ("message_id", "3")]),
        ("again", &[("effect", "done"), ("repeatable", "true"), ("message_id", "4")]),
        ("old", &[("reason", "HTTP status 500"), ("message_id", "5"), ("job", "old")]),
        ("twin", &[("effect", "none"), ("message_id", "6")]),
        ("twin", &[("effect", "unknown"), ("message_id", "6"), ("reason", "no answer")]),
        ("same", &[("effect", "none"), ("message_id", "7")]),
    ];
    for (id, attributes) in all {
        dead.publish(letter(&job(id, "ann", "api").to_string(), attributes)).await?;
    }
    dead.publish(letter(&job("same", "ann", "api").to_string(), all[7].1)).await?;
    let found = list(stage, &["--dead"]).await?;
    assert_eq!(found.len(), 7, "{:?}", found.keys());
    let told = |id: &str| (found[id]["effect"].clone(), found[id]["ended_here"].clone());
    assert_eq!(told("twin"), (json!("unknown"), json!(true)));
    assert_eq!(told("old"), (json!("unknown"), json!(false)));
    let counts = redrive(stage, &["--dead"]).await?;
    let count = |counts: &Value, name: &str| counts[name].as_u64().unwrap();
    assert_eq!(count(&counts, "redriven"), 3, "{counts}");
    assert_eq!((count(&counts, "spent"), count(&counts, "unrecorded")), (3, 1), "{counts}");
    let mut jobs = stage.inbox("jobs-workers").await?;
    for id in ["nothing", "again", "same"] {
        let (data, attributes) = jobs.next().await?;
        assert_eq!(data["id"], id);
        assert!(!attributes.contains_key("fleet-run"), "{id}: the same run");
    }
    let left = list(stage, &["--dead"]).await?;
    assert_eq!(left.keys().collect::<Vec<_>>(), ["acted", "old", "spent", "twin"]);
    let counts = redrive(stage, &["--dead", "--effect", "unrecorded"]).await?;
    assert_eq!(count(&counts, "redriven"), 1, "{counts}");
    let (data, attributes) = jobs.next().await?;
    assert_eq!((&data["id"], attributes["fleet-job"].as_str()), (&json!("old"), "old"));
    assert!(!attributes.contains_key("job") && !attributes.contains_key("fleet-run"));
    let counts = redrive(stage, &["--dead", "--effect", "any"]).await?;
    assert_eq!(count(&counts, "redriven"), 3, "{counts}");
    for id in ["spent", "acted", "twin"] {
        let (data, attributes) = jobs.next().await?;
        assert_eq!((&data["id"], attributes["fleet-run"].as_str()), (&json!(id), "1"));
    }
    assert!(list(stage, &["--dead"]).await?.is_empty());
    Ok(())
}

/// An end that a topic refuses is shown, and is nothing to redrive.
#[tokio::test]
async fn ends_that_could_not_be_written_are_shown() -> anyhow::Result<()> {
    let stage = &embedded_stage().await?;
    let ending = StoredEnding {
        user: Some(UserId::new("ann")?),
        job: "j".into(),
        kind: "api".into(),
        run: 0,
        message_id: "7".into(),
        status: Status::Done,
        effect: Effect::Done,
        repeatable: false,
        reason: None,
        refused: true,
        rest: vec![Writable::Outcome {
            topic: full("topics", "outcomes"),
            message: letter(r#"{"job":"j","user":"ann"}"#, &[]),
        }],
        stored_at: "2026-01-01T00:00:00Z".parse()?,
    };
    let memory: Arc<dyn Bucket> = Arc::new(MemoryBucket::default());
    Outbox::new(Arc::clone(&memory), Sealing::default()).store(&ending).await?;
    let name = ending.object_name();
    let object = memory.get(&name).await?.context("stored")?;
    stage.cloud.create(BUCKET, &name, std::str::from_utf8(&object.content)?).await?;
    let found = list(stage, &["--ending"]).await?;
    assert_eq!((&found["j"]["place"], &found["j"]["object"]), (&json!("ending"), &json!(name)));
    assert_eq!((&found["j"]["effect"], &found["j"]["run"]), (&json!("done"), &json!(0)));
    let refused = format!("done, and refused by {}", full("topics", "outcomes"));
    assert_eq!(found["j"]["reason"], refused);
    assert!(list(stage, &["--parked"]).await?.is_empty());
    let counts = redrive(stage, &["--effect", "any"]).await?;
    assert_eq!(counts["redriven"], 0, "{counts}");
    assert_eq!(stage.cloud.objects(BUCKET, "endings/").await?, [name]);
    let drop = ["dead", "drop", "--ending", "--id", "j", "--json", "--yes"];
    let output = stage.fleet(&drop).await?;
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert_eq!(serde_json::from_str::<Value>(&output.stdout)?["dropped"], 1);
    assert!(stage.cloud.objects(BUCKET, "endings/").await?.is_empty());
    Ok(())
}

/// What is dropped is gone, and nothing else is.
#[tokio::test]
async fn jobs_are_dropped_for_good() -> anyhow::Result<()> {
    let stage = &embedded_stage().await?;
    park(stage, &[job("p0", "ann", "profile"), job("p1", "ann", "profile")]).await?;
    let dead = Publisher::open(&stage.connection(), &full("topics", "jobs-dead")).await?;
    for id in ["d0", "d1"] {
        dead.publish(bury(&job(id, "ann", "profile").to_string(), "once")).await?;
    }
    let output = stage.fleet(&["dead", "drop"]).await?;
    assert_eq!(output.code, 2, "nobody can be asked: {}", output.stderr);
    for id in ["p0", "d1"] {
        let drop = ["dead", "drop", "--id", id, "--yes", "--json", "--wait", WAIT];
        let output = stage.fleet(&drop).await?;
        assert_eq!(output.code, 0, "{}", output.stderr);
        assert_eq!(serde_json::from_str::<Value>(&output.stdout)?["dropped"], 1);
    }
    let left = list(stage, &[]).await?;
    assert_eq!(left.keys().collect::<Vec<_>>(), ["d0", "p1"]);
    let parked = stage.cloud.objects(BUCKET, "parked/").await?;
    assert!(parked.len() == 1 && !parked[0].ends_with("/claim"), "{parked:?}");
    Ok(())
}

/// Made-up users' jobs go by their reason, without the keyring that they are sealed with; what
/// waits for anything else stays.
#[tokio::test]
async fn the_jobs_of_unknown_users_are_dropped_by_their_reason() -> anyhow::Result<()> {
    let mut stage = embedded_stage().await?;
    let keyring = stage.path("keyring.json").display().to_string();
    assert_eq!(stage.fleet(&["keyring", "new", &keyring]).await?.code, 0);
    stage.variables.push(("FLEET_KEYRING".to_owned(), keyring));
    stage.user("ann", HOUR).await?;
    let drive = json!({"url": "https://www.googleapis.com/drive/v3/files"});
    let scope = json!({"id": "scope", "user": "ann", "kind": "api", "params": drive});
    let mut jobs = vec![scope];
    for user in ["made-up-1", "made-up-2", "made-up-3"] {
        jobs.extend(["a", "b"].map(|id| job(&format!("{user}-{id}"), user, "profile")));
    }
    park(&stage, &jobs).await?;
    stage.variables.pop();

    let parked = async || stage.cloud.objects(BUCKET, "parked/").await;
    assert_eq!(parked().await?.len(), 7);
    let unknown = ["dead", "drop", "--parked", "--reason", "unknown_user"];
    let look = stage.fleet(&[&unknown[..], &["--dry-run"]].concat()).await?;
    assert_eq!((look.code, look.stdout.lines().count()), (0, 7), "{}", look.stdout);
    assert!(look.stderr.contains("6 would be removed"), "{}", look.stderr);
    assert_eq!(parked().await?.len(), 7, "nothing was changed");
    let output = stage.fleet(&[&unknown[..], &["--yes", "--json"]].concat()).await?;
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert_eq!(serde_json::from_str::<Value>(&output.stdout)?, json!({"dropped": 6, "failed": 0}));
    let left = parked().await?;
    assert!(left.len() == 1 && left[0].starts_with("parked/ann/"), "{left:?}");
    Ok(())
}

/// Two processes store a credential at the same time, and each resumes the user's jobs.
#[tokio::test]
async fn two_imports_at_once_resume_each_job_once() -> anyhow::Result<()> {
    let stage = embedded_stage().await?;
    let jobs: Vec<Value> = (0..6).map(|n| job(&format!("p{n}"), "ann", "profile")).collect();
    park(&stage, &jobs).await?;
    let file = stage.path("ann").display().to_string();
    stage.write_authorized_user("ann", &file)?;
    let import = ["users", "import", &file, "--user", "ann", "--replace", "--topic", "jobs"];
    let (one, other) = tokio::join!(stage.fleet(&import), stage.fleet(&import));
    let (one, other) = (one?, other?);
    assert_eq!((one.code, other.code), (0, 0), "{} {}", one.stderr, other.stderr);
    assert!(stage.cloud.objects(BUCKET, "parked/").await?.is_empty(), "and no claim is left");
    stage.publish(&[job("last", "ann", "profile")], &[]).await?;
    let mut inbox = stage.inbox("jobs-workers").await?;
    for id in ["p0", "p1", "p2", "p3", "p4", "p5", "last"] {
        assert_eq!(inbox.next().await?.0["id"], id, "{} {}", one.stderr, other.stderr);
    }
    Ok(())
}

async fn park(stage: &Stage, jobs: &[Value]) -> anyhow::Result<()> {
    let mut worker = stage.worker(&[]).await?;
    stage.publish(jobs, &[]).await?;
    for _ in jobs {
        worker.wait_for(|line| line["status"] == "parked").await?;
    }
    assert_eq!(worker.terminate().await?, 0);
    Ok(())
}

/// One of them has as much data as a job may have.
#[tokio::test]
async fn parked_jobs_are_listed_and_redriven_in_order() -> anyhow::Result<()> {
    let stage = embedded_stage().await?;
    let mut jobs: Vec<Value> = (0..5).map(|n| job(&format!("p{n}"), "ann", "profile")).collect();
    jobs[2]["params"] = json!({"padding": "x".repeat(1024 * 1024 - 100)});
    park(&stage, &jobs).await?;
    park(&stage, &[job("q", "bob", "profile")]).await?;
    let found = list(&stage, &["--parked"]).await?;
    assert_eq!(found.len(), 6, "{:?}", found.keys());
    assert_eq!(
        found["q"]["reason"],
        "unknown_user: no credential is stored; the user must consent"
    );
    assert!(found["q"]["object"].as_str().unwrap().starts_with("parked/bob/"));
    let counts = redrive(&stage, &["--parked", "--user", "ann"]).await?;
    assert_eq!((&counts["redriven"], &counts["left"]), (&json!(5), &json!(0)), "{counts}");
    let mut inbox = stage.inbox("jobs-workers").await?;
    for job in &jobs {
        assert_eq!(inbox.next().await?.0["id"], job["id"], "in their order");
    }
    let left = stage.cloud.objects(BUCKET, "parked/").await?;
    assert!(left.len() == 1 && left[0].starts_with("parked/bob/"), "{left:?}");
    Ok(())
}

/// Consent that this fleet was not told of: a login or import whose process died
/// before it resumed anything.
#[tokio::test]
async fn workers_resume_parked_jobs_of_users_that_are_active_again() -> anyhow::Result<()> {
    let stage = embedded_stage().await?;
    let jobs: Vec<Value> = (0..3).map(|n| job(&format!("p{n}"), "ann", "profile")).collect();
    park(&stage, &jobs).await?;
    park(&stage, &[job("q", "bob", "profile")]).await?;
    stage.write_user("ann", HOUR).await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    let told = outcomes.outcomes(4).await?;
    assert!(told.values().all(|outcome| outcome["status"] == "parked"), "{told:?}");
    // The first sweep comes within a twentieth of the interval.
    let mut worker = stage.worker(&["--sweep", "60s"]).await?;
    let told = outcomes.outcomes(3).await?;
    assert!(told.values().all(|outcome| outcome["status"] == "done"), "{told:?}");
    assert_eq!(told.keys().collect::<Vec<_>>(), ["p0", "p1", "p2"]);
    let line = worker.wait_for(|line| line["message"] == "parked jobs swept").await?;
    assert_eq!(
        (&line["resumed"], &line["parked"], &line["users"]),
        (&json!(3), &json!(1), &json!(1))
    );
    assert_eq!(worker.terminate().await?, 0);
    let left = stage.cloud.objects(BUCKET, "parked/").await?;
    assert!(left.len() == 1 && left[0].starts_with("parked/bob/"), "{left:?}");
    Ok(())
}

#[tokio::test]
async fn a_login_resumes_the_users_parked_jobs() -> anyhow::Result<()> {
    let mut stage = embedded_stage().await?;
    park(&stage, &[job("p0", "ann", "profile"), job("p1", "ann", "profile")]).await?;
    stage.write_user("ann", HOUR).await?;
    stage.variables.push(("FLEET_TOPIC".to_owned(), String::new()));
    let output = stage.fleet(&["login", "-u", "ann"]).await?;
    stage.variables.clear();
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(output.stderr.contains("FLEET_TOPIC"), "{}", output.stderr);
    assert_eq!(stage.cloud.objects(BUCKET, "parked/").await?.len(), 2);
    let output = stage.fleet(&["login", "-u", "ann", "--topic", "jobs"]).await?;
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(output.stderr.contains("2 parked job(s)"), "{}", output.stderr);
    assert!(stage.cloud.objects(BUCKET, "parked/").await?.is_empty());
    let mut inbox = stage.inbox("jobs-workers").await?;
    for id in ["p0", "p1"] {
        assert_eq!(inbox.next().await?.0["id"], id);
    }
    // It would take the next job from the worker.
    drop(inbox);
    // A topic that is not there does not undo the login.
    park(&stage, &[job("p2", "bob", "profile")]).await?;
    stage.write_user("bob", HOUR).await?;
    let output = stage.fleet(&["login", "-u", "bob", "--topic", "missing"]).await?;
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(output.stderr.contains("still wait"), "{}", output.stderr);
    assert_eq!(stage.cloud.objects(BUCKET, "parked/").await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn an_import_resumes_the_users_parked_jobs() -> anyhow::Result<()> {
    let mut stage = embedded_stage().await?;
    park(&stage, &[job("p0", "ann", "profile"), job("q", "bob", "profile")]).await?;
    let [ann, bob] = ["ann", "bob"].map(|user| stage.path(user).display().to_string());
    stage.write_authorized_user("ann", &ann)?;
    stage.write_authorized_user("bob", &bob)?;
    let output = stage.fleet(&["users", "import", &ann, "--user", "ann", "--json"]).await?;
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(output.stderr.contains("1 parked job(s)"), "{}", output.stderr);
    let said: Value = serde_json::from_str(&output.stdout)?;
    assert_eq!(said, json!({"user": "ann", "result": "created"}));
    assert_eq!(stage.inbox("jobs-workers").await?.next().await?.0["id"], "p0");
    // Without a topic it says who will.
    stage.variables.push(("FLEET_TOPIC".to_owned(), String::new()));
    let output = stage.fleet(&["users", "import", &bob, "--user", "bob"]).await?;
    assert_eq!(output.code, 0, "{}", output.stderr);
    assert!(output.stderr.contains("next sweep"), "{}", output.stderr);
    let left = stage.cloud.objects(BUCKET, "parked/").await?;
    assert!(left.len() == 1 && left[0].starts_with("parked/bob/"), "{left:?}");
    Ok(())
}

#[tokio::test]
async fn ctrl_c_stops_a_redrive_and_nothing_is_lost() -> anyhow::Result<()> {
    const ALL: usize = 3000;
    let stage = embedded_stage().await?;
    let dead = Publisher::open(&stage.connection(), &full("topics", "jobs-dead")).await?;
    let sent: Vec<_> = (0..ALL)
        .map(|n| {
            let user = format!("user-{}", n % 50);
            dead.publish(bury(&job(&format!("j{n}"), &user, "profile").to_string(), "once"))
        })
        .collect();
    for sent in sent {
        sent.await?;
    }
    let mut redrive = stage.start(&["dead", "redrive", "--dead", "--yes", "--wait", "3s"])?;
    let mut lines = BufReader::new(redrive.stderr.take().context("stderr")?).lines();
    let mut said = Vec::new();
    while let Some(line) = tokio::time::timeout(PATIENCE, lines.next_line()).await?? {
        if line.ends_with("/3000 redriven") && !said.iter().any(|l: &String| l.contains("/3000")) {
            let pid = redrive.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
            kill_process(pid.context("it is gone")?, Signal::INT)?;
        }
        said.push(line);
    }
    let status = tokio::time::timeout(PATIENCE, redrive.wait()).await??;
    let said = said.join("\n");
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("nothing is lost"), "{said}");
    let mut printed = String::new();
    redrive.stdout.take().context("stdout")?.read_to_string(&mut printed).await?;
    let redriven: usize = printed.split(' ').next().unwrap().parse()?;
    assert!((100..ALL).contains(&redriven), "{printed}");
    let mut arrived = BTreeSet::new();
    let mut inbox = stage.inbox("jobs-workers").await?;
    for _ in 0..redriven {
        arrived.insert(inbox.next().await?.0["id"].as_str().unwrap().to_owned());
    }
    let left: BTreeSet<String> =
        list(&stage, &["--dead", "--limit", "5000"]).await?.into_keys().collect();
    assert_eq!(arrived.len() + left.len(), ALL, "each is in one place");
    assert!(arrived.is_disjoint(&left));
    Ok(())
}
