//! Encryption at rest as an operator meets it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use emulators::google::StatsQuery;
use emulators::kms::{Kms, Outage, State};
use serde_json::{Value, json};
use tests::stage::{BUCKET, Cloud, Stage};

#[tokio::test]
async fn records_are_sealed_rotated_and_resealed() -> anyhow::Result<()> {
    let mut stage = Stage::set(Cloud::embedded().await?).await?;
    stage.user_without_access_token("early").await?;
    let file = stage.path("keyring.json").display().to_string();
    let made = stage.fleet(&["keyring", "new", &file]).await?;
    assert_eq!(made.code, 0, "{}", made.stderr);
    let again = stage.fleet(&["keyring", "new", &file]).await?;
    assert_eq!(again.code, 1, "an existing keyring is left as it is");
    stage.variables.push(("FLEET_KEYRING".to_owned(), file.clone()));
    stage.variables.push(("FLEET_ACCEPT_UNSEALED".to_owned(), "1".to_owned()));
    stage.user_without_access_token("ann").await?;

    // Sealed in the bucket, plain to those who have the keyring.
    let stored = stage.cloud.object(BUCKET, "tokens/ann.json").await?;
    let refresh_token = stage.record("ann").await?["refresh_token"].as_str().unwrap().to_owned();
    assert!(refresh_token.starts_with("1//") && !stored.contains(&refresh_token));
    let token = stage.fleet(&["token", "ann"]).await?;
    assert_eq!(token.code, 0, "{}", token.stderr);
    let stored = stage.cloud.object(BUCKET, "tokens/ann.json").await?;
    assert!(!stored.contains(token.stdout.trim()), "a refreshed record is sealed too");

    // Nobody else can read it, and they are told why.
    let rotated = stage.fleet(&["keyring", "rotate", &file, "--json"]).await?;
    let keys: Value = serde_json::from_str(&rotated.stdout)?;
    assert_eq!(keys["keys"].as_array().unwrap().len(), 2);
    stage.variables.push(("FLEET_KEYRING".to_owned(), String::new()));
    let blind = stage.fleet(&["token", "ann"]).await?;
    assert_eq!(blind.code, 1);
    assert!(blind.stderr.contains("tokens/ann.json"), "{}", blind.stderr);
    assert!(blind.stderr.contains("keyring"), "{}", blind.stderr);
    stage.variables.pop();

    // The new key seals what the old one did, and what nobody had.
    let resealed = stage.fleet(&["users", "reseal", "--all", "--json"]).await?;
    assert_eq!(resealed.code, 0, "{}", resealed.stderr);
    let counts: Value = serde_json::from_str(&resealed.stdout)?;
    assert_eq!(counts["resealed"], 2, "{counts}");
    let primary = keys["primary"].as_str().unwrap();
    for user in ["ann", "early"] {
        let stored = stage.cloud.object(BUCKET, &format!("tokens/{user}.json")).await?;
        assert!(stored.contains(primary), "{user}");
    }
    assert_eq!(stage.fleet(&["token", "ann"]).await?.stdout, token.stdout, "the token is kept");
    Ok(())
}

