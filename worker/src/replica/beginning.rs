//! Beginning jobs: at once where messages are taken in, or in tasks of their own.
//!
//! A task of its own costs as much as all the rest of a job that needs no I/O, most of it
//! because another core does the job: what the job was made of is not in its cache, and
//! goes back to the allocator of the first. So a job of a kind that usually ends at once is
//! begun where it was received, and gets a task when it has to wait after all. Kinds that
//! wait, or compute, are begun in tasks, so that cores share the work and the intake goes
//! on.

use std::sync::Arc;
use std::task::Poll;

use shared::ports::Monotonic;
use tokio_util::sync::ReusableBoxFuture;

use crate::delivery::{Desk, In};
use crate::dispatch::Queued;

/// The memory that the last job was begun in and has left behind.
pub(super) type Room = Option<ReusableBoxFuture<'static, Monotonic>>;

/// Begins `job`, whose turn has come at `now`. When that is done.
///
/// Not to be dropped: the job may have begun.
pub(super) async fn begin(
    desk: &Arc<Desk>,
    job: Box<Queued>,
    now: Monotonic,
    room: &mut Room,
) -> Monotonic {
    if !job.kind.as_ref().is_some_and(|kind| kind.beginnings.are_brief()) {
        desk.start(job);
        return now;
    }
    let run = Arc::clone(desk).run(job, now, In::Intake);
    let mut run = match room.take() {
        None => ReusableBoxFuture::new(run),
        Some(mut last) => {
            last.set(run);
            last
        }
    };
    if let Poll::Ready(after) = futures_util::poll!(&mut run) {
        *room = Some(run);
        return after;
    }
    // It registers anew with whatever it waits for, since a task polls once before it
    // sleeps.
    desk.tasks.spawn(run);
    desk.clock.monotonic()
}
