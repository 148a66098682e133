//! The circuit breaker: an outage of the token endpoint must not cost one lease
//! write per user per ttl.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::ports::Monotonic;
use crate::user_id::UserId;

/// How a flight was let through; it hands this back with its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Admission {
    /// The breaker was closed.
    Free,
    /// It is the one that finds out whether the outage is over.
    Probe,
}

/// Counts users whose refresh failed transiently, in a row, on one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Breaker {
    failing: BTreeSet<UserId>,
    open_until: Option<Monotonic>,
    probing: bool,
    last_success: Option<Monotonic>,
}

impl Breaker {
    /// Asks to take a lease now.
    ///
    /// # Errors
    /// While the breaker is open: how long it stays so. After the pause one
    /// caller is let through as the probe; the others keep waiting for its
    /// result.
    pub fn admit(&mut self, now: Monotonic) -> Result<Admission, Duration> {
        match self.open_until {
            None => Ok(Admission::Free),
            Some(until) if now < until => Err(until.since(now)),
            Some(_) if self.probing => Err(Duration::from_secs(1)),
            Some(_) => {
                self.probing = true;
                Ok(Admission::Probe)
            }
        }
    }

    /// The endpoint answered, whatever it said.
    pub fn succeeded(&mut self, now: Monotonic) {
        *self = Self { last_success: Some(now), ..Self::default() };
    }

    /// Whether the endpoint answered anybody not longer ago than `time`.
    pub fn succeeded_within(&self, time: Duration, now: Monotonic) -> bool {
        self.last_success.is_some_and(|at| now.since(at) <= time)
    }

    /// A series of attempts for `user` ended without an answer.
    pub fn failed(
        &mut self,
        admission: Admission,
        user: &UserId,
        threshold: usize,
        pause: Duration,
        now: Monotonic,
    ) {
        self.over(admission);
        if self.failing.len() < threshold {
            self.failing.insert(user.clone());
        }
        if self.failing.len() >= threshold {
            self.open_until = Some(now.plus(pause));
        }
    }

    /// A flight that was let through ended without reaching the endpoint.
    pub fn abandoned(&mut self, admission: Admission) {
        self.over(admission);
    }

    /// The probe is over only when the probe itself says so: flights that began before
    /// the breaker opened end while it is under way.
    fn over(&mut self, admission: Admission) {
        if admission == Admission::Probe {
            self.probing = false;
        }
    }

    /// Whether leases are not taken at the moment.
    pub fn is_open(&self, now: Monotonic) -> bool {
        self.open_until.is_some_and(|until| now < until || self.probing)
    }
}

#[cfg(test)]
mod tests {
    use super::Admission::{Free, Probe};
    use super::*;

    fn at(s: u64) -> Monotonic {
        Monotonic(Duration::from_secs(s))
    }

    #[test]
    fn opens_probes_and_closes() {
        let ttl = Duration::from_secs(30);
        let users: Vec<_> = (0..3).map(|i| UserId::new(format!("u{i}")).unwrap()).collect();
        let mut breaker = Breaker::default();
        breaker.failed(Free, &users[0], 3, ttl, at(0));
        breaker.failed(Free, &users[0], 3, ttl, at(0));
        breaker.failed(Free, &users[1], 3, ttl, at(0));
        assert_eq!(breaker.admit(at(0)), Ok(Free), "two users are not many");
        breaker.failed(Free, &users[2], 3, ttl, at(0));
        assert_eq!(breaker.admit(at(10)), Err(Duration::from_secs(20)));
        assert_eq!(breaker.admit(at(30)), Ok(Probe), "one probe");
        assert!(breaker.admit(at(30)).is_err(), "and only one");
        breaker.failed(Probe, &users[0], 3, ttl, at(31));
        assert!(breaker.admit(at(60)).is_err());
        assert_eq!(breaker.admit(at(61)), Ok(Probe));
        breaker.succeeded(at(61));
        assert_eq!(breaker.admit(at(61)), Ok(Free));
        assert_eq!(breaker.admit(at(61)), Ok(Free));
    }

    #[test]
    fn an_abandoned_probe_lets_the_next_one_through() {
        let user = UserId::new("u").unwrap();
        let mut breaker = Breaker::default();
        breaker.failed(Free, &user, 1, Duration::from_secs(1), at(0));
        assert_eq!(breaker.admit(at(1)), Ok(Probe));
        breaker.abandoned(Probe);
        assert_eq!(breaker.admit(at(1)), Ok(Probe));
    }

    #[test]
    fn a_flight_from_before_the_outage_does_not_let_a_second_probe_through() {
        let user = UserId::new("u").unwrap();
        let second = Duration::from_secs(1);
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            assert_eq!(breaker.admit(at(0)), Ok(Free));
        }
        breaker.failed(Free, &user, 1, second, at(0));
        assert_eq!(breaker.admit(at(1)), Ok(Probe));
        breaker.abandoned(Free);
        assert!(breaker.admit(at(1)).is_err(), "the probe is still out");
        breaker.failed(Free, &user, 1, second, at(1));
        assert!(breaker.admit(at(2)).is_err(), "and still");
        breaker.abandoned(Probe);
        assert_eq!(breaker.admit(at(2)), Ok(Probe));
    }
}
