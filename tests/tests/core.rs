//! Jobs end to end, with real processes over real wire protocols: on the
//! embedded emulators, and on Google's Pub/Sub emulator with fake-gcs-server.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use serde_json::{Value, json};
use tests::stage::{BUCKET, Cloud, LIMITS, Stage, full};

/// Each case runs on both kinds of servers. Where the external ones are not
/// installed the test says so, or fails if they are required.
macro_rules! on_both {
    ($($case:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $case() -> anyhow::Result<()> {
                super::$case(&super::Stage::set(super::Cloud::embedded().await?).await?).await
            })*
        }

        mod external {
            $(#[tokio::test]
            async fn $case() -> anyhow::Result<()> {
                let test = concat!("core::external::", stringify!($case));
                match super::Cloud::external_if_found(test).await? {
                    Some(cloud) => super::$case(&super::Stage::set(cloud).await?).await,
                    None => Ok(()),
                }
            })*
        }
    };
}

on_both! {
    jobs_are_published_run_and_told_about,
    replicas_race_for_one_expired_token_and_refresh_it_once,
    every_outcome_ends_its_message_as_the_contract_says,
    a_rejected_token_is_renewed_once_and_the_job_runs_again,
    a_malformed_message_goes_to_the_dead_topic_with_its_reason,
    sigterm_drains_and_another_replica_does_the_rest,
    a_token_and_a_profile_for_scripts,
    a_record_says_beside_its_content_how_it_stands,
}

fn profile(id: &str, user: &str) -> Value {
    json!({"id": id, "user": user, "kind": "profile"})
}

fn task(id: &str, user: &str) -> Value {
    json!({"id": id, "user": user, "kind": "api", "params": {
        "method": "POST",
        "url": "https://tasks.googleapis.com/tasks/v1/lists/@default/tasks",
        "headers": {"x-effect-id": id},
        "body": {"title": id},
    }})
}

fn status_of(id: &str, user: &str, path: &str) -> Value {
    let url = format!("https://www.googleapis.com{path}");
    json!({"id": id, "user": user, "kind": "api", "params": {"url": url}})
}

async fn jobs_are_published_run_and_told_about(stage: &Stage) -> anyhow::Result<()> {
    let users = ["ann", "bob/../x", "😀"];
    for user in users {
        stage.user(user, Duration::ZERO).await?;
    }
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut workers = [stage.worker(&[]).await?, stage.worker(&[]).await?];
    let jobs: Vec<Value> = (0..30)
        .map(|n| {
            let (id, user) = (format!("job-{n}"), users[n % 3]);
            if n % 2 == 0 { profile(&id, user) } else { task(&id, user) }
        })
        .collect();
    stage.publish(&jobs, &[]).await?;
    let told = outcomes.outcomes(30).await?;
    for (n, job) in jobs.iter().enumerate() {
        let outcome = &told[job["id"].as_str().unwrap()];
        assert_eq!(outcome["status"], "done", "{outcome}");
        assert_eq!((&outcome["user"], &outcome["kind"]), (&job["user"], &job["kind"]));
        assert_eq!(outcome["http_status"], 200);
        assert_eq!(outcome["attempt"], 1);
        assert_eq!(outcome["error"], Value::Null);
        if n % 2 == 0 {
            assert_eq!(outcome["result"]["sub"], job["user"], "acted as the right person");
        }
    }
    let effects = stage.google.effects();
    assert_eq!(effects.len(), 15);
    for effect in effects {
        let number: usize = effect.id.unwrap().trim_start_matches("job-").parse()?;
        assert_eq!(effect.sub, users[number % 3], "acted as the right person");
    }
    assert!(stage.google.refresh_calls().is_empty(), "the tokens were fresh");
    for worker in &mut workers {
        assert_eq!(worker.terminate().await?, 0);
        let log = worker.log_text();
        assert!(!log.contains("ya29.") && !log.contains("1//"), "a token in the log");
        assert!(!log.contains("bob"), "a person in the log");
    }
    Ok(())
}

