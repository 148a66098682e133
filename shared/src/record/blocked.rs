//! A user whom the provider refuses, though the grant may live.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The first pause before a blocked user is tried again; later ones double.
const FIRST: Duration = Duration::from_mins(10);

/// The longest.
const LONGEST: Duration = Duration::from_hours(24);

/// The provider refuses this user with a code that is neither the client's trouble nor a
/// dead grant: a policy, a restricted account. The user is tried again now and then.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Blocked {
    /// The provider's code.
    pub code: String,
    /// Since when.
    pub since: Timestamp,
    /// When the user is to be tried again, by the clock of whoever wrote it.
    pub next_try: Timestamp,
}

impl Blocked {
    /// Refused with `code` at `now`. `before` is what was known, written at `written`.
    pub(crate) fn at(code: &str, before: Option<(&Self, Timestamp)>, now: Timestamp) -> Self {
        let pause = before
            .map_or(FIRST, |(before, written)| (before.pause(written) * 2).clamp(FIRST, LONGEST));
        let since = before.map_or(now, |(before, _)| before.since.min(now));
        let next_try = now.checked_add(pause).unwrap_or(now);
        Self { code: code.to_owned(), since, next_try }
    }

    /// The pause that was meant when it was written.
    fn pause(&self, written: Timestamp) -> Duration {
        Duration::try_from(self.next_try.duration_since(written)).unwrap_or_default().min(LONGEST)
    }

    /// How long until the user may be tried again. A time that is further away than its own
    /// pause comes from a clock that is ahead, and counts as that pause from now.
    pub fn remaining(&self, written: Timestamp, now: Timestamp) -> Duration {
        let left = Duration::try_from(self.next_try.duration_since(now)).unwrap_or_default();
        left.min(self.pause(written))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_mins(minutes)
    }

    #[test]
    fn pauses_double_to_a_day_and_the_beginning_is_kept() {
        let (mut blocked, mut written) = (Blocked::at("a", None, at(0)), at(0));
        let mut pauses = Vec::new();
        for _ in 0..10 {
            pauses.push(blocked.remaining(written, written).as_secs() / 60);
            let next = blocked.next_try;
            blocked = Blocked::at("b", Some((&blocked, written)), next);
            written = next;
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440]);
        assert_eq!((blocked.since, blocked.code.as_str()), (at(0), "b"));
    }

    #[test]
    fn a_clock_that_was_ahead_delays_by_no_more_than_one_pause() {
        let ahead = at(1_000_000);
        let blocked = Blocked::at("a", None, ahead);
        assert_eq!(blocked.remaining(ahead, at(0)), FIRST);
        assert_eq!(blocked.remaining(ahead, ahead + LONGEST), Duration::ZERO);
    }
}
