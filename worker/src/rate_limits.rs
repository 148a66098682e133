//! Slowing down one user whose rate an API limits, across all their jobs.

mod hosts;

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shared::ports::Monotonic;
use shared::{LONGEST_WAIT, Schedule, UserId};

pub(crate) use hosts::HostLimits;

/// The pause after a first refusal without a `Retry-After`, and the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(64);
/// The shortest pause after a quota is used up.
const QUOTA_PAUSE: Duration = Duration::from_secs(30);
/// A user whose pause is over for so long is forgotten.
const FORGET_AFTER: Duration = Duration::from_secs(600);
/// With this many users, those whose pause is long over are forgotten.
const TIDY_FROM: usize = 1024;

/// The users whose rate an API limits, and until when each of them pauses.
#[derive(Debug, Default)]
pub(crate) struct RateLimits {
    users: Mutex<HashMap<UserId, Pace>>,
}

#[derive(Debug)]
struct Pace {
    until: Monotonic,
    pauses: Schedule,
}

impl RateLimits {
    fn with<T>(&self, f: impl FnOnce(&mut HashMap<UserId, Pace>) -> T) -> T {
        f(&mut self.users.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// An API limits the user's rate, or the user has used up a `quota`, and it asks to wait
    /// for `asked`, or does not say; `unit` is a random number in 0..1. Refusals of calls that were under
    /// way together count once.
    pub(crate) fn refused(
        &self,
        user: &UserId,
        asked: Option<Duration>,
        quota: bool,
        now: Monotonic,
        unit: f64,
    ) {
        self.with(|users| {
            if users.len() >= TIDY_FROM {
                users.retain(|_, pace| now.since(pace.until) < FORGET_AFTER);
            }
            let pace = users.entry(user.clone()).or_insert_with(|| Pace {
                until: now,
                pauses: Schedule::new(PAUSE_MIN, PAUSE_MAX),
            });
            let least = if quota { QUOTA_PAUSE } else { Duration::ZERO };
            let own =
                if pace.until > now { Duration::ZERO } else { pace.pauses.next(unit).max(least) };
            let pause = asked.unwrap_or_default().max(own).min(LONGEST_WAIT);
            pace.until = pace.until.max(now.plus(pause));
        });
    }

    /// For how long the user's next call has to wait; zero when it has not.
    pub(crate) fn wait(&self, user: &UserId, now: Monotonic) -> Duration {
        self.with(|users| users.get(user).map_or(Duration::ZERO, |pace| pace.until.since(now)))
    }

    /// A call of the user went through that began after the pause.
    pub(crate) fn succeeded(&self, user: &UserId, began: Monotonic) {
        self.with(|users| {
            if users.get(user).is_some_and(|pace| pace.until <= began) {
                users.remove(user);
            }
        });
    }

    /// How many users are remembered.
    pub(crate) fn users(&self) -> usize {
        self.with(|users| users.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Monotonic {
        Monotonic(Duration::from_secs(seconds))
    }

    #[test]
    fn a_user_waits_as_long_as_the_api_asks_and_longer_each_time_it_does_not_say() {
        let paces = RateLimits::default();
        let (ann, bob) = (UserId::new("ann").unwrap(), UserId::new("bob").unwrap());
        paces.refused(&ann, Some(Duration::from_secs(7)), false, at(10), 0.5);
        assert_eq!(paces.wait(&ann, at(10)), Duration::from_secs(7));
        assert_eq!(paces.wait(&ann, at(20)), Duration::ZERO);
        assert_eq!(paces.wait(&bob, at(10)), Duration::ZERO, "it is ann's trouble only");
        let mut longest = Duration::ZERO;
        let mut now = at(100);
        for _ in 0..20 {
            paces.refused(&ann, None, false, now, 0.5);
            let wait = paces.wait(&ann, now);
            assert!(wait >= longest && wait <= PAUSE_MAX, "{wait:?} after {longest:?}");
            longest = wait;
            now = now.plus(wait);
        }
        assert!(longest > PAUSE_MAX / 2, "{longest:?}");
        paces.refused(&ann, Some(Duration::from_secs(1 << 40)), false, now, 0.5);
        assert_eq!(paces.wait(&ann, now), LONGEST_WAIT);
    }

    #[test]
    fn a_quota_begins_with_a_longer_pause() {
        let paces = RateLimits::default();
        let ann = UserId::new("ann").unwrap();
        paces.refused(&ann, None, true, at(10), 0.5);
        assert_eq!(paces.wait(&ann, at(10)), QUOTA_PAUSE);
        paces.refused(&ann, Some(Duration::from_secs(90)), true, at(50), 0.5);
        assert_eq!(paces.wait(&ann, at(50)), Duration::from_secs(90));
    }

    #[test]
    fn refusals_of_calls_that_were_under_way_together_count_once() {
        let paces = RateLimits::default();
        let ann = UserId::new("ann").unwrap();
        paces.refused(&ann, None, false, at(10), 0.0);
        let wait = paces.wait(&ann, at(10));
        for _ in 0..50 {
            paces.refused(&ann, None, false, at(10), 0.0);
        }
        assert_eq!(paces.wait(&ann, at(10)), wait);
    }

    #[test]
    fn success_is_believed_only_of_a_call_that_waited() {
        let paces = RateLimits::default();
        let ann = UserId::new("ann").unwrap();
        paces.refused(&ann, Some(Duration::from_secs(5)), false, at(10), 0.5);
        paces.succeeded(&ann, at(9));
        assert!(paces.wait(&ann, at(10)) > Duration::ZERO, "it began before");
        paces.succeeded(&ann, at(15));
        assert_eq!(paces.users(), 0);
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let paces = RateLimits::default();
        for n in 0..20_000 {
            let user = UserId::new(format!("user-{n}")).unwrap();
            paces.refused(&user, None, false, at(n), 0.5);
        }
        assert!(paces.users() <= 2 * TIDY_FROM, "{}", paces.users());
    }
}
