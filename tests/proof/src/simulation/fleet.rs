//! The fleet and what befalls it: crashes, pauses, outages, people; and in the
//! end rest, when everything must have come right.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use shared::ports::Randomness;
use shared::{Error, TokenStore, UserId};

use super::callers::{Caller, SLOTS, slot};
use super::dice::Dice;
use super::ports::{BucketPort, EndpointPort};
use super::process::{Process, ProcessClock, Role, epoch};
use super::world::SharedWorld;

#[derive(Debug, Clone)]
struct Replica {
    process: Arc<Process>,
    store: TokenStore,
}

#[derive(Debug)]
pub(super) struct Fleet {
    world: SharedWorld,
    users: Vec<UserId>,
    /// One per place; a crashed one is replaced.
    replicas: Vec<Replica>,
    web: Replica,
    started: usize,
    slots: u64,
    dice: Dice,
}

/// The chaos acts in a millisecond of its own, too.
const CHAOS: u64 = SLOTS - 1;

impl Fleet {
    pub(super) fn new(world: SharedWorld) -> Self {
        let scenario = &world.scenario;
        let dice = Dice::new(scenario.seed, "fleet");
        let users =
            (0..scenario.users).map(|i| UserId::new(format!("u{i}")).expect("a user ID")).collect();
        let web = replica(&world, "web", 0, Role::Web, 0, 0);
        Self { users, replicas: Vec::new(), web, started: 0, slots: 0, dice, world }
    }

    fn start(&mut self) -> Replica {
        self.started += 1;
        let (mut off_by, mut drift) = (0, 0);
        if self.world.scenario.bad_clocks {
            off_by = i64::try_from(self.dice.between(0, 1_200_000)).unwrap_or(0) - 600_000;
            drift = i64::try_from(self.dice.between(0, 20_000)).unwrap_or(0) - 10_000;
        }
        let name = format!("r{}", self.started);
        let started = replica(&self.world, &name, self.started, Role::Worker, off_by, drift);
        for _ in 0..self.world.scenario.callers {
            let caller = Caller {
                world: Arc::clone(&self.world),
                process: Arc::clone(&started.process),
                store: started.store.clone(),
                users: self.users.clone(),
                slot: self.slots % CHAOS,
            };
            self.slots += 1;
            tokio::spawn(caller.run());
        }
        started
    }

    pub(super) async fn run(mut self) {
        let users = self.users.clone();
        for user in &users {
            self.login(user, false).await;
        }
        for _ in 0..self.world.scenario.replicas {
            let replica = self.start();
            self.replicas.push(replica);
        }
        let end = self.world.scenario.length * 1000;
        while self.world.now() < end {
            let pause = self.dice.between(1_000, end / 30);
            slot(&self.world, CHAOS, Duration::from_millis(pause)).await;
            self.disturb().await;
        }
        self.rest().await;
    }

    /// Somebody restarts what has crashed.
    fn replace_the_dead(&mut self) {
        for place in 0..self.replicas.len() {
            if self.replicas[place].process.is_dead() {
                self.replicas[place] = self.start();
            }
        }
    }

    async fn disturb(&mut self) {
        self.replace_the_dead();
        let scenario = self.world.scenario.clone();
        let place = usize::try_from(self.dice.next() % scenario.replicas).unwrap_or(0);
        let user =
            self.users[usize::try_from(self.dice.next() % scenario.users).unwrap_or(0)].clone();
        match self.dice.between(0, 9) {
            0..=1 if scenario.crashes => {
                self.replicas[place].process.crash();
                self.world.stumbles(&self.replicas[place].process, Duration::ZERO);
                self.world.note(&format!("crash of {}", self.replicas[place].process.name));
                self.world.with(|s| s.totals.crashes += 1);
                self.replicas[place] = self.start();
            }
            2..=3 if scenario.freezes => {
                let pause = Duration::from_millis(self.dice.between(500, 70_000));
                let process = &self.replicas[place].process;
                self.world.note(&format!("{} stands still for {pause:?}", process.name));
                process.freeze(pause);
                self.world.stumbles(process, pause);
            }
            4 if scenario.outages => self.world.with(|s| s.bucket_down = !s.bucket_down),
            5 if scenario.outages => self.world.with(|s| s.endpoint_down = !s.endpoint_down),
            6 if scenario.outages => self.world.with(|s| {
                s.bucket_down = false;
                s.endpoint_down = false;
            }),
            7 if scenario.people => self.login(&user, true).await,
            8 if scenario.people && self.dice.chance(300) => {
                let deleted = self.web.store.delete(&user).await;
                self.world.note(&format!("deleted {}: {deleted:?}", user.as_str()));
            }
            9 if scenario.people && self.dice.chance(200) => {
                self.world.note(&format!("{} withdraws consent", user.as_str()));
                self.world.with(|s| s.provider.withdraw(user.as_str()));
            }
            _ => {}
        }
    }

