//! How often one caller, or one person, may do something.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shared::ports::Monotonic;

/// More of them than this are not told apart.
const MOST: usize = 10_000;

/// So many at once for each key, and one more after each `refill`.
#[derive(Debug)]
pub(super) struct Limit<K> {
    burst: u32,
    refill: Duration,
    /// When each one's allowance will be whole again.
    full_at: Mutex<HashMap<K, Monotonic>>,
}

impl<K: Eq + Hash> Limit<K> {
    pub(super) fn new(burst: u32, refill: Duration) -> Self {
        Self { burst, refill, full_at: Mutex::default() }
    }

    /// Takes one; how long to wait when there is none left.
    pub(super) fn take(&self, key: K, now: Monotonic) -> Result<(), Duration> {
        let mut all = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            all.retain(|_, full_at| *full_at > now);
            if all.len() >= MOST {
                all.clear();
            }
        }
        let full_at = all.entry(key).or_insert(now);
        let next = (*full_at).max(now).plus(self.refill);
        let ahead = next.since(now);
        let most = self.refill * self.burst;
        if ahead > most {
            return Err(ahead.saturating_sub(most));
        }
        *full_at = next;
        Ok(())
    }
}

/// Whom a caller's limit is for: an IPv6 network is one caller.
pub(super) fn network(caller: IpAddr) -> IpAddr {
    match caller {
        IpAddr::V4(_) => caller,
        IpAddr::V6(ip) => {
            let first = u128::from(ip) >> 64 << 64;
            IpAddr::V6(first.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFILL: Duration = Duration::from_secs(3);

    #[test]
    fn each_has_a_burst_and_a_rate() {
        let limit = Limit::new(20, REFILL);
        let mut now = Monotonic(Duration::from_secs(1000));
        for _ in 0..20 {
            assert_eq!(limit.take("one", now), Ok(()));
        }
        assert_eq!(limit.take("one", now), Err(REFILL));
        assert_eq!(limit.take("two", now), Ok(()));
        now = now.plus(REFILL);
        assert_eq!(limit.take("one", now), Ok(()));
        assert!(limit.take("one", now).is_err());
    }

    #[test]
    fn one_network_is_one_caller() {
        assert_eq!(
            network("2001:db8::1".parse().unwrap()),
            network("2001:db8::2".parse().unwrap())
        );
    }
}
