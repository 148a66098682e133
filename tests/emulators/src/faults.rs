//! Servers that misbehave on demand: late, lost, refused and stalled answers.
//!
//! A test injects a [`Fault`] into a running emulator, says which requests it strikes,
//! and waits for the blow instead of sleeping:
//!
//! ```no_run
//! # async fn run() -> std::io::Result<()> {
//! use emulators::faults::Fault;
//! use emulators::storage::{Config, Operation, Storage};
//!
//! let storage = Storage::start(Config::default()).await?;
//! let lost = storage.inject(Fault::lost_reply().on(Operation::Write).under("leases/").times(1));
//! lost.hits(1).await; // one lease was stored, and its writer does not know
//! # Ok(()) }
//! ```
//!
//! # What each does to a request
//!
//! | fault | the request | the client sees |
//! |---|---|---|
//! | [`Fault::refusal`] | is not carried out | that status: 503, 429, 500 … |
//! | [`Fault::stall`] | is not carried out | an open connection and nothing else, until it gives up or the fault is lifted; then it is cut |
//! | [`Fault::lost_reply`] | is carried out | its connection cut, without an answer |
//! | [`Fault::latency`] | is carried out when it arrives | the answer, so much later |
//!
//! A reply is lost only if the request changed or read something: one that was refused
//! anyhow (a failed precondition, say) is answered, and the fault waits for the next.
//! Over gRPC a cut connection takes all of its calls along.
//!
//! Of the faults that fit a request the oldest strikes, alone. A fault strikes until its
//! [`times`](Fault::times) are used up or it is [lifted](Injected::lift); dropping its
//! handle lifts nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::connection::Cut;

/// What is to go wrong, with which requests. `O` is the server's kind of operation.
#[derive(Clone, Debug)]
pub struct Fault<O> {
    effect: Effect,
    operations: Vec<O>,
    subject: Subject,
    times: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Latency(Duration),
    LostReply,
    Refusal(StatusCode),
    Stall,
}

/// What a request is about: an object by its name, or a user by their `sub`.
#[derive(Clone, Debug)]
enum Subject {
    Any,
    Exactly(String),
    Under(String),
}

impl Subject {
    fn covers(&self, subject: Option<&str>) -> bool {
        match self {
            Self::Any => true,
            Self::Exactly(wanted) => subject == Some(wanted),
            Self::Under(prefix) => subject.is_some_and(|name| name.starts_with(prefix.as_str())),
        }
    }
}

impl<O> Fault<O> {
    /// The request is carried out, and its connection is cut instead of an answer.
    pub fn lost_reply() -> Self {
        Self::of(Effect::LostReply)
    }

    /// The request is not carried out and answered with this status.
    pub fn refusal(status: StatusCode) -> Self {
        Self::of(Effect::Refusal(status))
    }

    /// The request is not carried out and never answered.
    pub fn stall() -> Self {
        Self::of(Effect::Stall)
    }

    /// The request is carried out, and its answer comes so much after it arrived.
    pub fn latency(latency: Duration) -> Self {
        Self::of(Effect::Latency(latency))
    }

    fn of(effect: Effect) -> Self {
        Self { effect, operations: Vec::new(), subject: Subject::Any, times: None }
    }

    /// Strikes this operation only; given more than once, any of them.
    #[must_use]
    pub fn on(mut self, operation: O) -> Self {
        self.operations.push(operation);
        self
    }

    /// Strikes requests about this object or user only.
    #[must_use]
    pub fn about(mut self, subject: impl Into<String>) -> Self {
        self.subject = Subject::Exactly(subject.into());
        self
    }

    /// Strikes requests about objects whose names begin so.
    #[must_use]
    pub fn under(mut self, prefix: impl Into<String>) -> Self {
        self.subject = Subject::Under(prefix.into());
        self
    }

    /// Strikes so many requests and is over then.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }
}

/// The handle of a fault that a server has.
#[derive(Clone, Debug)]
pub struct Injected {
    hits: watch::Sender<u64>,
    lifted: CancellationToken,
}

impl Injected {
    fn new() -> Self {
        Self { hits: watch::Sender::new(0), lifted: CancellationToken::new() }
    }

    /// How many requests it has struck so far.
    pub fn count(&self) -> u64 {
        *self.hits.borrow()
    }

