//! The limit on mutations of one object name.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, SystemTime};

/// How long a name rests after a successful mutation.
const REST: Duration = Duration::from_secs(1);

/// Remembers the names mutated within the last second, and no others.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: HashMap<String, SystemTime>,
    /// The same mutations, oldest first.
    order: VecDeque<(SystemTime, String)>,
}

impl Pace {
    /// Whether `name` may be mutated at `now`.
    pub(super) fn allows(&self, now: SystemTime, name: &str) -> bool {
        self.last.get(name).is_none_or(|last| rested(*last, now))
    }

    /// Records a successful mutation. `now` never goes back.
    pub(super) fn mutated(&mut self, now: SystemTime, name: &str) {
        while let Some((at, _)) = self.order.front()
            && rested(*at, now)
        {
            let Some((at, name)) = self.order.pop_front() else {
                break;
            };
            // A later mutation of that name has an entry of its own.
            if self.last.get(&name) == Some(&at) {
                self.last.remove(&name);
            }
        }
        self.last.insert(name.to_owned(), now);
        self.order.push_back((now, name.to_owned()));
    }
}

fn rested(last: SystemTime, now: SystemTime) -> bool {
    now.duration_since(last).is_ok_and(|passed| passed >= REST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_names_that_have_rested() {
        let mut pace = Pace::default();
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        pace.mutated(at(0), "a");
        pace.mutated(at(10), "b");
        assert!(!pace.allows(at(999), "a"));
        assert!(pace.allows(at(1_000), "a"));
        pace.mutated(at(1_005), "a");
        assert_eq!(pace.order.len(), 2);
        assert!(!pace.allows(at(1_009), "b"));
        pace.mutated(at(3_000), "c");
        assert_eq!(pace.last.len(), 1);
        assert_eq!(pace.order.len(), 1);
    }
}
