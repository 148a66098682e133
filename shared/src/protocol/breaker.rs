//! The circuit breaker: an outage of the token endpoint, or a client that is not accepted,
//! must not cost one lease write per user per ttl.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::ports::{Monotonic, Now};
use crate::user_id::UserId;

/// How a flight was let through; it hands this back with its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Admission {
    /// The breaker was closed.
    Free,
    /// The breaker is open, and this flight finds out whether the outage is over.
    Probe,
}

/// Why the breaker is open.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// Refreshes fail for many users.
    Endpoint,
    /// The endpoint does not accept the client; what it said.
    Client(Arc<str>),
}

/// Why no lease may be taken now.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Denial {
    /// How long the breaker stays open.
    pub left: Duration,
    /// Why the breaker is open.
    pub trouble: Trouble,
}

/// The breaker is open.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Open {
    trouble: Trouble,
    until: Monotonic,
    /// By the wall clock, to tell what other replicas wrote afterwards.
    since: Timestamp,
    probing: bool,
    last_probe: Option<UserId>,
    /// Another user was turned away since the last probe.
    others: bool,
}

/// Counts users whose refresh failed transiently, in a row, on one replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Breaker {
    /// Each with how long the endpoint asked to wait.
    failing: BTreeMap<UserId, Duration>,
    open: Option<Open>,
    last_success: Option<Monotonic>,
}

/// How long a user is turned away while a probe is under way or somebody else's turn.
const SHORTLY: Duration = Duration::from_secs(1);

impl Breaker {
    /// Asks to take a lease for `user` now.
    ///
    /// # Errors
    /// While the breaker is open. After the pause one caller is let through as the probe,
    /// each time for another user where there is one; the others keep waiting for its
    /// result.
    pub fn admit(&mut self, user: &UserId, now: Monotonic) -> Result<Admission, Denial> {
        let Some(open) = &mut self.open else {
            return Ok(Admission::Free);
        };
        let left = open.until.since(now);
        let again = open.last_probe.as_ref() == Some(user);
        if left.is_zero() && !open.probing && !(again && open.others) {
            open.probing = true;
            open.last_probe = Some(user.clone());
            open.others = false;
            return Ok(Admission::Probe);
        }
        // A user who was turned away may not come back, so this one may probe at its next turn.
        open.others = !again || (open.others && !left.is_zero());
        Err(Denial { left: left.max(SHORTLY), trouble: open.trouble.clone() })
    }

    /// The endpoint answered about a user's grant, whatever it said: no outage, and the
    /// client is accepted.
    pub fn answered(&mut self) {
        *self = Self { last_success: self.last_success, ..Self::default() };
    }

    /// The endpoint granted a token.
    pub fn succeeded(&mut self, now: Monotonic) {
        self.answered();
        self.last_success = Some(now);
    }

    /// Another replica stored at `wrote` what it was granted.
    pub fn succeeded_elsewhere(&mut self, wrote: Timestamp) {
        if self.open.as_ref().is_some_and(|open| open.since < wrote) {
            self.answered();
        }
    }

    /// Whether the endpoint granted anybody a token not longer ago than `time`.
    pub fn succeeded_within(&self, time: Duration, now: Monotonic) -> bool {
        self.last_success.is_some_and(|at| now.since(at) <= time)
    }

    /// Whether the endpoint ever granted this process anything.
    pub fn ever_succeeded(&self) -> bool {
        self.last_success.is_some()
    }

    /// A series of attempts for `user` ended without an answer; the endpoint may have asked
    /// to wait for `told`. A breaker that opens stays open for `pause`, or as long as the
    /// longest that was asked for.
    pub fn failed(
        &mut self,
        admission: Admission,
        user: &UserId,
        told: Duration,
        threshold: usize,
        pause: Duration,
        now: Now,
    ) {
        self.over(admission);
        if self.failing.len() < threshold || self.failing.contains_key(user) {
            self.failing.insert(user.clone(), told);
        }
        if self.failing.len() >= threshold {
            let longest = self.failing.values().max().copied().unwrap_or_default();
            self.open(Trouble::Endpoint, pause.max(longest), now);
        }
    }

