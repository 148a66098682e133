//! The world that all processes share: a bucket with generations, the provider,
//! a network that delays and loses, and the trace of what happened.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use shared::UserId;
use shared::ports::{Answer, BucketError, EndpointError, Generation, Object};
use shared::protocol::SeenLease;
use shared::record::{RecordCodec, TokenRecord};
use tokio::time::Instant;

use super::dice::Dice;
use super::ledger::{Ledger, Series};
use super::process::{Process, Role};
use super::provider::Provider;
use super::scenario::Scenario;

/// What befalls one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is carried out and answered.
    Answered,
    /// It is not carried out, and says so (503 of the endpoint) or not.
    Refused,
    /// It is carried out and the reply is lost.
    ReplyLost,
    /// The client's own retry: carried out, and the second try is a conflict.
    ConflictWithItself,
    /// The client gives up; the request arrives this long after it was sent. The endpoint
    /// answers that late.
    Stalled(Duration),
    /// Of the endpoint: carried out, and its answer comes this much later.
    AnsweredLate(Duration),
    /// Of the endpoint: the connection breaks at once, and the request is carried out this
    /// much later.
    Orphaned(Duration),
    /// Of the endpoint: a gateway gives up after this long; the origin carries it out then.
    GatewayTimeout(Duration),
    /// Of the endpoint: not carried out, and it asks to wait this long.
    Told(Duration),
    /// Of the endpoint: this user is refused with this code.
    Denied(&'static str),
    /// Of the endpoint: no connection.
    NotReached,
}

/// One request's way through the network.
#[derive(Debug, Clone, Copy)]
pub(super) struct Way {
    pub(super) there: Duration,
    pub(super) back: Duration,
    pub(super) fate: Fate,
    /// What befalls the sender between the effect and its reply.
    pub(super) blow: Option<Blow>,
}

/// What befalls a process at the worst moment: when what it asked for has
/// happened and it does not know yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blow {
    Freeze(Duration),
    Crash,
}

/// Requests by kind, and what they came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Refreshes that reached the provider.
    pub refreshes: u64,
    /// Of these, with a spent refresh token.
    pub reuse: u64,
    /// Second spends that a late holder or a lost answer excuses.
    pub windows: u64,
    /// Credentials that callers got.
    pub credentials: u64,
    /// Calls that ended in an error.
    pub errors: u64,
    /// Writes that came less than a second after the last one of the same name.
    pub throttled: u64,
    /// Crashes of replicas.
    pub crashes: u64,
}

impl Totals {
    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        self.refreshes += other.refreshes;
        self.reuse += other.reuse;
        self.windows += other.windows;
        self.credentials += other.credentials;
        self.errors += other.errors;
        self.throttled += other.throttled;
        self.crashes += other.crashes;
    }
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) scenario: Scenario,
    pub(super) start: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    objects: BTreeMap<String, (Object, u64)>,
    last_generation: i64,
    pub(super) provider: Provider,
    pub(super) ledger: Ledger,
    dice: BTreeMap<String, Dice>,
    pub(super) bucket_down: bool,
    pub(super) endpoint_down: bool,
    /// From now on the network is sound and swift.
    pub(super) healed: bool,
    pub(super) totals: Totals,
    pub(super) trace: Vec<String>,
}

/// The bound that the adapter sets on one bucket request.
pub(super) const BUCKET_TIMEOUT: Duration = Duration::from_secs(10);

impl World {
    pub(super) fn new(scenario: Scenario) -> Self {
        let lifetime = Duration::from_secs(scenario.lifetime);
        let provider = Provider::new(scenario.rotating, scenario.family_revocation, lifetime);
        Self {
            scenario,
            start: Instant::now(),
            state: Mutex::new(State {
                objects: BTreeMap::new(),
                last_generation: 0,
                provider,
                ledger: Ledger::default(),
                dice: BTreeMap::new(),
                bucket_down: false,
                endpoint_down: false,
                healed: false,
                totals: Totals::default(),
                trace: Vec::new(),
            }),
        }
    }

