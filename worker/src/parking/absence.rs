//! Users who were seen to have no record, remembered for a short while.
//!
//! Whoever may publish can make users up. Their jobs are parked, and of each job the token was
//! read three times: by the store, before the parking write and after it. A remembered absence
//! spares the looks before the write. What it may decide, so that no login is overlooked:
//!
//! - It spares looks *before* the parking write only. The look after the write is never spared,
//!   so a job whose user has consented meanwhile goes on at once, whatever was remembered; that
//!   look, like every other one that finds a record, ends the memory.
//! - It says nothing about a job that was published after the absence was read: a job that an
//!   application publishes for somebody who has just consented is looked at.
//! - It says nothing about a job that was published again, as a login does: such a job is always
//!   looked at, also where clocks differ. Else each replica could send it round once more.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use quick_cache::sync::Cache;
use shared::UserId;

use crate::job::{JOB_ATTRIBUTE, Received};

/// An absence is remembered so long.
const MEMORY: Duration = Duration::from_secs(60);
/// Of so many users.
const MOST_USERS: usize = 10_000;

/// See the module's page. By user, when the absence was read, at the latest.
pub(super) struct Absences(Cache<UserId, Timestamp>);

impl Default for Absences {
    fn default() -> Self {
        Self(Cache::new(MOST_USERS))
    }
}

impl Absences {
    /// The bucket was asked for the user's record, not before `at`, and has none.
    pub(super) fn note(&self, user: &UserId, at: Timestamp) {
        self.0.insert(user.clone(), at);
    }

    /// The user has a record.
    pub(super) fn forget(&self, user: &UserId) {
        self.0.remove(user);
    }

    /// Whether the job in this message need not be looked at before it is parked.
    pub(super) fn spares_a_look(&self, user: &UserId, received: &Received, now: Timestamp) -> bool {
        let Some(read_at) = self.0.get(user) else { return false };
        let age = Duration::try_from(now.duration_since(read_at));
        age.is_ok_and(|age| age < MEMORY)
            && received.publish_time.is_some_and(|published| published <= read_at)
            && !received.attributes.contains_key(JOB_ATTRIBUTE)
    }
}

impl fmt::Debug for Absences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Absences").field("users", &self.0.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn an_absence_decides_about_older_jobs_only_and_not_for_long() {
        let ann = UserId::new("ann").unwrap();
        let at = |seconds: i64| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds);
        let received = |published: Option<i64>, attributes: &[(&str, &str)]| Received {
            data: "".into(),
            attributes: attributes.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect(),
            ordering_key: String::new(),
            message_id: "m".into(),
            publish_time: published.map(at),
            delivery_attempt: None,
        };
        let absences = Absences::default();
        let older = received(Some(100), &[]);
        assert!(!absences.spares_a_look(&ann, &older, at(100)), "nobody has looked");
        absences.note(&ann, at(100));
        assert!(absences.spares_a_look(&ann, &older, at(159)));
        assert!(!absences.spares_a_look(&ann, &older, at(160)), "a minute is over");
        assert!(!absences.spares_a_look(&ann, &older, at(99)), "the clock was set back");
        for looked_at in [
            received(Some(101), &[]),
            received(None, &[]),
            received(Some(1), &[(JOB_ATTRIBUTE, "j")]),
        ] {
            assert!(!absences.spares_a_look(&ann, &looked_at, at(110)));
        }
        absences.forget(&ann);
        assert!(!absences.spares_a_look(&ann, &older, at(110)));
    }
}
