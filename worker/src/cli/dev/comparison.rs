//! The report of `fleet demo --compare`: two columns, and a sentence about what happened.

use std::time::Duration;

use serde_json::{Value, json};
use unguarded::{MAX_DELIVERY_ATTEMPTS, Tally};

/// What became of one side.
pub(super) struct Side {
    pub(super) killed: usize,
    pub(super) done: u64,
    /// Parked, rejected or dead-lettered.
    pub(super) set_aside: u64,
    pub(super) lost: u64,
    /// Refreshes sent by a replica that was killed before their grant was stored.
    pub(super) crash_window: u64,
    pub(super) tally: Tally,
}

/// Both sides.
pub(super) struct Comparison {
    pub(super) replicas: usize,
    pub(super) users: usize,
    pub(super) published: u64,
    pub(super) lifetime: Duration,
    pub(super) fleet: Side,
    pub(super) unguarded: Side,
    /// Why Fleet's side must not count as a success.
    pub(super) failure: Option<String>,
}

impl Comparison {
    pub(super) fn to_json(&self) -> Value {
        let side = |side: &Side| {
            json!({
                "killed": side.killed, "done": side.done, "set_aside": side.set_aside,
                "lost": side.lost, "expiries": side.tally.expiries,
                "token_endpoint_calls": side.tally.refresh_calls,
                "token_endpoint_calls_per_expiry": rounded(side.tally.calls_per_expiry()),
                "token_endpoint_calls_in_vain": side.tally.vain,
                "refresh_token_reuse": side.tally.reused,
                "users_locked_out": side.tally.locked_out_users,
            })
        };
        let mut fleet = side(&self.fleet);
        fleet["crash_window"] = self.fleet.crash_window.into();
        json!({
            "replicas": self.replicas, "users": self.users, "published": self.published,
            "fleet": fleet, "unguarded": side(&self.unguarded), "summary": self.summary(),
        })
    }

    pub(super) fn to_text(&self) -> String {
        let mut rows = vec![format!("  {:<24}{:>10}{:>12}", "", "fleet", "unguarded")];
        let mut row = |name: &str, of: &dyn Fn(&Side) -> String| {
            rows.push(format!("  {name:<24}{:>10}{:>12}", of(&self.fleet), of(&self.unguarded)));
        };
        row("replicas", &|_| self.replicas.to_string());
        row("killed and replaced", &|side| side.killed.to_string());
        row("jobs published", &|_| self.published.to_string());
        row("jobs done", &|side| side.done.to_string());
        row("jobs failed, set aside", &|side| side.set_aside.to_string());
        row("jobs lost", &|side| side.lost.to_string());
        row("tokens that expired", &|side| side.tally.expiries.to_string());
        row("refreshes for these", &|side| {
            (side.tally.refresh_calls - side.tally.vain).to_string()
        });
        row("refreshes per expiry", &|side| format!("{:.2}", side.tally.calls_per_expiry()));
        row("refreshes in vain", &|side| side.tally.vain.to_string());
        row("refresh tokens reused", &|side| side.tally.reused.to_string());
        row("users locked out", &|side| format!("{}/{}", side.tally.locked_out_users, self.users));
        format!("{}\n\n  {}", rows.join("\n"), self.summary().replace('\n', "\n  "))
    }

    /// What happened, in words.
    fn summary(&self) -> String {
        let (ours, theirs) = (&self.fleet, &self.unguarded);
        let unguarded = if theirs.tally.locked_out_users > 0 {
            format!(
                "Unguarded, replicas refreshed the same user at the same time. The provider takes a refresh\n\
                 token that comes twice for stolen: it locked {} of {} users out, and {} jobs failed\n\
                 {MAX_DELIVERY_ATTEMPTS} times and were given up.",
                theirs.tally.locked_out_users, self.users, theirs.set_aside
            )
        } else if theirs.tally.refresh_calls > theirs.tally.expiries {
            "Unguarded, replicas refreshed the same user at the same time; nobody was locked out this\n\
             time."
                .to_owned()
        } else {
            format!(
                "Unguarded, no two replicas refreshed one user at the same time: too few jobs for tokens\n\
                 that live {:?}. Try more --jobs.",
                self.lifetime
            )
        };
        let fleet = match (&self.failure, ours.tally.locked_out_users) {
            (Some(why), _) => format!("Fleet FAILED: {why}."),
            (None, 0) => {
                "Fleet refreshed once per expiry, lost nothing and locked nobody out.".to_owned()
            }
            (None, locked_out) => format!(
                "Fleet refreshed once per expiry. The kill fell between the provider's answer and its storing,\n\
                 which no client can close: {locked_out} of {} users must consent again, and their jobs wait.",
                self.users
            ),
        };
        format!("{unguarded}\n{fleet}")
    }
}

fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}
