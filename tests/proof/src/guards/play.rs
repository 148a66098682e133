//! One run: replicas that get bursts of jobs, people who consent again, and a last look.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shared::ports::Randomness;
use shared::{Error, TokenStore, UserId};
use tokio::time::Instant;
use unguarded::guards::{Failure, Grant, Site as _};

use super::Way;
use super::ports::Port;
use super::world::World;
use crate::simulation::dice::Dice;
use crate::simulation::process::{Process, ProcessClock, Role, epoch};

const REPLICAS: usize = 4;
pub(super) const USERS: usize = 3;
/// How long things go wrong, in milliseconds.
pub(super) const LENGTH: u64 = 2 * 3600 * 1000;
/// Everything that is under way then has ended after this time.
const REST: Duration = Duration::from_secs(300);
/// How long a person takes to consent again.
const CONSENTS_AFTER: Duration = Duration::from_secs(120);
/// A job that failed is tried again after this, so many times.
const RETRY: Duration = Duration::from_secs(3);
const TRIES: usize = 5;

/// A process and how it gets a user's token.
#[derive(Debug)]
struct Replica {
    port: Port,
    /// Fleet's store; the models have none.
    store: Option<TokenStore>,
    /// One job of a user at a time.
    turns: BTreeMap<String, tokio::sync::Mutex<()>>,
}

/// Why a job got no token.
enum Refusal {
    NeedsConsent,
    Later,
}

impl Replica {
    async fn token(&self, way: Way, user: &str) -> Result<(), Refusal> {
        match (way, &self.store) {
            (Way::Model(guard), _) => match guard.grant(&self.port, user).await {
                Ok(_) => Ok(()),
                Err(Failure::InvalidGrant) => Err(Refusal::NeedsConsent),
                Err(Failure::Unavailable | Failure::Conflict) => Err(Refusal::Later),
            },
            (Way::Fleet, Some(store)) => match store.get_credentials(&user_id(user)).await {
                Ok(_) => Ok(()),
                Err(Error::NeedsConsent(_)) => Err(Refusal::NeedsConsent),
                Err(_) => Err(Refusal::Later),
            },
            (Way::Fleet, None) => unreachable!("Fleet's replicas have a store"),
        }
    }
}

fn user_id(user: &str) -> UserId {
    UserId::new(user).expect("a user ID")
}

#[derive(Debug)]
pub(super) struct Play {
    way: Way,
    world: Arc<World>,
    users: Vec<String>,
    /// One per place; a dead one is replaced when the next job comes.
    replicas: Mutex<Vec<Arc<Replica>>>,
    started: Mutex<usize>,
    web: Arc<Replica>,
}

impl Play {
    pub(super) fn new(way: Way, world: Arc<World>) -> Self {
        let users: Vec<_> = (0..USERS).map(|number| format!("u{number}")).collect();
        let web = Arc::new(replica(way, &world, "web", 0, Role::Web, &users));
        let replicas = Mutex::new(Vec::new());
        Self { way, world, users, replicas, started: Mutex::new(0), web }
    }

    pub(super) async fn run(self) {
        let play = Arc::new(self);
        for user in &play.users {
            play.consents(user).await;
        }
        let mut going: Vec<_> =
            (0..USERS).map(|user| tokio::spawn(Arc::clone(&play).bursts(user))).collect();
        going.push(tokio::spawn(Arc::clone(&play).people()));
        until(&play.world, LENGTH).await;
        play.world.with(|s| s.healed = true);
        tokio::time::sleep_until(Instant::now() + REST).await;
        going.iter().for_each(tokio::task::JoinHandle::abort);
        play.world.with(|s| {
            for user in &play.users {
                s.takes_stock(user);
            }
            s.figures.users = USERS;
        });
    }

    fn start(&self) -> Arc<Replica> {
        let mut started = self.started.lock().unwrap_or_else(PoisonError::into_inner);
        *started += 1;
        let name = format!("r{started}");
        Arc::new(replica(self.way, &self.world, &name, *started, Role::Worker, &self.users))
    }

