//! One replica: it begins when what it needs is there, takes messages in, and ends in
//! order.

mod build_error;
mod builder;
mod start;
mod stop;
mod worker;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use shared::Schedule;
use shared::ports::Monotonic;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::delivery::{Deliveries, Ends, Kinds, Records, Retries, Topics, Troubled};
use crate::events::Teller;
use crate::gate::{Gate, Trouble};
use crate::health::{Beat, Gap, Gaps, Lack};
use crate::message::InHand;
use crate::metrics::Meters;
use crate::outbox::{Outbox, OutboxSweep, Own, Sight};
use crate::parking::Parking;
use crate::pubsub::{IntakeError, NamedTopic, Source, TopicRefuses, Window, complain_if_refused};
use crate::rate_limits::RateLimits;
use crate::scheduler::{Limits, Scheduler};

pub use crate::health::Readiness;
pub use build_error::BuildError;
pub(crate) use builder::by_kind;
pub use builder::{Builder, OUTSTANDING_PER_SLOT};
pub use stop::Stop;
pub use worker::Worker;

/// Pauses between two tries of something that must work before work starts.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// An error of the subscription this soon after the start is a wrong setting.
const STARTUP: Duration = Duration::from_secs(30);
/// How often the loop turns when nothing changes, however many messages come.
const TURN: Duration = Duration::from_secs(1);
/// How often one message is let in while no stored record can be used.
const PROBE_EVERY: Duration = Duration::from_secs(30);
/// How long it may take to come: its stream has to be opened first.
const PROBE_FOR: Duration = Duration::from_secs(10);

