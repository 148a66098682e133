//! How a fleet stands, for its operators: users by state, waiting jobs, ends that are to be
//! written, backlogs, and the processes that were seen.
//!
//! All but the backlogs is in the bucket, and nearly all of that in its listings, which are gone
//! through side by side, a thousand objects at a time. What no listing tells is read, up to a
//! bound, and the counts say how much of it was.

mod gather;
mod listing;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::backlog::Backlog;

pub(crate) use gather::Gathering;
pub(crate) use listing::Progress;

/// How a fleet stands.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Status {
    /// When it was gathered.
    pub(crate) at: Timestamp,
    /// The token bucket.
    pub(crate) bucket: String,
    pub(crate) users: Users,
    pub(crate) waiting: WaitingJobs,
    pub(crate) endings: Endings,
    /// The job subscription's.
    pub(crate) backlog: Known<Backlog>,
    /// That of the subscription that keeps dead letters.
    pub(crate) dead_letters: Known<Backlog>,
    pub(crate) replicas: Replicas,
}

/// A figure, or why it is not known.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub(crate) enum Known<T> {
    Yes(T),
    No { not_known: String },
}

impl<T> Known<T> {
    pub(crate) fn no(why: impl Into<String>) -> Self {
        Self::No { not_known: why.into() }
    }
}

impl<T> From<Result<T, String>> for Known<T> {
    fn from(result: Result<T, String>) -> Self {
        match result {
            Ok(known) => Self::Yes(known),
            Err(why) => Self::no(why),
        }
    }
}

/// Stored users by what is known of their grants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Users {
    pub(crate) total: u64,
    pub(crate) active: u64,
    pub(crate) blocked: u64,
    pub(crate) revoked: u64,
    /// Their records cannot be read.
    pub(crate) unreadable: u64,
    /// Their listing tells no state, and there were too many such records to read all.
    pub(crate) not_read: u64,
    /// So many records were read, since their listing tells no state.
    pub(crate) read: u64,
    /// There are more users than were listed.
    pub(crate) more: bool,
}

/// Jobs that wait for their users, by why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct WaitingJobs {
    pub(crate) total: u64,
    /// So many people are waited for.
    pub(crate) users: u64,
    /// Since when the first of them waits.
    pub(crate) since: Option<Timestamp>,
    /// By the name of the reason; `not_noted` for jobs that the release before has parked.
    pub(crate) reasons: BTreeMap<String, ByAge>,
    /// There are more than were listed.
    pub(crate) more: bool,
}

/// How many, by how long they have been waiting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct ByAge {
    pub(crate) total: u64,
    pub(crate) up_to_an_hour: u64,
    pub(crate) up_to_a_day: u64,
    pub(crate) up_to_a_week: u64,
    pub(crate) longer: u64,
}

impl ByAge {
    /// Counts one that waits since then; where the bucket does not tell since when, it counts
    /// in the total alone.
    fn note(&mut self, since: Option<Timestamp>, now: Timestamp) {
        self.total += 1;
        let Some(since) = since else { return };
        let slot = match now.duration_since(since).as_hours() {
            ..1 => &mut self.up_to_an_hour,
            1..24 => &mut self.up_to_a_day,
            24..168 => &mut self.up_to_a_week,
            _ => &mut self.longer,
        };
        *slot += 1;
    }
}

/// Ends of jobs that are stored because a topic did not take them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Endings {
    pub(crate) total: u64,
    /// Since when the first of them is stored.
    pub(crate) since: Option<Timestamp>,
    /// There are more than were listed.
    pub(crate) more: bool,
}

/// Processes that renewed a credential within the last hour.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Replicas {
    /// The last one that was seen first.
    pub(crate) seen: Vec<Replica>,
    /// So many leases were taken within the hour.
    pub(crate) leases: u64,
    /// So many of them, the newest, were read to tell by whom.
    pub(crate) read: u64,
    /// There are more leases than were listed.
    pub(crate) more: bool,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Replica {
    /// Its name in leases and logs.
    pub(crate) name: String,
    /// When it took its last lease.
    pub(crate) last_seen: Timestamp,
    /// How many of the leases that were read are its own.
    pub(crate) leases: u64,
}

/// The age of something in its two largest units: `3d 4h`, `12m 5s`.
pub(crate) fn age(seconds: u64) -> String {
    let units = [
        ("d", seconds / 86_400),
        ("h", seconds / 3600 % 24),
        ("m", seconds / 60 % 60),
        ("s", seconds % 60),
    ];
    let first = units.iter().position(|(_, count)| *count > 0).unwrap_or(3);
    let shown = units[first..].iter().take(2);
    shown.map(|(unit, count)| format!("{count}{unit}")).collect::<Vec<_>>().join(" ")
}

/// A number with its thousands apart: `12,345`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// How long ago something was, in seconds; nothing lies ahead.
pub(crate) fn seconds_since(at: Timestamp, now: Timestamp) -> u64 {
    u64::try_from(now.duration_since(at).as_secs()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        for (seconds, text) in [
            (0, "0s"),
            (5, "5s"),
            (3600, "1h 0m"),
            (3 * 86_400 + 4 * 3600 + 306, "3d 4h"),
            (725, "12m 5s"),
        ] {
            assert_eq!(age(seconds), text);
        }
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(seconds_since("1970-01-02T00:00:00Z".parse().unwrap(), now), 0);
    }

    #[test]
    fn numbers_are_easy_to_read() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn jobs_are_counted_by_how_long_they_wait() {
        let now: Timestamp = "2026-01-31T00:00:00Z".parse().unwrap();
        let mut ages = ByAge::default();
        for since in [
            Some("2026-01-30T23:00:01Z"),
            Some("2026-01-30T23:00:00Z"),
            Some("2026-01-30T00:00:00Z"),
            Some("2026-01-24T00:00:00Z"),
            // A clock that goes ahead.
            Some("2026-01-31T00:05:00Z"),
            None,
        ] {
            ages.note(since.map(|at| at.parse().unwrap()), now);
        }
        let expected =
            ByAge { total: 6, up_to_an_hour: 2, up_to_a_day: 1, up_to_a_week: 1, longer: 1 };
        assert_eq!(ages, expected);
    }
}
