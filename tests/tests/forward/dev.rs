//! `fleet dev`: a newcomer's handler and a newcomer's program on the local stack, by nothing
//! but what it prints.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Context as _;
use axum::response::IntoResponse as _;
use futures_util::FutureExt as _;
use serde_json::{Value, json};
use tests::dev::Dev;
use tests::stage::fleet_binary;

use crate::broker::ask;
use crate::function::Function;

#[tokio::test]
async fn a_handler_does_a_job_of_the_local_stack() -> anyhow::Result<()> {
    let function = Function::start(|event| {
        async move {
            let google = event.body["params"]["google"].as_str().unwrap().to_owned();
            axum::Json(json!({"status": event.act(&google).await})).into_response()
        }
        .boxed()
    })
    .await?;
    let fleet = fleet_binary();
    let route = function.route("greet");
    let flags = ["--forward", &route, "--web", "0", "--broker", "127.0.0.1:0"];
    let mut dev = Dev::start(&fleet, &flags).await?;
    let params = json!({"google": dev.get("FLEET_API_ROOT").context("no API")?}).to_string();
    let publish = ["publish", "--user", "user-1", "--kind", "greet", "--params", &params];
    let published = dev.run(&fleet, &publish).await?;
    assert_eq!(published.code, 0, "{}", published.stderr);
    let line = dev.says("job done").await?;
    assert!(line.contains("kind=greet"), "a person sees it: {line}");
    let outcome = dev.outcome().await?;
    assert_eq!(
        (&outcome["status"], &outcome["user"], &outcome["result"]),
        (&json!("done"), &json!("user-1"), &json!({"status": 200})),
        "{outcome}"
    );
    assert_eq!(function.events().len(), 1);
    assert_eq!(dev.terminate().await?, Some(0));
    Ok(())
}

#[tokio::test]
async fn a_program_gets_tokens_from_the_local_stacks_broker() -> anyhow::Result<()> {
    let fleet = fleet_binary();
    let flags = ["--web", "0", "--users", "2", "--broker", "127.0.0.1:0"];
    let mut dev = Dev::start(&fleet, &flags).await?;
    let said = dev.says("fleet broker credentials user-1").await?;
    let address = dev.get("FLEET_BROKER_LISTEN").context("no address")?;
    assert!(said.contains(address), "{said}");
    let key = Path::new(dev.get("FLEET_BROKER_KEY").context("no key")?);
    assert_eq!(key.metadata()?.permissions().mode() & 0o7777, 0o600);
    let printed = dev.run(&fleet, &["broker", "credentials", "user-1"]).await?;
    assert_eq!(printed.code, 0, "{}", printed.stderr);
    let credentials: Value = serde_json::from_str(&printed.stdout)?;
    let (status, token) = ask(&credentials).await?;
    assert_eq!(status, 200, "{token}");
    let api = dev.get("FLEET_USERINFO_URL").context("no API")?;
    let bearer = token["access_token"].as_str().context("no token")?;
    let profile: Value =
        reqwest::Client::new().get(api).bearer_auth(bearer).send().await?.json().await?;
    assert_eq!(profile["sub"], "user-1");
    assert_eq!(dev.terminate().await?, Some(0));
    Ok(())
}

/// Two stacks on one machine: the second finds another port.
#[tokio::test]
async fn the_broker_listens_where_it_always_does_if_nobody_else_does() -> anyhow::Result<()> {
    let fleet = fleet_binary();
    let usual = "127.0.0.1:9091";
    // Another program of this machine may have it; then the first stack already moves on.
    let first = Dev::start(&fleet, &["--web", "0", "--users", "1"]).await?;
    let second = Dev::start(&fleet, &["--web", "0", "--users", "1"]).await?;
    let at = |dev: &Dev| dev.get("FLEET_BROKER_LISTEN").unwrap().to_owned();
    assert_ne!(at(&first), at(&second));
    assert_ne!(at(&second), usual);
    // One that is asked for is taken or nothing is.
    let taken = at(&first);
    let flags = ["--web", "0", "--users", "1", "--broker", &taken];
    let why = Dev::start(&fleet, &flags).await.unwrap_err();
    assert!(format!("{why:?}").contains(&taken), "{why:?}");
    assert_eq!(second.terminate().await?, Some(0));
    assert_eq!(first.terminate().await?, Some(0));
    Ok(())
}
