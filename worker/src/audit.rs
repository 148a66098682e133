//! The audit trail: one line for each thing that was done to a user's grant, and for each
//! user, kind, host and minute one that counts the calls with the user's token.
//!
//! | field | |
//! |---|---|
//! | `target` | `fleet_audit`: what a log sink selects |
//! | `act` | `granted`, `imported`, `refreshed`, `blocked`, `revoked`, `deleted`, `resealed`, `exported`, `used`; `resumed`, `dropped` |
//! | `user` | a digest, or the ID with `--log-user-ids` |
//! | `grant` | the grant, where one is known: an ID that says nothing |
//! | `reason` | why the user must consent, for `blocked` and `revoked` |
//! | `confirmed` | `false`: the write's reply was lost, and it may have happened |
//! | `command`, `by` | `users export` and `ann@workstation`, or `worker` and the replica's name; of operators' pages `web` and who is signed in there |
//! | `jobs` | of `resumed` and `dropped`: how many waiting jobs an operator had go on, or removed |
//! | `kind`, `host`, `calls` | of `used`: the kind of jobs, where the token went, how often; `host` is `handler` for tokens that a job's HTTP handler was given, and `broker`, without a kind, for those that a broker gave |

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shared::UserId;
use shared::ports::{Audit, AuditEntry, Clock, Monotonic};
use tracing::info;

use crate::logged_user::log_user;

/// The target of the lines.
pub(crate) const TARGET: &str = "fleet_audit";
/// How often the use of tokens is told.
const EVERY: Duration = Duration::from_mins(1);
/// So many uses are told at once, however soon they come together.
const MOST: usize = 10_000;

tokio::task_local! {
    /// The operator on whose behalf this task acts, where a process serves several.
    static OPERATOR: String;
}

/// Does `work` on behalf of `operator`: what it tells the trail names them.
pub(crate) async fn acting_as<T>(operator: String, work: impl Future<Output = T>) -> T {
    OPERATOR.scope(operator, work).await
}

/// An operator had a user's waiting jobs go on (`resumed`) or removed (`dropped`). Called within
/// [`acting_as`].
pub(crate) fn note_jobs(act: &'static str, user: &UserId, jobs: u64) {
    let by = OPERATOR.try_with(Clone::clone).unwrap_or_default();
    info!(
        target: TARGET,
        act,
        user = log_user(user).as_str(),
        jobs,
        command = "web",
        by,
        "waiting jobs were {act}",
    );
}

/// Writes the trail as lines of the log.
#[derive(Debug)]
pub struct AuditLog {
    command: String,
    by: String,
}

impl AuditLog {
    /// For a process that runs `command`, started by `by`.
    pub fn new(command: impl Into<String>, by: impl Into<String>) -> Self {
        Self { command: command.into(), by: by.into() }
    }
}

impl Audit for AuditLog {
    fn note(&self, entry: &AuditEntry<'_>) {
        let AuditEntry { act, user, grant, reason, confirmed } = *entry;
        let operator = OPERATOR.try_with(Clone::clone).ok();
        info!(
            target: TARGET,
            act = act.as_str(),
            user = log_user(user).as_str(),
            grant,
            reason,
            confirmed,
            command = self.command,
            by = operator.as_ref().unwrap_or(&self.by),
            "a grant was {}", act.as_str(),
        );
    }
}

/// Which tokens were used for what since it was told last.
#[derive(Debug, Default)]
pub(crate) struct Usage(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    calls: HashMap<Use, u64>,
    told: Option<Monotonic>,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Use {
    user: UserId,
    kind: Arc<str>,
    host: Arc<str>,
}

impl Usage {
    /// Counts a call.
    pub(crate) fn note(&self, user: &UserId, kind: &Arc<str>, host: &Arc<str>) {
        let (user, kind, host) = (user.clone(), Arc::clone(kind), Arc::clone(host));
        let full = {
            let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            *counted.calls.entry(Use { user, kind, host }).or_default() += 1;
            counted.calls.len() >= MOST
        };
        if full {
            self.tell();
        }
    }

    /// Tells it once a minute.
    pub(crate) fn tell_at(&self, now: Monotonic) {
        let due = {
            let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let told = *counted.told.get_or_insert(now);
            let due = now.since(told) >= EVERY;
            if due {
                counted.told = Some(now);
            }
            due
        };
        if due {
            self.tell();
        }
    }

    /// Tells it once a minute for ever. Cancelling it leaves the rest to [`Usage::tell`].
    pub(crate) async fn keep_telling(&self, clock: &dyn Clock) -> Infallible {
        loop {
            clock.sleep(EVERY).await;
            self.tell();
        }
    }

    /// Tells what is not told yet.
    pub(crate) fn tell(&self) {
        let calls = {
            let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut counted.calls)
        };
        for (Use { user, kind, host }, calls) in calls {
            info!(
                target: TARGET,
                act = "used",
                user = log_user(&user).as_str(),
                kind = &*kind,
                host = &*host,
                calls,
                "a token was used",
            );
        }
    }
}

/// Notes tokens when they are given to somebody else: what they are used for is not seen here.
#[derive(Debug, Clone)]
pub(crate) struct HandedOn {
    usage: Arc<Usage>,
    kind: Arc<str>,
    to: Arc<str>,
}

impl HandedOn {
    /// To the HTTP handler of jobs of this kind.
    pub(crate) fn to_handler(usage: &Arc<Usage>, kind: &Arc<str>) -> Self {
        Self { usage: Arc::clone(usage), kind: Arc::clone(kind), to: "handler".into() }
    }

    /// By a broker, to programs that are no jobs.
    pub(crate) fn by_broker(usage: &Arc<Usage>) -> Self {
        Self { usage: Arc::clone(usage), kind: "".into(), to: "broker".into() }
    }

    /// A token of `user` is handed on.
    pub(crate) fn note(&self, user: &UserId) {
        self.usage.note(user, &self.kind, &self.to);
    }
}
