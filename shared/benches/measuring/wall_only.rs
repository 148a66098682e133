//! A clock that tools can follow.

use std::time::Duration;

use futures_util::future::BoxFuture;
use shared::adapters::SystemClock;
use shared::ports::{Clock, Monotonic};

/// The wall clock for both: valgrind cannot follow the way to the other one, which does
/// not lead through libc.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct WallOnly(SystemClock);

impl Clock for WallOnly {
    fn wall(&self) -> jiff::Timestamp {
        self.0.wall()
    }

    fn monotonic(&self) -> Monotonic {
        let now = self.wall();
        let seconds = u64::try_from(now.as_second()).unwrap_or_default();
        Monotonic(Duration::new(seconds, now.subsec_nanosecond().unsigned_abs()))
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.0.sleep(duration)
    }
}
