//! The state of the model and what can happen in it.

use std::sync::Arc;

use shared::ports::{EndpointError, Generation};
use shared::protocol::{Event, Lease, PutFault};
use shared::record::{GrantId, State as RecordState, TokenRecord, WriteId};
use shared::{Secret, UserId};

use super::bucket::Bucket;
use super::course::{Ask, Course};
use super::invariants::{TTL, Watch};
use super::provider::{LIFE, Provider};
use super::replica::{Doing, Replica, Sent, at};
use super::setup::{Mutant, Setup};

/// What befalls a request when it reaches the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// Carried out and answered.
    Answered,
    /// Carried out, and its reply is held up until the replica goes on.
    Slow,
    /// Not carried out, and nobody says so; the endpoint does (503).
    Refused,
    /// Carried out, and the reply is lost.
    ReplyLost,
    /// Carried out, and the client's own second try is a conflict.
    ConflictWithItself,
    /// Given up by its sender, and carried out at any later time.
    Late,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Move {
    /// A caller needs a token.
    Call(usize),
    /// A request of a replica reaches the world.
    Serve(usize, Fate),
    /// A replica stands still, its request not sent.
    Pause(usize),
    /// It goes on.
    Resume(usize),
    /// It ends; another process starts in its place.
    Crash(usize),
    /// An API rejects the token that a replica holds.
    Reject(usize),
    /// The write that was given up arrives.
    Arrive,
    /// A login with a new refresh token, with an access token or without one; what
    /// befalls its write.
    Login(bool, Fate),
    /// A login without a refresh token: nothing is stored.
    LoginWithoutRefreshToken,
    /// The user's deletion begins.
    Delete,
    /// A re-seal begins.
    Reseal,
    /// The clock moves.
    Tick,
}

/// One state of the model.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub(super) now: u64,
    pub(super) bucket: Bucket,
    pub(super) provider: Provider,
    /// The replicas, then a slot for whatever people begin.
    pub(super) replicas: Vec<Arc<Replica>>,
    late: Option<Late>,
    faults: u8,
    pub(super) people: u8,
    pub(super) watch: Watch,
}

