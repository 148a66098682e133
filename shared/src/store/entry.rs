//! What one replica keeps in memory about its users.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quick_cache::sync::Cache;
use quick_cache::{Lifecycle, UnitWeighter};
use tokio::sync::watch;

use crate::error::Error;
use crate::policy::Policy;
use crate::ports::Monotonic;
use crate::protocol::Memory;
use crate::schedule::Schedule;
use crate::user_id::UserId;

use super::served::Served;

/// The users in memory. Those with a flight under way are not evicted.
pub(super) struct Entries(Cache<UserId, Arc<Entry>, UnitWeighter, ahash::RandomState, PinFlights>);

/// One user's entry. Its lock is never held across an await.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) user: UserId,
    state: Mutex<EntryState>,
    /// A flight is under way: the cache must not evict this entry. Kept beside
    /// the lock, since the cache asks while it holds locks of its own.
    flying: AtomicBool,
}

#[derive(Debug)]
pub(super) struct EntryState {
    /// What callers are served from.
    pub(super) served: Option<Arc<Served>>,
    pub(super) memory: Memory,
    pub(super) flight: Option<Running>,
    /// When a token that is due may be looked at again in the background.
    pub(super) next_look: Option<Monotonic>,
    looks: Option<Box<Schedule>>,
}

/// A flight that callers can join.
#[derive(Debug, Clone)]
pub(super) struct Running {
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) foreground: bool,
}

/// How far a flight has come.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// No token yet.
    Flying,
    /// A new token is served while its commit is retried.
    Serving,
    /// Over.
    Done(Result<Arc<Served>, Error>),
    /// Over: the held token is usable and another replica is renewing it.
    HeldElsewhere,
}

impl EntryState {
    /// Puts the next look off, longer each time; `unit` in `0.0..1.0` is its jitter.
    pub(super) fn put_look_off(&mut self, policy: &Policy, now: Monotonic, unit: f64) {
        let looks = self
            .looks
            .get_or_insert_with(|| Box::new(Schedule::new(policy.look_min, policy.lease_ttl)));
        self.next_look = Some(now.plus(looks.next(unit)));
    }

    /// There is news: the next look may come at once.
    pub(super) fn look_at_will(&mut self) {
        self.looks = None;
        self.next_look = None;
    }

    /// Whether a token that is due may be looked at in the background now.
    pub(super) fn look_is_due(&self, now: Monotonic) -> bool {
        self.flight.is_none() && self.next_look.is_none_or(|at| at <= now)
    }
}

impl Entry {
    fn new(user: UserId) -> Self {
        Self {
            user,
            state: Mutex::new(EntryState {
                served: None,
                memory: Memory::default(),
                flight: None,
                next_look: None,
                looks: None,
            }),
            flying: AtomicBool::new(false),
        }
    }

    /// A panic under the lock leaves plain values behind, each valid.
    pub(super) fn lock(&self) -> MutexGuard<'_, EntryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_flying(&self) -> bool {
        self.flying.load(Ordering::Acquire)
    }

    pub(super) fn set_flying(&self, flying: bool) {
        self.flying.store(flying, Ordering::Release);
    }
}

impl Entries {
    /// Room for this many users and, beyond them, those with a flight under way. `hasher`
    /// is seeded, so that nobody can choose user IDs that collide.
    pub(super) fn new(users: usize, hasher: ahash::RandomState) -> Self {
        let weight = u64::try_from(users).unwrap_or(u64::MAX);
        Self(Cache::with(users, weight, UnitWeighter, hasher, PinFlights))
    }

    /// The entry of `user`, made if there is none.
    pub(super) fn of(&self, user: &UserId) -> Arc<Entry> {
        let made = || Ok::<_, Infallible>(Arc::new(Entry::new(user.clone())));
        match self.0.get_or_insert_with(user, made) {
            Ok(entry) => entry,
            Err(never) => match never {},
        }
    }

    /// Forgets a user. Whoever has the entry keeps it; who comes later gets a new one.
    pub(super) fn forget(&self, user: &UserId) {
        self.0.remove(user);
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// Keeps entries with a flight under way in the cache.
#[derive(Debug, Clone, Copy)]
struct PinFlights;

impl Lifecycle<UserId, Arc<Entry>> for PinFlights {
    type RequestState = ();

    fn begin_request(&self) {}

    fn on_evict(&self, _state: &mut (), _user: UserId, _entry: Arc<Entry>) {}

    fn is_pinned(&self, _user: &UserId, entry: &Arc<Entry>) -> bool {
        entry.is_flying()
    }
}
