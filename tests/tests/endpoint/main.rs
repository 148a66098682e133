//! Real replicas before a token endpoint as it is in the world: late, gone, odd. Whatever it
//! answers, nobody is locked out who need not be, and nobody waits for somebody else's trouble.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod grants;
mod late;
mod refusals;
mod turns;

use std::time::Duration;

use emulators::account::{Account, Judgement, Rules};
use emulators::storage::Storage;
use serde_json::{Value, json};
use tests::gateway::Passage;
use tests::stage::{PATIENCE, Stage};

/// A job that reads the profile of its user.
pub(crate) fn job(id: &str, user: &str) -> Value {
    json!({"id": id, "user": user, "kind": "profile"})
}

pub(crate) fn storage(stage: &Stage) -> &Storage {
    &stage.cloud.embedded.as_ref().unwrap().1
}

/// Waits for requests at the gateway, not for ever.
pub(crate) async fn wait_for(
    stage: &Stage,
    condition: impl Fn(&[Passage]) -> bool,
) -> anyhow::Result<Vec<Passage>> {
    let waited = tokio::time::timeout(PATIENCE, stage.gateway().wait_for(condition)).await;
    waited.map_err(|_| anyhow::anyhow!("so far: {:?}", stage.gateway().passages()))
}

/// Judges every call that was carried out, for access tokens of this lifetime.
pub(crate) fn judged(stage: &Stage, account: &Account, life: Duration, ttl: Duration) -> Judgement {
    // A holder waits for two seconds after a lost answer, and for a third of the ttl, at most
    // ten, before it doubts a rejection.
    let resend = Duration::from_secs(2).min(ttl / 3);
    let rules = Rules { due_age: life * 3 / 4, resend };
    account.judge(stage.gateway().calls(&stage.google), rules)
}
