//! The claims of other processes that a sweep has met.

use std::collections::BTreeMap;

use shared::UserId;
use shared::ports::Monotonic;

use crate::claim::{Sighting, TAKEOVER};
use crate::resuming::Finish;

/// Claims of so many users are looked at again.
const MAX_CLAIMS: usize = 1000;

/// Claims of other processes that a sweep has met.
#[derive(Debug, Default)]
pub struct Claims {
    /// To resume a user's jobs.
    pub(super) parked: BTreeMap<UserId, Sighting>,
    /// To publish a change of a user's consent.
    pub(super) events: BTreeMap<UserId, Sighting>,
}

impl Claims {
    pub(super) fn note(&mut self, user: &UserId, finish: &Finish) {
        match finish {
            Finish::Held(Some(sighting))
                if self.parked.len() < MAX_CLAIMS || self.parked.contains_key(user) =>
            {
                self.parked.insert(user.clone(), *sighting);
            }
            _ => drop(self.parked.remove(user)),
        }
    }

    /// When the first of them may be taken over.
    pub(super) fn next(&self) -> Option<Monotonic> {
        let all = self.parked.values().chain(self.events.values());
        all.map(|seen| seen.at.plus(TAKEOVER)).min()
    }
}

/// The users whose claims may be taken over.
pub(super) fn due(claims: &BTreeMap<UserId, Sighting>, now: Monotonic) -> Vec<UserId> {
    let due = |seen: &Sighting| now.since(seen.at) >= TAKEOVER;
    claims.iter().filter(|(_, seen)| due(seen)).map(|(user, _)| user.clone()).collect()
}
