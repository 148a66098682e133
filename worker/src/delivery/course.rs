//! One delivery on its way: what its settlement asks for is done, step by step.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use shared::ports::Monotonic;
use shared::{ConsentReason, UserId};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::job::Job;
use crate::message::Message;
use crate::metrics;
use crate::outcome::Status;
use crate::scheduler::{Held, Scheduler};
use crate::settlement::{
    Around, Ending, Event, Facts, LONGEST_HOLD, Ran, Settlement, Step, give_back_pause,
    ordered_budget,
};

use super::report::Report;
use super::{Deliveries, Ends, Kind};

/// A pause of at least this counts as holding the message: shorter ones end before another
/// replica could do better.
const HELD_FROM: Duration = Duration::from_secs(10);

/// A job that has its user's turn, or lets others have it.
#[derive(Debug, Default)]
pub(super) struct Turn {
    pub(super) paused: AtomicBool,
}

/// One delivery on its way.
pub(super) struct Course<'a> {
    pub(super) shared: &'a Arc<Deliveries>,
    pub(super) message: &'a Message,
    pub(super) received_at: Monotonic,
    /// [`Queued::number`].
    pub(super) number: u64,
    /// `None` when the message is no job.
    pub(super) job: Option<&'a Job>,
    pub(super) kind: Option<&'a Kind>,
    /// `None` when the job was never started.
    pub(super) turn: Option<&'a Turn>,
    pub(super) settlement: Settlement,
    pub(super) report: Report,
    /// What the user must consent to, if that is why the job cannot run.
    pub(super) consent: Option<ConsentReason>,
    /// How often the handler ran.
    pub(super) attempt: u32,
    /// The API rejected a token, and this delivery has renewed it; of a forwarded kind, this
    /// run of it.
    pub(super) renewed: bool,
    /// The first in a row of answers that came from somebody else than the job's handler.
    pub(super) misrouted_since: Option<Monotonic>,
    /// What the last run came to; `None` while there was none.
    pub(super) last: Option<Ran>,
    /// The end could not be written so far.
    pub(super) stuck: Option<Stuck>,
    /// How long the job waited for its user's turn, if it came.
    pub(super) queued: Option<Duration>,
    /// How long the credential took, if one was had.
    pub(super) token: Option<Duration>,
    /// How long the handler ran, in all attempts.
    pub(super) handler: Duration,
}

/// How a delivery ended, before its message is acknowledged or given back.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// Everything is written.
    Written(Ending),
    /// The message goes back.
    GivenBack,
}

impl End {
    pub(super) fn status(self) -> Status {
        match self {
            Self::Written(ending) => ending.status,
            Self::GivenBack => Status::Retry,
        }
    }
}

