//! What the mutants do: a course is told something else than what happened.

use std::sync::Arc;

use shared::ports::{Generation, Monotonic};
use shared::protocol::{Event, Observation, PutFault, Stored};
use shared::record::{GrantId, State as RecordState, WriteId};

use super::replica::{Replica, at};
use super::setup::{Mutant, Setup};
use super::world::World;

impl World {
    /// The token as a flight is shown it.
    pub(super) fn read_token(&self, setup: &Setup, i: usize) -> Option<Box<Stored>> {
        let deeds = &self.replicas[i].deeds;
        let from_memory = (setup.is(Mutant::NoSecondRead) && deeds.confirming)
            || (setup.is(Mutant::RevokeWithoutReading) && deeds.rejected)
            || (setup.is(Mutant::NoLease) && deeds.confirming)
            || (setup.is(Mutant::ResealWithoutLease) && i >= setup.replicas && deeds.confirming);
        if from_memory && let Some(series) = &deeds.series {
            let record = self.watch.version(series.guards)?;
            let generation = series.guards;
            return Some(Box::new(Stored { record: (**record).clone(), generation }));
        }
        self.bucket.read_token()
    }

    /// What the flight is told instead of what happened.
    pub(super) fn distort(&mut self, setup: &Setup, i: usize, mut event: Event) -> Event {
        let now = self.now;
        let Some(mutant) = setup.mutant else {
            return event;
        };
        let ahead = wall_ahead(setup, i);
        let replica = Arc::clone(&self.replicas[i]);
        let pending = replica.course.as_ref().is_some_and(|c| c.pending_commit().is_some());
        let base =
            replica.deeds.series.as_ref().and_then(|s| self.watch.version(s.guards)).cloned();
        match (&mut event, mutant) {
            (Event::LeaseRead(Ok(seen)), Mutant::ResealWithoutLease) if i >= setup.replicas => {
                *seen = None;
            }
            (Event::TokenRead(Ok(Some(stored))), Mutant::LoginForgetsItsWrites)
                if i >= setup.replicas =>
            {
                stored.record.write_id = WriteId("somebody else's".into());
                stored.record.grant_id = GrantId("somebody else's".into());
            }
            (Event::LeaseRead(Ok(Some(seen))), Mutant::TakeoverByWallClock) => {
                let over = seen.body.as_ref().is_some_and(|lease| {
                    lease
                        .acquired_at
                        .checked_add(seen.ttl())
                        .is_ok_and(|end| end <= at(now, ahead).wall)
                });
                if over {
                    self.replica(i).memory.observation = Some(Box::new(expired(seen.generation)));
                }
            }
            (Event::LeaseRead(Ok(Some(seen))), Mutant::GuardIgnored) => {
                if let Some(lease) = &mut seen.body {
                    lease.guards = -1;
                }
            }
            (Event::LeaseRead(Ok(Some(seen))), Mutant::OwnTtlInsteadOfTheLeases) => {
                if let Some(lease) = &mut seen.body {
                    lease.ttl_ms = 10_000;
                }
            }
            (Event::TokenRead(_), Mutant::TimeoutFallsThrough) => {
                if now >= replica.deeds.began_at + u64::from(setup.patience)
                    && let Some(seen) = &replica.memory.observation
                {
                    self.replica(i).memory.observation = Some(Box::new(expired(seen.generation)));
                }
            }
            (Event::LeasePut(put), Mutant::LostReplyIsSuccess) => {
                if matches!(put, Err(PutFault::Unknown(_))) {
                    *put = Ok(Generation(99));
                }
            }
            (Event::TokenRead(Ok(Some(stored))), Mutant::SameRefreshTokenIsMine) if pending => {
                if let Some(base) = base
                    && stored.record.refresh_token == base.refresh_token
                {
                    stored.record.grant_id = base.grant_id.clone();
                    stored.record.state = RecordState::Active;
                }
            }
            (Event::TokenRead(Ok(Some(stored))), Mutant::ConflictThrowsTheAnswerAway)
                if pending =>
            {
                // Looks like somebody else's newer grant, whatever it is.
                stored.record.refresh_token = "somebody else's".into();
            }
            (Event::TokenRead(Ok(Some(stored))), Mutant::DoneAlthoughRevoked) if pending => {
                stored.record.state = RecordState::Active;
            }
            (Event::TokenPut(put @ Err(PutFault::Unknown(_))), Mutant::CommitNotRetried) => {
                *put = Ok(Generation(99));
            }
            (Event::TokenRead(Ok(stored @ None)), Mutant::CommitCreates) if pending => {
                let course = replica.course.as_ref();
                if let Some(mine) = course.and_then(|c| c.pending_commit()).cloned() {
                    let generation = self.write_record(&mine);
                    *stored = Some(Box::new(Stored { record: mine, generation }));
                }
            }
            _ => {}
        }
        event
    }
}

/// How far a replica's wall clock is ahead, in steps: clocks disagree by more
/// than a ttl where somebody believes them.
pub(super) fn wall_ahead(setup: &Setup, i: usize) -> u64 {
    if setup.is(Mutant::TakeoverByWallClock) { 4 * i as u64 } else { 0 }
}

/// The step at which the clock stands of a holder who does not look at it again: that of
/// asking for the lease.
pub(super) fn frozen(setup: &Setup, i: usize, replica: &Replica) -> Option<u64> {
    let series = replica.deeds.series.as_ref().filter(|series| series.applied)?;
    let stands = if i < setup.replicas {
        setup.is(Mutant::RefreshAfterItsTtl)
    } else {
        setup.is(Mutant::ResealAfterItsTtl)
    };
    stands.then_some(series.first_sent)
}

/// An observation that allows a takeover at once.
pub(super) fn expired(generation: Generation) -> Observation {
    Observation {
        generation,
        since: Monotonic(std::time::Duration::ZERO),
        ttl: std::time::Duration::ZERO,
        holder: None,
    }
}
