//! Leaving a host alone for a while that refuses many users at once.
//!
//! Such a limit is the whole project's, and every further call only adds a refusal. Each user
//! pauses for itself as well; this pause is everybody's, so it takes several users who were
//! refused within a minute, and one tenant cannot slow a host for others.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shared::ports::Monotonic;
use shared::{Schedule, UserId};
use tracing::warn;

use super::QUOTA_PAUSE;
use crate::metrics;

/// So many users must have been refused within [`WINDOW`].
const USERS: usize = 3;
const WINDOW: Duration = Duration::from_secs(60);
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// From so many hosts on, those that refused nobody lately are forgotten.
const TIDY_FROM: usize = 256;

/// Until when hosts are left alone.
#[derive(Debug, Default)]
pub(crate) struct HostLimits(Mutex<HashMap<String, Host>>);

#[derive(Debug)]
struct Host {
    /// Who was refused lately and when, since the last pause.
    refused: VecDeque<(UserId, Monotonic)>,
    until: Monotonic,
    pauses: Schedule,
}

impl HostLimits {
    fn with<T>(&self, f: impl FnOnce(&mut HashMap<String, Host>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// `host` refused a call of this user, by a limit on the rate or by a `quota`; `unit` is a
    /// random number in 0..1. Refusals of calls that were under way when a pause began count
    /// no more.
    pub(crate) fn refused(
        &self,
        host: &str,
        user: &UserId,
        quota: bool,
        now: Monotonic,
        unit: f64,
    ) {
        let pause = self.with(|hosts| {
            if hosts.len() >= TIDY_FROM {
                hosts.retain(|_, host| !host.is_quiet(now));
            }
            let fresh = || Host {
                refused: VecDeque::new(),
                until: now,
                pauses: Schedule::new(PAUSE_MIN, PAUSE_MAX),
            };
            let host = hosts.entry(host.to_owned()).or_insert_with(fresh);
            if host.is_quiet(now) {
                *host = fresh();
            }
            host.note(user, quota, now, unit)
        });
        if let Some(pause) = pause {
            metrics::count(metrics::HOST_PAUSES);
            warn!(
                host,
                pause_s = pause.as_secs(),
                "an API refuses many users for its rate or quota; no call is made to it meanwhile"
            );
        }
    }

    /// For how long no call may be made to `host`; zero when one may.
    pub(crate) fn wait(&self, host: &str, now: Monotonic) -> Duration {
        self.with(|hosts| hosts.get(host).map_or(Duration::ZERO, |host| host.until.since(now)))
    }

    /// How many hosts are left alone now.
    pub(crate) fn paused(&self, now: Monotonic) -> usize {
        self.with(|hosts| hosts.values().filter(|host| host.until > now).count())
    }
}

impl Host {
    /// Its last pause is long over, and nobody was refused since.
    fn is_quiet(&self, now: Monotonic) -> bool {
        let last = self.refused.back().map_or(self.until, |(_, at)| (*at).max(self.until));
        now.since(last) > WINDOW
    }

    /// The pause that this refusal begins, if it does.
    fn note(&mut self, user: &UserId, quota: bool, now: Monotonic, unit: f64) -> Option<Duration> {
        if self.until > now {
            return None;
        }
        self.refused.retain(|(other, at)| other != user && now.since(*at) <= WINDOW);
        self.refused.push_back((user.clone(), now));
        if self.refused.len() < USERS {
            return None;
        }
        self.refused.clear();
        let least = if quota { QUOTA_PAUSE } else { Duration::ZERO };
        let pause = self.pauses.next(unit).max(least);
        self.until = now.plus(pause);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "www.googleapis.com";

    fn at(seconds: u64) -> Monotonic {
        Monotonic(Duration::from_secs(seconds))
    }

    fn user(name: &str) -> UserId {
        UserId::new(name).unwrap()
    }

    fn refuse(limits: &HostLimits, users: &[&str], now: Monotonic) -> Duration {
        for name in users {
            limits.refused(HOST, &user(name), false, now, 0.5);
        }
        limits.wait(HOST, now)
    }

    #[test]
    fn it_takes_three_users_within_a_minute() {
        let limits = HostLimits::default();
        assert_eq!(refuse(&limits, &["ann"; 100], at(1)), Duration::ZERO, "one tenant");
        assert_eq!(refuse(&limits, &["bob", "ann"], at(2)), Duration::ZERO, "two");
        assert_eq!(refuse(&limits, &["bob", "eve"], at(100)), Duration::ZERO, "ann's was long ago");
        assert!(refuse(&limits, &["ann"], at(101)) > Duration::ZERO);
        assert_eq!(limits.wait("other.googleapis.com", at(101)), Duration::ZERO);
        assert_eq!((limits.paused(at(101)), limits.paused(at(200))), (1, 0));
    }

    #[test]
    fn pauses_grow_while_everybody_is_refused_and_begin_anew_after_quiet() {
        let limits = HostLimits::default();
        let (mut now, mut before) = (at(10), Duration::ZERO);
        for _ in 0..20 {
            let wait = refuse(&limits, &["ann", "bob", "eve", "joe", "kim"], now);
            assert!(wait >= before && wait <= PAUSE_MAX, "{wait:?} after {before:?}");
            before = wait;
            now = now.plus(wait);
        }
        assert!(before > PAUSE_MAX / 2, "{before:?}");
        // One tenant that goes on being refused does not keep it from ending.
        assert_eq!(refuse(&limits, &["ann"; 50], now), Duration::ZERO);
        let later = now.plus(2 * WINDOW);
        let first = refuse(&limits, &["ann", "bob", "eve"], later);
        assert!(first > Duration::ZERO && first < Duration::from_secs(5), "{first:?}");
    }

    #[test]
    fn a_quota_pauses_longer_and_hosts_are_forgotten() {
        let limits = HostLimits::default();
        for name in ["ann", "bob", "eve"] {
            limits.refused(HOST, &user(name), true, at(1), 0.5);
        }
        assert_eq!(limits.wait(HOST, at(1)), QUOTA_PAUSE);
        for n in 0..10_000 {
            limits.refused(&format!("h{n}"), &user("ann"), false, at(n), 0.5);
        }
        assert!(limits.with(|hosts| hosts.len()) <= 2 * TIDY_FROM);
    }
}
