//! `fleet status`: what it counts, and what it says where something is not known.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use anyhow::ensure;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use tests::stage::{BUCKET, Cloud, Output, Stage};

async fn stage() -> anyhow::Result<Stage> {
    Stage::set(Cloud::embedded().await?).await
}

async fn counted(stage: &Stage) -> anyhow::Result<Value> {
    let output = stage.fleet(&["status", "--json"]).await?;
    ensure!(output.code == 0, "{}", output.stderr);
    Ok(serde_json::from_str(&output.stdout)?)
}

/// Every line fits a terminal, and nothing in it moves a cursor.
fn fits(Output { code, stdout, stderr }: &Output) {
    assert_eq!(*code, 0, "{stderr}");
    for line in stdout.lines() {
        assert!(line.chars().count() <= 80 && !line.chars().any(char::is_control), "{line:?}");
    }
}

#[tokio::test]
async fn an_empty_fleet_is_all_zeros() -> anyhow::Result<()> {
    let stage = stage().await?;
    let mut status = counted(&stage).await?;
    assert!(status.as_object_mut().unwrap().remove("at").unwrap().is_string());
    let nothing = json!({"messages": 0, "oldest_seconds": 0});
    let expected = json!({
        "bucket": BUCKET,
        "users": {
            "total": 0, "active": 0, "blocked": 0, "revoked": 0, "unreadable": 0,
            "not_read": 0, "read": 0, "more": false,
        },
        "waiting": {"total": 0, "users": 0, "since": null, "reasons": {}, "more": false},
        "endings": {"total": 0, "since": null, "more": false},
        "backlog": nothing,
        "dead_letters": nothing,
        "replicas": {"seen": [], "leases": 0, "read": 0, "more": false},
    });
    assert_eq!(status, expected);
    let screen = stage.fleet(&["status"]).await?;
    fits(&screen);
    for part in ["Users                         0", "Waiting jobs                  0", "no lease"] {
        assert!(screen.stdout.contains(part), "{part:?}: {}", screen.stdout);
    }
    Ok(())
}

#[tokio::test]
async fn some_of_each_is_counted() -> anyhow::Result<()> {
    let stage = stage().await?;
    stage.user_without_access_token("lee").await?;
    // What earlier releases wrote tells no state in a listing, and is read.
    let mut record = stage.record("lee").await?;
    for (user, state) in [("ann", "active"), ("bob", "revoked")] {
        record["user"] = user.into();
        record["state"] = state.into();
        stage.cloud.create(BUCKET, &format!("tokens/{user}.json"), &record.to_string()).await?;
    }
    stage.cloud.create(BUCKET, "tokens/odd.json", "{").await?;
    stage.cloud.create(BUCKET, "tokens/no.user.json", "{}").await?;
    let mut worker = stage.worker(&[]).await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    let job = |id: &str, user: &str, kind: &str| json!({"id": id, "user": user, "kind": kind});
    let jobs = [
        job("works", "lee", "profile"),
        job("waits-1", "nobody", "profile"),
        job("waits-2", "nobody", "profile"),
        job("waits-3", "bob", "profile"),
        job("strange", "lee", "no-such-kind"),
    ];
    stage.publish_unchecked(&jobs, true).await?;
    outcomes.outcomes(jobs.len()).await?;
    assert_eq!(worker.terminate().await?, 0);
    stage.publish(&[job("later", "lee", "profile")], &[]).await?;

    let status = counted(&stage).await?;
    let users = json!({
        "total": 4, "active": 2, "blocked": 0, "revoked": 1, "unreadable": 1,
        "not_read": 0, "read": 3, "more": false,
    });
    assert_eq!(status["users"], users);
    let waiting = &status["waiting"];
    assert_eq!((&waiting["total"], &waiting["users"]), (&json!(3), &json!(2)), "{waiting}");
    let reasons = waiting["reasons"].as_object().unwrap();
    assert_eq!(reasons.keys().collect::<Vec<_>>(), ["revoked", "unknown_user"]);
    let unknown = json!({
        "total": 2, "up_to_an_hour": 2, "up_to_a_day": 0, "up_to_a_week": 0, "longer": 0,
    });
    assert_eq!(reasons["unknown_user"], unknown);
    assert!(waiting["since"].is_string(), "{waiting}");
    assert_eq!(status["backlog"]["messages"], 1);
    assert_eq!(status["dead_letters"]["messages"], 1);
    let replicas = &status["replicas"];
    assert_eq!((&replicas["leases"], &replicas["read"]), (&json!(1), &json!(1)), "{replicas}");
    let name = worker.log.iter().find_map(|line| line["replica"].as_str()).unwrap();
    assert_eq!(replicas["seen"][0]["name"], name, "{replicas}");
    let screen = stage.fleet(&["status"]).await?;
    fits(&screen);
    for part in ["of 2 users, the first for", "  unknown_user", "3 records read", "1 leases"] {
        assert!(screen.stdout.contains(part), "{part:?}: {}", screen.stdout);
    }
    Ok(())
}

#[tokio::test]
async fn what_is_not_known_says_why_and_is_no_failure() -> anyhow::Result<()> {
    let mut stage = stage().await?;
    let with = [("FLEET_SUBSCRIPTION", ""), ("FLEET_DEAD_TOPIC", "no-such-topic")];
    stage.variables.extend(with.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let status = counted(&stage).await?;
    assert_eq!(status["backlog"], json!({"not_known": "set --subscription (FLEET_SUBSCRIPTION)"}));
    let why = status["dead_letters"]["not_known"].as_str().unwrap();
    assert!(why.contains("knows no subscription no-such-topic-review of project stage"), "{why}");
    let screen = stage.fleet(&["status"]).await?;
    fits(&screen);
    assert!(screen.stdout.contains("not known  set --subscription"), "{}", screen.stdout);
    Ok(())
}

#[tokio::test]
async fn without_a_bucket_it_says_what_to_do() -> anyhow::Result<()> {
    let stage = stage().await?;
    for (bucket, says) in [("", "--bucket"), ("no-such-bucket", "correct --bucket")] {
        let variables: Vec<_> = stage
            .environment()
            .into_iter()
            .map(|(name, value)| match name.as_str() {
                "FLEET_BUCKET" => (name, bucket.to_owned()),
                _ => (name, value),
            })
            .collect();
        let output = tests::stage::run(&["status", "--json"], &variables).await?;
        assert_eq!((output.code, output.stdout.as_str()), (2, ""), "{bucket}: {}", output.stderr);
        assert!(output.stderr.contains(says), "{}", output.stderr);
    }
    Ok(())
}

/// More users than a page of a listing has.
#[tokio::test]
async fn all_pages_of_the_listings_are_counted() -> anyhow::Result<()> {
    let stage = stage().await?;
    let cloud = &stage.cloud;
    let creating = (0..2100).map(|n| async move {
        cloud.create(BUCKET, &format!("parked/u{n:04}/1-j.json"), "{}").await
    });
    stream::iter(creating).buffer_unordered(32).try_collect::<()>().await?;
    let status = counted(&stage).await?;
    assert_eq!(status["waiting"]["total"], 2100);
    assert_eq!(status["waiting"]["users"], 2100);
    assert_eq!(status["waiting"]["reasons"]["not_noted"]["up_to_an_hour"], 2100);
    Ok(())
}
