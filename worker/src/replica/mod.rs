//! One replica: intake, dispatch, and an orderly end.

mod beginning;
mod builder;

use std::sync::Arc;
use std::time::Duration;

use shared::Schedule;
use shared::ports::{Bucket, BucketError, Clock, Monotonic, Randomness};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::delivery::{Desk, Repertoire};
use crate::dispatch::{Place, Queued, Queues, Turn};
use crate::health::Beat;
use crate::job::Job;
use crate::metrics::Meters;
use crate::outage::Outage;
use crate::pace::Paces;
use crate::parking::Parking;
use crate::pubsub::{Delivery, IntakeError, Source};

use beginning::{Room, begin};

pub use crate::health::Readiness;
pub use builder::{BuildError, Builder, Worker};

/// Pauses between two tries of something that must work before work starts.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// An error of the subscription this soon after the start is a wrong setting.
const STARTUP: Duration = Duration::from_secs(30);
/// How long the acknowledgements may take after the last job has ended.
const RELEASE: Duration = Duration::from_secs(5);
/// How often the loop turns when nothing happens.
const TURN: Duration = Duration::from_secs(1);
/// Read at the start to see that the bucket is there; never written.
const PROBE: &str = "fleet-startup-check";

/// What the replica's end is asked with: once to drain, twice to cut.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Stop the intake and drain.
    pub drain: CancellationToken,
    /// Do not wait for running jobs.
    pub cut: CancellationToken,
}

/// Why a replica ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The bucket refuses.
    #[error("{0}")]
    Bucket(String),
    /// The subscription cannot be read.
    #[error(transparent)]
    Intake(#[from] IntakeError),
}

async fn run(worker: Worker, stop: Stop) -> Result<(), ReplicaError> {
    let Worker { carrier, bucket, mut source, clock, random, ready, .. } = worker;
    let beat = ready.pulse().watch("the replica");
    beat.through(await_bucket(&*bucket, &*clock, &random, &stop)).await?;
    if stop.drain.is_cancelled() {
        return Ok(());
    }
    ready.bucket_seen(carrier.store.health());
    ready.watch_source(source.trouble());
    let desk = Arc::new(Desk {
        meters: Meters::default(),
        parking: Parking::new(bucket, carrier.store.clone()),
        carrier,
        kinds: Repertoire::new(worker.kinds),
        dedupe: worker.dedupe,
        outcomes: worker.outcomes,
        dead: worker.dead,
        clock,
        slots: Semaphore::new(worker.concurrency),
        queues: Queues::new(worker.per_user, worker.concurrency, &random),
        random,
        paces: Paces::default(),
        outage: Outage::default(),
        retry_budget: worker.retry_budget,
        subscription: worker.subscription,
        stopping: stop.drain.clone(),
        cutting: CancellationToken::new(),
        tasks: TaskTracker::new(),
    });
    let result = take_in(&desk, &mut *source, &ready, &beat).await;
    ready.intake(false);
    // The end also comes by an error: what is under way is drained all the same.
    desk.stopping.cancel();
    // Ends the wait of all who wait for a slot. Each of them listening for the end itself
    // would cost as much as the slot.
    desk.slots.close();
    for queued in desk.queues.close() {
        desk.start(queued);
    }
    beat.through(wind_up(&desk, source, &stop, worker.drain)).await;
    result
}

/// Waits until the bucket answers. A bucket that refuses is a wrong setting; one
/// that does not answer may come back.
async fn await_bucket(
    bucket: &dyn Bucket,
    clock: &dyn Clock,
    random: &Randomness,
    stop: &Stop,
) -> Result<(), ReplicaError> {
    let mut pauses = Schedule::new(RETRY_MIN, RETRY_MAX);
    loop {
        let answer = tokio::select! {
            biased;
            () = stop.drain.cancelled() => return Ok(()),
            answer = bucket.get(PROBE) => answer,
        };
        match answer {
            Ok(_) => return Ok(()),
            Err(BucketError::Refused(why)) => return Err(ReplicaError::Bucket(why.to_string())),
            Err(why) => {
                let pause = pauses.next(random.unit());
                warn!(
                    "{why}; no job is taken before it answers, next try in {:.0?}. Check the network and the storage service",
                    pause
                );
                tokio::select! {
                    biased;
                    () = stop.drain.cancelled() => return Ok(()),
                    () = clock.sleep(pause) => {}
                }
            }
        }
    }
}

