//! Whether the refreshes of a fleet had to be, judged call by call from what its servers saw.
//!
//! An [`Account`] watches the bucket from the moment it is opened. It knows the two objects
//! that the fleet keeps for a user, `leases/<user>.json` and `tokens/<user>.json`, by the
//! fields that their contract fixes. The calls come from whoever served the token endpoint.
//!
//! With a provider that rotates refresh tokens the protocol allows one call per expiry. A
//! refresh token is presented twice only if every earlier call with it gives a reason: its
//! holder did not store what came of it while its lease lived, since it was killed, stopped or
//! starved, or its answer was lost on the way. Sums cannot tell this: a replica that is killed
//! after it presented a token that a dead one had spent is a second reason of its own.

mod spends;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

pub use spends::Call;
use spends::{Lease, Record, Writes, judge};

use crate::google::Fingerprint;
use crate::storage::{Storage, Written};

/// What the protocol promises, as far as it depends on settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The age at which a replica may refresh an access token at the earliest: its lifetime
    /// without the largest refresh-ahead.
    pub due_age: Duration,
    /// How long a holder waits at least before it presents a refresh token again under the
    /// same lease.
    pub resend: Duration,
}

/// The writes that a bucket has seen since the account was opened.
#[derive(Clone)]
pub struct Account {
    users: Arc<Mutex<HashMap<String, Writes>>>,
}

/// What a fleet's calls came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Judgement {
    /// Calls that presented the refresh token of a user.
    pub calls: u64,
    /// Calls with a refresh token that was never issued.
    pub questions: u64,
    /// Calls that presented a spent refresh token.
    pub reused: u64,
    /// Calls that spent a refresh token and of which nothing was stored while their lease lived.
    pub cut_off: u64,
    /// Whose grants these calls may have cost, and the `User-Agent` of each of them.
    pub struck: BTreeMap<String, Vec<String>>,
    /// What the protocol does not allow: one text per user, with everything that the servers
    /// saw of that user and no secret.
    pub faults: Vec<String>,
}

impl Account {
    /// Watches `storage` from now on.
    pub fn open(storage: &Storage) -> Self {
        Self::open_with(storage, |written| {
            serde_json::from_slice(&written.content).unwrap_or_default()
        })
    }

    /// As [`Account::open`], of a bucket whose objects `read` makes JSON of: it opens what is
    /// sealed.
    pub fn open_with(
        storage: &Storage,
        read: impl Fn(&Written) -> Value + Send + Sync + 'static,
    ) -> Self {
        let users = Arc::<Mutex<HashMap<String, Writes>>>::default();
        let account = Self { users: Arc::clone(&users) };
        storage.on_write(move |written| note(&mut lock(&users), written, &read(written)));
        account
    }

    /// Judges calls of the token endpoint, given in the order in which they arrived.
    pub fn judge(&self, calls: impl IntoIterator<Item = Call>, rules: Rules) -> Judgement {
        let users = lock(&self.users);
        let mut by_user: BTreeMap<String, Vec<Call>> = BTreeMap::new();
        let mut judgement = Judgement::default();
        for call in calls {
            match &call.sub {
                Some(sub) => by_user.entry(sub.clone()).or_default().push(call),
                None => judgement.questions += 1,
            }
        }
        let none = Writes::default();
        for (user, calls) in by_user {
            let writes = users.get(&user).unwrap_or(&none);
            let judged = judge(&calls, writes, rules);
            judgement.calls += calls.len() as u64;
            judgement.reused += judged.reused;
            judgement.cut_off += judged.cut_off.len() as u64;
            if !judged.faults.is_empty() {
                let faults = judged.faults.join("; ");
                judgement.faults.push(format!("{user}: {faults}{}", writes.history(&calls)));
            }
            if !judged.cut_off.is_empty() {
                judgement.struck.insert(user, judged.cut_off);
            }
        }
        judgement
    }
}

fn lock(users: &Mutex<HashMap<String, Writes>>) -> MutexGuard<'_, HashMap<String, Writes>> {
    users.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note(users: &mut HashMap<String, Writes>, written: &Written, content: &Value) {
    let Some((folder, user)) = written.name.split_once('/') else { return };
    let Some(user) = user.strip_suffix(".json") else { return };
    let text = |field: &str| content[field].as_str().map(str::to_owned);
    match folder {
        "leases" => users.entry(user.to_owned()).or_default().leases.push(Lease {
            at: written.at,
            holder: text("holder").unwrap_or_default(),
            attempt: text("attempt").unwrap_or_default(),
            guards: content["guards"].as_i64().unwrap_or_default(),
            ttl: Duration::from_millis(content["ttl_ms"].as_u64().unwrap_or_default()),
        }),
        "tokens" => {
            let fingerprint = |field| text(field).map(|token| Fingerprint::of(&token));
            users.entry(user.to_owned()).or_default().records.push(Record {
                at: written.at,
                generation: written.generation,
                holder: text("holder").unwrap_or_default(),
                revoked: content["state"] == "revoked",
                access_token: fingerprint("access_token"),
                refresh_token: fingerprint("refresh_token"),
            });
        }
        _ => {}
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("users", &lock(&self.users).len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;
    use tokio::time::Instant;

    use super::*;
    use crate::google::{RefreshCall, RefreshOutcome};

    const RULES: Rules = Rules { due_age: Duration::ZERO, resend: Duration::from_millis(100) };

    fn written(name: &str, content: &Value) -> Written {
        Written {
            bucket: "bucket".to_owned(),
            name: name.to_owned(),
            content: Bytes::from(content.to_string()),
            generation: 7,
            at: Instant::now(),
        }
    }

    fn call(sub: Option<&str>, outcome: RefreshOutcome) -> Call {
        Call::from(RefreshCall {
            seq: 0,
            at: Instant::now(),
            user_agent: Some("fleet (a)".to_owned()),
            sub: sub.map(str::to_owned),
            presented: Some(Fingerprint::of("old")),
            outcome,
        })
    }

    #[test]
    fn writes_are_read_by_the_fields_of_the_contract_and_others_are_left_alone() {
        let account = Account { users: Arc::default() };
        let note = |name: &str, content: Value| {
            note(&mut lock(&account.users), &written(name, &content), &content);
        };
        note("leases/ann.json", json!({"holder": "a", "attempt": "1", "guards": 6, "ttl_ms": 500}));
        note("parked/ann/1-job.json", json!({"holder": "a"}));
        note("tokens/ann.json", json!({"state": "revoked", "refresh_token": "fake-secret"}));
        note("tokens/bob.json", json!("not a record"));
        let judgement = account.judge(
            [
                call(Some("ann"), RefreshOutcome::InvalidGrant),
                call(Some("ann"), RefreshOutcome::Reused(None)),
                call(None, RefreshOutcome::InvalidGrant),
                call(Some("eve"), RefreshOutcome::InvalidGrant),
            ],
            RULES,
        );
        assert_eq!((judgement.calls, judgement.questions, judgement.reused), (3, 1, 1));
        let faults = judgement.faults.join("\n");
        assert!(faults.contains("lease on 6 by a (1), 500ms"), "{faults}");
        assert!(faults.contains("token 7 revoked"), "{faults}");
        assert!(faults.contains("eve: a call without a lease"), "{faults}");
        assert!(!faults.contains("fake-secret"), "{faults}");
    }
}
