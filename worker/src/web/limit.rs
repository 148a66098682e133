//! How often one caller may start a login.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use shared::ports::Monotonic;

/// Starts that may come at once, and how long each takes to come back.
const BURST: u32 = 20;
const REFILL: Duration = Duration::from_secs(3);
/// More callers than this are not told apart.
const CALLERS: usize = 10_000;

/// A bucket of [`BURST`] starts per caller.
#[derive(Debug, Default)]
pub(super) struct Limit {
    /// When each caller's bucket will be full again.
    full_at: HashMap<IpAddr, Monotonic>,
}

impl Limit {
    /// Takes one start of `caller`, an IPv6 network counting as one caller; how
    /// long to wait when there is none left.
    pub(super) fn take(&mut self, caller: IpAddr, now: Monotonic) -> Result<(), Duration> {
        if self.full_at.len() >= CALLERS {
            self.full_at.retain(|_, full_at| *full_at > now);
            if self.full_at.len() >= CALLERS {
                self.full_at.clear();
            }
        }
        let full_at = self.full_at.entry(network(caller)).or_insert(now);
        let next = (*full_at).max(now).plus(REFILL);
        let ahead = next.since(now);
        let most = REFILL * BURST;
        if ahead > most {
            return Err(ahead.saturating_sub(most));
        }
        *full_at = next;
        Ok(())
    }
}

fn network(caller: IpAddr) -> IpAddr {
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

    #[test]
    fn a_caller_has_a_burst_and_a_rate() {
        let mut limit = Limit::default();
        let (one, two) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mut now = Monotonic(Duration::from_secs(1000));
        for _ in 0..BURST {
            assert_eq!(limit.take(one, now), Ok(()));
        }
        assert_eq!(limit.take(one, now), Err(REFILL));
        assert_eq!(limit.take(two, now), Ok(()));
        now = now.plus(REFILL);
        assert_eq!(limit.take(one, now), Ok(()));
        assert!(limit.take(one, now).is_err());
    }

    #[test]
    fn one_network_is_one_caller() {
        assert_eq!(
            network("2001:db8::1".parse().unwrap()),
            network("2001:db8::2".parse().unwrap())
        );
    }
}
