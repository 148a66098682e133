//! `fleet worker --check` and `fleet web --check`: one finding per cause, exit code 0 or 1, and
//! nothing is started or written.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use emulators::google::ClientKind;
use tests::stage::{BUCKET, Cloud, Output, Stage, full};
use tests::write_secret;

const PUBLIC_URL: &str = "https://connect.example.com";

/// A stage with a keyring and a user whose record it seals.
async fn sealed_stage() -> anyhow::Result<Stage> {
    let mut stage = Stage::set(Cloud::embedded().await?).await?;
    let keyring = stage.path("keyring.json").display().to_string();
    let made = stage.fleet(&["keyring", "new", &keyring]).await?;
    assert_eq!(made.code, 0, "{}", made.stderr);
    stage.variables.push(("FLEET_KEYRING".to_owned(), keyring));
    stage.user("ann", Duration::ZERO).await?;
    Ok(stage)
}

async fn check(stage: &Stage, command: &str, flags: &[&str]) -> anyhow::Result<Output> {
    let before = stored(stage).await?;
    let output = stage.fleet(&[&[command, "--check"], flags].concat()).await?;
    assert_eq!(stored(stage).await?, before, "nothing is written");
    Ok(output)
}

async fn stored(stage: &Stage) -> anyhow::Result<Vec<String>> {
    stage.cloud.objects(BUCKET, "").await
}

/// What it says: as many findings as there are causes, each with what to do.
fn expect(output: &Output, causes: &[&str]) {
    let said = format!("{}{}", output.stdout, output.stderr);
    assert_eq!(output.code, i32::from(!causes.is_empty()), "{said}");
    let findings: Vec<&str> =
        output.stdout.lines().filter(|line| line.starts_with("  failure")).collect();
    assert_eq!(findings.len(), causes.len(), "{said}");
    for cause in causes {
        assert!(said.contains(cause), "{cause:?}: {said}");
    }
    assert_eq!(output.stdout.matches('→').count(), causes.len(), "each says what to do: {said}");
    let summary = format!("{} failure(s)", causes.len());
    assert!(output.stdout.contains(&summary), "{said}");
}

#[tokio::test]
async fn a_good_worker() -> anyhow::Result<()> {
    let stage = sealed_stage().await?;
    let output = check(&stage, "worker", &[]).await?;
    expect(&output, &[]);
    assert!(output.stderr.ends_with("fleet worker would work\n"), "{}", output.stderr);
    let address = std::net::TcpListener::bind("127.0.0.1:0")?;
    let taken = address.local_addr()?.to_string();
    expect(&check(&stage, "worker", &["--listen", &taken]).await?, &[]);
    Ok(())
}

#[tokio::test]
async fn what_is_named_and_not_there() -> anyhow::Result<()> {
    let stage = sealed_stage().await?;
    let bucket = check(&stage, "worker", &["--bucket", "missing-bucket"]).await?;
    expect(&bucket, &["gs://missing-bucket"]);
    expect(&check(&stage, "worker", &["--topic", "none"]).await?, &["topics/none"]);
    let both = check(&stage, "worker", &["--topic", "none", "--dead-topic", "gone"]).await?;
    expect(&both, &["topics/none", "topics/gone"]);
    let subscription = check(&stage, "worker", &["--subscription", "none"]).await?;
    expect(&subscription, &["subscriptions/none"]);
    Ok(())
}

#[tokio::test]
async fn a_keyring_that_opens_nothing() -> anyhow::Result<()> {
    let stage = sealed_stage().await?;
    let other = stage.path("other.json").display().to_string();
    let made = stage.fleet(&["keyring", "new", &other]).await?;
    assert_eq!(made.code, 0, "{}", made.stderr);
    let wrong = check(&stage, "worker", &["--keyring", &other]).await?;
    expect(&wrong, &["which the keyring does not have"]);
    let none = check(&stage, "worker", &["--keyring", ""]).await?;
    expect(&none, &["no keyring is configured"]);
    let missing = check(&stage, "worker", &["--keyring", "/does/not/exist"]).await?;
    expect(&missing, &["/does/not/exist"]);
    // One record that somebody has spoilt stops nobody else.
    stage.user("zoe", Duration::ZERO).await?;
    stage.cloud.overwrite(BUCKET, "tokens/ann.json", "{").await?;
    expect(&check(&stage, "worker", &[]).await?, &[]);
    Ok(())
}

