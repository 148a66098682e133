//! What a process remembers from one sweep to the next.

use std::collections::BTreeMap;

use shared::UserId;
use shared::ports::{Generation, Monotonic};

use crate::claim::{Sighting, TAKEOVER};
use crate::resuming::Finish;

/// Claims of so many users are looked at again.
const MAX_CLAIMS: usize = 1000;
/// So many users' jobs are not read again while nothing has changed.
const MAX_READ: usize = 100_000;

/// What a process remembers from one sweep to the next.
#[derive(Debug, Default)]
pub struct Memory {
    /// Claims of other processes to resume a user's jobs.
    pub(super) parked: BTreeMap<UserId, Sighting>,
    /// Claims of other processes to publish a change of a user's consent.
    pub(super) events: BTreeMap<UserId, Sighting>,
    /// Users of whom nothing was to be done when all was read.
    read: BTreeMap<UserId, Version>,
}

/// What a listing shows of a user: while it shows the same, reading shows the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version {
    /// The record's, if there is one.
    pub(super) record: Option<Generation>,
    /// How many jobs are parked.
    pub(super) jobs: u64,
    /// The newest of their objects.
    pub(super) newest: Generation,
    /// How many of them may end by their age.
    pub(super) old: u64,
}

impl Memory {
    pub(super) fn note_claim(&mut self, user: &UserId, finish: &Finish) {
        match finish {
            Finish::Held(Some(sighting))
                if self.parked.len() < MAX_CLAIMS || self.parked.contains_key(user) =>
            {
                self.parked.insert(user.clone(), *sighting);
            }
            _ => drop(self.parked.remove(user)),
        }
    }

    /// When the first claim may be taken over.
    pub(super) fn next(&self) -> Option<Monotonic> {
        let all = self.parked.values().chain(self.events.values());
        all.map(|seen| seen.at.plus(TAKEOVER)).min()
    }

    /// All that is stored of the user's jobs was read, and nothing was to be done.
    pub(super) fn note_read(&mut self, user: &UserId, version: Version) {
        if self.read.len() < MAX_READ || self.read.contains_key(user) {
            self.read.insert(user.clone(), version);
        }
    }

    /// Whether reading would show again that nothing is to be done.
    pub(super) fn has_read(&self, user: &UserId, version: Version) -> bool {
        self.read.get(user) == Some(&version)
    }

    /// Forgets users who are not among `users`, of whom one sweep has listed all.
    pub(super) fn keep_read(&mut self, is_listed: impl Fn(&UserId) -> bool) {
        self.read.retain(|user, _| is_listed(user));
    }
}

/// The users whose claims may be taken over.
pub(super) fn due(claims: &BTreeMap<UserId, Sighting>, now: Monotonic) -> Vec<UserId> {
    let due = |seen: &Sighting| now.since(seen.at) >= TAKEOVER;
    claims.iter().filter(|(_, seen)| due(seen)).map(|(user, _)| user.clone()).collect()
}
