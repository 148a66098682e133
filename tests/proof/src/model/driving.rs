//! Courses of the model's processes, as the store drives them.

use std::cell::Cell;
use std::sync::Arc;

use shared::Error;
use shared::ports::{EndpointError, Generation};
use shared::protocol::{Event, Finish, Flight, Freshness, Identity, Upkeep};

use super::course::{Ask, Course, End, Next};
use super::mutants::{expired, frozen, wall_ahead};
use super::provider::place;
use super::replica::{Deeds, Doing, Ids, Replica, Series, at};
use super::setup::{Mutant, Setup, TICK};
use super::world::{World, user};

pub(super) fn identity(holder: &str) -> Identity {
    Identity { client_id: "client".into(), token_uri: "uri".into(), holder: holder.into() }
}

impl World {
    /// Nobody asks any more, so nothing is owed.
    pub(super) fn forget_unwanted(&mut self, setup: &Setup) {
        if !self.replicas[..setup.replicas].iter().any(|r| r.is_active()) {
            self.watch.wanted = None;
        }
    }

    pub(super) fn call(&mut self, setup: &Setup, i: usize) {
        let now = self.now;
        let replica = self.replica(i);
        if let Some(held) = &replica.held
            && held.freshness(&setup.policy(), &replica.memory.rejected, at(now, 0))
                != Freshness::Unusable
        {
            // Served from memory, which is held against I5 like any other.
            let (held, rejected) = (held.clone(), replica.rejected.clone());
            replica.doing = Doing::Idle;
            let deeds = Deeds::default();
            self.watch.handed_out(&held, &rejected, &deeds, setup, now);
            return;
        }
        if setup.is(Mutant::HintUsedTwice) {
            replica.memory.hint_used = None;
        }
        if setup.is(Mutant::ObservationForgotten) {
            replica.memory.observation = None;
        }
        let began_with = replica.held.as_ref().map(|held| held.record.grant_id.clone());
        replica.deeds = Deeds { began_at: now, began_with, ..Deeds::default() };
        let generation = replica.held.as_ref().and_then(|held| held.generation);
        let monotonic = at(now, 0).monotonic;
        let identity = identity("worker");
        let flight = Flight::new(user(), setup.policy(), identity, generation, true, monotonic);
        replica.course = Some(Course::Flight(Box::new(flight)));
        self.watch.wanted.get_or_insert(now);
        self.step(setup, i, Event::Start);
    }

    /// What the lease of a flight needs beside what the flight asks for.
    pub(super) fn keep(&mut self, setup: &Setup, i: usize) {
        if setup.is(Mutant::NoRenewal) {
            return;
        }
        let now = self.now;
        let replica = &self.replicas[i];
        if replica.paused.is_some() || matches!(replica.doing, Doing::Idle | Doing::Again(_)) {
            return;
        }
        let monotonic = at(now, 0).monotonic;
        let replica = self.replica(i);
        let Some(flight) = replica.course.as_mut().and_then(Course::flight) else {
            return;
        };
        if !flight.upkeep_is_awaited() {
            replica.keeping = None;
        }
        if replica.keeping.is_none() {
            replica.keeping = match flight.upkeep(monotonic) {
                Some(Upkeep::Put(lease, expected)) => Some((Ask::PutLease(lease, expected), now)),
                Some(Upkeep::Read) => Some((Ask::ReadLease, now)),
                Some(Upkeep::Wait(_)) | None => None,
            };
        }
    }

    /// Takes what came of a renewal.
    pub(super) fn kept(&mut self, setup: &Setup, i: usize, mut event: Event) {
        let monotonic = at(self.now, 0).monotonic;
        let replica = self.replica(i);
        replica.keeping = None;
        if setup.is(Mutant::SentAlthoughTheRenewalWasLost)
            && let (Event::LeaseRead(Ok(Some(seen))), Some(series)) =
                (&mut event, &replica.deeds.series)
            && let Some(body) = &mut seen.body
        {
            body.attempt.clone_from(&series.attempt);
        }
        if let Some(flight) = replica.course.as_mut().and_then(Course::flight) {
            flight.on_upkeep(event, monotonic, &mut replica.memory);
        }
        self.keep(setup, i);
    }