async fn replicas_race_for_one_expired_token_and_refresh_it_once(
    stage: &Stage,
) -> anyhow::Result<()> {
    stage.user_without_access_token("ann").await?;
    stage.user("bob", Duration::from_secs(3599)).await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    let jobs: Vec<Value> = (0..60)
        .map(|n| profile(&format!("job-{n}"), if n % 2 == 0 { "ann" } else { "bob" }))
        .collect();
    // Published first and without key, so that all replicas get some at once.
    stage.publish(&jobs, &["--unordered"]).await?;
    let flags = ["--concurrency", "2"];
    let workers = (stage.worker(&flags), stage.worker(&flags), stage.worker(&flags));
    let (a, b, c) = tokio::join!(workers.0, workers.1, workers.2);
    let mut workers = [a?, b?, c?];
    let told = outcomes.outcomes(60).await?;
    assert!(told.values().all(|outcome| outcome["status"] == "done"), "{told:?}");
    let calls = stage.google.refresh_calls();
    assert_eq!(calls.len(), 2, "one refresh for each of two users: {calls:?}");
    for worker in &mut workers {
        assert_eq!(worker.terminate().await?, 0);
    }
    let record = stage.record("ann").await?;
    assert_eq!(record["state"], "active");
    assert!(record["lease_generation"].as_i64().unwrap() > 0);
    Ok(())
}

async fn every_outcome_ends_its_message_as_the_contract_says(stage: &Stage) -> anyhow::Result<()> {
    stage.user("ann", Duration::ZERO).await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut dead = stage.inbox("jobs-dead-review").await?;
    // Without a budget what fails is given back at once.
    let mut worker = stage.worker(&["--retry-budget", "0s"]).await?;
    let drive = "https://www.googleapis.com/drive/v3/files";
    let jobs = [
        profile("done", "ann"),
        status_of("gone", "ann", "/v1/status/410"),
        json!({"id": "host", "user": "ann", "kind": "api", "params": {"url": "https://evil.example/"}}),
        json!({"id": "kind", "user": "ann", "kind": "brew"}),
        profile("unknown", "nobody"),
        json!({"id": "scope", "user": "ann", "kind": "api", "params": {"url": drive}}),
    ];
    // Without key, since a message that is given back holds up its successors.
    stage.publish_unchecked(&jobs, false).await?;
    let told = outcomes.outcomes(jobs.len()).await?;
    let brief: Vec<String> = told
        .iter()
        .map(|(job, o)| format!("{job} {} {}", o["status"].as_str().unwrap(), o["http_status"]))
        .collect();
    assert_eq!(
        brief,
        [
            "done done 200",
            "gone rejected 410",
            "host rejected null",
            "kind rejected null",
            "scope parked null",
            "unknown parked null",
        ]
    );
    let mut reasons = std::collections::BTreeMap::new();
    for _ in 0..3 {
        let (job, attributes) = dead.next().await?;
        reasons.insert(job["id"].as_str().unwrap().to_owned(), attributes["reason"].clone());
    }
    assert!(reasons["gone"].contains("410"), "{reasons:?}");
    assert!(reasons["host"].contains("--allow-host"), "{reasons:?}");
    assert!(reasons["kind"].contains("this worker does api, profile"), "{reasons:?}");
    let parked = stage.cloud.objects(BUCKET, "parked/").await?;
    assert_eq!(parked.len(), 2, "{parked:?}");
    assert!(parked[0].starts_with("parked/ann/") && parked[0].ends_with("-scope.json"));
    assert!(parked[1].starts_with("parked/nobody/") && parked[1].ends_with("-unknown.json"));
    let stored: Value = serde_json::from_str(&stage.cloud.object(BUCKET, &parked[0]).await?)?;
    assert_eq!(stored["reason"], "scopes_missing");
    let needed = "https://www.googleapis.com/auth/drive.readonly";
    assert_eq!(stored["missing_scopes"], json!([needed]));
    // What may come right, at a time that the API names, is held until then.
    stage.google.limit_user("ann", 0, Duration::from_secs(1));
    stage.publish(&[task("later", "ann")], &[]).await?;
    worker.wait_for_message("attempt 1 failed, the next comes in").await?;
    stage.google.limit_user("ann", u64::MAX, Duration::from_secs(1));
    let told = outcomes.outcomes(1).await?;
    assert_eq!(told["later"]["status"], "done");
    assert_eq!(worker.terminate().await?, 0);
    Ok(())
}

