//! The state of the model, and what each move makes of it.

use std::sync::Arc;

use shared::protocol::{Event, Lease};
use shared::record::{GrantId, State as RecordState, TokenRecord, WriteId};
use shared::{Secret, UserId};

use super::bucket::Bucket;
use super::course::{Ask, Course};
use super::invariants::{TTL, Watch};
use super::moves::Move;
use super::provider::{LIFE, Provider};
use super::replica::{Doing, Replica, Sent, at};
use super::setup::{Mutant, Setup};

/// One state of the model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub(super) now: u64,
    pub(super) bucket: Bucket,
    pub(super) provider: Provider,
    /// The replicas, then a slot for whatever people begin.
    pub(super) replicas: Vec<Arc<Replica>>,
    pub(super) late: Option<Late>,
    pub(super) faults: u8,
    pub(super) people: u8,
    pub(super) watch: Watch,
}

/// A write that was given up by its sender and is still on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Late {
    pub(super) by: usize,
    pub(super) ask: Ask,
    pub(super) sent_under: Option<Sent>,
}

/// The account of everybody who signs in.
pub(super) const SUB: &str = "account";

pub(super) fn user() -> UserId {
    UserId::new("u").expect("a user ID")
}

pub(super) fn record(refresh_token: Secret, access_token: Option<Secret>, id: &str) -> TokenRecord {
    TokenRecord {
        user: user(),
        sub: Some(SUB.into()),
        state: RecordState::Active,
        reason: None,
        refresh_token,
        expires_at: access_token.as_ref().and_then(|_| at(0, 0).wall.checked_add(LIFE).ok()),
        expires_in: Some(LIFE),
        access_token,
        scopes: vec![format!("scope of {id}")],
        token_uri: "uri".into(),
        client_id: "client".into(),
        blocked: None,
        later: None,
        grant_id: GrantId(id.to_owned()),
        write_id: WriteId(id.to_owned()),
        holder: "people".into(),
        lease_generation: None,
        created_at: at(0, 0).wall,
        updated_at: at(0, 0).wall,
    }
}

impl World {
    pub(super) fn new(setup: &Setup) -> Self {
        let mut world = Self {
            now: 0,
            bucket: Bucket::new(),
            provider: Provider::default(),
            replicas: (0..setup.replicas + usize::from(setup.people))
                .map(|_| Arc::new(Replica::new()))
                .collect(),
            late: None,
            faults: setup.faults,
            people: setup.people,
            watch: Watch::default(),
        };
        let (refresh_token, access_token) = world.provider.consent();
        let mut first = record(refresh_token, Some(access_token), "login 0");
        first.expires_at = Some(at(0, 0).wall);
        if setup.hinted {
            let old = Lease {
                holder: "old".into(),
                attempt: "old".into(),
                guards: 0,
                ttl_ms: 30_000,
                acquired_at: at(0, 0).wall,
            };
            first.lease_generation = Some(world.bucket.write_lease(old));
        }
        world.watch.login(&first, None);
        world.bucket.write_token(first);
        world
    }

    pub(super) fn apply(&mut self, setup: &Setup, next: Move) {
        match next {
            Move::Call(i) => {
                self.replica(i).calls += 1;
                self.call(setup, i);
            }
            Move::Serve(i, fate) => self.serve(setup, i, fate),
            Move::Pause(i) => {
                self.spend_fault();
                self.pause(i);
            }
            Move::Resume(i) => self.resume(setup, i),
            Move::Keep(i, fate) => self.serve_keeping(setup, i, fate),
            Move::Answer(i) => {
                if let Doing::Awaited(event, _) = self.replicas[i].doing.clone() {
                    self.step(setup, i, event);
                }
            }
            Move::EndGrant => {
                self.people -= 1;
                self.provider.end();
            }
            Move::Crash(i) => {
                self.spend_fault();
                self.stumbles(i);
                self.replicas[i] = Arc::new(self.replicas[i].crashed());
                self.forget_unwanted(setup);
            }
            Move::Reject(i) => self.reject(setup, i),
            Move::Arrive => {
                if let Some(late) = self.late.take() {
                    self.write(setup, late.by, &late.ask, late.sent_under);
                }
            }
            Move::Login(with_access, fate) => self.login(setup, with_access, fate),
            Move::LoginWithoutRefreshToken => self.login_without_refresh_token(setup),
            Move::Delete => self.delete(setup),
            Move::Reseal => self.reseal(setup),
            Move::Tick => self.tick(setup),
        }
    }

    pub(super) fn replica(&mut self, i: usize) -> &mut Replica {
        Arc::make_mut(&mut self.replicas[i])
    }

    pub(super) fn spend_fault(&mut self) {
        self.faults -= 1;
        self.watch.faults += 1;
    }

    /// The holder of a lease met a fault: what it does not commit in time is excused.
    pub(super) fn stumbles(&mut self, i: usize) {
        if let Some(series) = self.replica(i).deeds.series.as_mut() {
            series.stumbled = true;
            let attempt = series.attempt.clone();
            self.watch.stumbled(&attempt);
        }
    }

    pub(super) fn pause(&mut self, i: usize) {
        self.stumbles(i);
        let now = self.now;
        let replica = self.replica(i);
        replica.paused = Some(now);
        replica.deeds.stalled = true;
    }

    fn resume(&mut self, setup: &Setup, i: usize) {
        let replica = self.replica(i);
        replica.paused = None;
        match replica.doing.clone() {
            Doing::Answered(event) => self.step(setup, i, event),
            Doing::Asleep(until) if until <= self.now => self.step(setup, i, Event::Slept),
            _ => self.keep(setup, i),
        }
    }

    fn tick(&mut self, setup: &Setup) {
        self.now += 1;
        let now = self.now;
        if self.replicas.iter().any(|r| r.paused.is_some()) {
            self.watch.stalled += 1;
        }
        for i in 0..self.replicas.len() {
            match self.replicas[i].doing {
                _ if self.replicas[i].paused.is_some() => {}
                Doing::Asleep(until) if until <= now => self.step(setup, i, Event::Slept),
                Doing::Again(until) if until <= now && i < setup.replicas => self.call(setup, i),
                Doing::Again(until) if until <= now => self.reseal_again(setup, i),
                Doing::Awaited(..) | Doing::Hanging(..)
                    if setup.is(Mutant::OwnTakeoverWhileUnanswered) =>
                {
                    self.give_up_and_call(setup, i);
                }
                _ => self.keep(setup, i),
            }
            let replica = &self.replicas[i];
            let limit = u64::from(setup.patience) + TTL;
            if let Some(course @ Course::Flight(_)) = &replica.course
                && course.pending_commit().is_none()
                && !replica.deeds.stalled
                && now - replica.deeds.began_at > limit
            {
                self.watch.breaks(6);
            }
        }
        self.watch.time_passed(now);
    }
}
