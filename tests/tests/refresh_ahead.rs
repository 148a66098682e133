//! A refresh-ahead that tokens do not allow is capped, and the operator is told once.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tests::memory::{Fleet, pass};
use tokio::sync::Mutex as AsyncMutex;
use tracing_subscriber::util::SubscriberInitExt as _;

/// A line that another thread reaches first, while this thread's subscriber is being made, may be
/// registered as one that nobody wants.
static ONE_TEST_AT_A_TIME: AsyncMutex<()> = AsyncMutex::const_new(());

/// What was logged.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn lines_with(&self, part: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_refresh_ahead_longer_than_tokens_allow_is_capped_and_reported_once() {
    let _alone = ONE_TEST_AT_A_TIME.lock().await;
    let log = Log::default();
    let writer = log.clone();
    let logging = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false);
    let _logging = logging.finish().set_default();
    let fleet = Fleet::new(true);
    let long = fleet.user("long").await;
    let store = fleet.replica("a");
    store.get_credentials(&long).await.unwrap();
    assert!(log.lines_with("refresh-ahead").is_empty(), "an hour allows five minutes");

    fleet.provider.set_lifetime(Duration::from_secs(400));
    let users = [fleet.user("ann").await, fleet.user("bob").await];
    // The replica that stored them has said so too, and is not asked here.
    log.0.lock().unwrap().clear();
    let mut first = Vec::new();
    for user in &users {
        first.push(store.get_credentials(user).await.unwrap());
    }
    pass(Duration::from_secs(250)).await;
    for (user, first) in users.iter().zip(&first) {
        let again = store.get_credentials(user).await.unwrap();
        assert_eq!(again.grant_id(), first.grant_id(), "not due before its last quarter");
    }
    assert_eq!(fleet.provider.calls(), 0);
    let said = log.lines_with("refresh-ahead");
    assert_eq!(said.len(), 1, "{said:?}");
    for value in ["300s", "400s", "100s"] {
        assert!(said[0].contains(value), "{value} is not in {}", said[0]);
    }
    assert!(said[0].contains("INFO"), "{}", said[0]);
}

/// Libraries that hold a token ask for another on every call when theirs has some minutes left.
#[tokio::test(start_paused = true)]
async fn a_token_that_is_handed_on_is_renewed_earlier_and_handed_on_meanwhile() {
    let _alone = ONE_TEST_AT_A_TIME.lock().await;
    let fleet = Fleet::new(true);
    let (ann, bob) = (fleet.user("ann").await, fleet.user("bob").await);
    let store = fleet.replica("a");
    let ahead = Duration::from_secs(6 * 60);
    let first = store.get_credentials_ahead(&ann, ahead).await.unwrap();
    let other = store.get_credentials(&bob).await.unwrap();
    pass(Duration::from_secs(3600 - 361)).await;
    store.get_credentials_ahead(&ann, ahead).await.unwrap();
    pass(Duration::from_secs(0)).await;
    assert_eq!(fleet.provider.calls(), 0, "more than six minutes are left");
    pass(Duration::from_secs(1)).await;
    let due = store.get_credentials_ahead(&ann, ahead).await.unwrap();
    assert_eq!(due.grant_id(), first.grant_id(), "nobody waits");
    pass(Duration::from_secs(1)).await;
    let next = store.get_credentials_ahead(&ann, ahead).await.unwrap();
    assert_ne!(next.grant_id(), first.grant_id());
    assert_eq!(fleet.provider.calls(), 1);
    // Of a token that lives for a quarter of an hour the last quarter counts.
    fleet.provider.set_lifetime(Duration::from_secs(900));
    let short = fleet.user("short").await;
    let first = store.get_credentials_ahead(&short, ahead).await.unwrap();
    pass(Duration::from_secs(600)).await;
    store.get_credentials_ahead(&short, ahead).await.unwrap();
    pass(Duration::from_secs(1)).await;
    let same = store.get_credentials_ahead(&short, ahead).await.unwrap();
    assert_eq!(same.grant_id(), first.grant_id());
    assert_eq!(other.user(), &bob);
}
