//! `fleet token` by a broker, and tokens that last.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rustix::process::Signal;
use serde_json::Value;
use shared::adapters::SystemClock;
use shared::ports::Clock as _;
use tests::stage::{Cloud, Output, Stage, Worker, run};
use tests::write_secret;

const MINUTE: Duration = Duration::from_secs(60);

/// A broker with a key of its own, which listens there; the key's file and its address.
async fn broker(stage: &Stage, listen: &str) -> anyhow::Result<(Worker, String, String)> {
    let key = stage.path("broker.key");
    write_secret(&key, "k".repeat(44))?;
    let key = key.display().to_string();
    let flags = ["broker", "--listen", listen, "--key", &key, "--users", "a*"];
    let mut broker = stage.start_with_descriptors(&flags, 1024)?;
    let line = broker.wait_for(|line| line["address"].is_string()).await?;
    Ok((broker, key, line["address"].as_str().unwrap().to_owned()))
}

/// Asks with nothing but the broker's address and key.
async fn token(broker: &str, key: &str, args: &[&str]) -> anyhow::Result<Output> {
    let variables = [("FLEET_BROKER", broker), ("FLEET_BROKER_KEY", key)];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    run(&[&["token"], args].concat(), &variables).await
}

/// For how long the token is good that was printed as JSON.
fn left(output: &Output) -> Duration {
    assert_eq!(output.code, 0, "{}", output.stderr);
    let said: Value = serde_json::from_str(&output.stdout).unwrap();
    let at: Timestamp = said["expires_at"].as_str().unwrap().parse().unwrap();
    let left: SignedDuration = at.duration_since(SystemClock::default().wall());
    left.try_into().unwrap()
}

#[tokio::test]
async fn a_program_needs_a_brokers_address_and_key_alone() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    for user in ["ann", "bob"] {
        stage.user(user, Duration::ZERO).await?;
    }
    stage.write_expired_user("away").await?;
    let (mut broker, key, address) = broker(&stage, "127.0.0.1:0").await?;
    let url = format!("http://{address}");
    let given = token(&url, &key, &["ann"]).await?;
    assert_eq!(given.code, 0, "{}", given.stderr);
    assert_eq!(given.stdout.trim(), stage.record("ann").await?["access_token"]);
    let given = token(&url, &key, &["ann", "--json"]).await?;
    assert!(left(&given) > 58 * MINUTE, "{}", given.stdout);
    assert!(given.stdout.contains("openid"), "{}", given.stdout);

    stage.google.revoke_user("away");
    let other = stage.path("other.key");
    write_secret(&other, "x".repeat(44))?;
    let other = other.display().to_string();
    for (url, key, user, code, says) in [
        (&*url, &*key, "away", 3, "the user must consent: revoked"),
        (&url, &key, "aunt", 3, "the user must consent: unknown_user"),
        (&url, &key, "bob", 1, "--users"),
        (&url, &other, "ann", 2, "knows none of the keys in --key"),
        ("http://127.0.0.1:1", &key, "ann", 1, "cannot be reached"),
        ("http://localhost:1", &key, "ann", 2, "names no server of this machine"),
        (&url, "", "ann", 2, "FLEET_BROKER_KEY"),
        ("", &key, "ann", 2, "--bucket"),
    ] {
        let refused = token(url, key, &[user]).await?;
        assert_eq!(refused.code, code, "{url} {user}: {}", refused.stderr);
        assert!(refused.stderr.contains(says), "{url} {user}: {}", refused.stderr);
        assert_eq!(refused.stdout, "");
        assert!(!refused.stderr.contains("kkk") && !refused.stderr.contains("xxx"));
    }
    assert_eq!(broker.terminate().await?, 0);
    Ok(())
}

#[tokio::test]
async fn a_broker_at_a_socket() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    stage.user("ann", Duration::ZERO).await?;
    let socket = stage.path("broker.sock");
    let listen = format!("unix:{}", socket.display());
    let (mut first, key, address) = broker(&stage, &listen).await?;
    assert_eq!(address, listen);
    let found = socket.symlink_metadata()?;
    assert!(found.file_type().is_socket() && found.mode() & 0o7777 == 0o600, "{found:?}");
    let given = token(&listen, &key, &["ann"]).await?;
    assert_eq!(given.stdout.trim(), stage.record("ann").await?["access_token"], "{given:?}");
    let second = stage.fleet(&["broker", "--listen", &listen, "--key", &key]).await?;
    assert_eq!(second.code, 1, "{}", second.stderr);
    assert!(second.stderr.contains("somebody answers there"), "{}", second.stderr);
    // One that is killed leaves its socket behind, and the next replaces it.
    first.signal(Signal::KILL)?;
    first.ended().await?;
    assert!(socket.exists());
    let gone = token(&listen, &key, &["ann"]).await?;
    assert_eq!(gone.code, 1, "{}", gone.stderr);
    assert!(gone.stderr.contains("cannot be reached"), "{}", gone.stderr);
    let (mut next, key, _) = broker(&stage, &listen).await?;
    assert_eq!(token(&listen, &key, &["ann"]).await?.code, 0);
    assert_eq!(next.terminate().await?, 0);
    assert!(!socket.exists());
    Ok(())
}

/// With a broker and without one: a token with less left is renewed, one with more is not, and
/// what no token has is refused and not asked for at every call.
#[tokio::test]
async fn a_token_lasts_as_long_as_is_asked() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    let (mut broker, key, address) = broker(&stage, "127.0.0.1:0").await?;
    let url = format!("http://{address}");
    for (user, by_broker) in [("alone", false), ("asks", true)] {
        stage.user(user, 50 * MINUTE).await?;
        let get = async |min_ttl: &str| {
            let args = [user, "--json", "--min-ttl", min_ttl];
            if by_broker {
                return token(&url, &key, &args).await;
            }
            stage.fleet(&[&["token"], &args[..]].concat()).await
        };
        let refreshes = || {
            stage
                .google
                .refresh_calls()
                .iter()
                .filter(|call| call.sub.as_deref() == Some(user))
                .count()
        };
        assert!(left(&get("9m").await?) < 10 * MINUTE, "{user}");
        assert_eq!(refreshes(), 0, "{user}");
        assert!(left(&get("11m").await?) > 50 * MINUTE, "{user}");
        assert!(left(&get("50m").await?) > 50 * MINUTE, "{user}");
        assert_eq!(refreshes(), 1, "{user}");
        for _ in 0..3 {
            let refused = get("2h").await?;
            assert_eq!(refused.code, 1, "{user}: {}", refused.stderr);
            assert!(refused.stderr.contains("ask for less than"), "{user}: {}", refused.stderr);
            assert_eq!(refused.stdout, "");
        }
        assert_eq!(refreshes(), 1, "{user}: it was renewed a moment ago");
    }
    assert_eq!(broker.terminate().await?, 0);
    Ok(())
}
