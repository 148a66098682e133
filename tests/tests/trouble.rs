//! A worker among broken settings and servers: it says in one line what is wrong
//! and what to do, loses no message, does not spin and prints no secret.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use serde_json::{Value, json};
use tests::stage::{Cloud, Stage, Worker};
use tests::write_secret;
use tokio::net::TcpListener;

async fn stage() -> anyhow::Result<Stage> {
    Stage::set(Cloud::embedded().await?).await
}

fn job(id: &str) -> Value {
    json!({"id": id, "user": "ann", "kind": "profile"})
}

/// The worker's last words, when it could not start: 2 is a mistake on the command line.
async fn last_words(code: i32, mut worker: Worker) -> anyhow::Result<String> {
    let ended = worker.ended().await?;
    assert_eq!(ended, code, "{}", worker.log_text());
    let last = worker.log.last().unwrap();
    Ok(last.as_str().map_or_else(|| last.to_string(), str::to_owned))
}

/// The job comes through once the trouble is over.
async fn is_done_by_a_sound_worker(stage: &Stage, id: &str) -> anyhow::Result<()> {
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut worker = stage.worker(&[]).await?;
    let told = outcomes.outcomes(1).await?;
    assert_eq!(told[id]["status"], "done", "{told:?}");
    assert_eq!(worker.terminate().await?, 0);
    Ok(())
}

fn client_file(stage: &Stage, change: impl FnOnce(&mut Value)) -> anyhow::Result<String> {
    let path = stage.path("changed-client.json");
    let mut client: Value = serde_json::from_slice(&std::fs::read(stage.path("client.json"))?)?;
    change(&mut client["installed"]);
    write_secret(&path, client.to_string())?;
    Ok(path.display().to_string())
}

#[tokio::test]
async fn no_subscription() -> anyhow::Result<()> {
    let stage = stage().await?;
    let words = last_words(2, stage.start_worker(&["--subscription", "nope"])?).await?;
    assert!(words.contains("projects/stage/subscriptions/nope does not exist"), "{words}");
    assert!(words.contains("fleet setup"), "{words}");
    Ok(())
}

#[tokio::test]
async fn no_bucket() -> anyhow::Result<()> {
    let stage = stage().await?;
    let words = last_words(2, stage.start_worker(&["--bucket", "nope"])?).await?;
    assert!(words.contains("bucket nope does not exist; create it"), "{words}");
    Ok(())
}

#[tokio::test]
async fn no_pubsub() -> anyhow::Result<()> {
    let mut stage = stage().await?;
    let closed = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.to_string();
    stage.variables.push(("PUBSUB_EMULATOR_HOST".to_owned(), closed.clone()));
    let words = last_words(1, stage.start_worker(&[])?).await?;
    assert!(
        words.contains(&format!("nothing answers at PUBSUB_EMULATOR_HOST={closed}")),
        "{words}"
    );
    Ok(())
}

#[tokio::test]
async fn a_bucket_that_accepts_and_never_answers() -> anyhow::Result<()> {
    let stage = stage().await?;
    stage.user("ann", Duration::ZERO).await?;
    stage.publish(&[job("kept")], &[]).await?;
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let address = silent.local_addr()?;
    let accepting = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((socket, _)) = silent.accept().await {
            kept.push(socket);
        }
    });
    let storage = format!("http://{address}");
    let variables = [("STORAGE_EMULATOR_HOST", storage.as_str())];
    let mut worker = stage.start_worker_with(&[], &variables)?;
    let said = worker.wait_for_message("no answer within 10s from bucket stage-tokens").await?;
    assert!(said.contains("no job is taken before it answers"), "{said}");
    assert_eq!(worker.terminate().await?, 0, "it can be stopped meanwhile");
    accepting.abort();
    let stats = stage.cloud.embedded.as_ref().unwrap().0.stats();
    assert_eq!(stats.deliveries, 0, "nothing was taken");
    is_done_by_a_sound_worker(&stage, "kept").await
}

