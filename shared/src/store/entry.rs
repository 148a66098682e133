//! What one replica keeps in memory about one user.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::error::Error;
use crate::policy::Policy;
use crate::ports::Monotonic;
use crate::protocol::{Held, Memory};
use crate::schedule::Schedule;
use crate::user_id::UserId;

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
    /// The record that callers are served from.
    pub(super) held: Option<Arc<Held>>,
    pub(super) memory: Memory,
    pub(super) flight: Option<Running>,
    /// When a token that is due may be looked at again in the background.
    pub(super) next_look: Option<Monotonic>,
    pub(super) looks: Schedule,
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
    Done(Result<Arc<Held>, Error>),
    /// Over: the held token is usable and another replica is renewing it.
    HeldElsewhere,
}

impl Entry {
    pub(super) fn new(user: UserId, policy: &Policy) -> Self {
        Self {
            user,
            state: Mutex::new(EntryState {
                held: None,
                memory: Memory::default(),
                flight: None,
                next_look: None,
                looks: Schedule::new(policy.look_min, policy.lease_ttl),
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
