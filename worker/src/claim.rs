//! Claims: one process at a time does something with an object or a user's objects.
//!
//! A claim is a write by compare-and-set. Nobody compares two machines' clocks: a claim is
//! left alone until its generation was seen unchanged for ten minutes on one's own monotonic
//! clock. Whatever it contains, an object that stands where a claim should is one.
//!
//! A claimant stops five minutes after it last wrote its claim, so that whoever takes it
//! over does not meet it.

use std::time::Duration;

use shared::ports::{Generation, Monotonic};

/// A claim that did not change for so long is taken over.
pub const TAKEOVER: Duration = Duration::from_secs(10 * 60);
/// A claimant publishes nothing more so long after it last wrote its claim.
pub const STOP_AFTER: Duration = Duration::from_secs(5 * 60);
/// A claimant writes its claim again before it publishes when it is so old.
pub const RENEW_AFTER: Duration = Duration::from_secs(2 * 60);

/// When another's claim was first seen at this generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sighting {
    /// The generation.
    pub generation: Generation,
    /// When it was first seen.
    pub at: Monotonic,
}

/// What may be done about a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Judged {
    /// Write one's own claim, if the object is still at this generation.
    Take(Generation),
    /// Leave it; this is what to remember of it.
    Held(Sighting),
}

/// What may be done about a claim that is at `found` now, when `seen` is what one remembers
/// of it.
pub fn judge(found: Option<Generation>, seen: Option<Sighting>, now: Monotonic) -> Judged {
    let Some(generation) = found else { return Judged::Take(Generation::ABSENT) };
    match seen.filter(|seen| seen.generation == generation) {
        Some(seen) if now.since(seen.at) >= TAKEOVER => Judged::Take(generation),
        Some(seen) => Judged::Held(seen),
        None => Judged::Held(Sighting { generation, at: now }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Monotonic {
        Monotonic(Duration::from_secs(seconds))
    }

    #[test]
    fn a_claim_is_taken_over_when_it_stood_still_before_ones_own_eyes() {
        let (first, second) = (Generation(1), Generation(2));
        assert_eq!(judge(None, None, at(0)), Judged::Take(Generation::ABSENT));
        let Judged::Held(seen) = judge(Some(first), None, at(1000)) else {
            panic!("it was never seen before")
        };
        assert_eq!(judge(Some(first), Some(seen), at(1599)), Judged::Held(seen));
        assert_eq!(judge(Some(first), Some(seen), at(1600)), Judged::Take(first));
        // It was renewed, or is another's by now: the time begins again.
        let anew = Sighting { generation: second, at: at(1600) };
        assert_eq!(judge(Some(second), Some(seen), at(1600)), Judged::Held(anew));
        assert_eq!(judge(Some(second), Some(anew), at(2200)), Judged::Take(second));
        assert_eq!(judge(None, Some(anew), at(1601)), Judged::Take(Generation::ABSENT));
    }

    #[test]
    fn a_claimant_has_stopped_before_it_is_taken_over() {
        assert!(RENEW_AFTER < STOP_AFTER && STOP_AFTER < TAKEOVER);
    }
}
