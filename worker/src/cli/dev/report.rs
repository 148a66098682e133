//! The demo's report: what the emulators counted, and whether the promises held.

use std::collections::HashMap;
use std::time::Duration;

use emulators::account::{Call, Judgement, Rules};
use serde_json::{Value, json};
use shared::Policy;
use tokio::time::Instant;
use unguarded::Tally;

use super::comparison::Side;
use super::stack::{SUBSCRIPTION, Stack, full};

/// The least that a holder waits after a lost answer, or before it doubts a rejection: a third
/// of the ttl, at most two seconds.
const RESEND: Duration = Duration::from_millis(1600);

/// A replica that was killed.
#[derive(Debug, Clone)]
pub(super) struct Killed {
    pub(super) number: usize,
    /// How it named itself in requests.
    pub(super) holder: String,
}

/// What a run has to tell.
pub(super) struct Facts<'a> {
    pub(super) stack: &'a Stack,
    pub(super) replicas: usize,
    pub(super) users: usize,
    pub(super) published: u64,
    pub(super) token_lifetime: Duration,
    pub(super) killed: &'a [Killed],
    /// When the last job ended.
    pub(super) ended: Instant,
    pub(super) seconds: f64,
    pub(super) done: u64,
    pub(super) rejected: u64,
    /// User → how many jobs.
    pub(super) parked: HashMap<String, u64>,
    pub(super) dead: u64,
    pub(super) token_us: Vec<u64>,
}

/// The figures, as the contract names them.
#[derive(Debug)]
pub(super) struct Report {
    replicas: usize,
    killed: Vec<Killed>,
    users: usize,
    published: u64,
    done: u64,
    parked: HashMap<String, u64>,
    rejected: u64,
    dead_lettered: u64,
    lost: u64,
    duplicates: u64,
    duplicate_effects: u64,
    expiries: u64,
    token_endpoint_calls: u64,
    judgement: Judgement,
    storage_reads: u64,
    storage_writes: u64,
    storage_throttled: u64,
    access_token_p50_us: u64,
    access_token_p99_us: u64,
    jobs_per_second: f64,
    seconds: f64,
}

impl Report {
    pub(super) fn new(facts: Facts<'_>) -> Self {
        let stack = facts.stack;
        let storage = stack.storage.stats();
        let parked: u64 = facts.parked.values().sum();
        let ended = facts.done + facts.rejected + parked + facts.dead;
        let mut token_us = facts.token_us;
        token_us.sort_unstable();
        let ahead = Policy::default().largest_refresh_ahead(Some(facts.token_lifetime));
        let due_age = facts.token_lifetime.saturating_sub(ahead);
        let calls = stack.google.refresh_calls();
        let in_time = calls.iter().filter(|call| call.at <= facts.ended).count();
        let rules = Rules { due_age, resend: RESEND };
        let subscription = full("subscriptions", SUBSCRIPTION);
        Self {
            replicas: facts.replicas,
            killed: facts.killed.to_vec(),
            users: facts.users,
            published: facts.published,
            done: facts.done,
            parked: facts.parked,
            rejected: facts.rejected,
            dead_lettered: facts.dead,
            lost: facts.published.saturating_sub(ended),
            duplicates: stack
                .pubsub
                .subscription_stats(&subscription)
                .map_or(0, |stats| stats.redeliveries),
            duplicate_effects: duplicate_effects(stack, facts.killed),
            expiries: stack.google.expiries(due_age, facts.ended),
            token_endpoint_calls: in_time as u64,
            judgement: stack.account.judge(calls.into_iter().map(Call::from), rules),
            storage_reads: storage.reads + storage.not_found + storage.not_modified,
            storage_writes: storage.writes,
            storage_throttled: storage.throttled,
            access_token_p50_us: percentile(&token_us, 50),
            access_token_p99_us: percentile(&token_us, 99),
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            jobs_per_second: (facts.done as f64 / facts.seconds * 10.0).round() / 10.0,
            seconds: (facts.seconds * 100.0).round() / 100.0,
        }
    }

    /// Why the run must not count as a success. A slow machine is no reason: writes that
    /// storage refused as too frequent were tried again.
    pub(super) fn failure(&self) -> Option<String> {
        if self.lost > 0 {
            Some(format!("{} job(s) were lost", self.lost))
        } else if !self.judgement.faults.is_empty() {
            Some(format!(
                "{} user(s) were refreshed without need or without a lease",
                self.judgement.faults.len()
            ))
        } else {
            self.locked_out_without_cause().next().map(|user| {
                format!("{user} must consent again, though no refresh of theirs was cut off")
            })
        }
    }

