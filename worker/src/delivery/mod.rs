//! One delivery, from a decoded job to its end.
//!
//! A job takes its user's turn ([`crate::dispatch`]), waits for what it needs
//! ([`holding`]) without taking up one of the slots, runs ([`attempt`]), and ends in
//! exactly one way ([`ending`]).

mod attempt;
mod ending;
mod holding;
mod known;

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use shared::ports::{Clock, Monotonic, Randomness};
use shared::{ConsentReason, UserDigest};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

use crate::dedupe::{Dedupe, Recalled, Told};
use crate::dispatch::{Queued, Queues};
use crate::effect::CallLedger;
use crate::in_hand::while_in_hand;
use crate::job::{Job, Malformed, Received};
use crate::metrics::Meters;
use crate::outage::Outage;
use crate::outcome::Status;
use crate::pace::Paces;
use crate::parking::{Parked, Parking};
use crate::pubsub::{Delivery, Settle, Topic};
use crate::session::Carrier;
use crate::{metrics, spans};

use ending::End;

pub(crate) use known::{Known, Repertoire};

/// How often a job may find its credential changed while it is being parked.
const MAX_PARK_ROUNDS: u32 = 5;
/// How long a runner's jobs may run before others of the same thread come, unless they
/// wait for something.
const SLICE: Duration = Duration::from_micros(75);
const STOPPING: &str = "the replica is stopping";

/// What every delivery of a replica shares.
#[derive(Debug)]
pub(crate) struct Desk {
    pub(crate) carrier: Carrier,
    pub(crate) kinds: Repertoire,
    pub(crate) parking: Parking,
    pub(crate) dedupe: Dedupe,
    pub(crate) outcomes: Option<Arc<dyn Topic>>,
    pub(crate) dead: Option<Arc<dyn Topic>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<Randomness>,
    pub(crate) slots: Semaphore,
    pub(crate) queues: Queues,
    pub(crate) paces: Paces,
    pub(crate) outage: Outage,
    /// What is counted for every job.
    pub(crate) meters: Meters,
    /// How long a delivery may wait between attempts, all in all.
    pub(crate) retry_budget: Duration,
    /// Name of the subscription, for traces.
    pub(crate) subscription: String,
    /// No new work: what merely waits goes back.
    pub(crate) stopping: CancellationToken,
    /// No work at all.
    pub(crate) cutting: CancellationToken,
    /// Everything that the replica waits for at its end.
    pub(crate) tasks: TaskTracker,
}

/// Who runs a runner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum In {
    /// A task of its own.
    Task,
    /// The intake, which it must not hold up.
    Intake,
}

/// Why a job did not run to its end.
enum Stopped {
    /// The user must consent.
    Consent(ConsentReason),
    /// The delivery is over.
    Over(Box<End>),
}

impl From<End> for Stopped {
    fn from(end: End) -> Self {
        Self::Over(Box::new(end))
    }
}

/// What a runner has for each of its jobs in turn.
#[derive(Debug, Default)]
struct Runner {
    /// Whether the job waits for a slot or has one.
    slot: AtomicBool,
}

/// What is measured about a delivery.
struct Measured<'a> {
    runner: &'a Runner,
    /// When its message was received.
    since: Monotonic,
    /// How often the handler ran.
    attempt: u32,
    /// How long the credential took.
    token: Option<Duration>,
    /// The user's digest, known since the credential was had.
    user_digest: Option<UserDigest>,
    /// How long the delivery waited between attempts.
    waited: Duration,
    /// The calls of the last run.
    calls: Option<Arc<CallLedger>>,
}

impl<'a> Measured<'a> {
    fn new(runner: &'a Runner, since: Monotonic) -> Self {
        let waited = Duration::ZERO;
        Self { runner, since, attempt: 0, token: None, user_digest: None, waited, calls: None }
    }
}

impl Desk {
    /// Ends a message that is no job.
    pub(crate) async fn refuse(&self, delivery: Delivery, why: Malformed) {
        let Delivery { received, settle } = delivery;
        let mut end = End::rejected(why.to_string());
        let runner = Runner::default();
        let measured = Measured::new(&runner, self.now());
        let settling = self.settle(None, None, &received, settle, &mut end, &measured);
        while_in_hand(Arc::clone(&received), settling).await;
    }

