//! A broker's key is changed while programs ask all the time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tests::stage::{Cloud, Stage};
use tests::write_secret;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::broker::ask;

#[tokio::test]
async fn a_key_is_changed_without_a_failed_request() -> anyhow::Result<()> {
    let stage = Stage::set(Cloud::embedded().await?).await?;
    stage.user("ann", Duration::ZERO).await?;
    let (old, new) = ("o".repeat(44), "n".repeat(44));
    let file = stage.path("broker.key");
    write_secret(&file, &old)?;
    let key = file.display().to_string();
    let mut broker = stage
        .start_with_descriptors(&["broker", "--listen", "127.0.0.1:0", "--key", &key], 1024)?;
    let line = broker.wait_for(|line| line["address"].is_string()).await?;
    let token_uri = format!("http://{}/token", line["address"].as_str().unwrap());
    let of = |key: &str| json!({"client_id": "fleet", "client_secret": key, "refresh_token": "ann", "token_uri": token_uri});
    // What every program has been given.
    let given = Arc::new(Mutex::new(of(&old)));
    let (asked, stop) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
    let mut programs = JoinSet::new();
    for _ in 0..4 {
        let (given, asked, stop) = (Arc::clone(&given), Arc::clone(&asked), stop.clone());
        programs.spawn(async move {
            while !stop.is_cancelled() {
                let credentials = given.lock().unwrap().clone();
                let (status, answer) = ask(&credentials).await.unwrap();
                assert_eq!(status, 200, "{answer}");
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    write_secret(&file, format!("{new}\n{old}\n"))?;
    broker.wait_for_message("the keys have changed").await?;
    let before = asked.load(Ordering::Relaxed);
    *given.lock().unwrap() = of(&new);
    while asked.load(Ordering::Relaxed) < before + 20 {
        tokio::task::yield_now().await;
    }
    write_secret(&file, &new)?;
    broker.wait_for_message("the keys have changed").await?;
    assert_eq!(ask(&of(&old)).await?.0, 401, "the old one counts no more");
    // What is no key changes nothing.
    write_secret(&file, "short")?;
    let why = broker.wait_for_message("less than 32 characters").await?;
    assert!(why.contains("the keys stay as they were"), "{why}");
    assert_eq!(ask(&of(&new)).await?.0, 200);
    stop.cancel();
    while let Some(ended) = programs.join_next().await {
        ended?;
    }
    assert!(asked.load(Ordering::Relaxed) > before + 20);
    assert_eq!(broker.terminate().await?, 0);
    let log = broker.log_text();
    assert!(!log.contains(&old) && !log.contains(&new), "{log}");
    Ok(())
}
