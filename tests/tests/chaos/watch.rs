//! What the servers saw of the replicas.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use emulators::google::{Fingerprint, RefreshOutcome};
use emulators::storage::Storage;
use serde_json::Value;
use tests::stage::Stage;
use tokio::time::Instant;

/// Writes of leases and tokens, and every secret that was stored.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    /// Holder and user → when each lease was written.
    leases: HashMap<(String, String), Vec<Instant>>,
    /// Access token → when it was stored first.
    stored: HashMap<Fingerprint, Instant>,
    secrets: HashSet<String>,
}

/// What refreshes came to.
#[derive(Debug, Default)]
pub(crate) struct Refreshes {
    pub(crate) calls: u64,
    pub(crate) reused: u64,
    /// Calls whose grant was not stored within the ttl of their lease.
    pub(crate) crash_window: u64,
    /// Whose grants these were: they may have to consent again.
    pub(crate) struck: HashSet<String>,
}

impl Watch {
    pub(crate) fn over(storage: &Storage) -> Self {
        let watch = Self::default();
        let seen = Arc::clone(&watch.0);
        storage.on_write(move |written| {
            let Ok(content) = serde_json::from_slice::<Value>(&written.content) else {
                return;
            };
            let text = |field: &str| content[field].as_str().map(str::to_owned);
            let mut seen = seen.lock().unwrap();
            if let Some(user) = written.name.strip_prefix("leases/") {
                let user = user.trim_end_matches(".json").to_owned();
                let holder = text("holder").unwrap_or_default();
                seen.leases.entry((holder, user)).or_default().push(Instant::now());
            } else if written.name.starts_with("tokens/") {
                if let Some(token) = text("access_token") {
                    seen.stored.entry(Fingerprint::of(&token)).or_insert_with(Instant::now);
                }
                seen.secrets.extend(["access_token", "refresh_token"].into_iter().filter_map(text));
            }
        });
        watch
    }

    /// Every secret that was ever stored.
    pub(crate) fn secrets(&self) -> HashSet<String> {
        self.0.lock().unwrap().secrets.clone()
    }

    /// The protocol lets a refresh token be spent twice only if a holder failed to store
    /// its grant within the ttl of its lease PUT: those are counted.
    pub(crate) fn refreshes(&self, stage: &Stage, ttl: Duration) -> Refreshes {
        let seen = self.0.lock().unwrap();
        let mut refreshes = Refreshes::default();
        for call in stage.google.refresh_calls() {
            refreshes.calls += 1;
            let issued = match &call.outcome {
                RefreshOutcome::Issued(issued) => issued,
                RefreshOutcome::Reused(issued) => {
                    refreshes.reused += 1;
                    let Some(issued) = issued else { continue };
                    issued
                }
                _ => continue,
            };
            let sub = call.sub.clone().unwrap_or_default();
            let agent = call.user_agent.clone().unwrap_or_default();
            let leased = seen
                .leases
                .iter()
                .filter(|((holder, user), _)| *user == sub && agent.contains(holder.as_str()))
                .flat_map(|(_, times)| times)
                .filter(|at| **at <= call.at)
                .max();
            let stored = seen.stored.get(&issued.access_token);
            let in_time = match (leased, stored) {
                (Some(leased), Some(stored)) => *stored - *leased < ttl,
                _ => false,
            };
            if !in_time {
                refreshes.crash_window += 1;
                refreshes.struck.insert(sub);
            }
        }
        refreshes
    }
}
