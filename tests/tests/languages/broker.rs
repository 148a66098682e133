//! Programs that are no jobs, by the field's libraries and a credentials file.

use std::time::Duration;

use emulators::google::{self, RefreshOutcome};
use serde_json::Value;
use tests::report::say;
use tests::stage::{Stage, Worker};
use tests::write_secret;

use crate::programs::{clients, stage};
use crate::written::tells_no_secret;

const USERS: usize = 1000;

/// A broker that has the key in this file, and where it listens.
async fn broker(stage: &Stage, key: &str) -> anyhow::Result<(Worker, String)> {
    let mut broker =
        stage.start_with_descriptors(&["broker", "--listen", "127.0.0.1:0", "--key", key], 1024)?;
    let line = broker.wait_for(|line| line["address"].is_string()).await?;
    Ok((broker, line["address"].as_str().unwrap().to_owned()))
}

/// Writes a user's credentials file, as the README says; its path.
async fn credentials(
    stage: &Stage,
    user: &str,
    key: &str,
    address: &str,
) -> anyhow::Result<String> {
    let made = ["broker", "credentials", user, "--key", key, "--listen", address];
    let printed = stage.fleet(&made).await?;
    anyhow::ensure!(printed.code == 0, "{}", printed.stderr);
    let path = stage.path("credentials.json");
    std::fs::write(&path, printed.stdout)?;
    Ok(path.display().to_string())
}

#[tokio::test]
async fn ten_thousand_questions_refresh_each_user_once_while_the_key_changes() -> anyhow::Result<()>
{
    let Some(clients) = clients("broker::python")? else { return Ok(()) };
    let stage = stage(google::Config::default()).await?;
    for number in 0..USERS {
        stage.write_expired_user(&format!("user-{number}")).await?;
    }
    let (old, new) = ("o".repeat(44), "n".repeat(44));
    let key = stage.path("broker.key");
    write_secret(&key, &old)?;
    let file = key.display().to_string();
    let (mut broker, address) = broker(&stage, &file).await?;
    let credentials = credentials(&stage, "user-0", &file, &address).await?;
    let mut asking = clients.script(&stage, "python/asking.py", &[&credentials], &[])?;

    // As the README says: the new key above the old one, then the new one to all.
    asking.says("a third").await?;
    write_secret(&key, format!("{new}\n{old}\n"))?;
    broker.wait_for_message("the keys have changed").await?;
    asking.tell(&new).await?;
    let written = asking.ended().await?;
    let counts: Value = serde_json::from_str(written.lines().last().unwrap_or_default())
        .unwrap_or_else(|_| panic!("{written}"));
    say(format!("10,000 questions to a broker: {counts}"));
    assert_eq!((&counts["asked"], &counts["failed"]), (&10_000.into(), &0.into()), "{written}");
    assert!(counts["by_the_new_key"].as_u64().unwrap() > 0, "{counts}");
    assert_eq!(counts["tokens"], USERS, "one token per user");
    assert_eq!(counts["wrong_users"], 0);
    let calls = stage.google.refresh_calls();
    assert!(calls.iter().all(|call| matches!(call.outcome, RefreshOutcome::Issued(_))));
    let users: std::collections::BTreeSet<_> = calls.iter().map(|call| &call.sub).collect();
    assert_eq!((calls.len(), users.len()), (USERS, USERS), "one refresh per user");

    // And then the old one is removed.
    write_secret(&key, &new)?;
    broker.wait_for_message("the keys have changed").await?;
    let mut refused = clients.script(
        &stage,
        "python/default.py",
        &[],
        &[
            ("GOOGLE_APPLICATION_CREDENTIALS", &credentials),
            ("USERINFO", &stage.google.userinfo_url()),
        ],
    )?;
    let written = refused.ended().await?;
    assert!(written.contains("invalid_client"), "{written}");
    assert_eq!(broker.terminate().await?, 0);
    for text in [broker.log_text(), asking.written(), written] {
        assert!(!text.contains(&old) && !text.contains(&new), "a key was written");
    }
    tells_no_secret(&stage, &[&broker], &[&asking, &refused]);
    Ok(())
}

#[tokio::test]
async fn a_credentials_file_is_all_that_python_and_node_need() -> anyhow::Result<()> {
    let Some(clients) = clients("broker::default")? else { return Ok(()) };
    let stage = stage(google::Config::default()).await?;
    for user in ["ann", "bob"] {
        stage.user(user, Duration::ZERO).await?;
    }
    let key = stage.path("broker.key");
    write_secret(&key, "k".repeat(44))?;
    let file = key.display().to_string();
    let (mut broker, address) = broker(&stage, &file).await?;
    for user in ["ann", "bob"] {
        let credentials = credentials(&stage, user, &file, &address).await?;
        let variables = [
            ("GOOGLE_APPLICATION_CREDENTIALS", &*credentials),
            ("USERINFO", &stage.google.userinfo_url()),
        ];
        for script in ["python/default.py", "node/default.js"] {
            let mut program = clients.script(&stage, script, &[], &variables)?;
            let written = program.ended().await?;
            assert_eq!(written.lines().last(), Some(user), "{script}: {written}");
            tells_no_secret(&stage, &[], &[&program]);
        }
    }
    assert_eq!(broker.terminate().await?, 0);
    tells_no_secret(&stage, &[&broker], &[]);
    Ok(())
}
