//! Encryption at rest as an operator meets it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use emulators::google::StatsQuery;
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
