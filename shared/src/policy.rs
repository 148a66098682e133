//! The store's tunables, and which combinations can work.

use std::time::Duration;

use crate::ports::{Limits, Resend};

/// A lease above this counts as this, whatever it says about itself.
pub const MAX_LEASE_TTL: Duration = Duration::from_mins(10);

/// The shortest lease: its holder renews it every half ttl, and Cloud Storage takes about
/// one write per second of one name.
pub const MIN_LEASE_TTL: Duration = Duration::from_secs(3);

/// How large the random part of the refresh-ahead is, relative to it: each
/// replica draws its point within ± this share.
pub const REFRESH_AHEAD_JITTER: f64 = 0.2;

/// Durations that govern leases, refreshes and waiting. Build one with
/// [`Policy::default`], change fields, and let [`Policy::check`] judge it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    /// How long other replicas wait for a holder that they hear nothing from. A holder
    /// that is alive renews its lease, so an answer may take longer. At least
    /// [`MIN_LEASE_TTL`], at most [`MAX_LEASE_TTL`]. Default 30 s.
    pub lease_ttl: Duration,
    /// How long before its expiry a token is renewed in the background, ±
    /// [`REFRESH_AHEAD_JITTER`]; at most a quarter of the token's lifetime.
    /// Default 5 min.
    pub refresh_ahead: Duration,
    /// A token with less than this left is not handed out; at most a tenth of
    /// the token's lifetime. Default 60 s.
    pub min_ttl: Duration,
    /// How long a caller without a usable token waits for one. Default 60 s: two leases.
    pub wait_limit: Duration,
    /// First pause between two looks at the token while another replica holds
    /// the lease; later pauses grow to `poll_max`. Default 150 ms.
    pub poll_min: Duration,
    /// Longest pause between two looks while waiting. Default 2 s.
    pub poll_max: Duration,
    /// First pause between two looks of a replica whose token is usable but
    /// due; later pauses grow to the ttl. Default 1 s.
    pub look_min: Duration,
    /// First pause after a failed request; later pauses grow to `retry_max`.
    /// Default 200 ms.
    pub retry_min: Duration,
    /// Longest pause after a failed request. Default 5 s.
    pub retry_max: Duration,
    /// After this many users in a row whose refresh failed transiently, the
    /// replica pauses taking leases. Default 5.
    pub breaker_threshold: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            lease_ttl: Duration::from_secs(30),
            refresh_ahead: Duration::from_mins(5),
            min_ttl: Duration::from_mins(1),
            wait_limit: Duration::from_secs(60),
            poll_min: Duration::from_millis(150),
            poll_max: Duration::from_secs(2),
            look_min: Duration::from_secs(1),
            retry_min: Duration::from_millis(200),
            retry_max: Duration::from_secs(5),
            breaker_threshold: 5,
        }
    }
}

/// Two settings that cannot work together, with both values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadPolicy(String);

impl Policy {
    /// Checks the relations between the settings.
    ///
    /// # Errors
    /// [`BadPolicy`] names both settings and their values.
    pub fn check(&self) -> Result<(), BadPolicy> {
        let bad = |text: String| Err(BadPolicy(text));
        for (name, value) in [
            ("wait limit", self.wait_limit),
            ("poll interval", self.poll_min),
            ("look interval", self.look_min),
            ("retry interval", self.retry_min),
        ] {
            if value.is_zero() {
                return bad(format!("the {name} is 0 s; it must be longer"));
            }
        }
        if self.lease_ttl > MAX_LEASE_TTL {
            return bad(format!(
                "the lease ttl ({:?}) is above the fixed maximum ({MAX_LEASE_TTL:?})",
                self.lease_ttl
            ));
        }
        if self.lease_ttl < MIN_LEASE_TTL {
            return bad(format!(
                "the lease ttl ({:?}) is below the fixed minimum ({MIN_LEASE_TTL:?}): a holder \
                 renews its lease every half ttl, and a bucket takes one write per second of it",
                self.lease_ttl
            ));
        }
        for (low_name, low, high_name, high) in [
            ("poll interval", self.poll_min, "longest poll interval", self.poll_max),
            ("poll interval", self.poll_min, "wait limit", self.wait_limit),
            ("retry interval", self.retry_min, "longest retry interval", self.retry_max),
            ("look interval", self.look_min, "lease ttl", self.lease_ttl),
        ] {
            if low > high {
                return bad(format!(
                    "the {low_name} ({low:?}) is longer than the {high_name} ({high:?})"
                ));
            }
        }
        if self.breaker_threshold == 0 {
            return bad("the breaker threshold is 0 users; it must be at least 1".into());
        }
        Ok(())
    }

    /// Bound on connecting to the token endpoint: 5 s, at most a sixth of the ttl.
    pub fn connect_limit(&self) -> Duration {
        Duration::from_secs(5).min(self.lease_ttl / 6)
    }

    /// What must be left of the ttl for a commit when an attempt starts: 5 s, at most a
    /// sixth of the ttl.
    pub fn commit_reserve(&self) -> Duration {
        self.connect_limit()
    }

    /// How long an answer of the token endpoint is awaited once the request was sent: four
    /// ttls. A late answer can be saved, only a lost one cannot.
    pub fn answer_limit(&self) -> Duration {
        4 * self.lease_ttl
    }

    /// How long after a write of its lease was first sent its holder renews it.
    pub fn renewal_interval(&self) -> Duration {
        self.lease_ttl / 2
    }

    /// Bound on one try to renew a lease: 2 s, at most a sixth of the ttl.
    pub fn renewal_limit(&self) -> Duration {
        self.commit_limit().min(self.lease_ttl / 6)
    }