    /// Waits until it has struck so many requests. Cancel safe.
    pub async fn hits(&self, wanted: u64) {
        let mut hits = self.hits.subscribe();
        // The sender lives in `self`, so this cannot fail.
        hits.wait_for(|hits| *hits >= wanted).await.map(drop).unwrap_or_default();
    }

    /// Ends it. Requests that it stalls are cut now.
    pub fn lift(&self) {
        self.lifted.cancel();
    }

    fn struck(&self) {
        self.hits.send_modify(|hits| *hits += 1);
    }
}

/// The faults of one server.
#[derive(Clone, Debug)]
pub(crate) struct Faults<O> {
    armed: Arc<Mutex<Vec<Armed<O>>>>,
}

#[derive(Debug)]
struct Armed<O> {
    fault: Fault<O>,
    injected: Injected,
}

/// A request whose answer may still meet a fault.
#[derive(Debug)]
#[must_use = "its answer must pass too"]
pub(crate) struct Passage<O> {
    faults: Faults<O>,
    arrived: Instant,
    cut: Cut,
    /// A fault that strikes when the request has been carried out.
    pending: Option<(Effect, Injected)>,
}

impl<O> Default for Faults<O> {
    fn default() -> Self {
        Self { armed: Arc::default() }
    }
}

impl<O: Copy + PartialEq> Faults<O> {
    pub(crate) fn inject(&self, fault: Fault<O>) -> Injected {
        let injected = Injected::new();
        self.lock().push(Armed { fault, injected: injected.clone() });
        injected
    }

    /// Whether any is to be met: who a request comes from matters only then.
    pub(crate) fn are_armed(&self) -> bool {
        !self.lock().is_empty()
    }

    /// Lets a request in, or says with which status it is refused. Stalls it if that is
    /// its fault. Cancelled when its connection ends.
    pub(crate) async fn enter(
        &self,
        operation: O,
        subject: Option<&str>,
        cut: Cut,
    ) -> Result<Passage<O>, StatusCode> {
        let mut passage =
            Passage { faults: self.clone(), arrived: Instant::now(), cut, pending: None };
        let Some((effect, injected)) = self.take(operation, subject) else {
            return Ok(passage);
        };
        match effect {
            Effect::Refusal(status) => {
                injected.struck();
                Err(status)
            }
            Effect::Stall => {
                injected.struck();
                injected.lifted.cancelled().await;
                passage.cut().await
            }
            Effect::LostReply | Effect::Latency(_) => {
                passage.pending = Some((effect, injected));
                Ok(passage)
            }
        }
    }

    /// The oldest fault that fits, one of its times used up.
    fn take(&self, operation: O, subject: Option<&str>) -> Option<(Effect, Injected)> {
        let mut armed = self.lock();
        armed.retain(|armed| !armed.injected.lifted.is_cancelled());
        let struck = armed.iter_mut().find(|Armed { fault, .. }| {
            fault.times != Some(0)
                && (fault.operations.is_empty() || fault.operations.contains(&operation))
                && fault.subject.covers(subject)
        })?;
        if let Some(times) = &mut struck.fault.times {
            *times -= 1;
        }
        Some((struck.fault.effect, struck.injected.clone()))
    }

    /// Gives a time back that was not used after all.
    fn give_back(&self, injected: &Injected) {
        let mut armed = self.lock();
        let mine = armed.iter_mut().find(|armed| armed.injected.hits.same_channel(&injected.hits));
        if let Some(Armed { fault: Fault { times: Some(times), .. }, .. }) = mine {
            *times += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Armed<O>>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<O: Copy + PartialEq> Passage<O> {
    /// Lets the answer out, unless it is lost; late if that is its fault. `done` says
    /// whether the request was carried out.
    pub(crate) async fn leave(self, done: bool) {
        match &self.pending {
            None => {}
            Some((Effect::LostReply, injected)) if done => {
                injected.struck();
                self.cut::<()>().await;
            }
            Some((Effect::Latency(latency), injected)) => {
                injected.struck();
                tokio::select! {
                    () = sleep_until(self.arrived + *latency) => {}
                    () = injected.lifted.cancelled() => {}
                }
            }
            Some((_, injected)) => self.faults.give_back(injected),
        }
    }
}

impl<O> Passage<O> {
    /// Ends the connection, and with it whoever waits here.
    async fn cut<T>(&self) -> T {
        self.cut.now();
        std::future::pending().await
    }
}
