//! `sweeps/parked.json`: whose turn it is, and how far a sweep has come.
//!
//! A replica sweeps under the marker as under a claim ([`crate::claim`]): it writes it again
//! while it sweeps, and another one takes an unfinished sweep over when the marker stood still
//! for ten minutes. When no sweep is under way, replicas take turns: one leaves its turn out
//! when the marker has changed since it last looked.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shared::ports::{Generation, Monotonic, Object};

use crate::claim::{Judged, Sighting, judge};

use super::Swept;

/// The marker's name.
pub(super) const NAME: &str = "sweeps/parked.json";
const VERSION: u32 = 1;

/// How it stands with the last sweep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stage {
    /// It has ended, or has given up until the next turn.
    #[default]
    Over,
    /// Its holder is at work.
    UnderWay,
    /// Its holder was stopped: whoever looks next goes on.
    Cut,
}

/// How far a sweep has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// The prefix of the first user whose turn is still to come.
    pub(super) next: String,
    /// Jobs of the users before it that stay parked.
    pub(super) jobs: u64,
    /// Whose jobs they are.
    pub(super) users: u64,
}

/// The marker's content. The counts are those of the last whole sweep, for people and for the
/// gauges of the other replicas.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Marker {
    pub(super) version: u32,
    pub(super) holder: String,
    /// Makes each write another one.
    pub(super) turn: String,
    pub(super) jobs: u64,
    pub(super) users: u64,
    #[serde(default)]
    pub(super) untold: u64,
    #[serde(default)]
    pub(super) stage: Stage,
    /// Where the sweep goes on that has not ended.
    #[serde(default)]
    pub(super) progress: Option<Progress>,
}

impl Marker {
    /// What cannot be read tells nothing.
    pub(super) fn read(object: Option<&Object>) -> Self {
        object.and_then(|object| serde_json::from_slice(&object.content).ok()).unwrap_or_default()
    }

    pub(super) fn to_content(&self) -> Bytes {
        let marker = Self { version: VERSION, ..self.clone() };
        serde_json::to_vec(&marker).expect("strings and numbers are JSON").into()
    }

    /// What the last whole sweep found.
    pub(super) fn found(&self) -> Swept {
        let Self { jobs, users, untold, .. } = *self;
        Swept { jobs, users, untold, ..Swept::default() }
    }

    /// Whether this process may sweep, when `seen` is what it remembers of the marker, which is
    /// at `found` now; `seen` is brought up to date.
    pub(super) fn is_free(
        &self,
        found: Generation,
        seen: &mut Option<Sighting>,
        now: Monotonic,
    ) -> bool {
        let before = seen.filter(|seen| seen.generation == found);
        let is_first_look = seen.is_none();
        *seen = Some(before.unwrap_or(Sighting { generation: found, at: now }));
        match self.stage {
            Stage::Cut => true,
            Stage::Over => is_first_look || before.is_some(),
            Stage::UnderWay => matches!(judge(Some(found), before, now), Judged::Take(_)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_sweep_that_is_under_way_is_taken_over_when_its_marker_stood_still() {
        let at = |seconds| Monotonic(Duration::from_secs(seconds));
        let marker = |stage| Marker { stage, ..Marker::default() };
        let mut seen = None;
        let under_way = marker(Stage::UnderWay);
        assert!(!under_way.is_free(Generation(1), &mut seen, at(0)));
        assert!(!under_way.is_free(Generation(1), &mut seen, at(599)));
        // It was written again meanwhile.
        assert!(!under_way.is_free(Generation(2), &mut seen, at(900)));
        assert!(!under_way.is_free(Generation(2), &mut seen, at(1499)));
        assert!(under_way.is_free(Generation(2), &mut seen, at(1500)));
        // One that has ended leaves the next turn to whoever sees no other.
        assert!(!marker(Stage::Over).is_free(Generation(3), &mut seen, at(1600)));
        assert!(marker(Stage::Over).is_free(Generation(3), &mut seen, at(1601)));
        assert!(marker(Stage::Cut).is_free(Generation(4), &mut seen, at(1602)));
        assert!(marker(Stage::Over).is_free(Generation::ABSENT, &mut None, at(0)));
    }

    #[test]
    fn the_release_befores_marker_is_a_sweep_that_has_ended() {
        let content = br#"{"version":1,"holder":"a","turn":"t","jobs":3,"users":2,"untold":1}"#;
        let object = Object { content: content.as_slice().into(), generation: Generation(1) };
        let read = Marker::read(Some(&object));
        assert_eq!((read.stage, &read.progress), (Stage::Over, &None));
        assert_eq!(read.found(), Swept { jobs: 3, users: 2, untold: 1, ..Swept::default() });
        let garbage = Object { content: b"x".as_slice().into(), generation: Generation(1) };
        assert_eq!(Marker::read(Some(&garbage)).stage, Stage::Over);
    }
}
