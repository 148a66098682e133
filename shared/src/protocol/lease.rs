//! The lease object: who may write, and which version of the token it guards.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::policy::MAX_LEASE_TTL;
use crate::ports::{Generation, Monotonic};

/// The body of `leases/<user>.json`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Lease {
    /// The process that asked, one name per process start.
    pub holder: String,
    /// This acquisition; recognises my own PUT after a lost reply.
    pub attempt: String,
    /// The token generation that it guards.
    pub guards: i64,
    /// How long observers must wait, in milliseconds.
    pub ttl_ms: u64,
    /// When it was asked for; for people, no decision reads it.
    pub acquired_at: jiff::Timestamp,
}

impl Lease {
    /// The bytes to store.
    #[expect(clippy::missing_panics_doc, reason = "serializing plain values cannot fail")]
    pub fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("plain values only").into()
    }
}

/// What a lease object says to an observer. Unreadable content is a lease too:
/// it is waited out, never overwritten early.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SeenLease {
    /// The body, unless it is unreadable.
    pub body: Option<Lease>,
    /// Its version.
    pub generation: Generation,
}

impl SeenLease {
    /// Reads a lease object's content.
    pub fn decode(content: &[u8], generation: Generation) -> Self {
        Self { body: serde_json::from_slice(content).ok(), generation }
    }

    /// How long an observer waits before it may take over: what the lease says,
    /// but at most the fixed maximum, which also stands for an unreadable lease.
    pub fn ttl(&self) -> Duration {
        self.body
            .as_ref()
            .map_or(MAX_LEASE_TTL, |lease| Duration::from_millis(lease.ttl_ms).min(MAX_LEASE_TTL))
    }

    /// Whether it was written by this acquisition.
    pub fn is_attempt(&self, attempt: &str) -> bool {
        self.body.as_ref().is_some_and(|lease| lease.attempt == attempt)
    }
}

/// What a lease means to a replica that holds the token at some generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// What it was for has been committed, or there is none: take it, expecting
    /// this generation.
    Void(Generation),
    /// Someone is replacing exactly this version.
    Held,
    /// My view of the token is old: read the token.
    Ahead,
}

/// Judges a lease against the token generation that I hold. Wall clocks play no
/// part: the guarded generation alone tells what has been committed.
pub fn judge(lease: Option<&SeenLease>, held: Generation) -> Verdict {
    let Some(lease) = lease else {
        return Verdict::Void(Generation::ABSENT);
    };
    match &lease.body {
        Some(body) if Generation(body.guards) < held => Verdict::Void(lease.generation),
        Some(body) if Generation(body.guards) > held => Verdict::Ahead,
        Some(_) | None => Verdict::Held,
    }
}

/// One replica's observation of one lease generation, on its own monotonic
/// clock. It belongs to the replica and outlives calls.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Observation {
    /// The lease generation observed.
    pub generation: Generation,
    /// When the first reply that showed it was received.
    pub since: Monotonic,
    /// The ttl that this lease names.
    pub ttl: Duration,
    /// The replica that holds it, for people.
    pub holder: Option<Arc<str>>,
}

impl Observation {
    /// Notes that a reply received at `now` showed `lease`. An observation of the same
    /// generation keeps its start; another one begins anew.
    pub fn note(observed: &mut Option<Box<Self>>, lease: &SeenLease, now: Monotonic) {
        if observed.as_ref().is_none_or(|o| o.generation != lease.generation) {
            *observed = Some(Box::new(Self {
                generation: lease.generation,
                since: now,
                ttl: lease.ttl(),
                holder: lease.body.as_ref().map(|body| body.holder.as_str().into()),
            }));
        }
    }

    /// Time until a takeover is allowed; zero when it is.
    pub fn remaining(&self, now: Monotonic) -> Duration {
        self.ttl.saturating_sub(now.since(self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(guards: i64, ttl_ms: u64) -> SeenLease {
        let body = Lease {
            holder: "h".into(),
            attempt: "a".into(),
            guards,
            ttl_ms,
            acquired_at: jiff::Timestamp::UNIX_EPOCH,
        };
        SeenLease { body: Some(body), generation: Generation(5) }
    }

    #[test]
    fn the_table() {
        let held = Generation(10);
        assert_eq!(judge(None, held), Verdict::Void(Generation::ABSENT));
        assert_eq!(judge(Some(&lease(9, 1)), held), Verdict::Void(Generation(5)));
        assert_eq!(judge(Some(&lease(10, 1)), held), Verdict::Held);
        assert_eq!(judge(Some(&lease(11, 1)), held), Verdict::Ahead);
        let unreadable = SeenLease::decode(b"{", Generation(5));
        assert_eq!(judge(Some(&unreadable), held), Verdict::Held);
    }

    #[test]
    fn an_absurd_or_unreadable_lease_counts_as_the_maximum() {
        assert_eq!(lease(1, u64::MAX).ttl(), MAX_LEASE_TTL);
        assert_eq!(SeenLease::decode(b"garbage", Generation(1)).ttl(), MAX_LEASE_TTL);
        assert_eq!(lease(1, 30_000).ttl(), Duration::from_secs(30));
    }

    #[test]
    fn an_observation_starts_once_per_generation() {
        let at = |s| Monotonic(Duration::from_secs(s));
        let first = lease(1, 30_000);
        let mut seen = None;
        Observation::note(&mut seen, &first, at(0));
        Observation::note(&mut seen, &first, at(20));
        assert_eq!(seen.as_ref().unwrap().remaining(at(29)), Duration::from_secs(1));
        assert_eq!(seen.as_ref().unwrap().remaining(at(30)), Duration::ZERO);
        // Renewed: the same holder, another generation.
        let renewed = SeenLease { generation: Generation(6), ..first };
        Observation::note(&mut seen, &renewed, at(31));
        assert_eq!(seen.unwrap().remaining(at(31)), Duration::from_secs(30));
    }

    #[test]
    fn round_trips() {
        let one = lease(3, 4);
        let bytes = one.body.as_ref().unwrap().encode();
        assert_eq!(SeenLease::decode(&bytes, Generation(5)), one);
    }
}
