//! One replica: intake, dispatch, and an orderly end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shared::ports::{Bucket, BucketError, Clock, Randomness};
use shared::{Schedule, TokenStore};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::delivery::{Desk, KindsDebug};
use crate::dispatch::{Queued, Queues};
use crate::job::Job;
use crate::kinds::Kinds;
use crate::outage::Outage;
use crate::parking::Parking;
use crate::pubsub::{Connection, Delivery, Intake, IntakeError, IntakeSettings, Publisher};

/// Pauses between two tries of something that must work before work starts.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// An error of the subscription this soon after the start is a wrong setting.
const STARTUP: Duration = Duration::from_secs(30);
/// How long the acknowledgements may take after the last job has ended.
const RELEASE: Duration = Duration::from_secs(5);
/// Read at the start to see that the bucket is there; never written.
const PROBE: &str = "fleet-startup-check";

/// What a replica is made of.
pub struct Parts {
    /// Hands out credentials.
    pub store: TokenStore,
    /// The bucket of the store, for parked jobs.
    pub bucket: Arc<dyn Bucket>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub random: Arc<Randomness>,
    /// What it can do.
    pub kinds: Kinds,
    /// Where Pub/Sub is.
    pub connection: Connection,
    /// What it reads.
    pub intake: IntakeSettings,
    /// Where outcomes go.
    pub outcomes: Option<Publisher>,
    /// Where rejected jobs go.
    pub dead: Option<Publisher>,
    /// How many handlers run at once.
    pub concurrency: usize,
    /// How many jobs of one user run at once.
    pub per_user: usize,
    /// How long running jobs may go on after the end was asked for.
    pub drain: Duration,
}

/// What the replica's end is asked with: once to drain, twice to cut.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Stop the intake and drain.
    pub drain: CancellationToken,
    /// Do not wait for running jobs.
    pub cut: CancellationToken,
}

/// Whether the replica takes jobs at the moment.
#[derive(Debug, Default)]
pub struct Readiness {
    bucket_seen: AtomicBool,
    intake_open: AtomicBool,
}

impl Readiness {
    /// `Ok`, or what is missing.
    ///
    /// # Errors
    /// What is missing, for people.
    pub fn check(&self) -> Result<(), &'static str> {
        if !self.bucket_seen.load(Ordering::Relaxed) {
            Err("the bucket has not answered yet")
        } else if !self.intake_open.load(Ordering::Relaxed) {
            Err("the intake is not open")
        } else {
            Ok(())
        }
    }
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

/// Runs one replica until `stop` is asked for.
///
/// Dropping the future abandons running jobs, whose messages come again; only
/// `stop` ends it in order.
///
/// # Errors
/// [`ReplicaError`] when a setting is wrong, so that work cannot start.
pub async fn run(parts: Parts, stop: Stop, ready: Arc<Readiness>) -> Result<(), ReplicaError> {
    let Parts { store, bucket, clock, random, kinds, connection, intake, outcomes, dead, .. } =
        parts;
    await_bucket(&*bucket, &*clock, &random, &stop).await?;
    if stop.drain.is_cancelled() {
        return Ok(());
    }
    ready.bucket_seen.store(true, Ordering::Relaxed);
    let desk = Arc::new(Desk {
        parking: Parking::new(bucket, store.clone()),
        store,
        kinds: KindsDebug(kinds),
        outcomes,
        dead,
        clock: Arc::clone(&clock),
        random,
        slots: Semaphore::new(parts.concurrency.max(1)),
        queues: Queues::new(parts.per_user),
        outage: Outage::default(),
        subscription: intake.subscription.clone(),
        stopping: stop.drain.clone(),
        cutting: CancellationToken::new(),
    });
    let mut messages = Intake::open(&connection, intake).await?;
    let tasks = TaskTracker::new();
    let result = take_in(&desk, &mut messages, &tasks, &ready).await;
    ready.intake_open.store(false, Ordering::Relaxed);
    // The end also comes by an error: what is under way is drained all the same.
    desk.stopping.cancel();
    wind_up(&desk, messages, tasks, &stop, parts.drain).await;
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
    messages: &mut Intake,
    tasks: &TaskTracker,
    ready: &Readiness,
) -> Result<(), ReplicaError> {
    let started = desk.clock.monotonic();
    let mut paused = desk.outage.paused();
    let mut pauses = Schedule::new(RETRY_MIN, RETRY_MAX);
    let mut received_any = false;
    info!("taking jobs");
    loop {
        let is_paused = *paused.borrow_and_update();
        ready.intake_open.store(!is_paused, Ordering::Relaxed);
        let next = tokio::select! {
            biased;
            () = desk.stopping.cancelled() => return Ok(()),
            changed = paused.changed() => {
                debug_assert!(changed.is_ok(), "the desk holds the sender");
                continue;
            }
            next = messages.next(), if !is_paused => next,
        };
        match next {
            Ok(delivery) => {
                received_any = true;
                pauses.reset();
                accept(desk, tasks, delivery);
            }
            Err(error) => {
                let young = desk.clock.monotonic().since(started) < STARTUP;
                if !received_any && young {
                    return Err(error.into());
                }
                ready.intake_open.store(false, Ordering::Relaxed);
                let pause = pauses.next(desk.random.unit());
                error!("{error}; opening it again in {pause:.0?}");
                tokio::select! {
                    biased;
                    () = desk.stopping.cancelled() => return Ok(()),
                    () = desk.clock.sleep(pause) => {}
                }
            }
        }
    }
}

/// Queues a message under its user.
fn accept(desk: &Arc<Desk>, tasks: &TaskTracker, delivery: Delivery) {
    let desk = Arc::clone(desk);
    match Job::of(&delivery.received) {
        Err(why) => {
            tasks.spawn(async move { desk.refuse(delivery, why).await });
        }
        Ok(job) => {
            let user = job.user.clone();
            let received_at = desk.clock.monotonic();
            if desk.queues.push(Queued { job, delivery, received_at }) {
                tasks.spawn(async move { desk.run_user(&user).await });
            }
        }
    }
}

/// Stop intake, drain, cut; then see that no grant is lost.
async fn wind_up(desk: &Desk, messages: Intake, tasks: TaskTracker, stop: &Stop, drain: Duration) {
    let released = messages.stop();
    info!("stopping: no new jobs, running ones may end");
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
    if !desk.store.shutdown(desk.store.policy().lease_ttl).await {
        error!("a refresh is still under way; its grant may be lost");
    }
    info!("stopped");
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("intake", &self.intake).finish_non_exhaustive()
    }
}
