//! Whether a replica takes jobs, and whether it turns at all.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use shared::Health;
use tokio::sync::watch;

use crate::health::Pulse;

/// What health checks look at. Made before the replica runs, and true to it while
/// it does.
#[derive(Debug)]
pub struct Readiness {
    pulse: Pulse,
    bucket_seen: AtomicBool,
    intake_open: AtomicBool,
    store: OnceLock<watch::Receiver<Health>>,
}

impl Readiness {
    /// Not ready; the loops of the process turn by `pulse`.
    pub fn new(pulse: Pulse) -> Self {
        Self {
            pulse,
            bucket_seen: AtomicBool::new(false),
            intake_open: AtomicBool::new(false),
            store: OnceLock::new(),
        }
    }

    /// Whether the loops turn: the replica's own while it runs, and those that others
    /// add.
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// `Ok` when jobs are taken: the bucket has answered, the intake is open and
    /// the OAuth client is accepted.
    ///
    /// # Errors
    /// What is missing, for people.
    pub fn check(&self) -> Result<(), String> {
        if !self.bucket_seen.load(Ordering::Relaxed) {
            return Err("the bucket has not answered yet".to_owned());
        }
        match self.store.get().map(|health| health.borrow().clone()) {
            Some(Health::Misconfigured(why)) => {
                return Err(format!("the OAuth client is not accepted: {why}"));
            }
            Some(Health::EndpointDown) => {
                return Err("the token endpoint does not answer".to_owned());
            }
            Some(Health::Ready) | None => {}
        }
        if self.intake_open.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err("the intake is not open".to_owned())
        }
    }

    pub(super) fn bucket_seen(&self, health: watch::Receiver<Health>) {
        self.bucket_seen.store(true, Ordering::Relaxed);
        self.store.get_or_init(|| health);
    }

    pub(super) fn intake(&self, open: bool) {
        self.intake_open.store(open, Ordering::Relaxed);
    }
}