    /// A login with a new refresh token; sometimes one without, which must
    /// change nothing, and sometimes one whose access token is not passed on.
    async fn login(&mut self, user: &UserId, varied: bool) {
        let elapsed = Duration::from_millis(self.world.now());
        let now = epoch().checked_add(elapsed).expect("a short run");
        let mut grant = self.world.with(|s| s.provider.consent(user.as_str(), now));
        let kind = if varied { self.dice.between(0, 3) } else { 3 };
        if kind == 0 {
            grant.refresh_token = None;
        } else if kind == 1 {
            grant.access_token = None;
        }
        let outcome = if kind == 2 {
            self.web.store.import(user, grant, true).await.map(|o| format!("{o:?}"))
        } else {
            self.web.store.set_credentials(user, grant).await.map(|o| format!("{o:?}"))
        };
        self.world.note(&format!("login {kind} of {}: {outcome:?}", user.as_str()));
    }

    /// Heals the world, waits for what is still on its way, and looks.
    async fn rest(&mut self) {
        self.world.note("healed");
        self.world.with(|s| {
            s.healed = true;
            s.bucket_down = false;
            s.endpoint_down = false;
        });
        self.replace_the_dead();
        // The longest stall and the longest pause end in this time, and so do a
        // standing lease and the breaker's pause.
        slot(&self.world, CHAOS, Duration::from_secs(110)).await;
        for user in self.users.clone() {
            self.converges(&user).await;
        }
        for replica in self.replicas.clone() {
            let limit = replica.store.policy().longest_flight();
            if !replica.store.shutdown(limit).await {
                let text = format!("{} has flights that do not end", replica.process.name);
                self.world.with(|s| s.ledger.violate("I6 progress", &text));
            }
        }
        let alive: BTreeSet<_> = self.replicas.iter().map(|r| r.process.index).collect();
        let rotating = self.world.scenario.rotating;
        let calm = self.world.scenario.is_calm();
        self.world.with(|s| {
            s.ledger.at_rest(&alive, rotating);
            s.totals.refreshes = s.provider.calls;
            s.totals.reuse = s.provider.reuse;
            s.totals.windows = s.ledger.windows.values().sum();
            if calm && s.totals.windows + s.totals.reuse > 0 {
                let text = "more than one refresh of an expiry, and nothing went wrong";
                s.ledger.violate("I1 single refresh", text);
            }
        });
        self.world.note("at rest");
    }

    /// Every replica has a token of `user` within the time of I6, or says why
    /// the user must consent, and that is so.
    async fn converges(&mut self, user: &UserId) {
        // One standing lease and one pause of the breaker.
        let limit = 2 * self.web.store.policy().lease_ttl + Duration::from_secs(10);
        for replica in self.replicas.clone() {
            let caller = Caller {
                world: Arc::clone(&self.world),
                process: Arc::clone(&replica.process),
                store: replica.store.clone(),
                users: Vec::new(),
                slot: CHAOS,
            };
            let began = self.world.now();
            let outcome = loop {
                match caller.call(user).await {
                    Err(Error::Busy(_) | Error::Unavailable(_) | Error::Later { .. })
                        if u128::from(self.world.now() - began) < limit.as_millis() => {}
                    other => break other,
                }
            };
            self.judge(&replica, user, outcome.as_ref().err());
        }
    }

    fn judge(&self, replica: &Replica, user: &UserId, error: Option<&Error>) {
        let record = self.world.record(user);
        let text = |what: &str| format!("{} of {}: {what}", replica.process.name, user.as_str());
        self.world.with(|s| match (error, &record) {
            (None, _) | (Some(Error::NeedsConsent(_)), None) => {}
            (Some(Error::NeedsConsent(_)), Some(record)) => {
                let token = record.refresh_token.expose();
                let excused = s.ledger.windows.get(user.as_str()).is_some_and(|n| *n > 0);
                if record.blocked.is_some() {
                    // The provider refused this user, and is asked again in a while.
                } else if record.is_active() {
                    let text = text("needs consent though the record is active");
                    s.ledger.violate("I6 progress", &text);
                } else if s.provider.accepts(token) {
                    let text = text("revoked though the provider accepts it");
                    s.ledger.violate("I3 no destructive loser", &text);
                } else if !s.provider.was_withdrawn(token) && !excused {
                    s.ledger.violate("I2 no lost grant", &text("lost without any excuse"));
                }
            }
            (Some(error), _) => {
                s.ledger.violate("I6 progress", &text(&error.to_string()));
            }
        });
    }
}

fn replica(
    world: &SharedWorld,
    name: &str,
    index: usize,
    role: Role,
    off_by: i64,
    drift: i64,
) -> Replica {
    let process = Arc::new(Process::new(name.to_owned(), index, role, world.start, off_by, drift));
    let (port, shared) = (Arc::clone(&process), Arc::clone(world));
    let bucket = BucketPort { world: Arc::clone(&shared), process: Arc::clone(&port) };
    let endpoint = EndpointPort { world: shared, process: port };
    let seed = Dice::new(world.scenario.seed, name).next();
    let store = TokenStore::builder(Arc::new(bucket), Arc::new(endpoint))
        .policy(world.scenario.policy())
        .clock(Arc::new(ProcessClock(Arc::clone(&process))))
        .randomness(Arc::new(Randomness::seeded(seed)))
        .holder(name)
        .cached_users(16)
        .build()
        .expect("the policy works");
    Replica { process, store }
}
