//! A user's limit on API calls.

use std::time::Duration;

use tokio::time::Instant;

/// So many calls more; then refusals until the wait that the first of them named is over.
#[derive(Debug, Clone)]
pub(super) struct Limit {
    remaining: u64,
    retry_after: Duration,
    lifted_at: Option<Instant>,
}

impl Limit {
    pub(super) fn new(remaining: u64, retry_after: Duration) -> Self {
        Self { remaining, retry_after, lifted_at: None }
    }

    /// Uses up one call, or says how long to wait.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        if self.remaining > 0 {
            self.remaining -= 1;
            return Ok(());
        }
        let lifted_at = *self.lifted_at.get_or_insert(now + self.retry_after);
        if now < lifted_at {
            return Err(lifted_at - now);
        }
        Ok(())
    }
}
