//! One delivery, from a received message to its end.
//!
//! A job takes its user's turn ([`crate::scheduler`]), waits for what it needs without
//! taking up one of the slots ([`credential`]), runs ([`run`]), and ends in exactly one way:
//! [`crate::settlement`] decides, [`write`] does the writing.

mod credential;
mod kinds;
mod report;
mod run;
mod write;

use std::collections::HashSet;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use shared::ports::{Bucket, Clock, Monotonic, Randomness};
use shared::{ConsentReason, UserId};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, error, warn};

use crate::dedupe::{Dedupe, Recalled};
use crate::effect::Knowledge;
use crate::gate::{Gate, Trouble};
use crate::job::{Job, Malformed};
use crate::message::{InHand, Message};
use crate::metrics::Meters;
use crate::outbox::Outbox;
use crate::outcome::Status;
use crate::parking::Parking;
use crate::pubsub::{Delivery, Topic};
use crate::rate_limits::RateLimits;
use crate::scheduler::{Held, Moves, Queued, Scheduler};
use crate::session::Carrier;
use crate::settlement::{
    Around, Ending, Event, Facts, Ran, Settlement, Step, give_back_pause, ordered_budget,
};
use crate::{metrics, spans};

use report::Report;

pub(crate) use credential::{Records, Troubled};
pub(crate) use kinds::{Kind, Kinds};

/// A pause of at least this counts as holding the message: shorter ones end before another
/// replica could do better.
const HELD_FROM: Duration = Duration::from_secs(10);

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
    pub(crate) topics: Topics,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<Randomness>,
    /// How many handlers run at once.
    pub(crate) slots: Semaphore,
    pub(crate) scheduler: Scheduler,
    pub(crate) rate_limits: RateLimits,
    pub(crate) gate: Gate,
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

/// A job that has its user's turn, or lets others have it.
#[derive(Debug, Default)]
struct Turn {
    paused: AtomicBool,
}

/// One delivery on its way.
struct Course<'a> {
    shared: &'a Arc<Deliveries>,
    message: &'a Message,
    received_at: Monotonic,
    /// [`Queued::number`].
    number: u64,
    /// `None` when the message is no job.
    job: Option<&'a Job>,
    kind: Option<&'a Kind>,
    /// `None` when the job was never started.
    turn: Option<&'a Turn>,
    settlement: Settlement,
    report: Report,
    /// What the user must consent to, if that is why the job cannot run.
    consent: Option<ConsentReason>,
    /// How often the handler ran.
    attempt: u32,
    /// The API rejected a token, and this delivery has renewed it.
    renewed: bool,
    last: Ran,
    /// The end could not be written so far.
    stuck: Option<Stuck>,
    /// How long the credential took, if one was had.
    token: Option<Duration>,
}