#[tokio::test]
async fn another_oauth_client() -> anyhow::Result<()> {
    let stage = sealed_stage().await?;
    let file = stage.path("other.json");
    let path = file.display().to_string();
    let client = stage.google.client_json(ClientKind::Installed, &["http://localhost"]);
    let mut unknown = client.clone();
    unknown["installed"]["client_id"] = "somebody-else.apps.googleusercontent.com".into();
    let mut wrong_secret = client.clone();
    wrong_secret["installed"]["client_secret"] = "fake-and-wrong".into();
    let mut unreachable = client.clone();
    unreachable["installed"]["token_uri"] = "http://127.0.0.1:1/token".into();
    for (content, says) in [
        (unknown.to_string(), "invalid_client"),
        (wrong_secret.to_string(), "invalid_client"),
        (unreachable.to_string(), "127.0.0.1:1"),
        ("{".to_owned(), "not JSON"),
    ] {
        write_secret(&file, content)?;
        let output = check(&stage, "worker", &["--client", &path]).await?;
        expect(&output, &[says]);
        assert!(!format!("{}{}", output.stdout, output.stderr).contains("fake-and-wrong"));
    }
    expect(&check(&stage, "worker", &["--client", ""]).await?, &["no OAuth client"]);
    Ok(())
}

#[tokio::test]
async fn what_this_process_may_not_do() -> anyhow::Result<()> {
    let stage = sealed_stage().await?;
    let (pubsub, storage) = stage.cloud.embedded.as_ref().unwrap();
    storage.deny_permissions(BUCKET, &["storage.objects.delete", "storage.objects.get"])?;
    let output = check(&stage, "worker", &[]).await?;
    expect(&output, &["not storage.objects.get, storage.objects.delete"]);
    storage.deny_permissions(BUCKET, &[])?;
    pubsub.deny_permissions(&full("topics", "jobs-dead"), &["pubsub.topics.publish"])?;
    pubsub.deny_permissions(
        &full("subscriptions", "jobs-workers"),
        &["pubsub.subscriptions.consume"],
    )?;
    let output = check(&stage, "worker", &[]).await?;
    expect(&output, &["not pubsub.topics.publish", "not pubsub.subscriptions.consume"]);
    Ok(())
}

#[tokio::test]
async fn services_that_do_not_answer_are_one_finding_each() -> anyhow::Result<()> {
    let mut stage = sealed_stage().await?;
    let good = stage.variables.len();
    stage.variables.push(("PUBSUB_EMULATOR_HOST".to_owned(), "127.0.0.1:1".to_owned()));
    let output = stage.fleet(&["worker", "--check"]).await?;
    expect(&output, &["127.0.0.1:1"]);
    stage.variables.truncate(good);
    // No credentials: everything else would only follow from it.
    let names = ["PUBSUB_EMULATOR_HOST", "STORAGE_EMULATOR_HOST", "STORAGE_EMULATOR_HOST_GRPC"];
    for name in names.into_iter().chain(["FLEET_API_ROOT"]) {
        stage.variables.push((name.to_owned(), String::new()));
    }
    let nothing = stage.path("no-such-credentials.json").display().to_string();
    stage.variables.push(("GOOGLE_APPLICATION_CREDENTIALS".to_owned(), nothing));
    let output = stage.fleet(&["worker", "--check"]).await?;
    expect(&output, &["gcloud auth application-default login"]);
    Ok(())
}