    /// A replica gives its late answer up and calls again, as if its own lease were over.
    pub(super) fn give_up_and_call(&mut self, setup: &Setup, i: usize) {
        let replica = self.replica(i);
        if let Some(seen) = &replica.memory.observation {
            replica.memory.observation = Some(Box::new(expired(seen.generation)));
        }
        replica.course = None;
        replica.keeping = None;
        self.call(setup, i);
    }

    /// Gives the course an event and takes what it wants next.
    pub(super) fn step(&mut self, setup: &Setup, i: usize, event: Event) {
        let now = self.now;
        let clocks = at(frozen(setup, i, &self.replicas[i]).unwrap_or(now), wall_ahead(setup, i));
        let event = self.distort(setup, i, event);
        let replica = self.replica(i);
        let Some(course) = replica.course.as_mut() else {
            return;
        };
        let acquired = matches!(event, Event::LeasePut(Ok(_)));
        let rejected = matches!(event, Event::Refreshed(Err(EndpointError::InvalidGrant(_))));
        if let Event::Refreshed(Ok(answer)) = &event {
            replica.deeds.received = answer.access_token.as_ref().map(place);
        }
        let ids = Ids { drawer: i, next: Cell::new(replica.drawn) };
        let next = course.step(event, clocks, &mut replica.memory, &ids);
        replica.drawn = ids.next.get();
        replica.deeds.confirming = acquired;
        replica.deeds.rejected |= rejected;
        match next {
            Next::Sleep(pause) => {
                let steps = pause.as_secs().div_ceil(10).max(1);
                replica.doing = Doing::Asleep(now + steps);
            }
            Next::End(end) => self.land(setup, i, end),
            Next::Ask(ask) => {
                if let Ask::PutLease(lease, _) = &ask {
                    let known = replica.deeds.series.as_ref();
                    if known.is_none_or(|s| s.attempt != lease.attempt) {
                        replica.deeds.series = Some(Series {
                            attempt: lease.attempt.clone(),
                            guards: Generation(lease.guards),
                            first_sent: now,
                            applied: false,
                            stumbled: false,
                        });
                    }
                }
                if i >= setup.replicas && matches!(ask, Ask::PutToken(..)) {
                    replica.deeds.asked_at = now;
                }
                if matches!(ask, Ask::Refresh(_)) {
                    replica.deeds.refresh_asked_at = now;
                }
                replica.doing = Doing::Asked(ask);
            }
        }
        self.keep(setup, i);
    }

    fn land(&mut self, setup: &Setup, i: usize, end: End) {
        let now = self.now;
        let deeds = self.replicas[i].deeds.clone();
        self.watch.landed(&deeds, &self.bucket, setup);
        if setup.is(Mutant::LeaseDeletedOnRelease)
            && deeds.series.as_ref().is_some_and(|s| s.applied)
        {
            self.bucket.lease = None;
        }
        let replica = self.replica(i);
        replica.course = None;
        replica.keeping = None;
        replica.deeds = Deeds::default();
        replica.doing = match &end {
            End::Flight(Finish::Failed(
                Error::Busy(_) | Error::Unavailable(_) | Error::Later { .. },
            )) if i < setup.replicas => Doing::Again(now + 1),
            // Whoever re-seals asks again when the lease that was seen may be taken over.
            End::Flight(Finish::HeldElsewhere) => {
                let seen = replica.memory.observation.as_ref();
                let left = seen.map_or(TICK, |seen| seen.remaining(at(now, 0).monotonic));
                Doing::Again(now + left.as_secs().div_ceil(TICK.as_secs()).max(1))
            }
            End::Flight(_) | End::Granting(_) | End::Deletion(_) => Doing::Idle,
        };
        match end {
            End::Flight(Finish::Use(held, _)) => {
                let rejected = replica.rejected.clone();
                replica.held = Some(held.clone());
                self.watch.handed_out(&held, &rejected, &deeds, setup, now);
            }
            End::Flight(Finish::Failed(Error::NeedsConsent(_))) => replica.held = None,
            End::Flight(_) | End::Granting(_) | End::Deletion(_) => {}
        }
        if i >= setup.replicas && self.replicas[i].doing == Doing::Idle {
            self.replicas[i] = Arc::new(Replica::over());
        }
        self.forget_unwanted(setup);
    }
}