    /// Whether a job needs something else before a slot, or none at all.
    pub(crate) fn waits_first(&self, queued: &Queued) -> bool {
        queued.kind.is_none()
            || self.dedupe.is_on()
            || self.carrier.store.credentials_in_memory(&queued.job.user).is_none()
    }

    /// Starts a runner in a task of its own.
    pub(crate) fn start(self: &Arc<Self>, queued: Box<Queued>) {
        let desk = Arc::clone(self);
        // Boxed: what is as large as that and aligned as tasks are is the allocator's slow
        // case. And named, since a runner starts others.
        let run: BoxFuture<'static, ()> = Box::pin(async move {
            let now = desk.now();
            desk.run(queued, now, In::Task).await;
        });
        self.tasks.spawn(run);
    }

    /// Runs a job whose turn has come at `now`, and then those that the queues have for
    /// this runner. When the last one ended. At the end of the replica the waiting ones
    /// go back, and no sooner than the running one of their user has ended: another
    /// replica would run them beside it, or before it.
    pub(crate) async fn run(
        self: Arc<Self>,
        mut queued: Box<Queued>,
        mut now: Monotonic,
        runs_in: In,
    ) -> Monotonic {
        let runner = Runner::default();
        let mut since = now;
        let mut first = true;
        loop {
            let place = queued.place;
            let settle = queued.settle;
            let (job, received, received_at) = (&queued.job, &queued.received, queued.received_at);
            let kind = queued.kind.as_deref();
            // They are closed when the replica stops, which costs less to see than `stopping`.
            if self.slots.is_closed() {
                settle.nack();
            } else {
                self.meters.turn(now.since(received_at));
                let span = spans::delivery(received, &self.subscription);
                // One that was cut while it waited for a slot has left it so.
                runner.slot.store(false, Ordering::Relaxed);
                let mut measured = Measured::new(&runner, received_at);
                // Pinned, so that what wraps it moves a pointer.
                let delivered = pin!(self.deliver(job, kind, received, settle, &mut measured));
                let delivered = delivered.instrument(span);
                let delivered = while_in_hand(Arc::clone(received), delivered);
                // A fault of ours gives this message back, by dropping it, and must
                // not leave its user without a runner.
                let delivered = pin!(AssertUnwindSafe(delivered).catch_unwind());
                let began = now;
                let (ended, waited) = self.make_way(&runner.slot, delivered).await;
                now = ended.unwrap_or_else(|_panic| {
                    let message = &received.message_id;
                    tracing::error!(message, "a delivery panicked; its message goes back");
                    self.now()
                });
                match kind {
                    Some(kind) if !waited => kind.beginnings.ended(now.since(began)),
                    // The others of the same runner wait as well, and would only make
                    // cores compete for the number.
                    Some(kind) if first => kind.beginnings.waits(),
                    _ => {}
                }
                first = false;
            }
            let Some(next) = self.queues.pop(place) else { return now };
            let is_brief = || next.kind.as_ref().is_some_and(|kind| kind.beginnings.are_brief());
            if runs_in == In::Intake && !is_brief() {
                self.start(next);
                return now;
            }
            queued = next;
            if now.since(since) > SLICE {
                tokio::task::yield_now().await;
                now = self.now();
                since = now;
            }
        }
    }

    /// Drives a delivery; whether it waited. Once it has waited otherwise than for a `slot`
    /// and in one, another runner works until it has ended.
    async fn make_way<T>(
        self: &Arc<Self>,
        slot: &AtomicBool,
        mut delivered: Pin<&mut impl Future<Output = T>>,
    ) -> (T, bool) {
        let (mut waited, mut aside) = (false, false);
        let ended = poll_fn(|cx| {
            let polled = delivered.as_mut().poll(cx);
            if polled.is_pending() {
                waited = true;
                if !aside && !slot.load(Ordering::Relaxed) {
                    aside = true;
                    if let Some(queued) = self.queues.stand_aside() {
                        self.start(queued);
                    }
                }
            }
            polled
        });
        let ended = ended.await;
        if aside {
            self.queues.come_back();
        }
        (ended, waited)
    }

    /// When it has ended.
    async fn deliver(
        &self,
        job: &Job,
        kind: Option<&Known>,
        received: &Received,
        settle: Box<dyn Settle>,
        measured: &mut Measured<'_>,
    ) -> Monotonic {
        let ended = {
            // Pinned, so that a pointer is moved to where both are waited for.
            let work = pin!(self.work(job, kind, received, measured));
            tokio::select! {
                biased;
                end = work => Some(end),
                // Second: a job that does not wait for anything need not ask for it.
                () = self.cutting.cancelled() => None,
            }
        };
        let mut end = ended.unwrap_or_else(|| End::cut(measured.calls.as_deref()));
        if end.status == Status::Done && measured.attempt > 0 && self.dedupe.is_on() {
            Box::pin(self.remember(job, &end)).await;
        }
        if end.status == Status::Retry {
            // Not before a subscription without a retry policy would spin.
            Box::pin(self.pause(std::mem::take(&mut end.pause))).await;
        }
        self.settle(Some(job), kind, received, settle, &mut end, measured).await
    }

    /// Runs the job, parks it if the user must consent, and runs it after all if
    /// that turned out to be out of date.
    async fn work(
        &self,
        job: &Job,
        kind: Option<&Known>,
        received: &Received,
        measured: &mut Measured<'_>,
    ) -> End {
        if self.dedupe.is_on() {
            // Boxed, here and below, so that the others do not carry its state.
            match Box::pin(self.held(&job.user, || self.dedupe.recall(job))).await {
                Ok(None) => {}
                Ok(Some(Recalled::Same(_))) => {
                    metrics::count(metrics::DEDUPED);
                    return End::done_before();
                }
                Ok(Some(Recalled::OtherParameters)) => {
                    return End::rejected("this ID was used with other parameters");
                }
                Err(end) => return end,
            }
        }
        for _ in 0..MAX_PARK_ROUNDS {
            let why = match self.attempts(job, kind, measured).await {
                Ok(end) => return end,
                Err(Stopped::Over(end)) => return *end,
                Err(Stopped::Consent(why)) => why,
            };
            let now = self.clock.wall();
            let parking = self.held(&job.user, || self.parking.park(job, received, &why, now));
            match Box::pin(parking).await {
                Ok(Parked::Stored { .. }) => return End::parked(&why),
                Ok(Parked::RunIt) => {}
                Err(end) => return end,
            }
        }
        End::retry("the credential keeps changing while the job is being parked")
    }

    /// Remembers that a job is done. Should that fail, the message is acknowledged
    /// all the same: it comes again only if that fails too.
    async fn remember(&self, job: &Job, end: &End) {
        let told = Told {
            status: end.status,
            effect: end.knowledge.effect,
            repeatable: end.knowledge.repeatable,
            http_status: end.http_status,
            result: end.result.clone(),
            reason: None,
        };
        if let Err(error) = self.dedupe.remember(job, &told, &*self.clock).await {
            tracing::warn!(
                job = job.id,
                "that the job is done cannot be noted under done/, so a redelivery would run it again: {error}"
            );
        }
    }

    fn now(&self) -> Monotonic {
        self.clock.monotonic()
    }

    /// Waits, or less at the end of the replica.
    async fn pause(&self, pause: Duration) {
        tokio::select! {
            biased;
            () = self.stopping.cancelled() => {}
            () = self.clock.sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size of what a method's future holds.
    fn size<F: Future>(_: impl FnOnce(Arc<Desk>, Box<Queued>, Monotonic, In) -> F) -> usize {
        size_of::<F>()
    }

    /// One is made, moved and freed for every job.
    #[test]
    fn the_future_of_a_delivery_is_small() {
        let bytes = size(Desk::run);
        assert!(bytes <= 1200, "{bytes} bytes; box what is rarely waited for");
    }
}
