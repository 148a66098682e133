//! Everything that happened, held against the invariants while it happens.

use std::collections::{BTreeMap, BTreeSet};

use shared::ports::{Answer, Generation};
use shared::protocol::Lease;
use shared::record::TokenRecord;

use super::process::{Process, Role};
use super::provider::Provider;

/// One replica's acquisition of one lease, begun when its PUT was first sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Series {
    pub(super) attempt: String,
    guards: i64,
    first_sent: u64,
}

/// A refresh that reached the provider.
#[derive(Debug, Clone)]
struct Spend {
    series: Series,
    process: usize,
    asked_at: u64,
    answer_lost: bool,
    access_token: Option<String>,
}

/// An answer that a process received.
#[derive(Debug, Clone)]
pub(super) struct Received {
    pub(super) process: usize,
    pub(super) user: String,
    guards: i64,
    access_token: String,
}

#[derive(Debug, Clone)]
struct Version {
    grant: String,
    access_token: Option<String>,
    written_by: Role,
}

#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) violations: Vec<String>,
    /// Second spends that a holder who stumbled or a lost answer excuses, per user.
    pub(super) windows: BTreeMap<String, u64>,
    series: BTreeMap<(usize, String), Series>,
    /// By user and the grant that was to be replaced.
    spends: BTreeMap<(String, String), Vec<Spend>>,
    /// By attempt: when the lease ends that was applied, or renewed, last.
    ends: BTreeMap<String, u64>,
    /// By attempt: when its last PUT was sent.
    sent: BTreeMap<String, u64>,
    /// By user: the attempt of the last lease, what it guards, and when it was written.
    leases: BTreeMap<String, (String, i64, u64)>,
    /// When a process last stood still, died, or met a fault of the bucket.
    stumbled: BTreeMap<usize, u64>,
    versions: BTreeMap<(String, i64), Version>,
    deleted: BTreeMap<String, i64>,
    /// By user and grant: logins that a first write brought back after a deletion. It
    /// was repeated by its sender and is held up so long; no precondition can tell.
    returned: BTreeSet<(String, String)>,
    committed_at: BTreeMap<String, u64>,
    pub(super) received: Vec<Received>,
    obtained: BTreeMap<String, (usize, u64)>,
    /// Per process and user: grants that were renewed after a rejection.
    rejected_here: BTreeSet<(usize, String)>,
}

impl Ledger {
    pub(super) fn violate(&mut self, invariant: &str, text: &str) {
        self.violations.push(format!("{invariant}: {text}"));
    }

    pub(super) fn lease_sent(&mut self, process: usize, user: &str, lease: &Lease, now: u64) {
        let series =
            Series { attempt: lease.attempt.clone(), guards: lease.guards, first_sent: now };
        self.sent.insert(lease.attempt.clone(), now);
        let known = self.series.entry((process, user.to_owned())).or_insert_with(|| series.clone());
        if known.attempt != series.attempt {
            *known = series;
        }
    }

    /// A process stands still until `until`, dies, or meets a fault of the bucket: what its
    /// holders do not commit in time is excused.
    pub(super) fn stumbles(&mut self, process: usize, until: u64) {
        let last = self.stumbled.entry(process).or_default();
        *last = until.max(*last);
    }

    /// I7: two series for one generation begin at least a ttl apart. A renewal goes on with
    /// its series.
    pub(super) fn lease_applied(&mut self, user: &str, lease: &Lease, now: u64) {
        if let Some((attempt, guards, at)) = self.leases.get(user)
            && (*attempt != lease.attempt && *guards == lease.guards)
            && now < at + lease.ttl_ms
        {
            let text = format!("{user}: two leases on generation {guards}, {} ms apart", now - at);
            self.violate("I7 bounded load", &text);
        }
        self.leases.insert(user.to_owned(), (lease.attempt.clone(), lease.guards, now));
        let sent = self.sent.get(&lease.attempt).copied().unwrap_or(now);
        self.ends.insert(lease.attempt.clone(), sent + lease.ttl_ms);
    }

    /// The acquisition under which `process` acts for `user` now.
    pub(super) fn series(&self, process: usize, user: &str) -> Series {
        self.series.get(&(process, user.to_owned())).cloned().unwrap_or_default()
    }