/// Takes messages until the end is asked for.
async fn take_in(
    desk: &Arc<Desk>,
    source: &mut dyn Source,
    ready: &Readiness,
    beat: &Beat,
) -> Result<(), ReplicaError> {
    let started = desk.clock.monotonic();
    let mut paused = desk.outage.paused();
    let mut pauses = Schedule::new(RETRY_MIN, RETRY_MAX);
    let mut received_any = false;
    let mut room = None;
    info!("taking jobs");
    loop {
        beat.turn();
        let is_paused = *paused.borrow_and_update();
        ready.intake(!is_paused);
        desk.meters.set_users(desk.queues.users(), desk.paces.users());
        if is_paused {
            for delivery in source.pause().await {
                accept(desk, delivery, desk.clock.monotonic(), &mut room).await;
            }
        }
        let came = tokio::select! {
            biased;
            () = desk.stopping.cancelled() => return Ok(()),
            came = source.next(), if !is_paused => came,
            changed = paused.changed() => {
                debug_assert!(changed.is_ok(), "the desk has it");
                continue;
            }
            () = desk.clock.sleep(TURN) => continue,
        };
        let error = match came {
            Ok(delivery) => {
                received_any = true;
                pauses.reset();
                accept(desk, delivery, desk.clock.monotonic(), &mut room).await;
                continue;
            }
            Err(error) => error,
        };
        let young = desk.clock.monotonic().since(started) < STARTUP;
        if !received_any && young {
            return Err(error.into());
        }
        ready.intake(false);
        let pause = pauses.next(desk.random.unit());
        error!("{error}; opening it again in {pause:.0?}");
        tokio::select! {
            biased;
            () = desk.stopping.cancelled() => return Ok(()),
            () = beat.through(desk.clock.sleep(pause)) => {}
        }
    }
}

/// Queues a message, received at `now`, under its user, and begins what may begin.
async fn accept(desk: &Arc<Desk>, delivery: Delivery, now: Monotonic, room: &mut Room) {
    match Job::of(&delivery.received) {
        Err(why) => {
            let refusing = Arc::clone(desk);
            desk.tasks.spawn(async move { refusing.refuse(delivery, why).await });
        }
        Ok(job) => {
            let Delivery { received, settle } = delivery;
            let kind = desk.kinds.get(&job.kind);
            let place = Place::default();
            let queued = Box::new(Queued { job, kind, received, settle, received_at: now, place });
            match desk.queues.push(queued) {
                Turn::Now(queued) => {
                    begin(desk, queued, now, room).await;
                }
                // What it waits for comes while others run.
                Turn::Full(queued) if desk.waits_first(&queued) => {
                    desk.queues.squeeze_in();
                    desk.start(queued);
                }
                Turn::Full(queued) => {
                    if let Some(queued) = desk.queues.stand_in_line(queued) {
                        begin(desk, queued, now, room).await;
                    }
                }
                Turn::Later => {}
            }
        }
    }
}

/// Stop intake, drain, cut; then see that no grant is lost.
async fn wind_up(desk: &Desk, source: Box<dyn Source>, stop: &Stop, drain: Duration) {
    let released = source.stop();
    info!("stopping: no new jobs, running ones may end");
    let tasks = &desk.tasks;
    tasks.close();
    tokio::select! {
        biased;
        () = tasks.wait() => {}
        () = stop.cut.cancelled() => warn!("asked again: running jobs are cut"),
        () = desk.clock.sleep(drain) => warn!("running jobs are cut after {drain:?}"),
    }
    desk.cutting.cancel();
    let over = |what: &'static str| async move {
        desk.clock.sleep(RELEASE).await;
        warn!("{what} took longer than {RELEASE:?}");
    };
    tokio::select! { biased; () = tasks.wait() => {}, () = over("ending jobs") => {} }
    tokio::select! { biased; () = released => {}, () = over("releasing messages") => {} }
    // A grant that was obtained must be stored, or the user is locked out.
    if !desk.carrier.store.shutdown(desk.carrier.store.policy().lease_ttl).await {
        error!("a refresh is still under way; its grant may be lost");
    }
    info!("stopped");
}