/// A fleet that runs without a keyring gets one, in the steps of the run book, with jobs
/// running between and none failing. After it whoever can write the bucket has no use of it.
#[tokio::test]
async fn a_keyring_comes_to_a_running_fleet() -> anyhow::Result<()> {
    let mut stage = Stage::set(Cloud::embedded().await?).await?;
    let hour = Duration::from_secs(3600);
    stage.write_user("ann", hour).await?;
    stage.write_user("bob", hour).await?;
    let mut outcomes = stage.inbox("outcomes").await?;
    let flags = ["--dedupe", "bucket"];
    let mut plain = stage.worker(&flags).await?;
    stage.publish(&[job("plain", "ann"), job("parked-plain", "carl")], &[]).await?;
    let told = outcomes.outcomes(2).await?;
    assert_eq!(
        (&told["plain"]["status"], &told["parked-plain"]["status"]),
        (&json!("done"), &json!("parked"))
    );

    // A key that opens and does not seal yet, beside a replica without any.
    let file = stage.path("keyring.json").display().to_string();
    let made = stage.fleet(&["keyring", "new", &file, "--open-only"]).await?;
    assert!(made.code == 0 && !made.stdout.contains("seals"), "{}{}", made.stdout, made.stderr);
    stage.variables.push(("FLEET_KEYRING".to_owned(), file.clone()));
    let mut opens = stage.worker(&flags).await?;
    stage.publish(&[job("open-only", "ann")], &[]).await?;
    assert_eq!(outcomes.outcomes(1).await?["open-only"]["status"], "done");
    assert_eq!(plain.terminate().await?, 0);

    // The key seals; what is plain is still read.
    let promoted = stage.fleet(&["keyring", "promote", &file]).await?;
    assert!(promoted.code == 0 && promoted.stdout.contains("seals"), "{}", promoted.stderr);
    stage.variables.push(("FLEET_ACCEPT_UNSEALED".to_owned(), "true".to_owned()));
    let mut seals = stage.worker(&flags).await?;
    assert_eq!(opens.terminate().await?, 0);
    stage.publish(&[job("accepted", "ann"), job("parked-later", "carl")], &[]).await?;
    let told = outcomes.outcomes(2).await?;
    assert_eq!(
        (&told["accepted"]["status"], &told["parked-later"]["status"]),
        (&json!("done"), &json!("parked"))
    );
    let resealed = stage.fleet(&["users", "reseal", "--all", "--json"]).await?;
    assert_eq!(resealed.code, 0, "{}", resealed.stderr);
    let counts: Value = serde_json::from_str(&resealed.stdout)?;
    // Two records, two parked jobs, three ends.
    assert_eq!((&counts["resealed"], &counts["failed"]), (&json!(7), &json!(0)), "{counts}");
    let again = stage.fleet(&["users", "reseal", "--all", "--json"]).await?;
    assert_eq!(serde_json::from_str::<Value>(&again.stdout)?["resealed"], 0);
    assert_eq!(seals.terminate().await?, 0);

    // From here on nothing plain counts.
    stage.variables.retain(|(name, _)| name != "FLEET_ACCEPT_UNSEALED");
    for prefix in ["tokens/", "parked/", "done/"] {
        for name in stage.cloud.objects(BUCKET, prefix).await? {
            let content = stage.cloud.object(BUCKET, &name).await?;
            assert!(content.contains("\"sealed\"") && !content.contains("\"data\""), "{content}");
        }
    }
    let sealed = stage.cloud.object(BUCKET, "tokens/bob.json").await?;
    let mut planted = stage.record("bob").await?;
    planted["refresh_token"] = json!("fake-planted-refresh");
    planted["access_token"] = json!("fake-planted-access");
    stage.cloud.overwrite(BUCKET, "tokens/bob.json", &planted.to_string()).await?;
    let theirs = stage.fleet(&["token", "bob"]).await?;
    assert!(theirs.code == 1 && theirs.stderr.contains("not sealed"), "{}", theirs.stderr);
    let widened = sealed.replacen("\"scopes\": [", "\"scopes\": [\"planted\", ", 1);
    assert_ne!(widened, sealed);
    stage.cloud.overwrite(BUCKET, "tokens/bob.json", &widened).await?;
    let theirs = stage.fleet(&["token", "bob"]).await?;
    assert!(theirs.code == 1 && theirs.stderr.contains("altered"), "{}", theirs.stderr);
    stage.cloud.overwrite(BUCKET, "tokens/bob.json", &sealed).await?;

    // What waited goes on, once each; what was done is not done again.
    stage.user_without_access_token("carl").await?;
    let mut strict = stage.worker(&flags).await?;
    stage.publish(&[job("plain", "ann"), job("strict", "bob")], &[]).await?;
    let told = outcomes.outcomes(4).await?;
    for id in ["plain", "strict", "parked-plain", "parked-later"] {
        assert_eq!(told[id]["status"], "done", "{told:?}");
    }
    assert_eq!(strict.terminate().await?, 0);
    assert_eq!(stage.google.stats(&StatsQuery::default()).api_calls, 6, "each job acted once");
    Ok(())
}