/// A write that was given up by its sender and is still on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Late {
    by: usize,
    ask: Ask,
    sent_under: Option<Sent>,
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

    pub(super) fn moves(&self, setup: &Setup, moves: &mut Vec<Move>) {
        if !self.watch.broken.is_empty() {
            return;
        }
        let resting = self.replicas.iter().all(|r| r.rests(self.now));
        let (replicas, people) = self.replicas.split_at(setup.replicas);
        for (i, replica) in replicas.iter().enumerate() {
            self.moves_of(setup, i, replica, moves);
            // All replicas begin alike: the first call of each comes after the
            // first call of the one before it.
            if replica.calls == 0 {
                break;
            }
        }
        for (k, person) in people.iter().enumerate() {
            self.moves_at_work(setup.replicas + k, person, moves);
        }
        if self.late.is_some() {
            moves.push(Move::Arrive);
        }
        if self.people > 0 {
            for fate in self.fates_of_a_write() {
                moves.extend([Move::Login(true, fate), Move::Login(false, fate)]);
            }
            moves.push(Move::LoginWithoutRefreshToken);
            if self.bucket.token.is_some() {
                moves.extend([Move::Delete, Move::Reseal]);
            }
        }
        // Before the first call time means nothing.
        let begun = self.replicas[0].calls > 0;
        if begun && resting && self.now < setup.horizon {
            moves.push(Move::Tick);
        }
    }

    fn moves_of(&self, setup: &Setup, i: usize, replica: &Replica, moves: &mut Vec<Move>) {
        if replica.doing == Doing::Idle {
            if replica.calls < setup.calls {
                moves.push(Move::Call(i));
            }
            if self.people > 0 && replica.held.is_some() && !replica.calls.eq(&setup.calls) {
                moves.push(Move::Reject(i));
            }
            return;
        }
        self.moves_at_work(i, replica, moves);
    }

    /// What can happen to a process that is at something.
    fn moves_at_work(&self, i: usize, replica: &Replica, moves: &mut Vec<Move>) {
        let faulty = self.faults > 0;
        let Some(course) = &replica.course else {
            return;
        };
        // Nothing is waiting for a process that may linger: to stand still and to end
        // are ways of lingering.
        let awaited = !course.may_linger();
        if faulty && awaited {
            moves.push(Move::Crash(i));
        }
        if let Some(since) = replica.paused {
            if self.now > since {
                moves.push(Move::Resume(i));
            }
            return;
        }
        let Doing::Asked(ask) = &replica.doing else {
            return;
        };
        if faulty && awaited {
            moves.extend([Move::Pause(i), Move::Serve(i, Fate::Slow)]);
        }
        match ask {
            Ask::Refresh(_) if faulty => moves.extend([
                Move::Serve(i, Fate::Answered),
                Move::Serve(i, Fate::Refused),
                Move::Serve(i, Fate::ReplyLost),
            ]),
            Ask::Refresh(_) | Ask::ReadLease => moves.push(Move::Serve(i, Fate::Answered)),
            Ask::ReadToken if awaited => moves.push(Move::Serve(i, Fate::Answered)),
            // Together with the write that follows.
            Ask::ReadToken
            | Ask::PutLease(..)
            | Ask::PutToken(..)
            | Ask::DeleteToken(_)
            | Ask::DeleteLease(_) => {
                moves.extend(self.fates_of_a_write().map(|fate| Move::Serve(i, fate)));
            }
        }
    }

    fn fates_of_a_write(&self) -> impl Iterator<Item = Fate> + use<> {
        let faulty = self.faults > 0;
        let faults = [Fate::Refused, Fate::ReplyLost, Fate::ConflictWithItself];
        let late = (faulty && self.late.is_none()).then_some(Fate::Late);
        std::iter::once(Fate::Answered)
            .chain(faults.into_iter().filter(move |_| faulty))
            .chain(late)
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
            Move::Crash(i) => {
                self.spend_fault();
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

    fn spend_fault(&mut self) {
        self.faults -= 1;
        self.watch.faults += 1;
    }

    fn pause(&mut self, i: usize) {
        let now = self.now;
        let replica = self.replica(i);
        replica.paused = Some(now);
        replica.deeds.stalled = true;
    }

    pub(super) fn serve(&mut self, setup: &Setup, i: usize, fate: Fate) {
        let Doing::Asked(ask) = self.replicas[i].doing.clone() else {
            return;
        };
        if ask == Ask::ReadToken && self.replicas[i].may_linger() {
            let read = Event::TokenRead(Ok(self.read_token(setup, i)));
            self.step(setup, i, read);
            if matches!(
                self.replicas[i].doing,
                Doing::Asked(Ask::PutToken(..) | Ask::DeleteToken(_))
            ) {
                self.serve(setup, i, fate);
            }
            return;
        }
        if fate != Fate::Answered {
            self.spend_fault();
        }
        let event = match &ask {
            Ask::ReadToken => Event::TokenRead(Ok(self.read_token(setup, i))),
            Ask::ReadLease => Event::LeaseRead(Ok(self.bucket.read_lease())),
            Ask::Refresh(token) => Event::Refreshed(self.refresh(setup, i, token, fate)),
            Ask::PutLease(..) => Event::LeasePut(self.put(setup, i, &ask, fate)),
            Ask::PutToken(..) | Ask::DeleteToken(_) | Ask::DeleteLease(_) => {
                Event::TokenPut(self.put(setup, i, &ask, fate))
            }
        };
        if fate == Fate::Slow {
            self.replica(i).doing = Doing::Answered(event);
            self.pause(i);
        } else {
            self.step(setup, i, event);
        }
    }

    fn resume(&mut self, setup: &Setup, i: usize) {
        let replica = self.replica(i);
        replica.paused = None;
        if let Doing::Answered(event) = replica.doing.clone() {
            self.step(setup, i, event);
        }
    }

    fn put(
        &mut self,
        setup: &Setup,
        i: usize,
        ask: &Ask,
        fate: Fate,
    ) -> Result<Generation, PutFault> {
        let unknown = || PutFault::Unknown("no answer".into());
        let sent_under =
            if i < setup.replicas { None } else { self.replicas[i].deeds.sent_under() };
        match fate {
            Fate::Refused => return Err(unknown()),
            Fate::Late => {
                self.late = Some(Late { by: i, ask: ask.clone(), sent_under });
                return Err(unknown());
            }
            _ => {}
        }
        let written = self.write(setup, i, ask, sent_under).ok_or(PutFault::Conflict);
        match fate {
            Fate::ReplyLost => Err(unknown()),
            Fate::ConflictWithItself => Err(PutFault::Conflict),
            _ => {
                if let (Ask::PutLease(_, expected), Err(_)) = (ask, &written)
                    && self.replicas[i].memory.hint_used == Some(*expected)
                {
                    let again = self.replicas[i].refused == Some(*expected);
                    self.replica(i).refused = Some(*expected);
                    if again {
                        // The hint is used once: each use in vain is a write.
                        self.watch.breaks(7);
                    }
                }
                written
            }
        }
    }

    /// A conditional write arrives.
    fn write(
        &mut self,
        setup: &Setup,
        i: usize,
        ask: &Ask,
        sent_under: Option<Sent>,
    ) -> Option<Generation> {
        let now = self.now;
        let by_replica = i < setup.replicas;
        match ask {
            Ask::PutLease(_, _)
                if setup.is(Mutant::NoLease)
                    || (setup.is(Mutant::ResealWithoutLease) && !by_replica) =>
            {
                Some(Generation(99))
            }
            Ask::PutLease(lease, expected) => {
                let free = setup.is(Mutant::LeaseWithoutPrecondition);
                if !free && self.bucket.lease_generation() != *expected {
                    return None;
                }
                self.watch.lease_written(lease.guards, now);
                let deeds = &mut self.replica(i).deeds;
                if let Some(series) = deeds.series.as_mut().filter(|s| s.attempt == lease.attempt) {
                    series.applied = true;
                }
                Some(self.bucket.write_lease(lease.clone()))
            }
            Ask::PutToken(record, expected) => {
                let free = match (by_replica, sent_under) {
                    (true, _) if record.is_active() => setup.is(Mutant::CommitWithoutPrecondition),
                    (true, _) => setup.is(Mutant::RevokeWithoutReading),
                    (false, Some(_)) => setup.is(Mutant::ResealWithoutPrecondition),
                    (false, None) => setup.is(Mutant::LoginWithoutPrecondition),
                };
                if !free && self.bucket.token_generation() != *expected {
                    return None;
                }
                let before = self.bucket.token.as_ref().map(|(r, _)| Arc::clone(r));
                let before = before.as_deref();
                match (by_replica, sent_under) {
                    (true, _) => self.watch.written(record, before, &self.provider, now),
                    (false, Some(sent)) => {
                        let replaced = self.bucket.token_generation();
                        self.watch.resealed(record, before, replaced, sent, now);
                    }
                    (false, None) => self.watch.login(record, before),
                }
                Some(self.bucket.write_token((**record).clone()))
            }
            Ask::DeleteToken(expected) => {
                self.remove_token(setup, *expected).map(|()| Generation::ABSENT)
            }
            Ask::DeleteLease(expected) => {
                self.remove_lease(setup, *expected).map(|()| Generation::ABSENT)
            }
            Ask::ReadToken | Ask::ReadLease | Ask::Refresh(_) => None,
        }
    }

    /// A record that the refresh protocol did not ask for is stored in its name.
    pub(super) fn write_record(&mut self, record: &TokenRecord) -> Generation {
        let before = self.bucket.token.as_ref().map(|(r, _)| Arc::clone(r));
        self.watch.written(record, before.as_deref(), &self.provider, self.now);
        self.bucket.write_token(record.clone())
    }

    fn refresh(
        &mut self,
        setup: &Setup,
        i: usize,
        token: &Secret,
        fate: Fate,
    ) -> Result<shared::ports::Answer, EndpointError> {
        if fate == Fate::Refused {
            return Err(EndpointError::Transient("503".into()));
        }
        let answer = self.provider.refresh(token, setup);
        let lost = fate == Fate::ReplyLost;
        if let Some(series) = self.replicas[i].deeds.series.clone() {
            self.watch.spent(&series, answer.as_ref().ok(), lost, self.now);
        }
        if lost { Err(EndpointError::Ambiguous("no answer".into())) } else { answer }
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
                _ => {}
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