/// Why a replica ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The bucket refuses.
    #[error("{0}")]
    Bucket(String),
    /// The subscription cannot be read.
    #[error(transparent)]
    Intake(#[from] IntakeError),
    /// A topic that jobs need cannot be published to.
    #[error(transparent)]
    Topic(#[from] TopicRefuses),
}

async fn run(mut worker: Worker, stop: Stop) -> Result<(), ReplicaError> {
    let beat = worker.ready.pulse().watch("the replica's loop");
    let Some(facts) = beat.through(start::start(&mut worker, &stop)).await? else {
        return Ok(());
    };
    let Worker { carrier, bucket, mut source, clock, random, ready, .. } = worker;
    ready.bucket_seen({
        let store = carrier.store.clone();
        move || store.health()
    });
    ready.watch_source(source.trouble());
    let events_topic = worker
        .events
        .as_ref()
        .map(|events| NamedTopic { setting: "--events-topic", topic: Arc::clone(&events.topic) });
    let deliveries = Arc::new(Deliveries {
        meters: Meters::default(),
        parking: Parking::new(Arc::clone(&bucket), carrier.store.clone()),
        outbox: Outbox::new(Arc::clone(&bucket), carrier.store.sealing().clone()),
        teller: worker.events.map(|events| Arc::new(Teller::new(events))),
        records: Records::new(Arc::clone(&bucket)),
        bucket,
        carrier,
        kinds: Kinds::new(worker.kinds),
        dedupe: worker.dedupe,
        topics: Topics { jobs: worker.jobs, dead: worker.dead, outcomes: worker.outcomes },
        clock,
        random,
        slots: Semaphore::new(worker.concurrency),
        scheduler: Scheduler::new(Limits {
            per_user: worker.per_user,
            outstanding: worker.outstanding,
            outstanding_bytes: worker.outstanding_bytes,
        }),
        rate_limits: RateLimits::default(),
        gate: Gate::default(),
        gaps: Gaps::default(),
        troubled: Troubled::new(worker.outstanding / 2),
        in_hand: Arc::new(InHand::default()),
        retries: Retries {
            budget: worker.retry_budget,
            ordered: worker.ordered_retry,
            max_attempts: facts.max_attempts,
        },
        stuck: Arc::default(),
        failing_keys: Mutex::default(),
        subscription: worker.subscription,
        ends: Ends { stopping: stop.drain.clone(), ..Ends::default() },
        tasks: TaskTracker::new(),
    });
    if let Some(topic) = events_topic {
        look_at_events(&deliveries, topic);
    }
    beat.through(deliveries.ask_records_at_start()).await;
    let sweeping = sweep_outbox(&deliveries);
    let watching = tokio::spawn(watch_gaps(Arc::clone(&deliveries)));
    let result = take_in(&deliveries, &mut *source, &ready, &beat).await;
    ready.intake(false);
    // The end also comes by an error: what is under way is drained all the same.
    deliveries.ends.stopping.cancel();
    watching.abort();
    beat.through(stop::wind_up(&deliveries, source, &stop, worker.drain)).await;
    beat.through(sweeping.stop()).await;
    result
}

/// Takes messages until the end is asked for. While there is everybody's trouble the stream
/// is dropped: one that is open and not read would burn the messages that the service sends
/// on it.
async fn take_in(
    deliveries: &Arc<Deliveries>,
    source: &mut dyn Source,
    ready: &Readiness,
    beat: &Beat,
) -> Result<(), ReplicaError> {
    let clock = &deliveries.clock;
    let started = clock.monotonic();
    let mut open = deliveries.gate.watch();
    let mut pauses = Schedule::new(RETRY_MIN, RETRY_MAX);
    let mut received_any = false;
    let mut probed = started;
    info!("taking jobs");
    loop {
        beat.turn();
        let is_open = open.borrow_and_update().intake;
        tell(deliveries, ready);
        if !is_open {
            for delivery in source.pause().await {
                deliveries.receive(delivery);
            }
            probe_records(deliveries, source, &mut probed).await;
        }
        let mut turn = clock.sleep(TURN);
        let ended = loop {
            tokio::select! {
                biased;
                () = deliveries.ends.stopping.cancelled() => return Ok(()),
                changed = open.changed() => {
                    debug_assert!(changed.is_ok(), "the deliveries have the gate");
                    break None;
                }
                () = &mut turn => break None,
                came = source.next(), if is_open => match came {
                    Ok(delivery) => {
                        received_any = true;
                        pauses.reset();
                        deliveries.receive(delivery);
                        // Messages may come faster than the jobs and acknowledgements of
                        // this thread.
                        tokio::task::consume_budget().await;
                    }
                    Err(error) => break Some(error),
                },
            }
        };
        let Some(error) = ended else { continue };
        if !received_any && clock.monotonic().since(started) < STARTUP {
            return Err(error.into());
        }
        let pause = pauses.next(deliveries.random.unit());
        ready.intake(false);
        error!("{error}; opening it again in {pause:.0?}");
        tokio::select! {
            biased;
            () = deliveries.ends.stopping.cancelled() => return Ok(()),
            () = beat.through(clock.sleep(pause)) => {}
        }
    }
}

/// Brings gauges, readiness and the audit trail up to date.
fn tell(deliveries: &Deliveries, ready: &Readiness) {
    let Deliveries { scheduler, meters, rate_limits, in_hand, gate, .. } = deliveries;
    meters.set_users(scheduler.users(), rate_limits.users());
    meters.set_jobs(in_hand.len(), scheduler.held());
    let now = deliveries.clock.monotonic();
    meters.set_paused_hosts(deliveries.carrier.host_limits.paused(now));
    deliveries.carrier.observer.usage.tell_at(now);
    match gate.reasons().as_slice() {
        [] => ready.has(Lack::Pause),
        reasons => ready.lacks(Lack::Pause, reasons.join("; ")),
    }
    match deliveries.kinds.all_down() {
        None => ready.has(Lack::Forwarding),
        Some(why) => ready.lacks(Lack::Forwarding, why),
    }
    ready.intake(true);
}

/// While no stored record can be used, looks again, and lets a message in now and then whose
/// record may be usable.
async fn probe_records(
    deliveries: &Arc<Deliveries>,
    source: &mut dyn Source,
    probed: &mut Monotonic,
) {
    if !deliveries.gate.has(&Trouble::Records) {
        return;
    }
    deliveries.ask_records_again().await;
    let now = deliveries.clock.monotonic();
    if now.since(*probed) < PROBE_EVERY || !deliveries.gate.has(&Trouble::Records) {
        return;
    }
    *probed = now;
    source.set_window(Window::One);
    tokio::select! {
        biased;
        came = source.next() => {
            if let Ok(delivery) = came {
                deliveries.receive(delivery);
            }
        }
        () = deliveries.ends.stopping.cancelled() => {}
        () = deliveries.clock.sleep(PROBE_FOR) => {}
    }
    for delivery in source.pause().await {
        deliveries.receive(delivery);
    }
    source.set_window(Window::Full);
}

/// Gives back what has not begun when the process stood still for so long that it may have
/// lost its messages' leases.
async fn watch_gaps(deliveries: Arc<Deliveries>) {
    loop {
        if let Some(stood) = deliveries.gaps.beat(deliveries.clock.monotonic()) {
            warn!("the process stood still for {stood:.1?}: what has not begun goes back");
            deliveries.give_back_waiting();
        }
        deliveries.clock.sleep(Gap::BEAT_EVERY).await;
    }
}

/// An events topic that is missing stops no job; it is only said.
fn look_at_events(deliveries: &Arc<Deliveries>, topic: NamedTopic) {
    let shared = Arc::clone(deliveries);
    deliveries.tasks.spawn(async move {
        let Deliveries { clock, random, ends, .. } = &*shared;
        tokio::select! {
            biased;
            () = ends.stopping.cancelled() => {}
            () = complain_if_refused(&topic, &**clock, random) => {}
        }
    });
}

/// The sweep of the outbox, and how to end it.
struct Sweeping {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Sweeping {
    async fn stop(self) {
        self.stop.cancel();
        // A panic in it was told where it happened.
        drop(self.task.await);
    }
}

fn sweep_outbox(deliveries: &Arc<Deliveries>) -> Sweeping {
    let stop = CancellationToken::new();
    let told = Arc::clone(deliveries);
    let sweep = OutboxSweep {
        bucket: Arc::clone(&deliveries.bucket),
        sealing: deliveries.carrier.store.sealing().clone(),
        holder: deliveries.carrier.store.holder().to_owned(),
        own: Own {
            dead: Some(Arc::clone(&deliveries.topics.dead)),
            outcomes: deliveries.topics.outcomes.clone(),
        },
        clock: Arc::clone(&deliveries.clock),
        random: Arc::clone(&deliveries.random),
        on_sight: Arc::new(move |sight| match sight {
            Sight::TopicTakes(topic) => told.gate.open(&Trouble::Topic(topic.to_owned())),
            Sight::BucketTakes => told.gate.open(&Trouble::Bucket),
            Sight::NothingWaits => told.nothing_waits(),
        }),
    };
    let task = tokio::spawn(sweep.run(stop.clone()));
    Sweeping { stop, task }
}