    fn at(&self, place: usize) -> Arc<Replica> {
        let mut replicas = self.replicas.lock().unwrap_or_else(PoisonError::into_inner);
        while replicas.len() <= place {
            replicas.push(self.start());
        }
        if replicas[place].port.process.is_dead() {
            replicas[place] = self.start();
        }
        Arc::clone(&replicas[place])
    }

    /// Jobs of a user come to all replicas at once, with some more behind them, after pauses
    /// in which the token may expire.
    async fn bursts(self: Arc<Self>, user: usize) {
        let mut dice = Dice::new(self.world.seed, &format!("bursts {user}"));
        let mut at = 0;
        while at < LENGTH {
            at += dice.between(100_000, 900_000);
            for place in 0..REPLICAS {
                for latest in [400, 2_000, 60_000] {
                    let due = at + dice.between(0, latest);
                    tokio::spawn(Arc::clone(&self).job(place, user, due));
                }
            }
            until(&self.world, at).await;
        }
    }

    async fn job(self: Arc<Self>, place: usize, user: usize, due: u64) {
        until(&self.world, due).await;
        let replica = self.at(place);
        let user = &self.users[user];
        let _turn = replica.turns[user].lock().await;
        for _ in 0..TRIES {
            replica.port.process.runs().await;
            match replica.token(self.way, user).await {
                Ok(()) => return,
                Err(Refusal::NeedsConsent) => {
                    self.world.with(|s| s.asked.insert(user.clone()));
                    return;
                }
                Err(Refusal::Later) => replica.port.sleep(RETRY).await,
            }
        }
    }

    /// Who is told to consent again does so, unless that has settled itself by then.
    async fn people(self: Arc<Self>) {
        loop {
            tokio::time::sleep_until(Instant::now() + CONSENTS_AFTER).await;
            let asked = self.world.with(|s| std::mem::take(&mut s.asked));
            for user in asked {
                if self.world.with(|s| s.takes_stock(&user)) {
                    self.consents(&user).await;
                }
            }
        }
    }

    /// A person consents, and the pages store what comes of it.
    async fn consents(&self, user: &str) {
        let elapsed = Duration::from_millis(self.world.now());
        let grant = self.world.with(|s| s.provider.consent(user, epoch() + elapsed));
        let token = grant.refresh_token.as_ref().map(|token| token.expose().to_owned());
        let (token, expires_at) = (token.unwrap_or_default(), grant.expires_at);
        self.world.with(|s| s.consented(user, &token));
        if let Some(store) = &self.web.store {
            store.set_credentials(&user_id(user), grant).await.expect("the pages are spared");
        } else {
            let expires_at = expires_at.unwrap_or_else(epoch);
            let grant = Grant { refresh_token: token, expires_at };
            self.web.port.write(user, &grant, None).await.expect("the pages are spared");
        }
    }
}

/// Waits until this time of the run.
async fn until(world: &World, millis: u64) {
    tokio::time::sleep_until(world.start + Duration::from_millis(millis)).await;
}

fn replica(
    way: Way,
    world: &Arc<World>,
    name: &str,
    index: usize,
    role: Role,
    users: &[String],
) -> Replica {
    let mut dice = Dice::new(world.seed, name);
    let off_by = if role == Role::Web { 0 } else { world.trouble.clock_error(&mut dice) };
    let process = Process::new(name.to_owned(), index, role, world.start, off_by, 0);
    let port = Port { world: Arc::clone(world), process: Arc::new(process) };
    let store = (way == Way::Fleet).then(|| {
        TokenStore::builder(Arc::new(port.clone()), Arc::new(port.clone()))
            .clock(Arc::new(ProcessClock(Arc::clone(&port.process))))
            .randomness(Arc::new(Randomness::seeded(dice.next())))
            .holder(name)
            .cached_users(16)
            .build()
            .expect("the policy works")
    });
    let turns = users.iter().map(|user| (user.clone(), tokio::sync::Mutex::default())).collect();
    Replica { port, store, turns }
}
