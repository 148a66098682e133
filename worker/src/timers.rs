//! Time limits for what a runner's jobs wait for.
//!
//! A timer for each call is registered with the runtime and taken back, under a lock: a
//! microsecond for something that almost never fires. But a runner's jobs come one after
//! another, and the deadline of each is later than the one before. So a timer stays
//! registered when its call has ended, and the next call moves it back, which costs a
//! look at the clock. A runner that is woken by a deadline that nobody has any more finds
//! nothing to do.

use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// The timers of one runner: as many as it ever needed at the same time.
#[derive(Default)]
pub(crate) struct Timers(Mutex<Vec<Pin<Box<Sleep>>>>);

/// A timer in use. It is given back when dropped.
struct Lent<'a> {
    timers: &'a Timers,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Timers {
    /// Does `work`, and gives it up when it has not ended after `limit`, counted from when
    /// it first waits: `None`. Dropping this drops `work`.
    pub(crate) async fn within<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let mut work = pin!(work);
        let mut lent = None;
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            let Lent { timer, .. } = lent.get_or_insert_with(|| self.lend(limit));
            let timer = timer.as_mut().expect("it is there until this is dropped");
            timer.as_mut().poll(cx).map(|()| None)
        })
        .await
    }

    fn with<T>(&self, f: impl FnOnce(&mut Vec<Pin<Box<Sleep>>>) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A timer that fires after `limit`.
    #[expect(clippy::disallowed_methods, reason = "a timer of `Clock` cannot be moved")]
    fn lend(&self, limit: Duration) -> Lent<'_> {
        let timer = match self.with(Vec::pop) {
            None => Box::pin(sleep(limit)),
            Some(mut timer) => {
                timer.as_mut().reset(Instant::now() + limit);
                timer
            }
        };
        Lent { timers: self, timer: Some(timer) }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        self.timers.with(|timers| timers.extend(self.timer.take()));
    }
}

impl fmt::Debug for Timers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Timers").field(&self.with(|timers| timers.len())).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    use shared::adapters::SystemClock;
    use shared::ports::Clock as _;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn each_call_has_its_own_limit_whatever_the_one_before_had() {
        let (timers, clock) = (Timers::default(), SystemClock::default());
        let start = Instant::now();
        let mut due = Duration::ZERO;
        // Later, earlier, later: and after one that ended in time, and one that did not.
        for (limit, takes) in [(20, 5), (4, 30), (9, 30), (1, 1), (50, 49), (2, 30), (3, 2)] {
            let ended = timers.within(SECOND * limit, clock.sleep(SECOND * takes)).await;
            assert_eq!(ended.is_some(), takes <= limit, "{takes} of {limit} s");
            due += SECOND * takes.min(limit);
            assert_eq!(start.elapsed(), due, "{takes} of {limit} s");
        }
        assert_eq!(timers.with(|timers| timers.len()), 1, "one served all");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_within_a_call_has_another_timer() {
        let timers = Timers::default();
        let start = Instant::now();
        for round in 1..=2 {
            let inner = async { timers.within(SECOND, pending::<()>()).await.is_none() };
            let outer = async { (inner.await, pending::<()>().await) };
            assert!(timers.within(3 * SECOND, outer).await.is_none());
            assert_eq!(start.elapsed(), 3 * SECOND * round);
        }
        assert_eq!(timers.with(|timers| timers.len()), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_wait_needs_no_timer_and_what_is_given_up_returns_it() {
        let timers = Timers::default();
        assert_eq!(timers.within(Duration::ZERO, ready(7)).await, Some(7));
        assert_eq!(timers.with(|timers| timers.len()), 0);
        let start = Instant::now();
        let given_up = timers.within(9 * SECOND, pending::<()>());
        assert!(tokio::time::timeout(SECOND, given_up).await.is_err());
        assert!(timers.within(2 * SECOND, pending::<()>()).await.is_none());
        assert_eq!(start.elapsed(), 3 * SECOND);
        assert_eq!(timers.with(|timers| timers.len()), 1);
    }
}
