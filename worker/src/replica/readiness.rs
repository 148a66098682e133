//! Whether a replica takes jobs, and whether it turns at all.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use shared::Health;
use shared::ports::{Clock, Monotonic};
use tokio::sync::watch;

/// What health checks look at. Made before the replica runs, and true to it while
/// it does.
#[derive(Debug)]
pub struct Readiness {
    clock: Arc<dyn Clock>,
    bucket_seen: AtomicBool,
    intake_open: AtomicBool,
    /// Milliseconds of the monotonic clock.
    turned: AtomicU64,
    store: OnceLock<watch::Receiver<Health>>,
}

impl Readiness {
    /// Not ready, and turning as of now.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let ready = Self {
            clock,
            bucket_seen: AtomicBool::new(false),
            intake_open: AtomicBool::new(false),
            turned: AtomicU64::new(0),
            store: OnceLock::new(),
        };
        ready.turned();
        ready
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

    /// How long ago the replica's loop turned last. It does so every second,
    /// whatever Google's services do.
    pub fn last_turn(&self) -> Duration {
        let turned = Duration::from_millis(self.turned.load(Ordering::Relaxed));
        self.clock.monotonic().since(Monotonic(turned))
    }

    pub(super) fn turned(&self) {
        let now = self.clock.monotonic().0.as_millis();
        self.turned.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn bucket_seen(&self, health: watch::Receiver<Health>) {
        self.bucket_seen.store(true, Ordering::Relaxed);
        self.store.get_or_init(|| health);
    }

    pub(super) fn intake(&self, open: bool) {
        self.intake_open.store(open, Ordering::Relaxed);
    }
}
