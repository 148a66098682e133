//! What people do: logins, deletions, re-seals, and APIs that reject a token.
//!
//! Each is a process of its own in a slot behind the replicas, and decides by the
//! production code. Its first read belongs to the move that begins it, since nothing
//! tells a read that waits from one that begins later. So does the write of a login or a
//! deletion to the read before it: the write succeeds only if the record is still the one
//! that was read, so nothing that came in between had an effect.

use std::sync::Arc;

use shared::Secret;
use shared::ports::Generation;
use shared::protocol::{Deletion, Event, Flight, Grant, Granting, Terms};

use super::course::Course;
use super::driving::identity;
use super::moves::Fate;
use super::provider::{LIFE, place};
use super::replica::{Deeds, Doing, at};
use super::setup::{Mutant, Setup};
use super::world::{SUB, World, user};

impl World {
    /// The first slot in which nobody was yet.
    fn newcomer(&mut self, setup: &Setup) -> usize {
        self.people -= 1;
        let slots = self.replicas.iter().skip(setup.replicas);
        let free = setup.replicas + slots.take_while(|r| r.calls > 0).count();
        let replica = self.replica(free);
        replica.calls = 1;
        free
    }

    fn begin(&mut self, setup: &Setup, i: usize, course: Course, fate: Fate) {
        let now = self.now;
        let replica = self.replica(i);
        replica.course = Some(course);
        replica.deeds = Deeds { began_at: now, ..Deeds::default() };
        self.step(setup, i, Event::Start);
        self.serve(setup, i, fate);
    }

    pub(super) fn login(&mut self, setup: &Setup, with_access: bool, fate: Fate) {
        let (refresh_token, access_token) = self.provider.consent();
        let scope = format!("scope of login {}", place(&refresh_token).0);
        let grant = Grant {
            refresh_token: Some(refresh_token),
            expires_at: at(self.now, 0).wall.checked_add(LIFE).ok(),
            access_token: with_access.then_some(access_token),
            expires_in: Some(LIFE),
            scopes: vec![scope],
            sub: Some(SUB.into()),
            ended: None,
        };
        let i = self.newcomer(setup);
        self.grant(setup, i, grant, fate);
    }

    /// A person signs in again and the provider sends no refresh token. It has no
    /// effect, so it leaves nothing behind, or the check would count it as news.
    pub(super) fn login_without_refresh_token(&mut self, setup: &Setup) {
        let before = self.clone();
        let i = self.newcomer(setup);
        let mut grant = Grant { sub: Some(SUB.into()), ..Grant::default() };
        if setup.is(Mutant::LoginWithoutRefreshTokenStored) {
            grant.refresh_token = Some(Secret::new(String::new()));
        }
        self.grant(setup, i, grant, Fate::Answered);
        if self.replicas[i].doing == Doing::Idle && self.watch == before.watch {
            *self = before;
        }
    }

    fn grant(&mut self, setup: &Setup, i: usize, grant: Grant, fate: Fate) {
        let policy = setup.policy();
        let now = at(self.now, 0).monotonic;
        let identity = identity("people");
        let granting = Granting::new(user(), &policy, identity, grant, Terms::Login, now);
        self.begin(setup, i, Course::Granting(Box::new(granting)), fate);
    }

    pub(super) fn delete(&mut self, setup: &Setup) {
        let i = self.newcomer(setup);
        let deletion = Deletion::new(&setup.policy(), at(self.now, 0).monotonic);
        self.begin(setup, i, Course::Deletion(Box::new(deletion)), Fate::Answered);
    }

    pub(super) fn reseal(&mut self, setup: &Setup) {
        let i = self.newcomer(setup);
        self.reseal_again(setup, i);
    }

    pub(super) fn reseal_again(&mut self, setup: &Setup, i: usize) {
        let now = at(self.now, 0).monotonic;
        let flight = Flight::resealing(user(), setup.policy(), identity("sealer"), now);
        self.begin(setup, i, Course::Flight(Box::new(flight)), Fate::Answered);
    }

    /// A deletion removed something; each at the generation that it read.
    pub(super) fn remove_token(&mut self, setup: &Setup, expected: Generation) -> Option<()> {
        if setup.is(Mutant::LeaseDeletedBeforeTheToken) && self.bucket.lease.take().is_some() {
            return None;
        }
        let found = self.bucket.token_generation();
        if found != expected && found != Generation::ABSENT {
            return None;
        }
        if self.bucket.token.take().is_some() {
            self.watch.deleted();
        }
        Some(())
    }

    pub(super) fn remove_lease(&mut self, setup: &Setup, expected: Generation) -> Option<()> {
        let found = self.bucket.lease_generation();
        let free = setup.is(Mutant::LeaseDeletedWithoutPrecondition);
        if !free && found != expected && found != Generation::ABSENT {
            return None;
        }
        let gone = self.bucket.lease.take();
        if gone.is_some() && found == expected {
            self.watch.lease_deleted();
        }
        Some(())
    }

    pub(super) fn reject(&mut self, setup: &Setup, i: usize) {
        self.people -= 1;
        let replica = Arc::make_mut(&mut self.replicas[i]);
        if let Some(held) = &replica.held {
            let grant = held.record.grant_id.clone();
            if !setup.is(Mutant::RejectionForgotten) {
                replica.memory.rejected.insert(&grant);
            }
            replica.rejected.push(grant);
        }
    }
}
