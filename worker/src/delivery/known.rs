//! The kinds that a replica does: looked up once for each job, with all that a job of the
//! kind needs.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::handler::Handler;
use crate::kinds::Kinds;
use crate::metrics::Ended;

/// Beginning a job in a task of its own costs a microsecond or two, and brings it to
/// another core; a beginning of more than this is worth that.
const BRIEF: Duration = Duration::from_micros(10);
/// No beginning counts for more: on a busy machine one in fifty is interrupted, for
/// milliseconds, and tells nothing about its kind.
const LONG: Duration = Duration::from_micros(100);
/// The weight of the last beginning in the average, as a divisor.
const SMOOTHING: u64 = 64;

/// A kind that this replica does.
pub(crate) struct Known {
    pub(crate) name: String,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) ended: Ended,
    pub(crate) beginnings: Beginnings,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Repertoire(BTreeMap<String, Arc<Known>>);

impl Repertoire {
    pub(crate) fn new(kinds: Kinds) -> Self {
        let known = |(name, handler): (String, _)| {
            let ended = Ended::of(&name);
            let beginnings = Beginnings::default();
            (name.clone(), Arc::new(Known { name, handler, ended, beginnings }))
        };
        Self(kinds.into_iter().map(known).collect())
    }

    pub(crate) fn get(&self, kind: &str) -> Option<Arc<Known>> {
        self.0.get(kind).map(Arc::clone)
    }

    /// Their names, for people.
    pub(super) fn names(&self) -> String {
        let names: Vec<&str> = self.0.keys().map(String::as_str).collect();
        names.join(", ")
    }
}

/// Handlers have no `Debug`.
impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How long jobs of a kind take, lately, until they have ended or wait for something: in
/// nanoseconds. They are taken for long ones until the first have shown otherwise.
#[derive(Debug)]
pub(crate) struct Beginnings(AtomicU64);

impl Default for Beginnings {
    fn default() -> Self {
        Self(AtomicU64::new(nanos(LONG)))
    }
}

impl Beginnings {
    /// A job has begun, and ended without a wait: so soon.
    pub(crate) fn ended(&self, took: Duration) {
        self.note(took.min(LONG));
    }

    /// A job has begun and waits for something. It needs a task of its own to do so in.
    pub(crate) fn waits(&self) {
        self.note(LONG);
    }

    /// Of beginnings that are noted at the same time one may get lost.
    fn note(&self, took: Duration) {
        let usual = self.0.load(Ordering::Relaxed);
        let usual = usual - usual / SMOOTHING + nanos(took) / SMOOTHING;
        self.0.store(usual, Ordering::Relaxed);
    }

    /// Whether jobs of the kind mostly end at once, and soon.
    pub(crate) fn are_brief(&self) -> bool {
        self.0.load(Ordering::Relaxed) <= nanos(BRIEF)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_long_beginning_changes_nothing_and_many_do() {
        let beginnings = Beginnings::default();
        // How many short ones, of so many, it takes until they count as brief.
        let until_brief = |count: usize| {
            let before = (0..count).take_while(|_| !beginnings.are_brief());
            before.inspect(|_| beginnings.ended(BRIEF / 10)).count()
        };
        assert!((50..400).contains(&until_brief(1000)), "the first ones show it");
        for _ in 0..400 {
            beginnings.ended(BRIEF / 10);
        }
        beginnings.ended(Duration::MAX);
        assert!(beginnings.are_brief(), "it was one");
        for _ in 0..10 {
            beginnings.waits();
        }
        assert!(!beginnings.are_brief(), "who waits needs a task");
        assert!((1..400).contains(&until_brief(1000)), "it was for a while");
        for _ in 0..400 {
            beginnings.ended(2 * BRIEF);
        }
        assert!(!beginnings.are_brief(), "who computes does too");
    }
}