impl Deliveries {
    /// Takes a message in.
    pub(crate) fn receive(self: &Arc<Self>, delivery: Delivery) {
        let Some(message) = self.in_hand.take(delivery) else { return };
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
            Ok(end) => self.settle(message, Some(&job.user), end).instrument(span).await,
            // A fault of ours: dropping the message gives it back.
            Err(_panic) => {
                let message_id = &message.received.message_id;
                error!(message_id, "a delivery panicked; its message goes back");
            }
        }
    }

    /// Acknowledges or gives back, as a delivery has ended.
    async fn settle(self: &Arc<Self>, message: Message, user: Option<&UserId>, end: End) {
        let settling = spans::settle(end.status());
        if matches!(end, End::Written(_)) {
            let message_id = message.received.message_id.clone();
            if !message.acknowledge().instrument(settling).await {
                warn!(message_id, "the acknowledgement was not confirmed; it may come again");
            }
            return;
        }
        let follow = user.map(|user| self.scheduler.gave_back(user, &message.received, self.now()));
        settling.in_scope(|| message.give_back());
        self.give_back(follow.unwrap_or_default());
    }

    /// Whether a topic took nothing when it was tried last and no delivery tries it any more.
    pub(crate) fn is_left_alone(&self) -> bool {
        self.stuck.load(Ordering::Relaxed) == 0 && self.gate.stops_jobs()
    }

    fn now(&self) -> Monotonic {
        self.clock.monotonic()
    }

    fn failing_keys(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.failing_keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a delivery ended, but for the acknowledgement.
#[derive(Debug, Clone, Copy)]
enum End {
    /// Everything is written.
    Written(Ending),
    /// The message goes back.
    GivenBack,
}

impl End {
    fn status(self) -> Status {
        match self {
            Self::Written(ending) => ending.status,
            Self::GivenBack => Status::Retry,
        }
    }
}

impl<'a> Course<'a> {
    /// The course of a message that is no job, or not yet known to be one.
    fn new(shared: &'a Arc<Deliveries>, message: &'a Message, received_at: Monotonic) -> Self {
        let received = &message.received;
        let now = shared.clock.wall();
        let published = received.publish_time.unwrap_or(now);
        let age = Duration::try_from(now.duration_since(published)).unwrap_or_default();
        let key_fails = shared.failing_keys().contains(&received.ordering_key);
        let attempt = received.delivery_attempt.and_then(|attempt| u32::try_from(attempt).ok());
        let last_attempt = attempt.zip(shared.retries.max_attempts);
        let settlement = Settlement::new(Facts {
            ordered: !received.ordering_key.is_empty(),
            remembers: shared.dedupe.is_on(),
            publishes_outcomes: shared.topics.outcomes.is_some(),
            last_attempt: last_attempt.is_some_and(|(attempt, max)| attempt >= max),
            age,
            received_at,
            retry_budget: shared.retries.budget,
            ordered_budget: ordered_budget(shared.retries.ordered, age, key_fails),
        });
        Self {
            shared,
            message,
            received_at,
            number: 0,
            job: None,
            kind: None,
            turn: None,
            settlement,
            report: Report::default(),
            consent: None,
            attempt: 0,
            renewed: false,
            last: Ran::Failed { after: None },
            stuck: None,
            token: None,
        }
    }

    /// The course of this job.
    fn of(self, job: &'a Job) -> Self {
        Self { job: Some(job), kind: self.shared.kinds.get(&job.kind), ..self }
    }

    /// Does what the settlement says until the delivery has ended.
    async fn drive(&mut self, first: Event) -> End {
        let mut event = first;
        loop {
            match event {
                Event::Start => {
                    self.shared.meters.turn(self.shared.now().since(self.received_at));
                }
                Event::Ran(ran, _) => self.last = ran,
                _ => {}
            }
            event = match self.settlement.step(event, self.around()) {
                Step::Recall => self.recall().await,
                Step::Run => self.run().await,
                Step::Wait { pause, .. } => self.wait(pause).await,
                Step::Write(part, ending, cut) => self.write(part, ending, cut).await,
                Step::Rest(pause) => self.rest(pause).await,
                Step::Store { ending, rest, refused } => self.store(ending, rest, refused).await,
                Step::Acknowledge(ending) => {
                    self.note_key(ending);
                    self.log(ending.status, Some(ending.known));
                    return End::Written(ending);
                }
                Step::GiveBack(pause) => {
                    self.before_giving_back(pause).await;
                    self.log(Status::Retry, None);
                    return End::GivenBack;
                }
                Step::Abandon(ending) => {
                    metrics::ending_abandoned();
                    error!(
                        job = self.job_id(),
                        status = ending.status.as_str(),
                        effect = ending.known.effect.as_str(),
                        "the job ended and neither a topic nor the bucket keeps that: its message \
                         goes back, and the job may run again"
                    );
                    return End::GivenBack;
                }
            };
        }
    }

    /// The job's ID; what is no job is named by its message.
    fn job_id(&self) -> &'a str {
        self.job.map_or(&self.message.received.message_id, |job| &job.id)
    }

    fn around(&self) -> Around {
        let Ends { stopping, over, .. } = &self.shared.ends;
        Around {
            now: self.shared.now(),
            unit: self.shared.random.unit(),
            stopping: stopping.is_cancelled(),
            over: over.is_cancelled(),
        }
    }

    /// Looks whether the job's end is remembered.
    async fn recall(&mut self) -> Event {
        let Some(job) = self.job else { return Event::NotRemembered };
        match self.shared.dedupe.recall(job).await {
            Ok(None) => Event::NotRemembered,
            Ok(Some(Recalled::Same(told))) => {
                metrics::count(metrics::DEDUPED);
                let ending = Ending { status: told.status, known: told.known() };
                self.report = Report::of_told(told);
                Event::Remembered(ending)
            }
            Ok(Some(Recalled::OtherParameters)) => {
                let reason = "this ID was used with other parameters".to_owned();
                self.report.reason = Some(reason);
                Event::Ran(Ran::Rejected, Knowledge::NOTHING)
            }
            Err(why) => {
                self.shared.gate.close(Trouble::Bucket, &why);
                Event::Unwritten
            }
        }
    }

    /// Lets time pass before another run. Others of the user may run meanwhile.
    async fn wait(&mut self, pause: Duration) -> Event {
        let (Some(turn), Some(job)) = (self.turn, self.job) else { return self.hold(pause).await };
        turn.paused.store(true, Ordering::Relaxed);
        if let Some(next) = self.shared.scheduler.pause(&job.user) {
            self.shared.start(next);
        }
        let event = self.hold(pause).await;
        self.shared.scheduler.come_back(&job.user).await;
        turn.paused.store(false, Ordering::Relaxed);
        event
    }

    /// Lets time pass; a longer pause counts as holding the message.
    async fn hold(&self, pause: Duration) -> Event {
        let go_back = CancellationToken::new();
        let _held = if pause >= HELD_FROM { self.held(&go_back) } else { None };
        tokio::select! {
            biased;
            () = self.shared.ends.stopping.cancelled() => Event::GoBack,
            () = go_back.cancelled() => Event::GoBack,
            () = self.shared.clock.sleep(pause) => Event::Waited,
        }
    }

    /// Counts the job as held until the guard is dropped; `go_back` is cancelled when too
    /// many are.
    fn held(&self, go_back: &CancellationToken) -> Option<HeldJob<'a>> {
        let Self { shared, number, message, .. } = *self;
        let user = &self.job?.user;
        let held = Held { number, bytes: message.received.data.len(), go_back: go_back.clone() };
        let everybodys = !shared.gate.is_open();
        shared.give_back(shared.scheduler.hold(user, held, everybodys, shared.now()));
        Some(HeldJob { scheduler: &shared.scheduler, user, number })
    }

    /// Waits before an end is written again.
    async fn rest(&self, pause: Duration) -> Event {
        let Ends { stopping, over, .. } = &self.shared.ends;
        tokio::select! {
            biased;
            () = over.cancelled() => Event::TimeIsOver,
            () = stopping.cancelled(), if !self.settlement.is_ending() => Event::GoBack,
            () = self.shared.clock.sleep(pause) => Event::Waited,
        }
    }

    /// A message that would come again at once is held for a while first.
    async fn before_giving_back(&self, pause: Duration) {
        let age = self.shared.now().since(self.received_at);
        let unpaced = pause.is_zero() && self.shared.scheduler.is_unpaced();
        let pause = if unpaced { give_back_pause(age) } else { pause };
        if !pause.is_zero() {
            self.hold(pause).await;
        }
    }

    /// Remembers whether jobs of this key fail for as long as they are tried.
    fn note_key(&self, ending: Ending) {
        let key = &self.message.received.ordering_key;
        if key.is_empty() {
            return;
        }
        let mut failing = self.shared.failing_keys();
        if ending.status == Status::Done {
            failing.remove(key);
        } else if self.failed_too_long(ending) {
            failing.insert(key.clone());
        }
    }

    /// The job was rejected because it went on failing.
    fn failed_too_long(&self, ending: Ending) -> bool {
        ending.status == Status::Rejected
            && matches!(self.last, Ran::Failed { .. })
            && !ending.known.is_spent()
    }
}

/// Counts an end that could not be written until this is dropped.
struct Stuck(Arc<AtomicUsize>);

impl Stuck {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A job that counts as held until this is dropped.
struct HeldJob<'a> {
    scheduler: &'a Scheduler,
    user: &'a UserId,
    number: u64,
}

impl Drop for HeldJob<'_> {
    fn drop(&mut self) {
        self.scheduler.release(self.user, self.number);
    }
}
