//! The audit trail of the store: every write is told, whatever became of its reply.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use shared::ports::{Act, Audit, AuditEntry};
use shared::{Keyring, Resealed};
use tests::memory::{Fleet, WriteFault, pass};

const HOUR: Duration = Duration::from_secs(3600);

/// Keeps what it is told.
#[derive(Debug, Default)]
struct Trail(Mutex<Vec<String>>);

impl Audit for Trail {
    fn note(&self, entry: &AuditEntry<'_>) {
        let AuditEntry { act, user, reason, confirmed, .. } = entry;
        let mut told = format!("{} {}", user.as_str(), act.as_str());
        if let Some(reason) = reason {
            told = format!("{told} ({reason})");
        }
        if !confirmed {
            told.push('?');
        }
        assert!(entry.grant.is_some() || *act == Act::Deleted, "{told}");
        assert!(!format!("{entry:?}").contains("fake-"), "no secret");
        self.0.lock().unwrap().push(told);
    }
}

impl Trail {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn fleet() -> (Fleet, Arc<Trail>) {
    let trail = Arc::new(Trail::default());
    let mut fleet = Fleet::new(true);
    fleet.audit = Arc::<Trail>::clone(&trail);
    (fleet, trail)
}

#[tokio::test(start_paused = true)]
async fn a_life_of_a_grant() {
    let (mut fleet, trail) = fleet();
    let user = fleet.user("ann").await;
    assert_eq!(trail.take(), ["ann imported"]);
    pass(HOUR + Duration::from_secs(1)).await;
    let (store, other) = (fleet.replica("a"), fleet.replica("b"));
    store.get_credentials(&user).await.unwrap();
    other.get_credentials(&user).await.unwrap();
    assert_eq!(trail.take(), ["ann refreshed"], "once, by whoever did it");
    fleet.provider.deny("ann", Some("admin_policy_enforced"));
    pass(HOUR + Duration::from_secs(1)).await;
    store.get_credentials(&user).await.unwrap_err();
    other.get_credentials(&user).await.unwrap_err();
    assert_eq!(trail.take(), ["ann blocked (admin_policy)"]);
    fleet.provider.deny("ann", None);
    store.set_credentials(&user, fleet.login(&user)).await.unwrap();
    assert_eq!(trail.take(), ["ann granted"]);
    fleet.keyring = Some(Keyring::new("2026-01-01T00:00:00Z".parse().unwrap()));
    fleet.accept_unsealed = true;
    assert_eq!(fleet.replica("c").reseal(&user).await.unwrap(), Resealed::Done);
    assert_eq!(trail.take(), ["ann resealed"]);
    fleet.provider.revoke("ann");
    pass(HOUR + Duration::from_secs(1)).await;
    let sealing = fleet.replica("d");
    sealing.get_credentials(&user).await.unwrap_err();
    assert_eq!(trail.take(), ["ann revoked (revoked)"]);
    assert!(sealing.delete(&user).await.unwrap());
    assert!(!sealing.delete(&user).await.unwrap());
    assert_eq!(trail.take(), ["ann deleted"]);
}

/// What may have been written is told, so that the trail misses nothing.
#[tokio::test(start_paused = true)]
async fn a_lost_reply_leaves_no_gap() {
    for fault in [WriteFault::ReplyLost, WriteFault::ConflictWithItself, WriteFault::NotApplied] {
        let (fleet, trail) = fleet();
        let user = fleet.user("ann").await;
        pass(HOUR + Duration::from_secs(1)).await;
        trail.take();
        fleet.bucket.fail_write("tokens/", fault);
        let store = fleet.replica("a");
        store.get_credentials(&user).await.unwrap();
        assert!(store.shutdown(Duration::from_secs(60)).await);
        let told = trail.take();
        assert!(told.iter().all(|line| line.starts_with("ann refreshed")), "{fault:?}: {told:?}");
        assert!(!told.is_empty(), "{fault:?}");
    }
}