fn job(id: &str, user: &str) -> Value {
    json!({"id": id, "user": user, "kind": "profile"})
}

const KMS_KEY: &str = "projects/stage/locations/eu/keyRings/fleet/cryptoKeys/keyring";

/// A stage with Cloud KMS, which has one key.
async fn stage_with_kms() -> anyhow::Result<(Stage, Kms)> {
    let mut stage = Stage::set(Cloud::embedded().await?).await?;
    let kms = Kms::start().await?;
    kms.create_key(KMS_KEY);
    stage.variables.push(("FLEET_KMS_ROOT".to_owned(), kms.origin()));
    Ok((stage, kms))
}

/// The keys that lie open in a keyring's file.
fn open_keys(path: &Path) -> anyhow::Result<Vec<String>> {
    let file: Value = serde_json::from_slice(&std::fs::read(path)?)?;
    let keys = file["keys"].as_array().context("keys")?.iter();
    Ok(keys.filter_map(|key| key["key"].as_str().map(str::to_owned)).collect())
}

/// From no keyring to one that Cloud KMS wraps, a step at a time: after each the replicas of
/// the step before still run beside the new ones, and no job fails.
#[tokio::test]
async fn a_keyring_moves_to_cloud_kms_under_a_running_fleet() -> anyhow::Result<()> {
    let (mut stage, kms) = stage_with_kms().await?;
    for user in ["ann", "bob"] {
        stage.write_user(user, Duration::from_secs(3600)).await?;
    }
    stage.variables.push(("FLEET_LOG".to_owned(), "debug".to_owned()));
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut replicas = vec![stage.worker(&[]).await?];
    let path = stage.path("keyring.json");
    let file = path.display().to_string();
    let steps: [(&str, &[&str]); 5] = [
        ("introduced", &["new", "--open-only"]),
        ("promoted", &["promote"]),
        ("moved", &["rotate", "--add", "--kms", KMS_KEY]),
        ("rotated", &["rotate", "--promote", "NEWEST"]),
        ("rewrapped", &["rotate", "--add", "--kms", KMS_KEY]),
    ];
    let mut logs = String::new();
    let mut secrets = Vec::new();
    for (step, args) in steps {
        if step == "rewrapped" {
            // Google rotates the key, and what the old version wrapped still opens.
            kms.rotate(KMS_KEY);
            let mut between = stage.worker(&[]).await?;
            assert_eq!(between.terminate().await?, 0);
        }
        let newest = newest_key(&path).unwrap_or_default();
        let args: Vec<&str> =
            args.iter().map(|arg| if *arg == "NEWEST" { &*newest } else { arg }).collect();
        let done = stage.fleet(&[&["keyring", args[0], &file], &args[1..]].concat()).await?;
        assert_eq!(done.code, 0, "{step}: {}", done.stderr);
        logs.extend([done.stdout, done.stderr]);
        secrets.extend(open_keys(&path)?);
        if step == "introduced" {
            stage.variables.push(("FLEET_KEYRING".to_owned(), file.clone()));
        }
        if step == "promoted" {
            stage.variables.push(("FLEET_ACCEPT_UNSEALED".to_owned(), "1".to_owned()));
        }
        replicas.push(stage.worker(&[]).await?);
        let jobs = |part: &str| -> Vec<Value> {
            let ids = (0..8).map(|n| (n, if n % 2 == 0 { "ann" } else { "bob" }));
            ids.map(|(n, user)| job(&format!("{step}-{part}-{n}"), user)).collect()
        };
        // Old replicas and new ones share these, and renew and re-seal beside each other.
        stage.publish(&jobs("both"), &[]).await?;
        if step != "introduced" {
            let resealed = stage.fleet(&["users", "reseal", "--all", "--json"]).await?;
            assert_eq!(resealed.code, 0, "{step}: {}", resealed.stderr);
            logs.extend([resealed.stdout, resealed.stderr]);
        }
        assert_all_done(&outcomes.outcomes(8).await?);
        let mut old = replicas.remove(0);
        assert_eq!(old.terminate().await?, 0, "{step}");
        logs += &old.log_text();
        stage.publish(&jobs("new"), &[]).await?;
        assert_all_done(&outcomes.outcomes(8).await?);
    }
    let mut last = replicas.remove(0);
    assert_eq!(last.terminate().await?, 0);
    logs += &last.log_text();

    // Version 2 has wrapped all three keys, so that version 1 is of no more use.
    kms.set_state(KMS_KEY, 1, State::Destroyed);
    let content: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    let keys = content["keys"].as_array().context("keys")?;
    assert_eq!((keys.len(), &content["kms_key"]), (3, &json!(KMS_KEY)));
    for key in keys {
        let ciphertext = BASE64.decode(key["wrapped"].as_str().context("wrapped")?)?;
        assert_eq!(kms.version_of(&ciphertext), Some(2));
    }
    let token = stage.fleet(&["token", "ann"]).await?;
    assert_eq!(token.code, 0, "{}", token.stderr);
    // No data key is in the file any more, nor was one in anything that was written.
    secrets.extend(kms.plaintexts().iter().map(|plain| BASE64.encode(plain)));
    assert!(secrets.len() >= 5, "the open one, and what was wrapped");
    for secret in secrets {
        let debug = format!("{:?}", BASE64.decode(&secret)?);
        for text in [&content.to_string(), &logs] {
            assert!(!text.contains(&secret) && !text.contains(&debug), "a data key was written");
        }
    }
    Ok(())
}

