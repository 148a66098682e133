//! A clock for tests in tokio's virtual time.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use shared::ports::{Clock, Monotonic};
use tokio::time::Instant;

/// Counts from when it was made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Virtual(Instant);

impl Default for Virtual {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for Virtual {
    fn wall(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic(self.0.elapsed())
    }

    #[expect(clippy::disallowed_methods, reason = "this is the clock that tests pass in")]
    fn sleep(&self, duration: std::time::Duration) -> BoxFuture<'static, ()> {
        tokio::time::sleep(duration).boxed()
    }
}