    fn locked_out_without_cause(&self) -> impl Iterator<Item = &String> {
        self.parked.keys().filter(|user| !self.judgement.struck.contains_key(*user))
    }

    /// What the kills cost, one line for each user, and what the protocol does not allow.
    pub(super) fn remarks(&self) -> Vec<String> {
        let mut remarks: Vec<String> = self
            .judgement
            .struck
            .iter()
            .filter_map(|(user, agents)| self.cost(user, agents))
            .collect();
        remarks.extend(self.judgement.faults.iter().cloned());
        if self.storage_throttled > 0 {
            remarks.push(format!(
                "storage refused {} write(s) as too frequent, as when one came late; they were repeated",
                self.storage_throttled
            ));
        }
        remarks
    }

    /// What it cost a user that these replicas did not store what they had been granted.
    fn cost(&self, user: &str, agents: &[String]) -> Option<String> {
        let jobs = self.parked.get(user)?;
        let by = |killed: &&Killed| agents.iter().any(|agent| agent.contains(&killed.holder));
        let killed: Vec<String> =
            self.killed.iter().filter(by).map(|killed| killed.number.to_string()).collect();
        let stored = "before the new grant was stored";
        let why = match &*killed {
            [] => "a replica could not store the new grant in time".to_owned(),
            [one] => format!("replica {one} was killed {stored}"),
            more => format!("replicas {} were killed {stored}", more.join(" and ")),
        };
        Some(format!("{user} must consent again: {why}; jobs that wait for it: {jobs}"))
    }

    /// Cut-off refreshes of replicas that were killed.
    fn cut_off_by_kills(&self) -> usize {
        let killed = |agent: &&String| self.killed.iter().any(|k| agent.contains(&k.holder));
        self.judgement.struck.values().flatten().filter(killed).count()
    }

    fn parked(&self) -> u64 {
        self.parked.values().sum()
    }

    /// The part that can be said of other ways, too.
    pub(super) fn side(&self, tally: Tally) -> Side {
        Side {
            killed: self.killed.len(),
            done: self.done,
            set_aside: self.parked() + self.rejected + self.dead_lettered,
            lost: self.lost,
            crash_window: self.judgement.cut_off,
            tally,
        }
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "replicas": self.replicas, "killed": self.killed.len(), "users": self.users,
            "published": self.published, "done": self.done, "parked": self.parked(),
            "rejected": self.rejected, "dead_lettered": self.dead_lettered, "lost": self.lost,
            "duplicates": self.duplicates, "duplicate_effects": self.duplicate_effects,
            "expiries": self.expiries, "token_endpoint_calls": self.token_endpoint_calls,
            "refresh_token_reuse": self.judgement.reused,
            "crash_window": self.judgement.cut_off, "users_locked_out": self.parked.len(),
            "storage_reads": self.storage_reads, "storage_writes": self.storage_writes,
            "storage_throttled": self.storage_throttled,
            "access_token_p50_us": self.access_token_p50_us,
            "access_token_p99_us": self.access_token_p99_us,
            "jobs_per_second": self.jobs_per_second, "seconds": self.seconds,
        })
    }

    pub(super) fn to_text(&self) -> String {
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push(format!("  {name:<24}{value}"));
        row("replicas", format!("{}, {} killed and replaced", self.replicas, self.killed.len()));
        row("jobs", format!("{} published, {} done", self.published, self.done));
        row(
            "not done",
            format!(
                "{} lost, {} parked, {} rejected, {} dead-lettered",
                self.lost,
                self.parked(),
                self.rejected,
                self.dead_lettered
            ),
        );
        row(
            "delivered again",
            format!("{}, {} of them acted again", self.duplicates, self.duplicate_effects),
        );
        row("tokens that fell due", format!("{} of {} users", self.expiries, self.users));
        let by_kills = self.cut_off_by_kills();
        let late = match self.judgement.cut_off - by_kills as u64 {
            0 => String::new(),
            late => format!(", {late} stored late"),
        };
        row(
            "refreshes",
            format!("{}, {by_kills} cut off by the kill{late}", self.token_endpoint_calls),
        );
        row("refresh tokens reused", self.judgement.reused.to_string());
        row(
            "storage",
            format!(
                "{} reads, {} writes, {} throttled",
                self.storage_reads, self.storage_writes, self.storage_throttled
            ),
        );
        row(
            "a fresh token took",
            format!(
                "{} µs (median), {} µs (p99)",
                self.access_token_p50_us, self.access_token_p99_us
            ),
        );
        row("throughput", format!("{} jobs/s, {} s", self.jobs_per_second, self.seconds));
        let verdict = match self.failure() {
            None if self.judgement.reused == 0 => "nothing lost, nobody refreshed twice".to_owned(),
            None => "nothing lost, nobody refreshed twice without need".to_owned(),
            Some(why) => format!("FAILED: {why}"),
        };
        format!("{}\n\n  {verdict}", rows.join("\n"))
    }
}