    /// Bound on one try to commit, after which the record is read: 2 s.
    pub fn commit_limit(&self) -> Duration {
        Duration::from_secs(2)
    }

    /// How long after a gateway gave up the origin may still be at work, and how long a
    /// rejection that follows a lost answer is doubted: 10 s, at most a third of the ttl.
    pub fn doubt(&self) -> Duration {
        Duration::from_secs(10).min(self.lease_ttl / 3)
    }

    /// How long after an answer was lost the request may be sent again.
    pub fn resend_pause(&self, resend: Resend) -> Duration {
        match resend {
            Resend::Soon => Duration::from_secs(2),
            Resend::Late => self.doubt(),
        }
    }

    /// How long the longest flight can last that has sent a request: its answer, and a
    /// commit. A process that is told to end waits this long for its flights.
    pub fn longest_flight(&self) -> Duration {
        self.answer_limit() + self.lease_ttl
    }

    /// The limits of one refresh.
    pub fn limits(&self) -> Limits {
        Limits { connect: self.connect_limit(), answer: self.answer_limit() }
    }

    /// The limits of a login's code exchange, of a revocation, and of a question to the
    /// endpoint: their answers are awaited for one ttl.
    pub fn exchange_limits(&self) -> Limits {
        Limits { answer: self.lease_ttl, ..self.limits() }
    }

    /// The least remaining life of a token that is handed out, for a token that
    /// was issued for `expires_in`.
    pub fn min_ttl_for(&self, expires_in: Option<Duration>) -> Duration {
        expires_in.map_or(self.min_ttl, |life| self.min_ttl.min(life / 10))
    }

    /// When to renew before expiry, for a token that was issued for
    /// `expires_in`. `unit` in `0.0..1.0` places the jitter; whatever it is, the
    /// result is at most a quarter of the lifetime.
    pub fn refresh_ahead_for(&self, expires_in: Option<Duration>, unit: f64) -> Duration {
        let largest = 1.0 + REFRESH_AHEAD_JITTER;
        let base = expires_in
            .map_or(self.refresh_ahead, |life| self.refresh_ahead.min((life / 4).div_f64(largest)));
        base.mul_f64(1.0 - REFRESH_AHEAD_JITTER + 2.0 * REFRESH_AHEAD_JITTER * unit)
    }

    /// What the refresh-ahead is capped at for a token that was issued for `expires_in`;
    /// `None` when the token allows what was asked for.
    pub fn refresh_ahead_cap(&self, expires_in: Option<Duration>) -> Option<Duration> {
        let asked = self.refresh_ahead.mul_f64(1.0 + REFRESH_AHEAD_JITTER);
        expires_in.map(|life| life / 4).filter(|allowed| *allowed < asked)
    }

    /// The largest refresh-ahead that any replica can draw for such a token.
    pub fn largest_refresh_ahead(&self, expires_in: Option<Duration>) -> Duration {
        self.refresh_ahead_for(expires_in, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_works() {
        assert_eq!(Policy::default().check(), Ok(()));
    }

    #[test]
    fn refusals_name_both_values() {
        let policy = Policy { lease_ttl: Duration::from_millis(2999), ..Policy::default() };
        let text = policy.check().unwrap_err().to_string();
        assert!(text.contains("2.999s") && text.contains("3s"), "{text}");
        let policy = Policy { wait_limit: Duration::from_millis(10), ..Policy::default() };
        let text = policy.check().unwrap_err().to_string();
        assert!(text.contains("10ms") && text.contains("150ms"), "{text}");
        let policy = Policy { wait_limit: Duration::ZERO, ..Policy::default() };
        assert!(policy.check().unwrap_err().to_string().contains("wait limit is 0 s"));
        let policy = Policy { lease_ttl: Duration::from_secs(601), ..Policy::default() };
        assert!(policy.check().unwrap_err().to_string().contains("600s"));
    }

    #[test]
    fn an_attempt_and_a_commit_fit_into_every_ttl_that_is_taken() {
        for (ttl, limit) in [(3000, 500), (5000, 833), (6000, 1000), (30_000, 5000), (60_000, 5000)]
        {
            let policy = Policy { lease_ttl: Duration::from_millis(ttl), ..Policy::default() };
            assert_eq!(policy.check(), Ok(()));
            assert_eq!(policy.connect_limit().as_millis(), limit);
            let attempt = policy.connect_limit() + policy.commit_reserve();
            // Also after a pause in doubt, and a renewal that is tried twice.
            assert!(policy.doubt() + attempt < policy.lease_ttl, "{ttl}");
            let twice = policy.renewal_interval() + 2 * policy.renewal_limit();
            assert!(twice + policy.commit_reserve() <= policy.lease_ttl, "{ttl}");
        }
    }

    #[test]
    fn caps_follow_the_token() {
        let policy = Policy::default();
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(policy.min_ttl_for(hour), Duration::from_secs(60));
        assert_eq!(policy.refresh_ahead_for(hour, 0.5), Duration::from_secs(300));
        let short = Some(Duration::from_secs(2));
        assert_eq!(policy.min_ttl_for(short), Duration::from_millis(200));
        let largest = policy.largest_refresh_ahead(short);
        assert!(largest <= Duration::from_millis(500) && largest > Duration::from_millis(499));
        assert!(policy.refresh_ahead_for(short, 0.0) < largest);
        assert_eq!(policy.refresh_ahead_cap(hour), None);
        assert_eq!(policy.refresh_ahead_cap(short), Some(Duration::from_millis(500)));
        assert_eq!(policy.refresh_ahead_cap(None), None);
    }
}
