//! Notices that the process was suspended.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shared::ports::Monotonic;
use tokio::sync::watch;

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
        let stood = self.stood(now);
        self.last = now;
        stood
    }

    fn stood(&self, now: Monotonic) -> Option<Duration> {
        let since = now.since(self.last);
        (since > LONGEST).then_some(since)
    }
}

/// What one task's beats tell everybody else of the process.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    /// Absent until the task beats.
    beat: Mutex<Option<Gap>>,
    /// When the last gap was noticed.
    noticed: watch::Sender<Option<Monotonic>>,
}

impl Gaps {
    /// The task beats at `now`; how long the process stood still before that, if it did.
    pub(crate) fn beat(&self, now: Monotonic) -> Option<Duration> {
        let mut beat = self.beat.lock().unwrap_or_else(PoisonError::into_inner);
        let stood = beat.get_or_insert_with(|| Gap::new(now)).beat(now)?;
        self.noticed.send_replace(Some(now));
        Some(stood)
    }

    /// Whether the process stood still since `then`. After a gap other tasks may run before
    /// the one that beats, so an overdue beat counts too.
    pub(crate) fn any_since(&self, then: Monotonic, now: Monotonic) -> bool {
        if self.noticed.borrow().is_some_and(|at| then < at) {
            return true;
        }
        let beat = self.beat.lock().unwrap_or_else(PoisonError::into_inner);
        beat.as_ref().is_some_and(|beat| beat.stood(now).is_some())
    }

    /// Waits until a gap is noticed after `then`. Dropping it is harmless.
    pub(crate) async fn after(&self, then: Monotonic) {
        let mut noticed = self.noticed.subscribe();
        // The sender lives as long as `self`.
        drop(noticed.wait_for(|at| at.is_some_and(|at| then < at)).await);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

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
    fn what_came_before_a_gap_is_told_so_even_before_the_gap_is_noticed() {
        let gaps = Gaps::default();
        assert!(!gaps.any_since(at(0), at(9_000)), "nothing beats yet");
        assert_eq!(gaps.beat(at(9_000)), None);
        let after = std::pin::pin!(gaps.after(at(9_100)));
        assert!(!gaps.any_since(at(9_100), at(11_000)));
        assert!(gaps.any_since(at(9_100), at(11_001)), "the beat is overdue");
        assert_eq!(gaps.beat(at(69_000)), Some(Duration::from_secs(60)));
        assert!(gaps.any_since(at(9_100), at(69_000)));
        assert_eq!(after.now_or_never(), Some(()));
        assert!(!gaps.any_since(at(69_000), at(69_500)), "it came after that");
        assert_eq!(gaps.after(at(69_000)).now_or_never(), None);
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
