//! `fleet broker`: programs that are no jobs act as stored users.

use std::time::Duration;

use serde_json::{Value, json};
use tests::stage::{Cloud, Stage};
use tests::write_secret;
use url::form_urlencoded;

/// Asks as a library does with a credentials file.
pub(crate) async fn ask(credentials: &Value) -> anyhow::Result<(u16, Value)> {
    let part = |name: &str| credentials[name].as_str().unwrap_or_default().to_owned();
    let form = form_urlencoded::Serializer::new(String::new())
        .append_pair("grant_type", "refresh_token")
        .extend_pairs(["client_id", "client_secret", "refresh_token"].map(|n| (n, part(n))))
        .finish();
    let response = reqwest::Client::builder()
        .no_proxy()
        .build()?
        .post(part("token_uri"))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form)
        .send()
        .await?;
    Ok((response.status().as_u16(), response.json().await?))
}

#[tokio::test]
async fn programs_with_the_key_act_as_the_users_that_they_may_act_as() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    for user in ["ann", "bob"] {
        stage.user(user, Duration::ZERO).await?;
    }
    let (key, new) = ("k".repeat(44), "n".repeat(44));
    let file = stage.path("broker.key").display().to_string();
    let users = stage.path("users").display().to_string();
    std::fs::write(&users, "ann\nnobody\n")?;
    write_secret(&file, format!("{new}\n{key}\n"))?;
    let flags = ["broker", "--listen", "127.0.0.1:0", "--key", &file, "--users", &users];
    let mut broker = stage.start_with_descriptors(&flags, 1024)?;
    let line = broker.wait_for(|line| line["address"].is_string()).await?;
    let address = line["address"].as_str().unwrap().to_owned();

    let made = ["broker", "credentials", "ann", "--key", &file, "--listen", &address];
    let printed = stage.fleet(&made).await?;
    assert_eq!(printed.code, 0, "{}", printed.stderr);
    let credentials: Value = serde_json::from_str(&printed.stdout)?;
    assert_eq!(credentials["type"], "external_account_authorized_user");
    assert_eq!(credentials["client_secret"], new, "the newer of two keys");
    let (status, token) = ask(&credentials).await?;
    assert_eq!((status, &token["token_type"]), (200, &json!("Bearer")), "{token}");
    assert_eq!(token["access_token"], stage.record("ann").await?["access_token"]);
    assert!(token["refresh_token"].is_null());

    let with = |name: &str, value: &str| {
        let mut other = credentials.clone();
        other[name] = json!(value);
        other
    };
    assert_eq!(ask(&with("client_secret", &key)).await?.0, 200, "the older one counts still");
    let (status, refused) = ask(&with("client_secret", "wrong")).await?;
    assert_eq!((status, &refused["error"]), (401, &json!("invalid_client")));
    for user in ["bob", "nobody"] {
        let (status, refused) = ask(&with("refresh_token", user)).await?;
        assert_eq!((status, &refused["error"]), (400, &json!("invalid_grant")), "{user}");
    }
    assert_eq!(broker.terminate().await?, 0);
    let log = broker.log_text();
    assert!(!log.contains(&key) && !log.contains(&new) && !log.contains("ya29."), "{log}");
    Ok(())
}

#[tokio::test]
async fn settings_of_a_broker_that_cannot_work_are_named() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    let (short, missing) = (stage.path("short.key"), stage.path("missing.key"));
    write_secret(&short, "short")?;
    let good = stage.path("good.key");
    write_secret(&good, "k".repeat(44))?;
    let text = |path: &std::path::Path| path.display().to_string();
    let (short, missing, good) = (text(&short), text(&missing), text(&good));
    for (flags, says) in [
        (&["--key", &*short][..], "less than 32 characters"),
        (&["--key", &*missing], "cannot read"),
        (&["--key", &*good, "--listen", "0.0.0.0:0"], "must be a loopback address"),
        (&["--key", &*good, "--users", "not-there"], "cannot read not-there"),
        (&["--key", &*good, "--listen", "unix:broker.sock"], "unix:/PATH"),
        (&["credentials", "ann", "--key", &*short], "less than 32 characters"),
        (&["credentials", "ann", "--key", &*good, "--listen", "unix:/run/b.sock"], "fleet token"),
    ] {
        let output = stage.fleet(&[&["broker"], flags].concat()).await?;
        assert_eq!(output.code, 2, "{flags:?}: {}", output.stderr);
        assert!(output.stderr.contains(says), "{flags:?}: {}", output.stderr);
        assert!(!output.stderr.contains("kkkk"), "{}", output.stderr);
    }
    Ok(())
}
