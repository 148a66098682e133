//! What the servers saw of the replicas.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use emulators::google::Fingerprint;
use emulators::storage::Storage;
use serde_json::Value;
use tests::stage::Stage;

use crate::spends::{Call, Lease, Record, Writes, judge};

/// Writes of leases and tokens, and every secret that was stored.
#[derive(Debug, Clone, Default)]
pub(crate) struct Watch(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    users: HashMap<String, Writes>,
    secrets: HashSet<String>,
}

/// What refreshes came to.
#[derive(Debug, Default)]
pub(crate) struct Refreshes {
    pub(crate) calls: u64,
    pub(crate) reused: u64,
    /// Calls whose outcome was not stored within the ttl of their lease.
    pub(crate) crash_window: u64,
    /// Whose grants these were: they may have to consent again.
    pub(crate) struck: HashSet<String>,
    /// Histories of users whose refresh token was spent twice without such a window.
    pub(crate) unexplained: Vec<String>,
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
            let holder = text("holder").unwrap_or_default();
            let mut seen = seen.lock().unwrap();
            if let Some(user) = user_of(&written.name, "leases/") {
                let guards = content["guards"].as_i64().unwrap_or_default();
                let lease = Lease { at: written.at, holder, guards };
                seen.users.entry(user).or_default().leases.push(lease);
            } else if let Some(user) = user_of(&written.name, "tokens/") {
                let fingerprint = |field| text(field).map(|token| Fingerprint::of(&token));
                let record = Record {
                    at: written.at,
                    generation: written.generation,
                    holder,
                    revoked: content["state"] == "revoked",
                    access_token: fingerprint("access_token"),
                    refresh_token: fingerprint("refresh_token"),
                };
                seen.users.entry(user).or_default().records.push(record);
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
    /// what came of it within the ttl of its lease PUT, or lost the answer. Both are
    /// looked for at each earlier call with the same token.
    pub(crate) fn refreshes(&self, stage: &Stage, ttl: Duration, attempt: Duration) -> Refreshes {
        let seen = self.0.lock().unwrap();
        let mut calls: HashMap<String, Vec<Call>> = HashMap::new();
        for call in stage.google.refresh_calls() {
            let user = call.sub.clone().unwrap_or_default();
            calls.entry(user).or_default().push(Call::of(call));
        }
        let mut refreshes = Refreshes::default();
        let none = Writes::default();
        for (user, calls) in calls {
            let writes = seen.users.get(&user).unwrap_or(&none);
            let judged = judge(&calls, writes, ttl, attempt);
            refreshes.calls += calls.len() as u64;
            refreshes.reused += judged.reused;
            refreshes.crash_window += judged.wasted;
            if !judged.explained {
                refreshes.unexplained.push(writes.history(&user, &calls));
            }
            if judged.wasted > 0 {
                refreshes.struck.insert(user);
            }
        }
        refreshes
    }
}

fn user_of(object: &str, folder: &str) -> Option<String> {
    object.strip_prefix(folder).map(|name| name.trim_end_matches(".json").to_owned())
}