    /// The endpoint does not accept the client.
    pub fn refused_client(
        &mut self,
        admission: Option<Admission>,
        why: Arc<str>,
        pause: Duration,
        now: Now,
    ) {
        if let Some(admission) = admission {
            self.over(admission);
        }
        self.open(Trouble::Client(why), pause, now);
    }

    fn open(&mut self, trouble: Trouble, pause: Duration, now: Now) {
        let until = now.monotonic.plus(pause);
        let fresh = Open {
            trouble: trouble.clone(),
            until,
            since: now.wall,
            probing: false,
            last_probe: None,
            others: false,
        };
        let open = self.open.get_or_insert(fresh);
        open.trouble = trouble;
        open.until = until;
    }

    /// A flight that was let through ended without reaching the endpoint.
    pub fn abandoned(&mut self, admission: Admission) {
        self.over(admission);
    }

    /// The probe is over only when the probe itself says so: flights that began before
    /// the breaker opened end while it is under way.
    fn over(&mut self, admission: Admission) {
        if let (Admission::Probe, Some(open)) = (admission, &mut self.open) {
            open.probing = false;
        }
    }

    /// Why leases are not taken at the moment; `None` when they are.
    pub fn trouble(&self, now: Monotonic) -> Option<&Trouble> {
        let open = self.open.as_ref()?;
        // Nothing says that a client is accepted but an answer.
        let lasts = matches!(open.trouble, Trouble::Client(_));
        (lasts || now < open.until || open.probing).then_some(&open.trouble)
    }
}

#[cfg(test)]
mod tests {
    use super::Admission::{Free, Probe};
    use super::*;

    const TTL: Duration = Duration::from_secs(30);

    fn at(s: u64) -> Monotonic {
        Monotonic(Duration::from_secs(s))
    }

    fn now(s: u64) -> Now {
        let seconds = i64::try_from(s).unwrap();
        Now { monotonic: at(s), wall: Timestamp::from_second(seconds).unwrap() }
    }

    fn users(n: usize) -> Vec<UserId> {
        (0..n).map(|i| UserId::new(format!("u{i}")).unwrap()).collect()
    }

    fn fail(breaker: &mut Breaker, admission: Admission, user: &UserId, s: u64) {
        breaker.failed(admission, user, Duration::ZERO, 3, TTL, now(s));
    }

    /// Open from `s` on.
    fn opened(s: u64) -> Breaker {
        let mut breaker = Breaker::default();
        for user in &users(3) {
            fail(&mut breaker, Free, user, s);
        }
        breaker
    }

    #[test]
    fn opens_probes_and_closes() {
        let users = users(3);
        let mut breaker = Breaker::default();
        fail(&mut breaker, Free, &users[0], 0);
        fail(&mut breaker, Free, &users[0], 0);
        fail(&mut breaker, Free, &users[1], 0);
        assert_eq!(breaker.admit(&users[0], at(0)), Ok(Free), "two users are not many");
        fail(&mut breaker, Free, &users[2], 0);
        let denial = breaker.admit(&users[0], at(10)).unwrap_err();
        assert_eq!((denial.left, denial.trouble), (Duration::from_secs(20), Trouble::Endpoint));
        assert_eq!(breaker.admit(&users[0], at(30)), Ok(Probe), "one probe");
        assert!(breaker.admit(&users[1], at(30)).is_err(), "and only one");
        fail(&mut breaker, Probe, &users[0], 31);
        assert!(breaker.admit(&users[1], at(60)).is_err());
        assert_eq!(breaker.admit(&users[1], at(61)), Ok(Probe));
        breaker.succeeded(at(61));
        assert_eq!(breaker.admit(&users[0], at(61)), Ok(Free));
        assert_eq!(breaker.admit(&users[1], at(61)), Ok(Free));
    }

