//! Beginning jobs, several in one task.
//!
//! A task of its own costs as much as all the rest of a job that needs no I/O. So one
//! task begins a few jobs one after the other, and a job gets a task of its own when it
//! has to wait for something. Jobs that do not begin briefly, since their handler
//! computes, would hold up those behind them; then each is begun in its own task.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use shared::ports::Monotonic;
use tokio_util::task::TaskTracker;

use crate::delivery::Desk;
use crate::dispatch::Queued;

/// How many jobs one task begins at most.
const TOGETHER: usize = 16;
/// Longer beginnings hold up others: what ten requests take to be built, and twice a
/// [`Desk::run_user`]'s slice.
const BRIEF: Duration = Duration::from_micros(150);
/// The weight of the last beginning in the average, as a divisor.
const SMOOTHING: u64 = 8;

/// Begins jobs.
#[derive(Debug)]
pub(super) struct Beginner {
    shared: Shared,
    gathered: Vec<Queued>,
}

#[derive(Debug, Clone)]
struct Shared {
    desk: Arc<Desk>,
    tasks: TaskTracker,
    usual: Arc<Usual>,
}

/// How long a beginning takes, lately, in nanoseconds.
#[derive(Debug, Default)]
struct Usual(AtomicU64);

impl Usual {
    /// Of beginnings that are noted at the same time one may get lost.
    fn note(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let usual = self.0.load(Ordering::Relaxed);
        let usual = (usual - usual / SMOOTHING).saturating_add(took / SMOOTHING);
        self.0.store(usual, Ordering::Relaxed);
    }

    fn is_brief(&self) -> bool {
        Duration::from_nanos(self.0.load(Ordering::Relaxed)) <= BRIEF
    }
}

impl Beginner {
    pub(super) fn new(desk: Arc<Desk>, tasks: TaskTracker) -> Self {
        Self {
            shared: Shared { desk, tasks, usual: Arc::default() },
            gathered: Vec::with_capacity(TOGETHER),
        }
    }

    /// Begins `job`, whose turn it is, at the latest with the next [`Beginner::go`].
    pub(super) fn add(&mut self, job: Queued) {
        self.gathered.push(job);
        if self.gathered.len() == TOGETHER {
            self.go();
        }
    }

    /// Begins what was added.
    pub(super) fn go(&mut self) {
        if self.gathered.len() > 1 && self.shared.usual.is_brief() {
            let jobs = std::mem::replace(&mut self.gathered, Vec::with_capacity(TOGETHER));
            self.shared.tasks.spawn(self.shared.clone().together(jobs));
            return;
        }
        for job in self.gathered.drain(..) {
            self.shared.tasks.spawn(self.shared.clone().alone(job));
        }
    }
}

impl Shared {
    async fn together(self, jobs: Vec<Queued>) {
        let mut jobs = jobs.into_iter();
        let mut now = self.desk.clock.monotonic();
        while let Some(job) = jobs.next() {
            let before = now;
            now = self.begin(job, before).await;
            let took = now.since(before);
            self.usual.note(took);
            if took > BRIEF {
                for job in jobs.by_ref() {
                    self.tasks.spawn(self.clone().alone(job));
                }
            }
        }
    }

    async fn alone(self, job: Queued) {
        let before = self.desk.clock.monotonic();
        let after = self.begin(job, before).await;
        self.usual.note(after.since(before));
    }

    /// Begins a job at `now`, and leaves it to a task of its own if it has to wait. When
    /// it has begun.
    async fn begin(&self, job: Queued, now: Monotonic) -> Monotonic {
        let desk = Arc::clone(&self.desk);
        let mut run = Box::pin(async move { desk.run_user(job, now).await });
        match futures_util::poll!(&mut run) {
            Poll::Ready(now) => now,
            Poll::Pending => {
                // It registers anew with whatever it waits for, since a task polls once
                // before it sleeps.
                self.tasks.spawn(run);
                self.desk.clock.monotonic()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_long_beginning_is_soon_forgotten_and_many_are_not() {
        let usual = Usual::default();
        assert!(usual.is_brief());
        usual.note(2 * BRIEF);
        assert!(usual.is_brief(), "it was one");
        for _ in 0..20 {
            usual.note(2 * BRIEF);
        }
        assert!(!usual.is_brief());
        for _ in 0..20 {
            usual.note(BRIEF / 10);
        }
        assert!(usual.is_brief());
        usual.note(Duration::MAX);
        assert!(!usual.is_brief(), "no overflow");
    }
}
