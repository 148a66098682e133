//! How long a delivery waits, and for what at most.

use std::time::Duration;

use shared::Schedule;

/// A longer wait is not held, even where its end is known.
pub const LONGEST_KNOWN_WAIT: Duration = shared::LONGEST_WAIT;
/// A message is held no longer than this: an hour less than its lease may be extended.
pub const LONGEST_HOLD: Duration = Duration::from_secs(23 * 60 * 60);
/// The longest pause between two runs of a failing job with an ordering key; and how long
/// the next jobs of a failing key are tried.
pub const ORDERED_PAUSE_MAX: Duration = Duration::from_secs(5 * 60);
/// A failing job with an ordering key is tried at least so long in each delivery.
pub const ORDERED_RETRY_MIN: Duration = Duration::from_secs(30 * 60);
/// An end that could not be written for so long goes to the outbox.
pub const OUTBOX_AFTER: Duration = Duration::from_secs(15 * 60);

const RUN_PAUSE_MIN: Duration = Duration::from_millis(500);
const RUN_PAUSE_MAX: Duration = Duration::from_secs(16);
const GIVE_BACK_MIN: Duration = Duration::from_secs(1);
const GIVE_BACK_MAX: Duration = Duration::from_secs(60);
const WRITE_MIN: Duration = Duration::from_secs(1);
const WRITE_MAX: Duration = Duration::from_secs(60);

/// How long a message of this age is held before it is given back, so that a subscription
/// without a retry policy does not spin.
pub fn give_back_pause(age: Duration) -> Duration {
    (age / 8).clamp(GIVE_BACK_MIN, GIVE_BACK_MAX)
}

/// The pauses between tries to write an end.
pub(super) fn write_pauses() -> Schedule {
    Schedule::new(WRITE_MIN, WRITE_MAX)
}

/// The pauses between the runs of a failing job.
pub(super) fn run_pauses(ordered: bool) -> Schedule {
    Schedule::new(RUN_PAUSE_MIN, if ordered { ORDERED_PAUSE_MAX } else { RUN_PAUSE_MAX })
}
