//! `fleet doctor`: each finding made to appear, and a clean bill for a good set-up.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use axum::extract::Path;
use axum::routing::{get, post};
use axum::{Json, Router};
use emulators::access::Binding;
use emulators::google::ClientKind;
use emulators::storage::{BucketSettings, LifecycleRule};
use serde_json::{Value, json};
use tests::stage::{BUCKET, Cloud, Stage, full};
use tests::write_secret;

const AGENT: &str = "serviceAccount:service-42@gcp-sa-pubsub.iam.gserviceaccount.com";
const PUBLIC_URL: &str = "https://connect.example.com";

/// What a doctor said.
struct Report {
    code: i32,
    said: Value,
    stderr: String,
}

impl Report {
    fn find(&self, object: &str, check: &str) -> &Value {
        let matches =
            |c: &&Value| c["object"].as_str().unwrap().starts_with(object) && c["check"] == check;
        let checks = self.said["checks"].as_array().unwrap();
        checks.iter().find(matches).unwrap_or_else(|| panic!("{object}, {check}: {}", self.said))
    }

    /// How many findings there are about these.
    fn lines_about(&self, objects: &[&str]) -> usize {
        let about =
            |c: &&Value| objects.iter().any(|o| c["object"].as_str().unwrap().starts_with(o));
        self.said["checks"].as_array().unwrap().iter().filter(about).count()
    }

