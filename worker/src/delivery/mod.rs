//! One delivery, from a received message to its end.
//!
//! A job takes its user's turn ([`crate::scheduler`]), waits for what it needs without
//! taking up one of the slots ([`credential`]), runs ([`run`]), and ends in exactly one way:
//! [`crate::settlement`] decides, [`write`] does the writing.

mod course;
mod credential;
mod kinds;
mod recall;
mod report;
mod run;
mod telling;
mod write;

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use shared::UserId;
use shared::ports::{Bucket, Clock, Monotonic, Randomness};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, debug, error, warn};

use crate::carrier::Carrier;
use crate::dedupe::Dedupe;
use crate::effect::Knowledge;
use crate::events::Teller;
use crate::gate::Gate;
use crate::health::Gaps;
use crate::job::{Job, Malformed};
use crate::message::{InHand, Message};
use crate::metrics::Meters;
use crate::outbox::Outbox;
use crate::parking::Parking;
use crate::pubsub::{Delivery, Topic};
use crate::rate_limits::RateLimits;
use crate::scheduler::{Moves, Queued, Scheduler};
use crate::settlement::{Event, Ran};
use crate::spans;

use course::{Course, End, Turn};

pub(crate) use credential::{Records, Troubled};
pub(crate) use kinds::{Kind, Kinds};

/// How jobs are tried again, and until when.
#[derive(Debug, Clone)]
pub(crate) struct Retries {
    /// How long a delivery without an ordering key may wait between its runs.
    pub(crate) budget: Duration,
    /// How long a failing job with an ordering key is tried again where it is.
    pub(crate) ordered: Duration,
    /// How many delivery attempts the subscription permits, if it counts.
    pub(crate) max_attempts: Option<u32>,
}

/// The topics that a replica publishes to.
#[derive(Debug, Clone)]
pub(crate) struct Topics {
    pub(crate) jobs: Arc<dyn Topic>,
    pub(crate) dead: Arc<dyn Topic>,
    pub(crate) outcomes: Option<Arc<dyn Topic>>,
}

/// The signals of a replica's end, in their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ends {
    /// Nothing new begins; what waits goes back.
    pub(crate) stopping: CancellationToken,
    /// Handlers that run are cut.
    pub(crate) cutting: CancellationToken,
    /// Ends that are not written go to the outbox.
    pub(crate) over: CancellationToken,
}

/// What every delivery of a replica shares.
#[derive(Debug)]
pub(crate) struct Deliveries {
    pub(crate) carrier: Carrier,
    /// The bucket of the token store.
    pub(crate) bucket: Arc<dyn Bucket>,
    pub(crate) kinds: Kinds,
    pub(crate) parking: Parking,
    pub(crate) dedupe: Dedupe,
    pub(crate) outbox: Outbox,
    /// Publishes changes of consent, where an events topic is set.
    pub(crate) teller: Option<Arc<Teller>>,
    pub(crate) topics: Topics,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<Randomness>,
    /// How many handlers run at once.
    pub(crate) slots: Semaphore,
    pub(crate) scheduler: Scheduler,
    pub(crate) rate_limits: RateLimits,
    pub(crate) gate: Gate,
    pub(crate) gaps: Gaps,
    pub(crate) records: Records,
    pub(crate) troubled: Troubled,
    pub(crate) in_hand: Arc<InHand>,
    pub(crate) meters: Meters,
    pub(crate) retries: Retries,
    /// How many ends are held that could not be written.
    pub(crate) stuck: Arc<AtomicUsize>,
    /// Ordering keys whose last job was tried in vain for as long as it may be.
    pub(crate) failing_keys: Mutex<HashSet<String>>,
    /// Name of the subscription.
    pub(crate) subscription: String,
    pub(crate) ends: Ends,
    /// Everything that the replica waits for at its end.
    pub(crate) tasks: TaskTracker,
}

impl Deliveries {
    /// Takes a message in.
    pub(crate) fn receive(self: &Arc<Self>, delivery: Delivery) {
        let Some(message) = self.in_hand.take(delivery) else {
            debug!("a message came again while it is in hand: it runs once");
            return;
        };
        match Job::of(&message.received) {
            Ok(job) => self.make(self.scheduler.push(job, message, self.now())),
            Err(why) => {
                let shared = Arc::clone(self);
                self.tasks.spawn(async move { shared.refuse(message, &why).await });
            }
        }
    }