impl<'a> Course<'a> {
    /// The course of a message that is no job, or not yet known to be one.
    pub(super) fn new(
        shared: &'a Arc<Deliveries>,
        message: &'a Message,
        received_at: Monotonic,
    ) -> Self {
        let received = &message.received;
        let now = shared.clock.wall();
        let published = received.publish_time.unwrap_or(now);
        let age = Duration::try_from(now.duration_since(published)).unwrap_or_default();
        let key_fails = shared.failing_keys().contains(&received.ordering_key);
        let settlement = Settlement::new(Facts {
            ordered: !received.ordering_key.is_empty(),
            remembers: shared.dedupe.is_on(),
            publishes_outcomes: shared.topics.outcomes.is_some(),
            last_attempt: is_last_attempt(shared, message),
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
            misrouted_since: None,
            last: None,
            stuck: None,
            queued: None,
            token: None,
            handler: Duration::ZERO,
        }
    }

    /// The course of this job.
    pub(super) fn of(self, job: &'a Job) -> Self {
        Self { job: Some(job), kind: self.shared.kinds.get(&job.kind), ..self }
    }

    /// A delivery that is repeated says how long its job failed, not how long it waited.
    fn note_first_turn(&self) {
        let received = &self.message.received;
        if let Some(published) = received.publish_time
            && received.delivery_attempt.is_none_or(|attempt| attempt <= 1)
        {
            let waited = self.shared.clock.wall().duration_since(published);
            self.shared.meters.first_turn(Duration::try_from(waited).unwrap_or_default());
        }
    }

    /// Does what the settlement says until the delivery has ended.
    pub(super) async fn drive(&mut self, first: Event) -> End {
        let mut event = first;
        loop {
            match event {
                Event::Start => {
                    let queued = self.shared.now().since(self.received_at);
                    self.queued = Some(queued);
                    self.shared.meters.turn(queued);
                    self.note_first_turn();
                }
                Event::Ran(ran, _) => self.last = Some(ran),
                Event::GoBack if self.last.is_none() && self.is_last_attempt() => {
                    let reason = "it did not run in the last delivery that is permitted";
                    self.report.reason.get_or_insert_with(|| reason.to_owned());
                }
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
    pub(super) fn job_id(&self) -> &'a str {
        self.job.map_or(&self.message.received.message_id, |job| &job.id)
    }

    /// Whether the subscription permits no further delivery attempt.
    pub(super) fn is_last_attempt(&self) -> bool {
        is_last_attempt(self.shared, self.message)
    }

    fn around(&self) -> Around {
        let Ends { stopping, over, .. } = &self.shared.ends;
        Around {
            now: self.shared.now(),
            unit: self.shared.random.unit(),
            ran: self.handler,
            stopping: stopping.is_cancelled(),
            over: over.is_cancelled(),
        }
    }

    /// Lets time pass before another run. Others of the user may run meanwhile.
    async fn wait(&mut self, pause: Duration) -> Event {
        let reason = self.report.reason.as_deref().unwrap_or("no reason");
        info!(
            job = self.job_id(),
            http_status = self.report.http_status,
            "attempt {} failed, the next comes in {pause:.1?}: {reason}",
            self.attempt
        );
        self.yield_turn(self.hold(pause)).await
    }

    /// Lets others of the user run while the job waits for something else.
    pub(super) async fn yield_turn<T>(&self, waiting: impl Future<Output = T>) -> T {
        let (Some(turn), Some(job)) = (self.turn, self.job) else { return waiting.await };
        turn.paused.store(true, Ordering::Relaxed);
        if let Some(next) = self.shared.scheduler.pause(&job.user) {
            self.shared.start(next);
        }
        let waited = waiting.await;
        self.shared.scheduler.come_back(&job.user).await;
        turn.paused.store(false, Ordering::Relaxed);
        waited
    }

    /// Lets time pass; a longer pause counts as holding the message.
    pub(super) async fn hold(&self, pause: Duration) -> Event {
        self.hold_until(self.shared.clock.sleep(pause), pause >= HELD_FROM).await
    }

    /// Waits for `end`; whether that counts as holding the message.
    pub(super) async fn hold_until(&self, end: impl Future<Output = ()>, counts: bool) -> Event {
        let go_back = CancellationToken::new();
        let _held = if counts { self.held(&go_back) } else { None };
        tokio::select! {
            biased;
            () = self.too_late() => Event::GoBack,
            () = go_back.cancelled() => Event::GoBack,
            () = end => Event::Waited,
        }
    }

    /// Waits until no run may begin in this delivery any more: the replica ends, or another one
    /// may have the message, because this process stood still or its lease is about to end.
    pub(super) async fn too_late(&self) {
        let Deliveries { ends, gaps, clock, .. } = &**self.shared;
        let held = clock.monotonic().since(self.received_at);
        tokio::select! {
            biased;
            () = ends.stopping.cancelled() => {}
            () = gaps.after(self.received_at) => {}
            () = clock.sleep(LONGEST_HOLD.saturating_sub(held)) => {}
        }
    }

    /// Whether that is so by now.
    pub(super) fn is_too_late(&self) -> bool {
        let Deliveries { ends, gaps, clock, .. } = &**self.shared;
        let now = clock.monotonic();
        ends.stopping.is_cancelled()
            || gaps.any_since(self.received_at, now)
            || now.since(self.received_at) >= LONGEST_HOLD
    }

    /// Counts the job as held until the guard is dropped; `go_back` is cancelled when too
    /// many are.
    fn held(&self, go_back: &CancellationToken) -> Option<HeldJob<'a>> {
        let Self { shared, number, message, .. } = *self;
        let user = &self.job?.user;
        let held = Held {
            number,
            bytes: message.received.data.len(),
            keeps_turn: self.turn.is_none_or(|turn| !turn.paused.load(Ordering::Relaxed)),
            ordered: !message.received.ordering_key.is_empty(),
            go_back: go_back.clone(),
        };
        let everybodys = !shared.gate.is_open();
        shared.give_back(shared.scheduler.hold(user, held, everybodys, shared.now()));
        Some(HeldJob { scheduler: &shared.scheduler, user, number })
    }

    /// Waits before an end is written again.
    async fn rest(&self, pause: Duration) -> Event {
        tokio::select! {
            biased;
            () = self.shared.ends.over.cancelled() => Event::TimeIsOver,
            () = self.too_late(), if !self.settlement.is_ending() => Event::GoBack,
            () = self.shared.clock.sleep(pause) => Event::Waited,
        }
    }

    /// A message that would come again at once stays for a while first. It does not count as
    /// held: it would have to go back for that, without the pause.
    async fn before_giving_back(&self, pause: Duration) {
        let unpaced = pause.is_zero() && self.shared.scheduler.is_unpaced();
        let age = self.settlement.age(self.shared.now());
        let pause = if unpaced { give_back_pause(age) } else { pause };
        if !pause.is_zero() {
            self.hold_until(self.shared.clock.sleep(pause), false).await;
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
    pub(super) fn failed_too_long(&self, ending: Ending) -> bool {
        ending.status == Status::Rejected
            && matches!(self.last, Some(Ran::Failed { .. }))
            && !ending.known.is_spent()
    }
}

fn is_last_attempt(shared: &Deliveries, message: &Message) -> bool {
    let attempt = message.received.delivery_attempt.and_then(|attempt| u32::try_from(attempt).ok());
    attempt.zip(shared.retries.max_attempts).is_some_and(|(attempt, max)| attempt >= max)
}

/// Counts an end that could not be written until this is dropped.
pub(super) struct Stuck(Arc<AtomicUsize>);

impl Stuck {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Self {
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
