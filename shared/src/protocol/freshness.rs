//! Is the token that I hold usable, and is it due?

use std::time::Duration;

use jiff::Timestamp;

use crate::policy::Policy;
use crate::ports::{Generation, Monotonic, Now};
use crate::record::{GrantId, TokenRecord};

/// A record as this replica holds it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    /// The record.
    pub record: TokenRecord,
    /// The version at which it is stored; `None` while the commit of a grant
    /// that this replica obtained is still pending.
    pub generation: Option<Generation>,
    /// When this replica sent the request that the grant answers, if it did.
    pub obtained_at: Option<Monotonic>,
    /// The refresh-ahead that this replica drew for it.
    pub ahead: Duration,
}

/// What may be done with a held token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Freshness {
    /// Use it, no I/O.
    Fresh,
    /// Use it, and renew it in the background.
    Due,
    /// Not to be handed out.
    Unusable,
}

/// Grants that an API rejected, as reported to this replica. Only grants that
/// could still be stored matter, so a few are enough.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rejected(Vec<GrantId>);

impl Rejected {
    const KEPT: usize = 4;

    /// Remembers a grant.
    pub fn insert(&mut self, grant: &GrantId) {
        if !self.contains(grant) {
            if self.0.len() == Self::KEPT {
                self.0.remove(0);
            }
            self.0.push(grant.clone());
        }
    }

    /// Whether the grant was reported.
    pub fn contains(&self, grant: &GrantId) -> bool {
        self.0.contains(grant)
    }
}

impl Held {
    /// Judges the token. *Usable* means: active, with at least `min_ttl` left by
    /// the local clock and its grant not reported as rejected here. A grant that
    /// this replica obtained itself counts as fresh until half of its lifetime
    /// has passed on the monotonic clock, so that a wrong wall clock cannot make
    /// a storm of refreshes.
    pub fn freshness(&self, policy: &Policy, rejected: &Rejected, now: Now) -> Freshness {
        self.freshness_ahead(Duration::ZERO, policy, rejected, now)
    }

    /// The same for a caller to whom a token is due as soon as it has `ahead` left, at most a
    /// quarter of its life, if that is earlier than the point that this replica drew.
    pub fn freshness_ahead(
        &self,
        ahead: Duration,
        policy: &Policy,
        rejected: &Rejected,
        now: Now,
    ) -> Freshness {
        let record = &self.record;
        let (Some(_), Some(expires_at)) = (&record.access_token, record.expires_at) else {
            return Freshness::Unusable;
        };
        if !record.is_active() || rejected.contains(&record.grant_id) {
            return Freshness::Unusable;
        }
        let quarter = record.expires_in.unwrap_or(Duration::MAX) / 4;
        let ahead = self.ahead.max(ahead.min(quarter));
        let left = self.left(expires_at, now);
        if left.is_zero() || left < policy.min_ttl_for(record.expires_in) {
            Freshness::Unusable
        } else if left <= ahead {
            Freshness::Due
        } else {
            Freshness::Fresh
        }
    }

    /// How long the token is good for yet: by this replica's own count, which alone counts in
    /// the first half of the life of a grant that it obtained, and by the wall clock.
    fn left(&self, expires_at: Timestamp, now: Now) -> Duration {
        let mut left = Duration::MAX;
        if let (Some(obtained_at), Some(life)) = (self.obtained_at, self.record.expires_in) {
            let age = now.monotonic.since(obtained_at);
            left = life.saturating_sub(age);
            if age < life / 2 {
                return left;
            }
        }
        let by_wall = Duration::try_from(expires_at.duration_since(now.wall));
        left.min(by_wall.unwrap_or(Duration::ZERO))
    }

    /// Whether the token is good for at least so long, or for as long as a new one: more than
    /// its life less one lease ttl nobody gets, so that whoever asks for more does not have the
    /// user refreshed again and again.
    pub fn lasts(&self, at_least: Duration, policy: &Policy, now: Now) -> bool {
        let record = &self.record;
        let Some(expires_at) = record.expires_at else { return false };
        let longest = record.expires_in.map(|life| life.saturating_sub(policy.lease_ttl));
        self.left(expires_at, now) >= at_least.min(longest.unwrap_or(Duration::MAX))
    }

    /// How old the grant is. One that this replica obtained ages from when its request was
    /// sent, another's from `since`, when this replica first saw it, both on the monotonic
    /// clock: two machines' wall clocks may differ. One that is older than 10 minutes by its
    /// record's times is old at once, since a process may live for one call only.
    pub fn age(&self, since: Monotonic, now: Now) -> Duration {
        const OLD: Duration = Duration::from_mins(10);
        if let Some(obtained_at) = self.obtained_at {
            return now.monotonic.since(obtained_at);
        }
        let seen = now.monotonic.since(since);
        let issued_at = self.record.expires_at.zip(self.record.expires_in);
        let issued_at = issued_at.and_then(|(at, life)| at.checked_sub(life).ok());
        let by_record = issued_at.map(|at| Duration::try_from(now.wall.duration_since(at)));
        match by_record {
            Some(Ok(age)) if age >= OLD => age.max(seen),
            _ => seen,
        }
    }

