//! Whether a replica takes jobs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use shared::Health;
use tokio::sync::watch;

use super::Pulse;

/// What a replica can lack. Each has one owner, who says when it is missing and when it is
/// there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lack {
    /// The keyring was not unwrapped.
    Keyring,
    /// The bucket has not answered.
    Bucket,
    /// The topics and the subscription were not looked at, or are not as they must be.
    Settings,
    /// A topic or the bucket does not take what must be written.
    Endings,
    /// Jobs cannot be done for anybody, so that none are taken.
    Pause,
    /// No handler of a forwarded kind can be reached.
    Forwarding,
    /// The intake is not open.
    Intake,
}

/// What health checks look at. Made before the replica runs, and true to it while
/// it does.
#[derive(Debug)]
pub struct Readiness {
    pulse: Pulse,
    lacks: Mutex<BTreeMap<Lack, Arc<str>>>,
    store: OnceLock<StoreHealth>,
    source: OnceLock<watch::Receiver<Option<Arc<str>>>>,
}

/// Asks the store, which derives its health from what it saw last.
struct StoreHealth(Box<dyn Fn() -> Health + Send + Sync>);

impl std::fmt::Debug for StoreHealth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (self.0)().fmt(f)
    }
}

impl Readiness {
    /// Not ready: the bucket was not seen and the intake is not open. The loops of the
    /// process beat by `pulse`.
    pub fn new(pulse: Pulse) -> Self {
        let this = Self {
            pulse,
            lacks: Mutex::default(),
            store: OnceLock::new(),
            source: OnceLock::new(),
        };
        this.lacks(Lack::Bucket, "the bucket has not answered yet");
        this.intake(false);
        this
    }

    /// Whether the loops make progress: the replica's own while it runs, and those that
    /// others add.
    pub fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// `Ok` when jobs are taken.
    ///
    /// # Errors
    /// Everything that is missing, for people, separated by semicolons.
    pub fn check(&self) -> Result<(), String> {
        let mut missing: Vec<String> = self.lock().values().map(ToString::to_string).collect();
        match self.store.get().map(|store| (store.0)()) {
            Some(Health::Misconfigured(why)) => {
                missing.push(format!("the OAuth client is not accepted: {why}"));
            }
            Some(Health::EndpointDown) => {
                missing.push("the token endpoint does not answer".to_owned());
            }
            Some(Health::Ready) | None => {}
        }
        let trouble = self.source.get().and_then(|trouble| trouble.borrow().clone());
        missing.extend(trouble.as_deref().map(ToOwned::to_owned));
        if missing.is_empty() { Ok(()) } else { Err(missing.join("; ")) }
    }

    /// From now on the replica lacks this, because of `why`: one clause without a full stop.
    pub fn lacks(&self, lack: Lack, why: impl Into<Arc<str>>) {
        self.lock().insert(lack, why.into());
    }

    /// From now on the replica has this.
    pub fn has(&self, lack: Lack) {
        self.lock().remove(&lack);
    }

    /// The bucket has answered; from now on the store's health counts.
    pub(crate) fn bucket_seen(&self, health: impl Fn() -> Health + Send + Sync + 'static) {
        self.has(Lack::Bucket);
        self.store.get_or_init(|| StoreHealth(Box::new(health)));
    }

    /// From now on it counts whether the service behind the source can be reached
    /// ([`Source::trouble`](crate::pubsub::Source::trouble)).
    pub(crate) fn watch_source(&self, trouble: watch::Receiver<Option<Arc<str>>>) {
        self.source.get_or_init(|| trouble);
    }

    /// Whether messages are taken.
    pub(crate) fn intake(&self, open: bool) {
        if open {
            self.has(Lack::Intake);
        } else {
            self.lacks(Lack::Intake, "the intake is not open");
        }
    }

    /// A panic leaves plain values behind, each valid.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Lack, Arc<str>>> {
        self.lacks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::pulse::tests::Stopped;
    use super::*;

    fn readiness() -> Readiness {
        Readiness::new(Pulse::new(Arc::new(Stopped::default())))
    }

    #[test]
    fn lists_everything_that_is_missing_and_is_ready_without() {
        let ready = readiness();
        let says = || ready.check().unwrap_err();
        assert_eq!(says(), "the bucket has not answered yet; the intake is not open");
        let store = Arc::new(Mutex::new(Health::Ready));
        let seen = Arc::clone(&store);
        ready.bucket_seen(move || seen.lock().unwrap().clone());
        let set = |health| *store.lock().unwrap() = health;
        ready.intake(true);
        assert_eq!(ready.check(), Ok(()));
        let source = watch::Sender::new(None);
        ready.watch_source(source.subscribe());
        assert_eq!(ready.check(), Ok(()));
        source.send_replace(Some("Pub/Sub cannot be reached: refused".into()));
        ready.lacks(Lack::Endings, "topics/out does not exist");
        set(Health::EndpointDown);
        assert_eq!(
            says(),
            "topics/out does not exist; the token endpoint does not answer; Pub/Sub cannot be reached: refused"
        );
        ready.has(Lack::Endings);
        source.send_replace(None);
        set(Health::Misconfigured("no".into()));
        assert_eq!(says(), "the OAuth client is not accepted: no");
        set(Health::Ready);
        assert_eq!(ready.check(), Ok(()));
    }

    #[test]
    fn one_owner_does_not_clear_what_another_lacks() {
        let ready = readiness();
        ready.has(Lack::Bucket);
        ready.lacks(Lack::Pause, "paused");
        ready.lacks(Lack::Endings, "refused");
        ready.intake(true);
        ready.has(Lack::Pause);
        assert_eq!(ready.check(), Err("refused".to_owned()));
    }
}
