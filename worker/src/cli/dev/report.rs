//! The demo's report: what the emulators counted, and whether the promises held.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Duration;

use emulators::google::RefreshOutcome;
use serde_json::{Value, json};
use shared::Policy;
use tokio::time::Instant;
use unguarded::Tally;

use super::comparison::Side;
use super::stack::{SUBSCRIPTION, Stack, full};

/// What a run has to tell.
pub(super) struct Facts<'a> {
    pub(super) stack: &'a Stack,
    pub(super) replicas: usize,
    pub(super) users: usize,
    pub(super) published: u64,
    pub(super) token_lifetime: Duration,
    /// Names of the killed replicas.
    pub(super) killed: &'a [String],
    /// When the last job ended.
    pub(super) ended: Instant,
    pub(super) seconds: f64,
    pub(super) done: u64,
    pub(super) parked: u64,
    pub(super) rejected: u64,
    pub(super) dead: u64,
    pub(super) token_us: Vec<u64>,
}

/// The figures, as the contract names them.
#[derive(Debug)]
pub(super) struct Report {
    replicas: usize,
    killed: usize,
    users: usize,
    published: u64,
    done: u64,
    parked: u64,
    rejected: u64,
    dead_lettered: u64,
    lost: u64,
    duplicates: u64,
    duplicate_effects: u64,
    expiries: u64,
    token_endpoint_calls: u64,
    refresh_token_reuse: u64,
    crash_window: u64,
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
        let ended = facts.done + facts.parked + facts.rejected + facts.dead;
        let mut token_us = facts.token_us;
        token_us.sort_unstable();
        let ahead = Policy::default().largest_refresh_ahead(Some(facts.token_lifetime));
        let due_age = facts.token_lifetime.saturating_sub(ahead);
        let calls = stack.google.refresh_calls();
        let subscription = full("subscriptions", SUBSCRIPTION);
        Self {
            replicas: facts.replicas,
            killed: facts.killed.len(),
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
            token_endpoint_calls: calls.len() as u64,
            refresh_token_reuse: calls
                .iter()
                .filter(|call| matches!(call.outcome, RefreshOutcome::Reused(_)))
                .count() as u64,
            crash_window: crash_window(stack, facts.killed),
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

    /// Why the run must not count as a success.
    pub(super) fn failure(&self) -> Option<String> {
        let ideal = self.expiries + self.crash_window;
        if self.lost > 0 {
            Some(format!("{} job(s) were lost", self.lost))
        } else if self.refresh_token_reuse > self.crash_window {
            Some(format!(
                "{} spent refresh token(s) were presented again, {} explained by the kill",
                self.refresh_token_reuse, self.crash_window
            ))
        } else if self.token_endpoint_calls > ideal {
            Some(format!("{} refreshes for {ideal} expiries", self.token_endpoint_calls))
        } else if self.storage_throttled > 0 {
            Some(format!("storage refused {} write(s) as too frequent", self.storage_throttled))
        } else {
            None
        }
    }

    /// The part that can be said of other ways, too.
    pub(super) fn side(&self, tally: Tally) -> Side {
        Side {
            killed: self.killed,
            done: self.done,
            set_aside: self.parked + self.rejected + self.dead_lettered,
            lost: self.lost,
            crash_window: self.crash_window,
            tally,
        }
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "replicas": self.replicas, "killed": self.killed, "users": self.users,
            "published": self.published, "done": self.done, "parked": self.parked,
            "rejected": self.rejected, "dead_lettered": self.dead_lettered, "lost": self.lost,
            "duplicates": self.duplicates, "duplicate_effects": self.duplicate_effects,
            "expiries": self.expiries, "token_endpoint_calls": self.token_endpoint_calls,
            "refresh_token_reuse": self.refresh_token_reuse, "crash_window": self.crash_window,
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
        row("replicas", format!("{}, {} killed and replaced", self.replicas, self.killed));
        row("jobs", format!("{} published, {} done", self.published, self.done));
        row(
            "not done",
            format!(
                "{} lost, {} parked, {} rejected, {} dead-lettered",
                self.lost, self.parked, self.rejected, self.dead_lettered
            ),
        );
        row(
            "delivered again",
            format!("{}, {} of them acted again", self.duplicates, self.duplicate_effects),
        );
        row("tokens that fell due", format!("{} of {} users", self.expiries, self.users));
        row(
            "refreshes",
            format!("{}, {} cut off by the kill", self.token_endpoint_calls, self.crash_window),
        );
        row("refresh tokens reused", self.refresh_token_reuse.to_string());
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
            None => "nothing lost, nobody refreshed twice".to_owned(),
            Some(why) => format!("FAILED: {why}"),
        };
        format!("{}\n\n  {verdict}", rows.join("\n"))
    }
}

/// Refreshes sent by a replica that was killed before their grant was stored.
fn crash_window(stack: &Stack, killed: &[String]) -> u64 {
    let stored = stack.stored.lock().unwrap_or_else(PoisonError::into_inner);
    let calls = stack.google.refresh_calls();
    let cut_off = calls.iter().filter(|call| {
        let by_killed = call
            .user_agent
            .as_ref()
            .is_some_and(|agent| killed.iter().any(|holder| agent.contains(holder.as_str())));
        let unstored = match &call.outcome {
            RefreshOutcome::Issued(issued) | RefreshOutcome::Reused(Some(issued)) => {
                !stored.contains(&issued.access_token)
            }
            _ => false,
        };
        by_killed && unstored
    });
    cut_off.count() as u64
}

/// Effects of a job beyond the first, by replicas that lived.
fn duplicate_effects(stack: &Stack, killed: &[String]) -> u64 {
    let mut by_job: HashMap<String, u64> = HashMap::new();
    for effect in stack.google.effects() {
        let agent = effect.user_agent.unwrap_or_default();
        if killed.iter().any(|holder| agent.contains(holder.as_str())) {
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