    /// I1: a refresh of `user` by `process`, decided upon at `asked_at` under `series`,
    /// reached the provider. A second spend is excused by an answer that was lost, by a
    /// holder that stumbled and did not commit within its ttl, or by being held up on its
    /// own way. One that was *sent* late is not, nor is one while a living holder waits.
    #[expect(clippy::too_many_arguments, reason = "they are what is known of one request")]
    pub(super) fn spent(
        &mut self,
        process: &Process,
        user: &str,
        series: &Series,
        asked_at: u64,
        answer: Option<&Answer>,
        answer_lost: bool,
        now: u64,
    ) {
        if !self.ends.contains_key(&series.attempt) {
            let text = format!("{user}: {} refreshed without holding its lease", process.name);
            self.violate("I1 single refresh", &text);
        }
        let version = self.versions.get(&(user.to_owned(), series.guards));
        let key = (user.to_owned(), version.map(|v| v.grant.clone()).unwrap_or_default());
        let ends = |s: &Series| self.ends.get(&s.attempt).copied().unwrap_or_default();
        let held_up = now >= ends(series) && asked_at < ends(series);
        let spends = self.spends.get(&key).map(Vec::as_slice).unwrap_or_default();
        // After a lost answer a rejection is asked for once more, under the same lease or,
        // where that has no room, under the next.
        let lost =
            |attempt: &str| spends.iter().any(|s| s.answer_lost && s.series.attempt == attempt);
        let in_doubt = |s: &Spend| s.access_token.is_none() && lost(&s.series.attempt);
        let mut windows = 0;
        let mut violations = Vec::new();
        for earlier in spends {
            let committed = earlier.access_token.as_ref().and_then(|a| self.committed_at.get(a));
            let in_time = committed.is_some_and(|at| *at < ends(&earlier.series));
            let stumbled = self.stumbled.get(&earlier.process);
            let stumbled = stumbled.is_some_and(|at| *at >= earlier.series.first_sent);
            let excused = earlier.answer_lost
                || in_doubt(earlier)
                // It is the older one, whose connection broke, and arrives later.
                || (answer_lost && asked_at < earlier.asked_at)
                || self.returned.contains(&key)
                || (now >= ends(&earlier.series) && !in_time && stumbled)
                || (held_up && earlier.series.attempt != series.attempt);
            if excused {
                windows += 1;
            } else {
                let text = format!(
                    "{user}: {} spent what process {} had spent {} ms after asking for its lease",
                    process.name,
                    earlier.process,
                    now - earlier.series.first_sent
                );
                violations.push(format!("I1 single refresh: {text}"));
            }
        }
        self.violations.extend(violations);
        if windows > 0 || answer_lost {
            *self.windows.entry(user.to_owned()).or_default() += 1;
        }
        let access_token = answer.and_then(|a| a.access_token.as_ref());
        let access_token = access_token.map(|token| token.expose().to_owned());
        self.spends.entry(key).or_default().push(Spend {
            series: series.clone(),
            process: process.index,
            asked_at,
            answer_lost,
            access_token,
        });
    }

    pub(super) fn answered(
        &mut self,
        process: usize,
        user: &str,
        series: &Series,
        answer: &Answer,
        now: u64,
    ) {
        let Some(access_token) = &answer.access_token else {
            return;
        };
        let access_token = access_token.expose().to_owned();
        self.obtained.insert(access_token.clone(), (process, now));
        let (user, guards) = (user.to_owned(), series.guards);
        self.received.push(Received { process, user, guards, access_token });
    }

