//! A process of the fleet as the world sees it: it can stand still, die, and
//! have a wrong clock.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use shared::ports::{Clock, Monotonic};
use tokio::time::Instant;

/// Who writes records here: workers by the refresh protocol, people by logins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    Worker,
    Web,
}

#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) index: usize,
    pub(crate) role: Role,
    start: Instant,
    /// The wall clock's error at the start, in milliseconds.
    off_by: i64,
    /// What it gains, in parts per million.
    drift: i64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    dead: bool,
    frozen_until: Option<Instant>,
    frozen_for: Duration,
}

impl Process {
    pub(crate) fn new(
        name: String,
        index: usize,
        role: Role,
        start: Instant,
        off_by: i64,
        drift: i64,
    ) -> Self {
        Self { name, index, role, start, off_by, drift, state: Mutex::default() }
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Goes on when the process runs, and never again once it is dead. Every
    /// port passes here before it sends and before it hands over a reply, so a
    /// dead process does nothing more, whatever its tasks still hold.
    pub(crate) async fn runs(&self) {
        loop {
            let (dead, until) = self.with(|s| (s.dead, s.frozen_until));
            if dead {
                std::future::pending::<()>().await;
            }
            match until.filter(|until| *until > Instant::now()) {
                Some(until) => tokio::time::sleep_until(until).await,
                None => return,
            }
        }
    }

    pub(crate) fn crash(&self) {
        self.with(|s| s.dead = true);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.with(|s| s.dead)
    }

    pub(crate) fn freeze(&self, duration: Duration) {
        self.with(|s| {
            s.frozen_until = Some(Instant::now() + duration);
            s.frozen_for += duration;
        });
    }

    /// It does nothing now.
    pub(crate) fn stands_still(&self) -> bool {
        self.with(|s| s.dead || s.frozen_until.is_some_and(|until| until > Instant::now()))
    }

    /// How long it has stood still, or will have when the present pause ends.
    pub(crate) fn frozen_for(&self) -> Duration {
        self.with(|s| s.frozen_for)
    }

    fn elapsed(&self) -> Duration {
        Instant::now().saturating_duration_since(self.start)
    }
}

/// Where every run begins.
pub(crate) fn epoch() -> Timestamp {
    Timestamp::constant(1_767_225_600, 0)
}

/// A process's clocks: timers and requests stand still with it, and the
/// monotonic clock counts that time, as the protocol asks for.
#[derive(Debug)]
pub(crate) struct ProcessClock(pub(crate) std::sync::Arc<Process>);

impl Clock for ProcessClock {
    fn wall(&self) -> Timestamp {
        let elapsed = i64::try_from(self.0.elapsed().as_millis()).unwrap_or(i64::MAX);
        let shown = elapsed + elapsed / 1000 * self.0.drift / 1000 + self.0.off_by;
        epoch() + SignedDuration::from_millis(shown)
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic(Duration::from_secs(1000) + self.0.elapsed())
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let process = std::sync::Arc::clone(&self.0);
        let until = Instant::now() + duration;
        async move {
            tokio::time::sleep_until(until).await;
            process.runs().await;
        }
        .boxed()
    }
}