async fn a_rejected_token_is_renewed_once_and_the_job_runs_again(
    stage: &Stage,
) -> anyhow::Result<()> {
    // Old enough for a rejection to be believed, and by no means due.
    stage.user("ann", Duration::from_secs(600)).await?;
    stage.google.expire_access_tokens("ann");
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut worker = stage.worker(&[]).await?;
    stage.publish(&[task("job", "ann")], &[]).await?;
    let told = outcomes.outcomes(1).await?;
    assert_eq!(told["job"]["status"], "done");
    assert_eq!(told["job"]["attempt"], 2, "one renewal and one retry");
    assert_eq!(stage.google.refresh_calls().len(), 1);
    assert_eq!(stage.google.effects().len(), 1);
    assert_eq!(worker.terminate().await?, 0);
    Ok(())
}

async fn a_malformed_message_goes_to_the_dead_topic_with_its_reason(
    stage: &Stage,
) -> anyhow::Result<()> {
    use worker::pubsub::{Outgoing, Publisher};
    let publisher = Publisher::open(&stage.connection(), &full("topics", "jobs")).await?;
    let bad: [(&str, &str, &str); 4] = [
        ("not json", "", "not JSON"),
        (r#"{"kind":"profile"}"#, "", "`user` is missing"),
        (r#"{"user":"ann","kind":"profile","colour":"red"}"#, "", "unknown field `colour`"),
        (r#"{"user":"ann","kind":"profile"}"#, "bob", "ordering key"),
    ];
    for (data, key, _) in bad {
        let attributes = [("mine".to_owned(), "kept".to_owned())].into();
        let message =
            Outgoing { data: data.to_owned().into(), attributes, ordering_key: key.to_owned() };
        publisher.publish(message).await?;
    }
    let mut dead = stage.inbox("jobs-dead-review").await?;
    let mut worker = stage.worker(&[]).await?;
    let mut reasons = Vec::new();
    for _ in bad {
        let (data, attributes) = dead.next().await?;
        assert_eq!(attributes["mine"], "kept");
        assert!(!attributes["message_id"].is_empty());
        reasons.push((data, attributes["reason"].clone()));
    }
    for (data, _, says) in bad {
        assert!(
            reasons.iter().any(|(d, reason)| {
                let same = d.as_str() == Some(data)
                    || serde_json::from_str::<Value>(data).is_ok_and(|value| value == *d);
                same && reason.contains(says)
            }),
            "{data}: {reasons:?}"
        );
    }
    assert_eq!(worker.terminate().await?, 0);
    let log = worker.log_text();
    assert!(log.contains("malformed") && !log.contains("red"), "values stay out of the log: {log}");
    Ok(())
}

async fn sigterm_drains_and_another_replica_does_the_rest(stage: &Stage) -> anyhow::Result<()> {
    for n in 0..4 {
        stage.user(&format!("user-{n}"), Duration::ZERO).await?;
    }
    let jobs: Vec<Value> =
        (0..200).map(|n| task(&format!("job-{n}"), &format!("user-{}", n % 4))).collect();
    let mut outcomes = stage.inbox("outcomes").await?;
    // Google's emulator sends what was given back to the stream that is closing,
    // so that it comes again only when this lease ends.
    let flags = ["--concurrency", "2", "--ack-extension", "10s"];
    let mut first = stage.worker(&flags).await?;
    // Google's emulator may hold a key back for good once messages of it were
    // given back; the order is shown on the embedded one.
    let external: &[&str] = &["--unordered"];
    let flags = if stage.cloud.embedded.is_some() { &[] } else { external };
    stage.publish(&jobs, flags).await?;
    first.wait_for(|line| line["status"] == "done").await?;
    assert_eq!(first.terminate().await?, 0);
    if stage.cloud.embedded.is_some() {
        let done: Vec<&Value> = first.log.iter().filter(|l| l["status"] == "done").collect();
        assert!(done.len() < 50, "the waiting jobs went back: {}", done.len());
    }
    let ended = first.log.iter().filter(|line| line["status"] == "done").count();
    assert!(first.log_text().contains("stopped"), "in order");
    let mut second = stage.worker(&[]).await?;
    let told = outcomes.outcomes(200).await?;
    assert!(told.values().all(|outcome| outcome["status"] == "done"));
    assert!(ended < 200, "the first replica was stopped in the middle");
    assert_eq!(second.terminate().await?, 0);
    Ok(())
}

async fn a_token_and_a_profile_for_scripts(stage: &Stage) -> anyhow::Result<()> {
    stage.user_without_access_token("ann").await?;
    let output = stage.fleet(&["profile", "ann"]).await?;
    assert_eq!(output.code, 0, "{}", output.stderr);
    let profile: Value = serde_json::from_str(&output.stdout)?;
    assert_eq!(profile["email"], "ann@example.com");
    let output = stage.fleet(&["token", "ann"]).await?;
    assert_eq!(output.stdout.lines().count(), 1, "alone on stdout");
    assert_eq!(stage.record("ann").await?["access_token"], output.stdout.trim());
    let output = stage.fleet(&["token", "nobody"]).await?;
    assert_eq!((output.code, output.stdout.as_str()), (3, ""), "{}", output.stderr);
    assert!(output.stderr.contains("no credential is stored"), "{}", output.stderr);
    let shown = stage.fleet(&["users", "show", "ann"]).await?;
    assert!(shown.stdout.contains("[redacted]") && !shown.stdout.contains("ya29."));
    if stage.cloud.storage_grpc.is_some() {
        let listed = stage.fleet(&["users", "list"]).await?;
        assert_eq!(listed.stdout, "ann\n");
        assert_eq!(stage.fleet(&["users", "delete", "ann", "--yes"]).await?.code, 0);
        assert_eq!(stage.fleet(&["token", "ann"]).await?.code, 3);
    } else {
        let refused = stage.fleet(&["users", "list"]).await?;
        assert_eq!(refused.code, 1, "{LIMITS}");
        assert!(refused.stderr.contains("STORAGE_EMULATOR_HOST_GRPC"), "{}", refused.stderr);
    }
    Ok(())
}

/// What is noted beside a record reaches the server in the same request, and stands there.
async fn a_record_says_beside_its_content_how_it_stands(stage: &Stage) -> anyhow::Result<()> {
    stage.user_without_access_token("ann").await?;
    let imported = stage.cloud.metadata(BUCKET, "tokens/ann.json").await?;
    assert_eq!((&imported["state"], &imported["next"]), (&json!("active"), &Value::Null));
    let token = stage.fleet(&["token", "ann"]).await?;
    assert_eq!(token.code, 0, "{}", token.stderr);
    let noted = stage.cloud.metadata(BUCKET, "tokens/ann.json").await?;
    let time = |name: &str| -> jiff::Timestamp {
        noted[name].as_str().unwrap_or_else(|| panic!("{noted}")).parse().unwrap()
    };
    assert_eq!(noted["state"], "active");
    let record = stage.record("ann").await?;
    let life = jiff::SignedDuration::from_secs(record["expires_in"].as_i64().unwrap());
    assert_eq!(time("next").duration_since(time("refreshed")), life);
    assert!(time("refreshed") >= imported["refreshed"].as_str().unwrap().parse()?);
    Ok(())
}
