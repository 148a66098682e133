//! Whether the loops of a process make progress.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shared::ports::{Clock, Monotonic};

/// A loop without progress for so long is stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(30);
/// How often a loop should beat: often enough to miss several.
pub const BEAT_EVERY: Duration = Duration::from_secs(5);

/// Whether the loops of this process make progress. Clones share everything.
#[derive(Debug, Clone)]
pub struct Pulse(Arc<Loops>);

#[derive(Debug)]
struct Loops {
    clock: Arc<dyn Clock>,
    /// When each made progress last, in milliseconds of the monotonic clock.
    last: Mutex<BTreeMap<&'static str, Arc<AtomicU64>>>,
}

/// One loop that must keep beating until this is dropped.
#[derive(Debug)]
pub struct Beat {
    pulse: Pulse,
    name: &'static str,
    last: Arc<AtomicU64>,
}

/// A loop that has made no progress for longer than [`STUCK_AFTER`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{name} has made no progress for {} s", .age.as_secs())]
pub struct Stuck {
    /// Which loop.
    pub name: &'static str,
    /// How long ago it made progress last.
    pub age: Duration,
}

impl Pulse {
    /// No loops yet: alive.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Loops { clock, last: Mutex::default() }))
    }

    /// From now on the loop `name` has to [`turn`](Beat::turn) at least every
    /// [`STUCK_AFTER`], better every [`BEAT_EVERY`], whatever it waits for. Drop
    /// the result when the loop ends.
    pub fn watch(&self, name: &'static str) -> Beat {
        let beat = Beat { pulse: self.clone(), name, last: Arc::default() };
        beat.turn();
        self.0.lock().insert(name, Arc::clone(&beat.last));
        beat
    }

    /// Beats for as long as the runtime carries tasks forward. Never ends; drop
    /// it at any time.
    pub async fn keep(&self) -> Infallible {
        self.watch("the runtime").through(std::future::pending()).await
    }

    /// Whether every loop makes progress.
    ///
    /// # Errors
    /// The loop whose progress is longest ago, if that is too long.
    pub fn check(&self) -> Result<(), Stuck> {
        let now = self.0.clock.monotonic();
        let last = self.0.lock();
        let oldest = last.iter().map(|(name, at)| {
            let at = Monotonic(Duration::from_millis(at.load(Ordering::Relaxed)));
            Stuck { name, age: now.since(at) }
        });
        match oldest.max_by_key(|stuck| stuck.age) {
            Some(stuck) if stuck.age > STUCK_AFTER => Err(stuck),
            _ => Ok(()),
        }
    }
}

impl Loops {
    /// A panic leaves plain values behind, each valid.
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<&'static str, Arc<AtomicU64>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Beat {
    /// The loop made progress.
    pub fn turn(&self) {
        let now = self.pulse.0.clock.monotonic().0.as_millis();
        self.last.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Beats while the loop waits for `work`, which bounds itself or is dropped. Dropping
    /// this drops `work`.
    pub async fn through<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            self.turn();
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.pulse.0.clock.sleep(BEAT_EVERY) => {}
            }
        }
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.pulse.0.lock().remove(self.name);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;

    /// A clock that stands still until it is moved; its sleeps are tokio's.
    #[derive(Debug, Default)]
    pub(in crate::health) struct Stopped(Mutex<Duration>);

    impl Stopped {
        pub(in crate::health) fn pass(&self, time: Duration) {
            *self.0.lock().unwrap() += time;
        }
    }

    impl Clock for Stopped {
        fn wall(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }

        fn monotonic(&self) -> Monotonic {
            Monotonic(*self.0.lock().unwrap())
        }

        #[expect(clippy::disallowed_methods, reason = "this is the clock that tests pass in")]
        fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
            tokio::time::sleep(duration).boxed()
        }
    }

    #[test]
    fn a_loop_without_progress_is_named_with_its_age() {
        let clock = Arc::new(Stopped::default());
        let pulse = Pulse::new(Arc::clone(&clock) as Arc<dyn Clock>);
        assert_eq!(pulse.check(), Ok(()), "no loop yet");
        let (intake, sweep) = (pulse.watch("the intake"), pulse.watch("the sweep"));
        clock.pass(STUCK_AFTER);
        assert_eq!(pulse.check(), Ok(()));
        sweep.turn();
        clock.pass(Duration::from_secs(2));
        let stuck = pulse.check().unwrap_err();
        assert_eq!(stuck.to_string(), "the intake has made no progress for 32 s");
        intake.turn();
        assert_eq!(pulse.check(), Ok(()));
        drop((intake, sweep));
        clock.pass(STUCK_AFTER * 2);
        assert_eq!(pulse.check(), Ok(()), "loops that ended are not missed");
    }

    #[tokio::test(start_paused = true)]
    async fn the_runtime_beats_while_it_runs_tasks() {
        let clock = Arc::new(Stopped::default());
        let pulse = Pulse::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let mut keeping = Box::pin(pulse.keep());
        assert!(futures_util::poll!(&mut keeping).is_pending());
        clock.pass(STUCK_AFTER * 2);
        assert!(pulse.check().is_err(), "it made no progress meanwhile");
        tokio::time::advance(BEAT_EVERY).await;
        assert!(futures_util::poll!(&mut keeping).is_pending());
        assert_eq!(pulse.check(), Ok(()));
    }
}