fn newest_key(path: &Path) -> Option<String> {
    let file: Value = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    file["keys"].as_array()?.last()?["id"].as_str().map(str::to_owned)
}

fn assert_all_done(told: &BTreeMap<String, Value>) {
    assert!(told.values().all(|outcome| outcome["status"] == "done"), "{told:?}");
}

#[tokio::test]
async fn a_process_waits_for_cloud_kms_and_says_so() -> anyhow::Result<()> {
    let (mut stage, kms) = stage_with_kms().await?;
    let file = stage.path("keyring.json").display().to_string();
    let made = stage.fleet(&["keyring", "new", &file, "--kms", KMS_KEY]).await?;
    assert!(made.code == 0 && made.stdout.contains(KMS_KEY), "{}{}", made.stdout, made.stderr);
    stage.variables.push(("FLEET_KEYRING".to_owned(), file.clone()));
    stage.user_without_access_token("ann").await?;

    kms.set_outage(Some(Outage::NoAnswer));
    // A command is not kept waiting.
    let token = stage.fleet(&["token", "ann"]).await?;
    assert!(token.code == 1 && token.stderr.contains(KMS_KEY), "{}", token.stderr);
    let mut worker = stage.start_worker(&[])?;
    let mut web = stage.start_with_descriptors(&["web"], 1024)?;
    for process in [&mut worker, &mut web] {
        process.wait_for_message("the keyring is not unwrapped yet").await?;
        let health = process.health().context("where probes are answered")?.to_owned();
        let (status, why) = probe(&health, "readyz").await?;
        assert_eq!(status, 503, "{why}");
        assert!(why.contains("Cloud KMS cannot be reached") && why.contains(KMS_KEY), "{why}");
        assert_eq!(probe(&health, "healthz").await?.0, 200, "it is alive");
    }
    kms.set_outage(None);
    worker.wait_for_message("taking jobs").await?;
    web.wait_for_message("serving pages").await?;
    for process in [&mut worker, &mut web] {
        let health = process.health().context("where probes are answered")?.to_owned();
        assert_eq!(probe(&health, "readyz").await?, (200, "ready".to_owned()));
    }
    let mut outcomes = stage.inbox("outcomes").await?;
    stage.publish(&[job("after", "ann")], &[]).await?;
    assert_all_done(&outcomes.outcomes(1).await?);
    // What was unwrapped stays in memory: the fleet runs on without Cloud KMS.
    kms.set_outage(Some(Outage::Unavailable));
    let requests = kms.requests();
    stage.publish(&[job("without", "ann")], &[]).await?;
    assert_all_done(&outcomes.outcomes(1).await?);
    assert_eq!(kms.requests(), requests);
    Ok(())
}

