//! What one replica keeps in memory about one user.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::watch;

use crate::error::Error;
use crate::policy::Policy;
use crate::ports::Monotonic;
use crate::protocol::Memory;
use crate::record::GrantId;
use crate::schedule::Schedule;
use crate::user_id::UserId;

use super::served::Served;

/// One user's entry. Its lock is never held across an await.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) user: UserId,
    /// Callers of a token that is merely used share it.
    state: RwLock<EntryState>,
    /// A flight is under way: the cache must not evict this entry. Kept beside
    /// the lock, since the cache asks while it holds locks of its own.
    flying: AtomicBool,
}

#[derive(Debug)]
pub(super) struct EntryState {
    /// The record that callers are served from.
    held: Option<Arc<Served>>,
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
    /// The record that callers are served from.
    pub(super) fn held(&self) -> Option<&Arc<Served>> {
        self.held.as_ref()
    }

    /// Serves callers from `served` from now on. Whoever has its predecessor at hand
    /// finds out: [`Served::is_current`].
    pub(super) fn hold(&mut self, served: Option<Arc<Served>>) {
        if let Some(before) = std::mem::replace(&mut self.held, served) {
            before.set_current(false);
        }
        if let Some(held) = &self.held {
            held.set_current(!self.memory.rejected.contains(&held.held().record.grant_id));
        }
    }

    /// Remembers that an API rejected `grant`: callers are not served from it again.
    pub(super) fn reject(&mut self, grant: &GrantId) {
        self.memory.rejected.insert(grant);
        if let Some(held) = &self.held
            && held.held().record.grant_id == *grant
        {
            held.set_current(false);
        }
    }

    /// Puts the next look off, longer each time; `unit` in `0.0..1.0` is its jitter.
    pub(super) fn put_look_off(&mut self, policy: &Policy, now: Monotonic, unit: f64) {
        // Most entries never need one.
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
    pub(super) fn look_is_due(&self, now: impl FnOnce() -> Monotonic) -> bool {
        self.flight.is_none() && self.next_look.is_none_or(|at| at <= now())
    }
}

impl Entry {
    pub(super) fn new(user: UserId) -> Self {
        Self {
            user,
            state: RwLock::new(EntryState {
                held: None,
                memory: Memory::default(),
                flight: None,
                next_look: None,
                looks: None,
            }),
            flying: AtomicBool::new(false),
        }
    }

    /// A panic under the lock leaves plain values behind, each valid.
    pub(super) fn lock(&self) -> RwLockWriteGuard<'_, EntryState> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, EntryState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_flying(&self) -> bool {
        self.flying.load(Ordering::Acquire)
    }

    pub(super) fn set_flying(&self, flying: bool) {
        self.flying.store(flying, Ordering::Release);
    }
}
