//! Notices that the process was suspended.

use std::time::Duration;

use shared::ports::Monotonic;

/// How often a task beats so that [`Gap::beat`] notices in time.
const BEAT_EVERY: Duration = Duration::from_millis(500);
/// So much later than the last beat is a gap.
const LONGEST: Duration = Duration::from_secs(2);

/// Watches the time between the beats of one task, on a clock that counts suspended time.
///
/// A process that was frozen (a container that was paused, a machine that slept, a starved
/// one) could not extend the leases of its messages, so that another replica may have them
/// by now: what has not begun is given back.
#[derive(Debug, Clone)]
pub struct Gap {
    last: Monotonic,
}

impl Gap {
    /// How often to beat.
    pub const BEAT_EVERY: Duration = BEAT_EVERY;

    /// The first beat, at `now`.
    pub fn new(now: Monotonic) -> Self {
        Self { last: now }
    }

    /// A beat at `now`; how long the process stood still, when that is more than 2 s.
    pub fn beat(&mut self, now: Monotonic) -> Option<Duration> {
        let since = now.since(self.last);
        self.last = now;
        (since > LONGEST).then_some(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Monotonic {
        Monotonic(Duration::from_millis(millis))
    }

    #[test]
    fn beats_in_time_are_no_gap_and_late_ones_are() {
        let mut gap = Gap::new(at(10_000));
        for beat in 1..100 {
            assert_eq!(gap.beat(at(10_000 + beat * 500)), None);
        }
        assert_eq!(gap.beat(at(61_500)), None, "2 s are a busy machine");
        assert_eq!(gap.beat(at(63_501)), Some(Duration::from_millis(2_001)));
        assert_eq!(gap.beat(at(64_001)), None, "it is told once");
        assert_eq!(gap.beat(at(184_001)), Some(Duration::from_secs(120)));
    }

    #[test]
    fn small_delays_do_not_add_up() {
        let mut gap = Gap::new(at(0));
        assert!((1..10).all(|beat| gap.beat(at(beat * 1_900)).is_none()));
    }

    #[test]
    fn a_clock_that_stands_still_is_no_gap() {
        let mut gap = Gap::new(at(5_000));
        assert_eq!(gap.beat(at(5_000)), None);
        assert_eq!(gap.beat(at(4_000)), None, "it never goes back, and would do no harm");
    }
}