#[tokio::test]
async fn settings_are_checked_with_everything_else() -> anyhow::Result<()> {
    let stage = sealed_stage().await?;
    let flags = ["--concurrency", "0", "--bucket", "missing-bucket"];
    let output = check(&stage, "worker", &flags).await?;
    expect(&output, &["--concurrency and --per-user", "gs://missing-bucket"]);
    let taken = check(&stage, "worker", &["--forward", "profile=http://127.0.0.1:1/"]).await?;
    expect(&taken, &["kind profile is built in"]);
    let route = ["--forward", "greet=http://127.0.0.1:1/"];
    for (flags, cause) in [
        (&["--forward-timeout", "56m"][..], "--forward-timeout is 3360s"),
        (&["--forward", "greet=http://127.0.0.1:2/"], "names kind greet twice"),
        (&["--forward-once", "other"], "--forward-once names kind"),
        (&["--forward-concurrency", "0"], "--forward-concurrency must be at least 1"),
        (&["--token-listen", "0.0.0.0:0"], "--token-listen is 0.0.0.0:0"),
    ] {
        expect(&check(&stage, "worker", &[&route[..], flags].concat()).await?, &[cause]);
    }
    let flags = ["--public-url", "http://connect.example.com", "--allow-return", "nowhere"];
    let output = check(&stage, "web", &flags).await?;
    expect(&output, &["--public-url", "--allow-return"]);
    Ok(())
}

/// Outside emulators: a handler beside the worker could read what is stored plain.
#[tokio::test]
async fn a_keyring_that_seals_nothing_yet_is_not_enough_to_forward() -> anyhow::Result<()> {
    let mut stage = sealed_stage().await?;
    let opens = stage.path("opens.json").display().to_string();
    let made = stage.fleet(&["keyring", "new", &opens, "--open-only"]).await?;
    assert_eq!(made.code, 0, "{}", made.stderr);
    let names = ["PUBSUB_EMULATOR_HOST", "STORAGE_EMULATOR_HOST", "STORAGE_EMULATOR_HOST_GRPC"];
    for name in names.into_iter().chain(["FLEET_API_ROOT"]) {
        stage.variables.push((name.to_owned(), String::new()));
    }
    let nothing = stage.path("no-such-credentials.json").display().to_string();
    stage.variables.push(("GOOGLE_APPLICATION_CREDENTIALS".to_owned(), nothing));
    let credentials = "gcloud auth application-default login";
    let forward = ["worker", "--check", "--forward", "greet=http://127.0.0.1:1/"];
    expect(&stage.fleet(&forward).await?, &[credentials]);
    let output = stage.fleet(&[&forward[..], &["--keyring", opens.as_str()]].concat()).await?;
    expect(&output, &["`fleet keyring promote`", credentials]);
    Ok(())
}

#[tokio::test]
async fn pages() -> anyhow::Result<()> {
    let mut stage = sealed_stage().await?;
    let callback = format!("{PUBLIC_URL}/oauth/callback");
    let client = stage.google.client_json(ClientKind::Web, &[&callback]);
    write_secret(stage.path("web.json"), client.to_string())?;
    write_secret(stage.path("session.key"), "ZmFrZS1zZXNzaW9uLWtleS1vZi0zMi1ieXRlcy1vci1tb3Jl\n")?;
    for (name, value) in [
        ("FLEET_OAUTH_CLIENT", stage.path("web.json").display().to_string()),
        ("FLEET_SESSION_KEY", stage.path("session.key").display().to_string()),
        ("FLEET_PUBLIC_URL", PUBLIC_URL.to_owned()),
    ] {
        stage.variables.push((name.to_owned(), value));
    }
    expect(&check(&stage, "web", &[]).await?, &[]);
    let elsewhere = ["--public-url", "https://elsewhere.example.com"];
    expect(&check(&stage, "web", &elsewhere).await?, &["elsewhere.example.com/oauth/callback"]);
    let no_key = check(&stage, "web", &["--session-key", ""]).await?;
    expect(&no_key, &["openssl rand -base64 32"]);
    let none = ["--topic", "none", "--events-topic", "gone"];
    expect(&check(&stage, "web", &none).await?, &["topics/none", "topics/gone"]);
    Ok(())
}
