//! The system's clocks.

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

use crate::ports::{Clock, Monotonic};

/// The system's wall clock, and its monotonic clock that counts suspended time
/// (`CLOCK_BOOTTIME` on Linux, `CLOCK_MONOTONIC` elsewhere).
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock(());

#[cfg(target_os = "linux")]
const MONOTONIC: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const MONOTONIC: ClockId = ClockId::Monotonic;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the adapter over the system's clock")]
    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }

    fn monotonic(&self) -> Monotonic {
        let now = clock_gettime(MONOTONIC);
        let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(now.tv_nsec).unwrap_or(0);
        Monotonic(Duration::new(seconds, nanos))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the adapter over the runtime's timer")]
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        tokio::time::sleep(duration).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_goes_back() {
        let clock = SystemClock::default();
        let first = clock.monotonic();
        assert!(first.0 > Duration::ZERO);
        assert!(clock.monotonic() >= first);
    }
}
