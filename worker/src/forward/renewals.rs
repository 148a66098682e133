//! How often a handler's answer may end a token before its time.
//!
//! A broken release of a handler answers 500 to everything, which must not renew everybody's
//! tokens: a user's at most once in ten minutes, and one a second of all.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shared::UserId;
use shared::ports::Monotonic;

const PER_USER: Duration = Duration::from_secs(10 * 60);
const PER_REPLICA: Duration = Duration::from_secs(1);

/// When tokens were renewed for an answer, lately.
#[derive(Debug, Default)]
pub(super) struct Renewals(Mutex<Lately>);

#[derive(Debug, Default)]
struct Lately {
    last: Option<Monotonic>,
    users: HashMap<UserId, Monotonic>,
}

impl Renewals {
    /// Whether `user`'s token may be renewed now; it counts as renewed then.
    pub(super) fn allow(&self, user: &UserId, now: Monotonic) -> bool {
        let mut lately = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lately.users.retain(|_, at| now.since(*at) < PER_USER);
        let too_soon = lately.last.is_some_and(|at| now.since(at) < PER_REPLICA);
        if too_soon || lately.users.contains_key(user) {
            return false;
        }
        lately.last = Some(now);
        lately.users.insert(user.clone(), now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_that_answers_500_to_everything_renews_little() {
        let renewals = Renewals::default();
        let at = |ms| Monotonic(Duration::from_millis(ms));
        let user = |n: u64| UserId::new(format!("u{n}")).unwrap();
        let mut renewed = 0;
        for ms in 0..60_000 {
            renewed += u32::from(renewals.allow(&user(ms % 1000), at(ms)));
        }
        assert_eq!(renewed, 60);
        let ann = user(5000);
        assert!(renewals.allow(&ann, at(100_000)));
        assert!(!renewals.allow(&ann, at(699_999)));
        assert!(renewals.allow(&ann, at(700_000)));
    }
}
