//! Which stored ends a worker writes: those that go to its own topics.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

use crate::pubsub::Topic;

use super::ending::{StoredEnding, Writable};

/// The topics that a worker writes ends to.
#[derive(Debug, Clone, Default)]
pub struct Own {
    /// The dead topic.
    pub dead: Option<Arc<dyn Topic>>,
    /// The outcomes topic.
    pub outcomes: Option<Arc<dyn Topic>>,
}

/// What is remembered of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kept {
    /// It is one of this worker's.
    Own { stored_at: Timestamp, topics: BTreeSet<String> },
    /// Some topic of it is not this worker's own.
    Others,
    /// Its topic refuses it.
    Refused,
    /// It cannot be read, which was said.
    Unreadable,
}

impl Own {
    /// Where a part goes, if that is this worker's topic for it.
    pub(super) fn topic(&self, part: &Writable) -> Option<&dyn Topic> {
        let (own, topic) = match part {
            Writable::Remember { .. } => return None,
            Writable::DeadLetter { topic, .. } => (&self.dead, topic),
            Writable::Outcome { topic, .. } => (&self.outcomes, topic),
        };
        own.as_deref().filter(|own| own.name() == topic)
    }

    /// What is to be remembered of the object of this end.
    pub(super) fn kept(&self, ending: &StoredEnding) -> Kept {
        if ending.refused {
            return Kept::Refused;
        }
        let is_own = |part: &Writable| {
            matches!(part, Writable::Remember { .. }) || self.topic(part).is_some()
        };
        if !ending.rest.iter().all(is_own) {
            return Kept::Others;
        }
        let topics = ending.topics().map(str::to_owned).collect();
        Kept::Own { stored_at: ending.stored_at, topics }
    }
}
