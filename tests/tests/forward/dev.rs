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

/// As the page prints it, by a shell that has the stack's variables.
#[tokio::test]
async fn faults_are_switched_as_the_page_prints_it() -> anyhow::Result<()> {
    let fleet = fleet_binary();
    let flags = ["--web", "0", "--users", "1", "--broker", "127.0.0.1:0"];
    let mut dev = Dev::start(&fleet, &flags).await?;
    let url = dev.get("FLEET_DEV_FAULTS").context("no address")?.to_owned();
    assert!(dev.says("faults").await?.contains(&url), "it is printed");
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../worker/docs/dev.md");
    let page = std::fs::read_to_string(page)?;
    let line = page.lines().find_map(|line| line.strip_prefix("$ curl ")).context("no curl")?;
    let shell = tokio::process::Command::new("sh")
        .args(["-c", &format!("curl {line}")])
        .envs(dev.variables.iter().map(|(name, value)| (name, value)))
        .output()
        .await?;
    let told = String::from_utf8_lossy(&shell.stdout);
    assert!(shell.status.success(), "{told}");
    assert_eq!(serde_json::from_str::<Value>(&told)?["id"], 1, "{told}");

    // The job's call is refused once, and the job waits and is done.
    let publish = ["publish", "--user", "user-1", "--kind", "profile"];
    assert_eq!(dev.run(&fleet, &publish).await?.code, 0);
    let outcome = dev.outcome().await?;
    assert_eq!((&outcome["status"], &outcome["attempt"]), (&json!("done"), &json!(2)), "{outcome}");
    let http = reqwest::Client::new();
    let on: Value = http.get(&url).send().await?.json().await?;
    assert_eq!(on["faults"][0]["struck"], 1);

    // A name that there is not is refused, and so is a page of somebody else.
    let unknown = http.post(&url).body(r#"{"server": "apis", "fault": "lose", "colour": 1}"#);
    let unknown = unknown.send().await?;
    assert_eq!(unknown.status(), 400);
    assert!(unknown.text().await?.contains("`colour`"));
    for (name, value) in [("origin", "https://example.com"), ("host", "example.com")] {
        assert_eq!(http.delete(&url).header(name, value).send().await?.status(), 403, "{name}");
    }
    let lifted: Value = http.delete(&url).send().await?.json().await?;
    assert_eq!(lifted, json!({"lifted": 1}));
    assert_eq!(dev.terminate().await?, Some(0));
    Ok(())
}

/// Whoever tries something out writes as often as they like, unless they want production's limit.
#[tokio::test]
async fn writes_are_strict_where_they_are_asked_to_be() -> anyhow::Result<()> {
    let fleet = fleet_binary();
    let usual = ["--web", "0", "--users", "1", "--replicas", "0", "--broker", "127.0.0.1:0"];
    let strict = [&usual[..], &["--strict-writes"]].concat();
    for (flags, second) in [(&usual[..], 200), (&strict[..], 429)] {
        let dev = Dev::start(&fleet, flags).await?;
        let origin = dev.get("STORAGE_EMULATOR_HOST").context("no storage")?;
        let bucket = dev.get("FLEET_BUCKET").context("no bucket")?;
        let url = format!("{origin}/upload/storage/v1/b/{bucket}/o?uploadType=media&name=a");
        let http = reqwest::Client::new();
        assert_eq!(http.post(&url).body("1").send().await?.status(), 200);
        assert_eq!(http.post(&url).body("2").send().await?.status(), second);
        assert_eq!(dev.terminate().await?, Some(0));
    }
    Ok(())
}