#[tokio::test]
async fn a_client_that_the_provider_does_not_accept() -> anyhow::Result<()> {
    let stage = stage().await?;
    stage.user_without_access_token("ann").await?;
    let client = client_file(&stage, |c| c["client_secret"] = "fake-wrong-secret".into())?;
    let mut worker = stage.worker(&["--client", &client, "--ack-extension", "10s"]).await?;
    stage.publish(&[job("kept")], &[]).await?;
    // One held job does not stop the intake: jobs with a usable token would go on.
    let said = worker.wait_for_message("job held").await?;
    assert!(said.contains("OAuth client is not accepted"), "{said}");
    assert!(said.contains("check the client file"), "{said}");
    assert_eq!(worker.terminate().await?, 0);
    let calls = stage.google.refresh_calls().len();
    assert_eq!(calls, 2, "the user's, and the question whether it is the client's trouble");
    let log = worker.log_text();
    for secret in ["fake-wrong-secret", "ya29.", "1//"] {
        assert!(!log.contains(secret), "{log}");
    }
    assert_eq!(stage.record("ann").await?["state"], "active", "nobody is revoked");
    is_done_by_a_sound_worker(&stage, "kept").await
}

#[tokio::test]
async fn a_token_endpoint_that_is_down() -> anyhow::Result<()> {
    let stage = stage().await?;
    let closed = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let client = client_file(&stage, |c| c["token_uri"] = format!("http://{closed}/token").into())?;
    let file = stage.path("grant.json");
    let file = file.display().to_string();
    stage.write_authorized_user("ann", &file)?;
    let import = ["users", "import", &file, "--user", "ann", "--client", &client];
    let output = stage.fleet(&import).await?;
    assert_eq!(output.code, 0, "{}", output.stderr);
    let flags = ["--client", &client, "--lease-ttl", "3s"];
    let mut worker = stage.worker(&flags).await?;
    stage.publish(&[job("kept")], &[]).await?;
    let said = worker.wait_for_message("job held").await?;
    assert!(said.contains(&closed.to_string()) && said.contains("refused"), "{said}");
    assert_eq!(worker.terminate().await?, 0);
    let held =
        worker.log.iter().filter(|l| l["message"].as_str().is_some_and(|m| m.contains("job held")));
    assert_eq!(held.count(), 1, "said once");
    // With the right endpoint the grant is imported anew, and the job is there.
    let import = ["users", "import", &file, "--user", "ann", "--replace"];
    stage.fleet(&["users", "delete", "ann", "--yes"]).await?;
    assert_eq!(stage.fleet(&import).await?.code, 0);
    is_done_by_a_sound_worker(&stage, "kept").await
}

/// A user, how their record is spoilt, and what is said about it.
type Spoilt = (&'static str, fn(&str) -> String, &'static str);

#[tokio::test]
async fn a_record_that_cannot_be_used_is_named_and_left_alone() -> anyhow::Result<()> {
    let stage = stage().await?;
    let cases: [Spoilt; 4] = [
        ("truncated", |text| text[..text.len() / 2].to_owned(), "truncated"),
        ("version", |text| text.replacen("\"version\": 1", "\"version\": 9", 1), "version 9"),
        (
            "other",
            |text| text.replacen("\"user\": \"other\"", "\"user\": \"bob\"", 1),
            "another user",
        ),
        (
            "client",
            |text| text.replacen("\"client_id\": \"", "\"client_id\": \"x", 1),
            "another OAuth client",
        ),
    ];
    for (user, spoil, says) in cases {
        stage.user_without_access_token(user).await?;
        let object = format!("tokens/{user}.json");
        let content = stage.cloud.object(tests::stage::BUCKET, &object).await?;
        stage.cloud.overwrite(tests::stage::BUCKET, &object, &spoil(&content)).await?;
        let output = stage.fleet(&["token", user]).await?;
        assert_eq!(output.code, 1, "{user}: {}", output.stderr);
        assert!(output.stderr.contains(&object), "{user}: {}", output.stderr);
        assert!(output.stderr.contains(says), "{user}: {}", output.stderr);
        assert!(!output.stderr.contains("1//"), "{user}: {}", output.stderr);
        let after = stage.cloud.object(tests::stage::BUCKET, &object).await?;
        assert_eq!(after, spoil(&content), "{user}: left as it was");
    }
    assert!(stage.google.refresh_calls().is_empty(), "no secret was sent");
    Ok(())
}
