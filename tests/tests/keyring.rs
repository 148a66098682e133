//! Encryption at rest as an operator meets it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;
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