    /// Starts jobs and gives others back.
    fn make(self: &Arc<Self>, moves: Moves) {
        for queued in moves.start {
            self.start(queued);
        }
        self.give_back(moves.give_back);
    }

    fn start(self: &Arc<Self>, queued: Queued) {
        let shared = Arc::clone(self);
        self.tasks.spawn(async move { shared.run(queued).await });
    }

    /// Gives back messages that have not been started.
    pub(crate) fn give_back(self: &Arc<Self>, messages: Vec<Queued>) {
        for queued in messages {
            let shared = Arc::clone(self);
            self.tasks.spawn(async move { shared.deliver(queued, None, Event::GoBack).await });
        }
    }

    /// Gives back everything that has not been started.
    pub(crate) fn give_back_waiting(self: &Arc<Self>) {
        self.give_back(self.scheduler.take_waiting(self.now()));
    }

    /// Runs a job that has its turn, and then the next ones of its user. At the end of the
    /// replica these go back, and no sooner than the one before has ended: another replica
    /// would run them beside it.
    async fn run(self: Arc<Self>, first: Queued) {
        let mut next = Some(first);
        while let Some(queued) = next {
            let (user, turn) = (queued.job.user.clone(), Turn::default());
            let ordered = !queued.message.received.ordering_key.is_empty();
            let begin =
                if self.ends.stopping.is_cancelled() { Event::GoBack } else { Event::Start };
            self.deliver(queued, Some(&turn), begin).await;
            next = self.scheduler.ended(&user, ordered, turn.paused.load(Ordering::Relaxed));
        }
    }

    /// Ends a message that is no job.
    async fn refuse(self: Arc<Self>, message: Message, why: &Malformed) {
        let span = spans::delivery(&message.received, None, &self.subscription);
        let mut course = Course::new(&self, &message, self.now());
        course.report.reason = Some(why.to_string());
        let rejected = Event::Ran(Ran::Rejected, Knowledge::NOTHING);
        let end = course.drive(rejected).instrument(span.clone()).await;
        self.settle(message, None, end).instrument(span).await;
    }

    /// Drives a delivery to its end.
    async fn deliver(self: &Arc<Self>, queued: Queued, turn: Option<&Turn>, first: Event) {
        let Queued { job, message, received_at, number } = queued;
        let span = spans::delivery(&message.received, Some(&job), &self.subscription);
        let mut course =
            Course { number, turn, ..Course::new(self, &message, received_at) }.of(&job);
        let driving = AssertUnwindSafe(course.drive(first)).catch_unwind().instrument(span.clone());
        match driving.await {
            Ok(end) => {
                self.settle(message, Some((&job.user, number)), end).instrument(span).await;
            }
            // A fault of ours: dropping the message gives it back.
            Err(_panic) => {
                let message_id = &message.received.message_id;
                error!(message_id, "a delivery panicked; its message goes back");
            }
        }
    }

    /// Acknowledges or gives back, as a delivery has ended: that of a job by its user and
    /// [`Queued::number`].
    async fn settle(self: &Arc<Self>, message: Message, of: Option<(&UserId, u64)>, end: End) {
        let settling = spans::settle(end.status());
        if matches!(end, End::Written(_)) {
            let message_id = message.received.message_id.clone();
            if !message.acknowledge().instrument(settling).await {
                warn!(message_id, "the acknowledgement was not confirmed; it may come again");
            }
            return;
        }
        let follow = of.map(|(user, number)| {
            self.scheduler.gave_back(user, &message.received, number, self.now())
        });
        settling.in_scope(|| message.give_back());
        self.give_back(follow.unwrap_or_default());
    }

    /// No stored end of this worker's waits. Where no delivery has an unwritten end either,
    /// others have written what was stored, and nothing here tells whether topics and bucket
    /// take something.
    pub(crate) fn nothing_waits(&self) {
        if self.stuck.load(Ordering::Relaxed) == 0 {
            self.gate.let_jobs_begin();
        }
    }

    fn now(&self) -> Monotonic {
        self.clock.monotonic()
    }

    fn failing_keys(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.failing_keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
