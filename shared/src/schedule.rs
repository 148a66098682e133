//! The exponential schedule of pauses, from the `backoff` crate.
//!
//! Only the schedule is taken from there: its own randomization is off, because
//! ours is seeded, and so is its limit on elapsed time, because callers count
//! their own deadlines on the clock they were given.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff as _;

/// How much of a pause is random: it lasts between half and all of its length.
const JITTER: f64 = 0.5;

/// Growing, jittered pauses.
#[derive(Debug, Clone)]
pub struct Schedule {
    inner: ExponentialBackoff,
    count: u32,
}

impl Schedule {
    /// Pauses that start at `first`, grow by half each time and stay at `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        let mut inner = ExponentialBackoff {
            initial_interval: first,
            current_interval: first,
            max_interval: longest,
            multiplier: 1.5,
            randomization_factor: 0.0,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        inner.reset();
        Self { inner, count: 0 }
    }

    /// The next pause; `unit` in `0.0..1.0` places it within its jitter.
    pub fn next(&mut self, unit: f64) -> Duration {
        self.count += 1;
        let full = self.inner.next_backoff().unwrap_or(self.inner.max_interval);
        full.mul_f64(1.0 - JITTER * unit)
    }

    /// How many pauses have been taken since the start or the last reset.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Starts again with the first pause.
    pub fn reset(&mut self) {
        self.inner.reset();
        self.count = 0;
    }
}

/// Two schedules are the same when the same pauses follow; the point in time
/// at which either was made plays no part.
impl PartialEq for Schedule {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Schedule {}

impl std::hash::Hash for Schedule {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl Schedule {
    fn key(&self) -> (Duration, Duration, u32) {
        (self.inner.current_interval, self.inner.max_interval, self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_limit_and_starts_again() {
        let mut pauses = Schedule::new(Duration::from_millis(100), Duration::from_millis(300));
        let drawn: Vec<_> = (0..5).map(|_| pauses.next(0.0).as_millis()).collect();
        assert_eq!(drawn, [100, 150, 225, 300, 300]);
        assert_eq!(pauses.count(), 5);
        pauses.reset();
        assert_eq!(pauses.next(1.0), Duration::from_millis(50), "all of the jitter");
    }
}
