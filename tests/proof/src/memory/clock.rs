//! Clocks on tokio's virtual time.

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use shared::ports::{Clock, Monotonic};
use tokio::time::Instant;

/// Virtual time of the current runtime, with a wall clock that may be off.
///
/// The runtime's clock must be paused. Its zero is the first moment at which the
/// process asked for it.
#[derive(Debug, Clone)]
pub struct VirtualClock {
    off_by: SignedDuration,
}

/// Where every test's wall clock starts.
const EPOCH: &str = "2026-01-01T00:00:00Z";

/// Tokio's instants have no readable zero; each runtime gets one when it is
/// first asked, as a task-independent thread local of its single thread.
fn elapsed() -> Duration {
    thread_local! {
        static ZERO: std::cell::Cell<Option<Instant>> = const { std::cell::Cell::new(None) };
    }
    let now = Instant::now();
    let zero = ZERO.get().filter(|zero| *zero <= now).unwrap_or_else(|| {
        ZERO.set(Some(now));
        now
    });
    now - zero
}

impl VirtualClock {
    /// A clock whose wall reading is off by `off_by`.
    pub fn new(off_by: SignedDuration) -> Self {
        elapsed();
        Self { off_by }
    }

    /// Lets time pass.
    pub async fn pass(&self, duration: Duration) {
        self.sleep(duration).await;
    }
}

impl Clock for VirtualClock {
    fn wall(&self) -> Timestamp {
        let epoch: Timestamp = EPOCH.parse().expect("a timestamp");
        epoch + SignedDuration::try_from(elapsed()).expect("short") + self.off_by
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic(elapsed())
    }

    #[expect(clippy::disallowed_methods, reason = "this is the clock over virtual time")]
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        tokio::time::sleep(duration).boxed()
    }
}
