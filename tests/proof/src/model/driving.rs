//! Flights on behalf of the model's callers, as the store drives them.

use std::cell::Cell;

use shared::Error;
use shared::ports::{EndpointError, Generation};
use shared::protocol::{Action, Event, Finish, Flight, Freshness, Identity};

use super::mutants::wall_ahead;
use super::provider::place;
use super::replica::{Deeds, Doing, Ids, Series, at};
use super::setup::{Mutant, Setup};
use super::world::{World, user};

impl World {
    /// Nobody asks any more, so nothing is owed.
    pub(super) fn forget_unwanted(&mut self) {
        if !self.replicas.iter().any(|r| r.is_active()) {
            self.watch.wanted = None;
        }
    }

    pub(super) fn call(&mut self, setup: &Setup, i: usize) {
        let now = self.now;
        let replica = self.replica(i);
        if let Some(held) = &replica.held
            && held.freshness(&setup.policy(), &replica.memory.rejected, || at(now, 0))
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
        let identity = Identity {
            client_id: "client".into(),
            token_uri: "uri".into(),
            holder: "worker".into(),
        };
        let generation = replica.held.as_ref().and_then(|held| held.generation);
        let monotonic = at(now, 0).monotonic;
        let flight = Flight::new(user(), setup.policy(), identity, generation, true, monotonic);
        replica.flight = Some(flight);
        self.watch.wanted.get_or_insert(now);
        self.step(setup, i, Event::Start);
    }

    /// Gives the flight an event and takes what it wants next.
    pub(super) fn step(&mut self, setup: &Setup, i: usize, event: Event) {
        let now = self.now;
        let ahead = wall_ahead(setup, i);
        let event = self.distort(setup, i, event);
        let replica = self.replica(i);
        let Some(flight) = replica.flight.as_mut() else {
            return;
        };
        let acquired = matches!(event, Event::LeasePut(Ok(_)));
        let rejected = matches!(event, Event::Refreshed(Err(EndpointError::InvalidGrant(_))));
        if let Event::Refreshed(Ok(answer)) = &event {
            replica.deeds.received = Some(place(&answer.access_token));
        }
        let ids = Ids { drawer: i, next: Cell::new(replica.drawn) };
        let action = flight.step(event, at(now, ahead), &mut replica.memory, &ids);
        replica.drawn = ids.next.get();
        replica.deeds.confirming = acquired;
        replica.deeds.rejected |= rejected;
        match action {
            Action::Sleep(pause) => {
                let steps = pause.as_secs().div_ceil(10).max(1);
                replica.doing = Doing::Asleep(now + steps);
            }
            Action::Finish(finish) => self.land(setup, i, finish),
            action => {
                if let Action::PutLease(lease, _) = &action {
                    let known = replica.deeds.series.as_ref();
                    if known.is_none_or(|s| s.attempt != lease.attempt) {
                        replica.deeds.series = Some(Series {
                            attempt: lease.attempt.clone(),
                            guards: Generation(lease.guards),
                            first_sent: now,
                            applied: false,
                        });
                    }
                }
                replica.doing = Doing::Asked(action);
            }
        }
    }

    fn land(&mut self, setup: &Setup, i: usize, finish: Finish) {
        let now = self.now;
        let deeds = self.replicas[i].deeds.clone();
        self.watch.landed(&deeds, &self.bucket, setup);
        if setup.is(Mutant::LeaseDeletedOnRelease)
            && deeds.series.as_ref().is_some_and(|s| s.applied)
        {
            self.bucket.lease = None;
        }
        let again = matches!(finish, Finish::Failed(Error::Busy(_) | Error::Unavailable(_)));
        let replica = self.replica(i);
        replica.flight = None;
        replica.deeds = Deeds::default();
        replica.doing = if again { Doing::Again(now + 1) } else { Doing::Idle };
        match finish {
            Finish::Use(held, _) => {
                let rejected = replica.rejected.clone();
                replica.held = Some(held.clone());
                self.watch.handed_out(&held, &rejected, &deeds, setup, now);
            }
            Finish::Failed(Error::NeedsConsent(_)) => replica.held = None,
            // The model's re-seals are transitions of their own, not flights.
            Finish::HeldElsewhere | Finish::Resealed(_) | Finish::Failed(_) => {}
        }
        self.forget_unwanted();
    }
}