    /// Asserts the status of a check; a finding comes with what to do.
    fn expect(&self, object: &str, check: &str, status: &str, says: &str) {
        let found = self.find(object, check);
        assert_eq!(found["status"], status, "{found}");
        assert!(found.to_string().contains(says), "{says:?}: {found}");
        if status == "failure" || status == "warning" {
            assert!(found["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "{found}");
        }
    }
}

async fn doctor(stage: &Stage, flags: &[&str]) -> anyhow::Result<Report> {
    let mut args = vec!["doctor", "--json"];
    args.extend(flags);
    let output = stage.fleet(&args).await?;
    let said = serde_json::from_str(&output.stdout)
        .with_context(|| format!("{}{}", output.stdout, output.stderr))?;
    Ok(Report { code: output.code, said, stderr: output.stderr })
}

async fn put(stage: &Stage, name: &str, body: &Value) -> anyhow::Result<()> {
    let url = format!("http://{}/v1/{name}", stage.cloud.pubsub);
    reqwest::Client::new().put(url).json(body).send().await?.error_for_status()?;
    Ok(())
}

/// A stage with the grants that production needs, a keyring and a web client.
async fn good_stage() -> anyhow::Result<Stage> {
    let mut stage = Stage::set(Cloud::embedded().await?).await?;
    let (pubsub, _) = stage.cloud.embedded.as_ref().unwrap();
    pubsub.set_iam_bindings(
        &full("topics", "jobs-dead"),
        [Binding::new("roles/pubsub.publisher", [AGENT])],
    )?;
    pubsub.set_iam_bindings(
        &full("subscriptions", "jobs-workers"),
        [Binding::new("roles/pubsub.subscriber", [AGENT])],
    )?;
    let client =
        stage.google.client_json(ClientKind::Web, &[&format!("{PUBLIC_URL}/oauth/callback")]);
    write_secret(stage.path("web.json"), client.to_string())?;
    let keyring = stage.path("keyring.json").display().to_string();
    let made = stage.fleet(&["keyring", "new", &keyring]).await?;
    anyhow::ensure!(made.code == 0, "{}", made.stderr);
    let made = stage.fleet(&["setup", "--events-topic", "events"]).await?;
    anyhow::ensure!(made.code == 0, "{}", made.stderr);
    let client = stage.path("web.json").display().to_string();
    for (name, value) in [
        ("FLEET_KEYRING", keyring.as_str()),
        ("FLEET_OAUTH_CLIENT", client.as_str()),
        ("FLEET_PUBLIC_URL", PUBLIC_URL),
        ("FLEET_EVENTS_TOPIC", "events"),
    ] {
        stage.variables.push((name.to_owned(), value.to_owned()));
    }
    Ok(stage)
}

#[tokio::test]
async fn a_good_set_up_gets_a_clean_bill() -> anyhow::Result<()> {
    let stage = good_stage().await?;
    let report = doctor(&stage, &["--strict"]).await?;
    assert_eq!(report.code, 0, "{}\n{}", report.said, report.stderr);
    let counts = ["failures", "warnings", "skipped"].map(|count| report.said[count].as_u64());
    assert_eq!(counts, [Some(0), Some(0), Some(2)], "{}", report.said);
    report.expect("credentials", "present", "skipped", "emulators take none");
    report.expect("bucket", "overwrite round trip", "ok", "stale");
    report.expect("bucket", "records", "skipped", "nobody is stored yet");
    report.expect("OAuth client", "accepted", "ok", "made-up grant");
    report.expect("job subscription", "Pub/Sub's own grant", "ok", "pubsub.subscriber");
    report.expect("dead topic", "kept", "ok", "jobs-dead-review");
    assert!(stage.cloud.objects(BUCKET, "fleet-doctor").await?.is_empty(), "it leaves nothing");
    let text = stage.fleet(&["doctor"]).await?;
    assert_eq!(text.code, 0, "{}", text.stderr);
    assert!(text.stdout.ends_with("0 warning(s), 0 failure(s), 2 skipped\n"), "{}", text.stdout);
    assert!(!text.stdout.contains('\u{1b}'), "no colours in a pipe");
    let secret = stage.google.client_json(ClientKind::Web, &[])["web"]["client_secret"].clone();
    for output in [text.stdout, text.stderr, report.said.to_string()] {
        assert!(!output.contains(secret.as_str().unwrap()) && !output.contains("no-token"));
    }
    Ok(())
}

fn rule(action: &str, prefixes: &[&str]) -> LifecycleRule {
    let prefixes = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
    LifecycleRule { action: action.to_owned(), age_days: Some(8), prefixes }
}

#[tokio::test]
async fn a_careless_bucket() -> anyhow::Result<()> {
    let stage = good_stage().await?;
    let (_, storage) = stage.cloud.embedded.as_ref().unwrap();
    storage.set_bucket_settings(
        BUCKET,
        BucketSettings {
            versioning: true,
            lifecycle: vec![
                rule("Delete", &["lea"]),
                rule("Delete", &["endings/", "events/", "sessions/"]),
                rule("AbortIncompleteMultipartUpload", &[]),
            ],
            ..BucketSettings::default()
        },
    )?;
    let everybody = Binding::new("roles/storage.objectViewer", ["allUsers"]);
    storage.set_iam_bindings(BUCKET, [everybody])?;
    storage.deny_permissions(BUCKET, &["storage.objects.delete"])?;
    storage.set_date_skew(-90);
    let report = doctor(&stage, &[]).await?;
    assert_eq!(report.code, 1);
    assert_eq!(report.said["failures"], 5, "{}", report.said);
    report.expect("bucket", "uniform access", "failure", "--uniform-bucket-level-access");
    report.expect("bucket", "public access prevention", "failure", "--public-access-prevention");
    report.expect(
        "bucket",
        "lifecycle",
        "failure",
        "(Delete, Delete) concerns leases/, endings/, events/, sessions/",
    );
    report.expect("bucket", "members", "failure", "allUsers as roles/storage.objectViewer");
    report.expect("bucket", "this process may", "failure", "not storage.objects.delete");
    report.expect("bucket", "soft delete", "warning", "7 day(s)");
    report.expect("bucket", "versioning", "warning", "--no-versioning");
    report.expect("clock", "against Cloud Storage", "warning", "s ahead");
    report.expect("clock", "against the token endpoint", "ok", "within 5 s");
    // A rule for other objects, or for none, is nobody's trouble; warnings fail if asked to.
    storage.set_bucket_settings(
        BUCKET,
        BucketSettings {
            uniform_access: true,
            public_access_prevention: true,
            lifecycle: vec![
                rule("Delete", &["exports/", "done/"]),
                rule("AbortIncompleteMultipartUpload", &[]),
            ],
            ..BucketSettings::default()
        },
    )?;
    storage.set_iam_bindings(BUCKET, [])?;
    storage.deny_permissions(BUCKET, &[])?;
    let report = doctor(&stage, &[]).await?;
    assert_eq!(report.code, 0, "{}", report.said);
    report.expect("bucket", "lifecycle", "ok", "");
    let report = doctor(&stage, &["--strict"]).await?;
    assert_eq!(report.code, 1);
    Ok(())
}

#[tokio::test]
async fn a_careless_subscription() -> anyhow::Result<()> {
    let stage = good_stage().await?;
    let careless = json!({
        "topic": full("topics", "outcomes"),
        "ackDeadlineSeconds": 10,
        "expirationPolicy": {"ttl": "86400s"},
    });
    put(&stage, &full("subscriptions", "careless"), &careless).await?;
    let report = doctor(&stage, &["--subscription", "careless"]).await?;
    assert_eq!(report.code, 1);
    let object = "job subscription";
    report.expect(object, "attached", "failure", "topics/outcomes");
    report.expect(object, "message ordering", "warning", "overtake");
    report.expect(object, "ack deadline", "warning", "--ack-deadline=60");
    report.expect(object, "retry policy", "warning", "--min-retry-delay=10s");
    report.expect(object, "expiration", "failure", "--expiration-period=never");
    report.expect(
        object,
        "dead letter",
        "failure",
        "--dead-letter-topic=projects/stage/topics/jobs-dead",
    );

    put(&stage, &full("topics", "lonely"), &json!({})).await?;
    let hasty = json!({
        "topic": full("topics", "jobs"),
        "enableMessageOrdering": true,
        "ackDeadlineSeconds": 60,
        "retryPolicy": {"minimumBackoff": "1s", "maximumBackoff": "600s"},
        "deadLetterPolicy": {"deadLetterTopic": full("topics", "lonely"), "maxDeliveryAttempts": 5},
    });
    put(&stage, &full("subscriptions", "hasty"), &hasty).await?;
    let (pubsub, _) = stage.cloud.embedded.as_ref().unwrap();
    let other = || [Binding::new("roles/pubsub.publisher", ["user:somebody@example.com"])];
    pubsub.set_iam_bindings(&full("subscriptions", "hasty"), other())?;
    pubsub.set_iam_bindings(&full("topics", "lonely"), other())?;
    pubsub.deny_permissions(&full("subscriptions", "hasty"), &["pubsub.subscriptions.consume"])?;
    pubsub.deny_permissions(&full("topics", "jobs"), &["pubsub.topics.publish"])?;
    let flags = ["--subscription", "hasty", "--dead-topic", "lonely"];
    let report = doctor(&stage, &flags).await?;
    report.expect(object, "retry policy", "warning", "after 1s");
    report.expect(object, "dead letter", "warning", "after 5 deliveries");
    report.expect(object, "Pub/Sub's own grant", "failure", "gcp-sa-pubsub");
    report.expect(object, "this process may", "failure", "roles/pubsub.subscriber");
    report.expect("job topic", "this process may", "failure", "roles/pubsub.publisher");
    report.expect("dead topic", "Pub/Sub's own grant", "failure", "roles/pubsub.publisher");
    report.expect("dead topic", "kept", "failure", "lonely-review");
    report.expect("dead subscription", "exists", "failure", "--dead-subscription");
    // Where jobs go that were delivered too often, though no flag says so.
    let report = doctor(&stage, &["--subscription", "hasty", "--dead-topic", ""]).await?;
    report.expect(object, "kept", "failure", "lonely-review");
    let report = doctor(&stage, &["--subscription", "hasty"]).await?;
    report.expect(object, "dead letter", "warning", "topics/jobs-dead");
    Ok(())
}

#[tokio::test]
async fn what_is_missing() -> anyhow::Result<()> {
    let stage = good_stage().await?;
    let flags = ["--bucket", "missing-bucket", "--topic", "none", "--subscription", "none"];
    let others = ["--outcomes-topic", "none", "--events-topic", "none"];
    let report = doctor(&stage, &[&flags[..], &others].concat()).await?;
    assert_eq!(report.code, 1);
    for object in ["job topic", "job subscription", "outcomes topic", "events topic"] {
        report.expect(object, "exists", "failure", "fleet setup");
    }
    report.expect("bucket", "exists", "failure", "does not exist");
    assert_eq!(report.said["failures"], 5, "one for each cause: {}", report.said);
    assert_eq!(report.said["warnings"], 0, "{}", report.said);
    let report = doctor(&stage, &["--dead-topic", "none"]).await?;
    report.expect("dead topic", "exists", "failure", "fleet setup");
    report.expect("dead subscription", "exists", "skipped", "its topic does not exist");
    assert_eq!((&report.said["failures"], &report.said["warnings"]), (&1.into(), &0.into()));
    // A topic that was deleted under its subscription.
    let url = format!("http://{}/v1/{}", stage.cloud.pubsub, full("topics", "jobs"));
    reqwest::Client::new().delete(url).send().await?.error_for_status()?;
    let report = doctor(&stage, &["--topic", ""]).await?;
    report.expect("job subscription", "attached", "failure", "its topic is gone");
    report.expect("job topic", "exists", "skipped", "FLEET_TOPIC");
    Ok(())
}

#[tokio::test]
async fn wrong_oauth_clients_and_keyrings() -> anyhow::Result<()> {
    let stage = good_stage().await?;
    let file = stage.path("other.json");
    let path = file.display().to_string();
    let web = stage.google.client_json(ClientKind::Web, &["https://elsewhere.example.com/x"]);
    let mut wrong_secret = web.clone();
    wrong_secret["web"]["client_secret"] = "fake-and-wrong".into();
    let mut unreachable = web.clone();
    unreachable["web"]["token_uri"] = "http://127.0.0.1:1/token".into();
    let installed = stage.google.client_json(ClientKind::Installed, &["http://localhost"]);
    // The bucket and Pub/Sub are left out: they take their time.
    let only = ["--bucket", "", "--topic", "", "--subscription", "", "--dead-topic", ""];
    let others = ["--outcomes-topic", "", "--events-topic", "", "--client", &path];
    let flags = [&only[..], &others].concat();
    for (content, check, says) in [
        (web.to_string(), "redirect URI", "/oauth/callback"),
        (wrong_secret.to_string(), "accepted", "invalid_client"),
        (unreachable.to_string(), "reached", "127.0.0.1:1"),
        (installed.to_string(), "type", "Web application"),
        ("{".to_owned(), "file", "not JSON"),
    ] {
        write_secret(&file, content)?;
        let report = doctor(&stage, &flags).await?;
        assert_eq!(report.code, 1, "{check}: {}", report.said);
        report.expect("OAuth client", check, "failure", says);
        assert!(!report.said.to_string().contains("fake-and-wrong"));
    }
    write_secret(&file, installed.to_string())?;
    let local = [&flags[..], &["--public-url", "http://127.0.0.1:8080"]].concat();
    let report = doctor(&stage, &local).await?;
    report.expect("OAuth client", "redirect URI", "ok", "loopback");
    let report = doctor(&stage, &[&only[..], &["--keyring", "/does/not/exist"]].concat()).await?;
    report.expect("keyring", "opens", "failure", "/does/not/exist");
    stage.google.set_date_skew(3600);
    let report = doctor(&stage, &only).await?;
    report.expect("clock", "against the token endpoint", "warning", "s behind");
    Ok(())
}

/// Generations go up, and preconditions are not looked at: two replicas would
/// both win.
#[tokio::test]
async fn a_storage_that_ignores_preconditions_is_found_out() -> anyhow::Result<()> {
    static GENERATION: AtomicU64 = AtomicU64::new(1);
    // A server that left the body unread would have to close the connection.
    let upload = |Path(bucket): Path<String>, _body: axum::body::Bytes| async move {
        let generation = GENERATION.fetch_add(1, Ordering::SeqCst).to_string();
        Json(json!({"bucket": bucket, "name": "probe", "generation": generation}))
    };
    let app = Router::new()
        .route("/upload/storage/v1/b/{bucket}/o", post(upload))
        .route("/storage/v1/b/{bucket}/o/{object}", get(|| async { "x" }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let origin = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, app).await });
    let mut stage = good_stage().await?;
    stage.variables.push(("STORAGE_EMULATOR_HOST".to_owned(), origin));
    stage.variables.push(("STORAGE_EMULATOR_HOST_GRPC".to_owned(), String::new()));
    let report = doctor(&stage, &[]).await?;
    assert_eq!(report.code, 1);
    report.expect("bucket", "overwrite round trip", "failure", "created a second time");
    report.expect("bucket", "settings", "skipped", "STORAGE_EMULATOR_HOST_GRPC");
    Ok(())
}

#[tokio::test]
async fn servers_that_are_not_there_and_no_credentials() -> anyhow::Result<()> {
    let mut stage = good_stage().await?;
    let good = stage.variables.len();
    stage.variables.push(("PUBSUB_EMULATOR_HOST".to_owned(), "127.0.0.1:1".to_owned()));
    let report = doctor(&stage, &[]).await?;
    assert_eq!(report.code, 1);
    report.expect("Pub/Sub", "reached", "failure", "127.0.0.1:1");
    assert_eq!(report.lines_about(&["job topic", "job subscription", "dead topic"]), 0);
    report.expect("bucket", "overwrite round trip", "ok", "");
    assert_eq!(report.said["failures"], 1, "one for each cause: {}", report.said);
    stage.variables.truncate(good);
    for grpc in ["127.0.0.1:1", ""] {
        stage.variables.push(("STORAGE_EMULATOR_HOST".to_owned(), "http://127.0.0.1:1".to_owned()));
        stage.variables.push(("STORAGE_EMULATOR_HOST_GRPC".to_owned(), grpc.to_owned()));
        let report = doctor(&stage, &[]).await?;
        report.expect("bucket", "reached", "failure", "egress rules");
        assert_eq!(report.said["failures"], 1, "one for each cause: {}", report.said);
        stage.variables.truncate(good);
    }
    for name in [
        "PUBSUB_EMULATOR_HOST",
        "STORAGE_EMULATOR_HOST",
        "STORAGE_EMULATOR_HOST_GRPC",
        "FLEET_API_ROOT",
    ] {
        stage.variables.push((name.to_owned(), String::new()));
    }
    let nothing = stage.path("no-such-credentials.json").display().to_string();
    stage.variables.push(("GOOGLE_APPLICATION_CREDENTIALS".to_owned(), nothing));
    let report = tokio::time::timeout(Duration::from_secs(50), doctor(&stage, &[])).await??;
    assert_eq!(report.code, 1);
    report.expect("credentials", "present", "failure", "gcloud auth application-default login");
    report.expect("credentials", "asked", "skipped", "not looked at");
    assert_eq!(report.said["failures"], 1, "one for each cause: {}", report.said);
    assert_eq!(report.lines_about(&["bucket", "job topic", "job subscription"]), 0);
    report.expect("OAuth client", "accepted", "ok", "");
    Ok(())
}

#[tokio::test]
async fn wrong_inputs() -> anyhow::Result<()> {
    let stage = good_stage().await?;
    for (flags, says) in [
        (["--topic", "a/b"], "projects/PROJECT/topics/ID"),
        (["--dead-subscription", "projects/p/topics/x"], "--dead-subscription"),
        (["--public-url", "nowhere"], "--public-url"),
    ] {
        let output = stage.fleet(&[&["doctor"], &flags[..]].concat()).await?;
        assert_eq!(output.code, 2, "{}", output.stderr);
        assert!(output.stderr.contains(says), "{}", output.stderr);
    }
    Ok(())
}

/// A name that nobody has is the command line's fault, whichever command meets it.
#[tokio::test]
async fn names_of_nothing() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    let jobs = stage.path("jobs.jsonl").display().to_string();
    std::fs::write(&jobs, json!({"user": "ann", "kind": "profile"}).to_string())?;
    let grant = stage.path("grant.json").display().to_string();
    stage.write_authorized_user("ann", &grant)?;
    for (args, flag) in [
        (&["publish", "--user", "ann", "--kind", "k", "--topic", "none"][..], "--topic"),
        (&["publish", "--file", &jobs, "--topic", "none"], "--topic"),
        (&["worker", "--subscription", "none"], "--subscription"),
        (&["worker", "--bucket", "none"], "--bucket"),
        (&["dead", "list", "--dead", "--dead-topic", "none"], "--dead-topic"),
        (&["dead", "list", "--dead", "--dead-subscription", "none"], "--dead-subscription"),
        (&["dead", "list", "--parked", "--bucket", "none"], "--bucket"),
        (&["users", "list", "--bucket", "none"], "--bucket"),
        (&["users", "list", "--state", "none"], "--state"),
        (&["users", "show", "ann", "--bucket", "none"], "--bucket"),
        (&["users", "export", "ann", "--bucket", "none"], "--bucket"),
        (&["users", "delete", "ann", "--yes", "--bucket", "none"], "--bucket"),
        (&["users", "import", &grant, "--user", "ann", "--bucket", "none"], "--bucket"),
        (&["token", "ann", "--bucket", "none"], "--bucket"),
        (&["profile", "ann", "--bucket", "none"], "--bucket"),
    ] {
        let output = stage.fleet(args).await?;
        assert_eq!(output.code, 2, "{args:?}: {}", output.stderr);
        assert!(output.stderr.contains(flag), "{args:?}: {}", output.stderr);
    }
    Ok(())
}
