//! The time that the emulator stamps on what it stores.

use std::time::SystemTime;

use tokio::time::Instant;

/// Wall time that never goes back: read once, then advanced by the monotonic clock,
/// which a test may pause.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    wall: SystemTime,
    since: Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the adapter: object times are wall times")]
        let wall = SystemTime::now();
        Self { wall, since: Instant::now() }
    }

    pub(super) fn now(&self) -> SystemTime {
        self.wall + self.since.elapsed()
    }
}