    pub(super) fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Milliseconds since the start.
    pub(super) fn now(&self) -> u64 {
        u64::try_from((Instant::now() - self.start).as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn note(&self, text: &str) {
        let now = self.now();
        self.with(|s| s.trace.push(format!("{now:>9} {text}")));
    }

    /// Draws a request's way. Requests of one process for one name follow each
    /// other, so their stream does not depend on anybody else.
    pub(super) fn way(&self, process: &Process, name: &str, endpoint: bool) -> Way {
        let (seed, faults) = (self.scenario.seed, self.scenario.request_faults);
        let (freezes, crashes) = (self.scenario.freezes, self.scenario.crashes);
        self.with(|s| {
            let healed = s.healed;
            let purpose = format!("{} {name}", process.name);
            let dice = s.dice.entry(purpose).or_insert_with_key(|purpose| Dice::new(seed, purpose));
            let slow = if endpoint { 400 } else { 60 };
            let there = Duration::from_millis(dice.between(2, slow));
            let back = Duration::from_millis(dice.between(2, slow));
            let stall = Duration::from_millis(dice.between(5_000, 70_000));
            let of_bucket =
                [Fate::Refused, Fate::ReplyLost, Fate::ConflictWithItself, Fate::Stalled(stall)];
            let of_endpoint = [
                Fate::Refused,
                Fate::ReplyLost,
                Fate::Stalled(stall),
                Fate::AnsweredLate(stall),
                Fate::Orphaned(stall / 10),
                Fate::GatewayTimeout(stall / 2),
                Fate::Told(stall),
                Fate::Denied(dice.pick(&["admin_policy_enforced", "invalid_client", "odd"])),
                Fate::NotReached,
            ];
            let drawn = if endpoint { dice.pick(&of_endpoint) } else { dice.pick(&of_bucket) };
            let fate = if dice.chance(faults) && !healed { drawn } else { Fate::Answered };
            // Most requests are reads of the token; those of a refresh are few.
            let often = if endpoint { 200 } else { 15 };
            let pause = Duration::from_millis(dice.between(1_000, 100_000));
            let (freeze, crash) = (dice.chance(often), dice.chance(often / 4));
            let blow = if healed || process.role == Role::Web {
                None
            } else if freezes && freeze {
                Some(Blow::Freeze(pause))
            } else if crashes && crash {
                Some(Blow::Crash)
            } else {
                None
            };
            Way { there, back, fate, blow }
        })
    }

    /// `process` stands still for `pause`, dies, or meets a fault of the bucket.
    pub(super) fn stumbles(&self, process: &Process, pause: Duration) {
        let until = self.now() + u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self.with(|s| s.ledger.stumbles(process.index, until));
    }

    /// A reply is on its way to `process`; something may befall it first.
    pub(super) async fn reply(&self, process: &Process, way: Way) {
        match way.blow {
            Some(Blow::Freeze(pause)) => {
                self.note(&format!("{} stands still for {pause:?}", process.name));
                process.freeze(pause);
                self.stumbles(process, pause);
            }
            // What is under way when the world heals kills nobody who would not be replaced.
            Some(Blow::Crash) if !process.is_dead() && !self.with(|s| s.healed) => {
                self.note(&format!("crash of {}", process.name));
                self.with(|s| s.totals.crashes += 1);
                process.crash();
                self.stumbles(process, Duration::ZERO);
            }
            _ => {}
        }
        tokio::time::sleep_until(Instant::now() + way.back).await;
        process.runs().await;
    }

    pub(super) fn read(&self, name: &str) -> Option<Object> {
        self.with(|s| s.objects.get(name).map(|(object, _)| object.clone()))
    }

    pub(super) fn names(&self, prefix: &str) -> Vec<(String, Generation)> {
        self.with(|s| {
            let names = s.objects.iter().filter(|(name, _)| name.starts_with(prefix));
            names.map(|(name, (object, _))| (name.clone(), object.generation)).collect()
        })
    }

    /// A write arrives.
    pub(super) fn write(
        &self,
        process: &Process,
        name: &str,
        content: &Bytes,
        expected: Generation,
    ) -> Result<Generation, BucketError> {
        let now = self.now();
        let outcome = self.with(|s| s.write(process, name, content, expected, now));
        let text = match &outcome {
            Ok(generation) => format!("{generation}"),
            Err(error) => error.to_string(),
        };
        self.note(&format!("{} put {name} on {expected}: {text}", process.name));
        outcome
    }

    pub(super) fn delete(
        &self,
        process: &Process,
        name: &str,
        expected: Generation,
    ) -> Result<bool, BucketError> {
        let outcome = self.with(|s| {
            let Some((object, _)) = s.objects.get(name) else {
                return Ok(false);
            };
            if object.generation != expected {
                return Err(BucketError::PreconditionFailed);
            }
            s.objects.remove(name);
            if let Some(user) = UserId::of_token_object(name) {
                s.ledger.token_deleted(user.as_str(), expected);
            } else {
                s.ledger.lease_deleted(&user_of(name));
            }
            Ok(true)
        });
        self.note(&format!("{} delete {name} at {expected}: {outcome:?}", process.name));
        outcome
    }

    /// A refresh arrives at the endpoint.
    pub(super) fn refresh(
        &self,
        process: &Process,
        refresh_token: &str,
        series: &Series,
        asked_at: u64,
        answer_lost: bool,
    ) -> Result<Answer, EndpointError> {
        let now = self.now();
        let outcome = self.with(|s| {
            let user = s.provider.place(refresh_token).map(|p| p.user.clone()).unwrap_or_default();
            let outcome = s.provider.refresh(refresh_token);
            let answer = outcome.as_ref().ok();
            s.ledger.spent(process, &user, series, asked_at, answer, answer_lost, now);
            outcome
        });
        let text = match &outcome {
            Ok(Answer { access_token: Some(token), .. }) => token.expose().to_owned(),
            Ok(_) => "no access token".to_owned(),
            Err(error) => error.to_string(),
        };
        self.note(&format!("{} refresh {refresh_token}: {text}", process.name));
        outcome
    }

    /// The record that is stored for `user`.
    pub(super) fn record(&self, user: &UserId) -> Option<TokenRecord> {
        let object = self.read(&user.token_object())?;
        RecordCodec::default().decode(user, &object.content).ok()
    }
}

impl State {
    fn write(
        &mut self,
        process: &Process,
        name: &str,
        content: &Bytes,
        expected: Generation,
        now: u64,
    ) -> Result<Generation, BucketError> {
        let before = self.objects.get(name);
        if let Some((_, at)) = before
            && now < at + 1000
        {
            self.totals.throttled += 1;
            self.ledger.stumbles(process.index, now);
            return Err(BucketError::Throttled);
        }
        if before.map_or(Generation::ABSENT, |(o, _)| o.generation) != expected {
            return Err(BucketError::PreconditionFailed);
        }
        self.last_generation += 1;
        let generation = Generation(self.last_generation);
        if let Some(user) = UserId::of_token_object(name) {
            let before =
                before.and_then(|(o, _)| RecordCodec::default().decode(&user, &o.content).ok());
            let Ok(record) = RecordCodec::default().decode(&user, content) else {
                self.ledger.violate("I3 no destructive loser", &format!("{name}: not a record"));
                return Ok(generation);
            };
            let (ledger, provider) = (&mut self.ledger, &self.provider);
            ledger.token_written(process, &record, before.as_ref(), generation, provider, now);
        } else if let Some(lease) = SeenLease::decode(content, generation).body {
            self.ledger.lease_applied(&user_of(name), &lease, now);
        }
        let object = Object { content: content.clone(), generation };
        self.objects.insert(name.to_owned(), (object, now));
        Ok(generation)
    }
}

/// The user of a lease's name; the simulation's users need no encoding.
pub(super) fn user_of(name: &str) -> String {
    name.trim_start_matches("leases/").trim_end_matches(".json").to_owned()
}

/// Shared by every port and actor.
pub(super) type SharedWorld = Arc<World>;