/// Stopped while it waits, a process goes at once.
#[tokio::test]
async fn a_process_that_waits_for_cloud_kms_can_be_stopped() -> anyhow::Result<()> {
    let (mut stage, kms) = stage_with_kms().await?;
    let file = stage.path("keyring.json").display().to_string();
    assert_eq!(stage.fleet(&["keyring", "new", &file, "--kms", KMS_KEY]).await?.code, 0);
    stage.variables.push(("FLEET_KEYRING".to_owned(), file));
    kms.set_outage(Some(Outage::Unavailable));
    let mut worker = stage.start_worker(&[])?;
    worker.wait_for_message("the keyring is not unwrapped yet").await?;
    assert_eq!(worker.terminate().await?, 1);
    assert!(worker.log_text().contains("stopped while waiting"), "{}", worker.log_text());
    Ok(())
}

#[tokio::test]
async fn what_waiting_does_not_cure_ends_the_process_with_the_remedy() -> anyhow::Result<()> {
    let (mut stage, kms) = stage_with_kms().await?;
    let file = stage.path("keyring.json").display().to_string();
    assert_eq!(stage.fleet(&["keyring", "new", &file, "--kms", KMS_KEY]).await?.code, 0);
    stage.variables.push(("FLEET_KEYRING".to_owned(), file.clone()));
    let version = format!("{KMS_KEY}/cryptoKeyVersions/1");
    let enable = format!("gcloud kms keys versions enable {version}");
    let restore = format!("gcloud kms keys versions restore {version}");
    let denied = format!(
        "gcloud kms keys add-iam-policy-binding {KMS_KEY} --role=roles/cloudkms.cryptoKeyDecrypter"
    );
    let cases = [
        (true, State::Enabled, &*denied),
        (false, State::Disabled, &enable),
        (false, State::DestroyScheduled, &restore),
        (false, State::Destroyed, "users must consent again"),
    ];
    for (is_denied, state, remedy) in cases {
        kms.deny(is_denied);
        kms.set_state(KMS_KEY, 1, state);
        for command in [&["worker"][..], &["web"], &["users", "list"]] {
            let ended = stage.fleet(command).await?;
            assert_eq!(ended.code, 1, "{command:?}: {}", ended.stderr);
            assert!(ended.stderr.contains(remedy), "{command:?}: {}", ended.stderr);
            assert!(ended.stderr.contains(KMS_KEY), "{command:?}: {}", ended.stderr);
        }
        let doctor = stage.fleet(&["doctor", "--json"]).await?;
        assert!(doctor.code == 1 && doctor.stdout.contains(remedy), "{}", doctor.stdout);
    }

    // What needs the key does not get it by another name, nor without saying where KMS is.
    kms.deny(false);
    kms.set_state(KMS_KEY, 1, State::Enabled);
    let other = KMS_KEY.replace("keyring", "other");
    kms.create_key(&other);
    let content = std::fs::read_to_string(&file)?;
    std::fs::write(&file, content.replace(KMS_KEY, &other))?;
    let moved = stage.fleet(&["users", "list"]).await?;
    assert!(moved.code == 1 && moved.stderr.contains("does not unwrap"), "{}", moved.stderr);
    stage.variables.retain(|(name, _)| name != "FLEET_KMS_ROOT");
    let nowhere = stage.fleet(&["users", "list"]).await?;
    assert!(nowhere.code == 2 && nowhere.stderr.contains("FLEET_KMS_ROOT"), "{}", nowhere.stderr);
    Ok(())
}

/// Status and text of a probe.
async fn probe(address: &str, path: &str) -> anyhow::Result<(u16, String)> {
    let answer = reqwest::get(format!("http://{address}/{path}")).await?;
    Ok((answer.status().as_u16(), answer.text().await?.trim().to_owned()))
}