    /// Whether the access token has expired by the local wall clock.
    pub fn expired(&self, now: Now) -> bool {
        self.record.expires_at.is_none_or(|at| at <= now.wall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::testing::{now_at, record};

    fn held(expires_after: i64, life: u64, obtained_at: Option<u64>) -> Held {
        let mut record = record("u");
        record.expires_in = Some(Duration::from_secs(life));
        record.expires_at = Some(now_at(expires_after).wall);
        let ahead = Policy::default().refresh_ahead_for(record.expires_in, 0.5);
        Held {
            record,
            generation: Some(Generation(1)),
            obtained_at: obtained_at.map(|s| now_at(i64::try_from(s).unwrap()).monotonic),
            ahead,
        }
    }

    fn judge(held: &Held, at: i64) -> Freshness {
        held.freshness(&Policy::default(), &Rejected::default(), now_at(at))
    }

    #[test]
    fn by_the_wall_clock() {
        let token = held(3600, 3600, None);
        assert_eq!(judge(&token, 0), Freshness::Fresh);
        assert_eq!(judge(&token, 3299), Freshness::Fresh);
        assert_eq!(judge(&token, 3300), Freshness::Due);
        assert_eq!(judge(&token, 3540), Freshness::Due);
        assert_eq!(judge(&token, 3541), Freshness::Unusable);
        assert_eq!(judge(&token, 9999), Freshness::Unusable);
    }

    #[test]
    fn own_grants_age_on_the_monotonic_clock() {
        // The wall clock says that it expired long ago.
        let token = held(-600, 3600, Some(0));
        assert_eq!(judge(&token, 0), Freshness::Fresh);
        assert_eq!(judge(&token, 1799), Freshness::Fresh);
        assert_eq!(judge(&token, 1800), Freshness::Unusable);
        // The wall clock says that it lives for ever.
        let token = held(1_000_000, 3600, Some(0));
        assert_eq!(judge(&token, 3299), Freshness::Fresh);
        assert_eq!(judge(&token, 3300), Freshness::Due);
        assert_eq!(judge(&token, 3600), Freshness::Unusable);
    }

    #[test]
    fn a_token_lasts_as_long_as_is_asked_or_as_a_new_one() {
        let lasts = |held: &Held, at: i64, at_least: u64| {
            held.lasts(Duration::from_secs(at_least), &Policy::default(), now_at(at))
        };
        let theirs = held(3600, 3600, None);
        assert!(lasts(&theirs, 0, 1800) && lasts(&theirs, 1800, 1800));
        assert!(!lasts(&theirs, 1801, 1800));
        assert!(lasts(&theirs, 30, 9999) && !lasts(&theirs, 31, 9999), "one lease ttl");
        // The wall clock is wrong, and the grant was obtained here.
        let own = held(-600, 3600, Some(0));
        assert!(lasts(&own, 1799, 1801) && !lasts(&own, 1799, 1802) && !lasts(&own, 1800, 1));
        let mut unstated = held(600, 600, None);
        unstated.record.expires_in = None;
        assert!(lasts(&unstated, 0, 600) && !lasts(&unstated, 1, 600));
        unstated.record.expires_at = None;
        assert!(!lasts(&unstated, 0, 0));
    }

    #[test]
    fn rejected_revoked_or_missing_is_unusable() {
        let mut token = held(3600, 3600, Some(0));
        let mut rejected = Rejected::default();
        rejected.insert(&token.record.grant_id);
        let policy = Policy::default();
        assert_eq!(token.freshness(&policy, &rejected, now_at(0)), Freshness::Unusable);
        token.record.state = crate::record::State::Revoked;
        assert_eq!(judge(&token, 0), Freshness::Unusable);
        let mut token = held(3600, 3600, None);
        token.record.access_token = None;
        assert_eq!(judge(&token, 0), Freshness::Unusable);
    }

    #[test]
    fn short_tokens_are_capped() {
        let token = held(2, 2, None);
        let at = |ms: i64| {
            let mut now = now_at(0);
            now.wall += jiff::SignedDuration::from_millis(ms);
            token.freshness(&Policy::default(), &Rejected::default(), now)
        };
        assert_eq!(at(1499), Freshness::Fresh, "ahead is at most a quarter");
        assert_eq!(at(1700), Freshness::Due);
        assert_eq!(at(1801), Freshness::Unusable, "min ttl is at most a tenth");
    }
}