    /// I3 and I4: `record` replaced `before`.
    pub(super) fn token_written(
        &mut self,
        process: &Process,
        record: &TokenRecord,
        before: Option<&TokenRecord>,
        generation: Generation,
        provider: &Provider,
        now: u64,
    ) {
        let user = record.user.as_str().to_owned();
        if process.role == Role::Worker {
            if let Some(before) = before {
                if let Some(fault) = destroys(record, before, provider) {
                    self.violate("I3 no destructive loser", &format!("{user}: {fault}"));
                }
            } else {
                let text = format!("{user}: {} recreated a deleted record", process.name);
                self.violate("I4 no resurrection", &text);
            }
        }
        let access_token = record.access_token.as_ref().map(|t| t.expose().to_owned());
        if let Some(token) = &access_token {
            self.committed_at.entry(token.clone()).or_insert(now);
        }
        let grant = record.grant_id.0.clone();
        let of_user = |((of, _), _): &(&(String, i64), &Version)| *of == user;
        let known = |(_, version): (_, &Version)| version.grant == grant;
        if before.is_none() && self.versions.iter().filter(of_user).any(known) {
            self.returned.insert((user.clone(), grant.clone()));
        }
        let version = Version { grant, access_token, written_by: process.role };
        self.versions.insert((user, generation.0), version);
    }

    pub(super) fn token_deleted(&mut self, user: &str, generation: Generation) {
        self.deleted.insert(user.to_owned(), generation.0);
    }

    /// The lease went with its user.
    pub(super) fn lease_deleted(&mut self, user: &str) {
        self.leases.remove(user);
    }

    pub(super) fn rejected(&mut self, process: usize, grant: &str) {
        self.rejected_here.insert((process, grant.to_owned()));
    }

    pub(super) fn is_rejected(&self, process: usize, grant: &str) -> bool {
        self.rejected_here.contains(&(process, grant.to_owned()))
    }

    /// Since when `process` has had what it obtained itself.
    pub(super) fn obtained_by(&self, process: usize, access_token: &str) -> Option<u64> {
        self.obtained.get(access_token).filter(|(p, _)| *p == process).map(|(_, at)| *at)
    }

    pub(super) fn committed_at(&self, access_token: &str) -> Option<u64> {
        self.committed_at.get(access_token).copied()
    }

    /// I2, when everything has come to rest: an answer that a living holder
    /// received is stored, or gave way to a login, a deletion, or another
    /// answer for the same refresh token where the provider does not rotate.
    pub(super) fn at_rest(&mut self, alive: &BTreeSet<usize>, rotating: bool) {
        let mut lost = Vec::new();
        for received in self.received.iter().filter(|r| alive.contains(&r.process)) {
            if self.committed_at.contains_key(&received.access_token) {
                continue;
            }
            let later = self
                .versions
                .range((received.user.clone(), received.guards + 1)..)
                .take_while(|((user, _), _)| *user == received.user);
            let superseded = later
                .into_iter()
                .any(|(_, v)| v.written_by == Role::Web || (!rotating && v.access_token.is_some()));
            let deleted = self.deleted.get(&received.user).is_some_and(|g| *g >= received.guards);
            if !superseded && !deleted {
                lost.push(format!(
                    "{}: what process {} received was never stored",
                    received.user, received.process
                ));
            }
        }
        for text in lost {
            self.violate("I2 no lost grant", &text);
        }
    }
}

/// What is wrong with a worker's write, if anything.
fn destroys(record: &TokenRecord, before: &TokenRecord, provider: &Provider) -> Option<String> {
    let (new, old) = (record.refresh_token.expose(), before.refresh_token.expose());
    if !record.is_active() {
        return if new != old {
            Some("revoked another refresh token than the stored one".into())
        } else if !provider.has_rejected(new) {
            Some("revoked a refresh token that the provider never rejected".into())
        } else {
            None
        };
    }
    let (Some(mine), Some(theirs)) = (provider.place(new), provider.place(old)) else {
        return Some("wrote a refresh token that the provider does not know".into());
    };
    if mine.family != theirs.family {
        return Some(format!("family {} replaced {}", mine.family, theirs.family));
    }
    if mine.depth < theirs.depth {
        return Some(format!("rotation {} replaced {}", mine.depth, theirs.depth));
    }
    if record.scopes != before.scopes {
        return Some(format!("scopes {:?} replaced {:?}", record.scopes, before.scopes));
    }
    let number =
        |r: &TokenRecord| r.access_token.as_ref().and_then(|t| provider.number(t.expose()));
    if mine.depth == theirs.depth && number(record) < number(before) {
        return Some("an older answer replaced a newer one".into());
    }
    None
}