    #[test]
    fn each_probe_is_for_another_user_where_there_is_one() {
        let users = users(2);
        let mut breaker = opened(0);
        assert_eq!(breaker.admit(&users[0], at(30)), Ok(Probe));
        fail(&mut breaker, Probe, &users[0], 30);
        assert!(breaker.admit(&users[1], at(40)).is_err());
        assert!(breaker.admit(&users[0], at(60)).is_err(), "somebody else's turn");
        assert_eq!(breaker.admit(&users[1], at(60)), Ok(Probe));
        fail(&mut breaker, Probe, &users[1], 60);
        assert_eq!(breaker.admit(&users[1], at(90)), Ok(Probe), "nobody else came");
    }

    #[test]
    fn who_does_not_come_back_is_not_waited_for() {
        let users = users(2);
        let mut breaker = opened(0);
        assert_eq!(breaker.admit(&users[0], at(30)), Ok(Probe));
        fail(&mut breaker, Probe, &users[0], 30);
        assert!(breaker.admit(&users[1], at(40)).is_err());
        assert!(breaker.admit(&users[0], at(60)).is_err());
        assert_eq!(breaker.admit(&users[0], at(61)), Ok(Probe));
    }

    #[test]
    fn the_longest_wait_that_was_asked_for_counts() {
        let users = users(3);
        let mut breaker = Breaker::default();
        let told = Duration::from_secs(600);
        breaker.failed(Free, &users[0], told, 3, TTL, now(0));
        assert_eq!(breaker.trouble(at(0)), None, "one user's wait is one user's");
        fail(&mut breaker, Free, &users[1], 0);
        fail(&mut breaker, Free, &users[2], 0);
        assert!(breaker.admit(&users[1], at(599)).is_err());
        assert_eq!(breaker.admit(&users[1], at(600)), Ok(Probe));
    }

    #[test]
    fn an_abandoned_probe_lets_the_next_one_through() {
        let users = users(2);
        let mut breaker = opened(0);
        assert_eq!(breaker.admit(&users[0], at(30)), Ok(Probe));
        breaker.abandoned(Probe);
        assert_eq!(breaker.admit(&users[1], at(30)), Ok(Probe));
    }

    #[test]
    fn a_flight_from_before_the_outage_does_not_let_a_second_probe_through() {
        let users = users(2);
        let mut breaker = opened(0);
        assert_eq!(breaker.admit(&users[0], at(30)), Ok(Probe));
        breaker.abandoned(Free);
        assert!(breaker.admit(&users[1], at(30)).is_err(), "the probe is still out");
        fail(&mut breaker, Free, &users[1], 30);
        assert!(breaker.admit(&users[1], at(60)).is_err(), "and still");
        breaker.abandoned(Probe);
        assert_eq!(breaker.admit(&users[1], at(60)), Ok(Probe));
    }

    #[test]
    fn what_another_replica_was_granted_ends_the_outage_here() {
        let mut breaker = opened(10);
        breaker.succeeded_elsewhere(now(9).wall);
        assert_eq!(breaker.trouble(at(11)), Some(&Trouble::Endpoint), "that was before");
        breaker.succeeded_elsewhere(now(11).wall);
        assert_eq!(breaker.trouble(at(11)), None);
    }

    #[test]
    fn a_client_that_is_not_accepted_stays_so_until_an_answer() {
        let users = users(1);
        let mut breaker = Breaker::default();
        breaker.refused_client(Some(Free), "invalid_client".into(), TTL, now(0));
        let client = Trouble::Client("invalid_client".into());
        assert_eq!(breaker.admit(&users[0], at(1)).unwrap_err().trouble, client);
        assert_eq!(breaker.trouble(at(1000)), Some(&client));
        assert_eq!(breaker.admit(&users[0], at(30)), Ok(Probe));
        breaker.answered();
        assert_eq!(breaker.trouble(at(30)), None);
    }
}