/// Effects of a job beyond the first, by replicas that lived.
fn duplicate_effects(stack: &Stack, killed: &[Killed]) -> u64 {
    let mut by_job: HashMap<String, u64> = HashMap::new();
    for effect in stack.google.effects() {
        let agent = effect.user_agent.unwrap_or_default();
        if killed.iter().any(|killed| agent.contains(&killed.holder)) {
            continue;
        }
        *by_job.entry(effect.id.unwrap_or_default()).or_default() += 1;
    }
    by_job.values().map(|n| n.saturating_sub(1)).sum()
}

/// The value below which `percent` of `sorted` lie.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
    sorted.get(rank).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run with a killed replica that did all of its jobs.
    fn report() -> Report {
        Report {
            replicas: 3,
            killed: vec![Killed { number: 1, holder: "holder-1".to_owned() }],
            users: 40,
            published: 2000,
            done: 2000,
            parked: HashMap::new(),
            rejected: 0,
            dead_lettered: 0,
            lost: 0,
            duplicates: 0,
            duplicate_effects: 0,
            expiries: 160,
            token_endpoint_calls: 160,
            judgement: Judgement::default(),
            storage_reads: 0,
            storage_writes: 0,
            storage_throttled: 0,
            access_token_p50_us: 0,
            access_token_p99_us: 0,
            jobs_per_second: 100.0,
            seconds: 20.0,
        }
    }

    /// As many jobs of a user were parked, and these agents stored nothing of a refresh.
    fn struck(mut report: Report, user: &str, jobs: u64, agents: &[&str]) -> Report {
        report.parked.insert(user.to_owned(), jobs);
        report.judgement.cut_off += agents.len() as u64;
        let agents = agents.iter().map(|agent| (*agent).to_owned()).collect();
        report.judgement.struck.insert(user.to_owned(), agents);
        report
    }

    #[test]
    fn a_kill_costs_one_line_per_user_and_is_no_failure() {
        let report = struck(report(), "user-3", 30, &["fleet (holder-1)"]);
        let report = struck(report, "user-4", 1, &["fleet (holder-1)", "fleet (holder-2)"]);
        assert_eq!(report.failure(), None);
        let remarks = report.remarks();
        assert_eq!(remarks.len(), 2, "{remarks:?}");
        for part in ["user-3", "replica 1 was killed", "30"] {
            assert!(remarks[0].contains(part), "{remarks:?}");
        }
        let text = report.to_text();
        assert!(text.contains("2 cut off by the kill, 1 stored late"), "{text}");
        assert_eq!(report.to_json()["crash_window"], 3);
    }

    #[test]
    fn who_lost_nothing_to_a_cut_off_refresh_costs_no_line() {
        let mut report = struck(report(), "user-3", 0, &["fleet (holder-1)"]);
        report.parked.clear();
        assert_eq!((report.failure(), report.remarks().len()), (None, 0));
    }

    #[test]
    fn writes_that_were_refused_as_too_frequent_are_told_and_no_failure() {
        let report = Report { storage_throttled: 2, ..report() };
        assert_eq!(report.failure(), None);
        assert!(report.remarks()[0].contains("refused 2 write(s)"), "{:?}", report.remarks());
    }

    #[test]
    fn what_the_protocol_does_not_allow_is_a_failure_and_shown() {
        let mut report = report();
        report.judgement.faults.push("user-3: a call without a lease".to_owned());
        assert!(report.failure().is_some_and(|why| why.contains("1 user(s)")));
        assert_eq!(report.remarks(), ["user-3: a call without a lease"]);
    }

    #[test]
    fn who_must_consent_again_without_cause_is_a_failure() {
        let mut report = report();
        report.parked.insert("user-3".to_owned(), 30);
        assert!(report.failure().is_some_and(|why| why.contains("user-3 must consent again")));
        let lost = Report { lost: 1, ..report };
        assert!(lost.failure().is_some_and(|why| why.contains("lost")));
    }
}
