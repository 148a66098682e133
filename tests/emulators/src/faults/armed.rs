//! The faults that a server has, and a request on its way past them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use googleapis_tonic_google_pubsub_v1::google::pubsub::v1::PubsubMessage;
use http::StatusCode;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Answer, Effect, Fault, Selector};
use crate::connection::Cut;

/// What a request gets that is not carried out.
#[derive(Debug)]
pub(crate) enum Instead<R> {
    Answer(Arc<Answer>),
    Refusal(R),
}

impl Instead<StatusCode> {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Answer(answer) => answer.status,
            Self::Refusal(status) => *status,
        }
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
pub(crate) struct Faults<O, R = StatusCode> {
    armed: Arc<Mutex<Vec<Armed<O, R>>>>,
}

#[derive(Debug)]
struct Armed<O, R> {
    fault: Fault<O, R>,
    injected: Injected,
}

/// A request whose answer may still meet a fault.
#[derive(Debug)]
#[must_use = "its answer must pass too"]
pub(crate) struct Passage<O, R = StatusCode> {
    faults: Faults<O, R>,
    arrived: Instant,
    cut: Cut,
    /// A fault that strikes when the request has been carried out.
    pending: Option<(Effect<R>, Injected)>,
}

impl<O, R> Default for Faults<O, R> {
    fn default() -> Self {
        Self { armed: Arc::default() }
    }
}

impl<O: Copy + PartialEq, R: Copy> Faults<O, R> {
    pub(crate) fn inject(&self, fault: Fault<O, R>) -> Injected {
        let injected = Injected::new();
        self.lock().push(Armed { fault, injected: injected.clone() });
        injected
    }

    /// Whether any is to be met: who a request comes from matters only then.
    pub(crate) fn are_armed(&self) -> bool {
        !self.lock().is_empty()
    }

    /// Lets a request in, or says what it gets instead. Stalls it if that is its fault.
    /// Cancelled when its connection ends.
    pub(crate) async fn enter(
        &self,
        operation: O,
        subject: Option<&str>,
        cut: Cut,
    ) -> Result<Passage<O, R>, Instead<R>> {
        self.enter_with(operation, subject, &[], cut).await
    }

    /// As [`enter`](Self::enter), for a request that carries messages.
    pub(crate) async fn enter_with(
        &self,
        operation: O,
        subject: Option<&str>,
        messages: &[PubsubMessage],
        cut: Cut,
    ) -> Result<Passage<O, R>, Instead<R>> {
        let mut passage =
            Passage { faults: self.clone(), arrived: Instant::now(), cut, pending: None };
        let Some((effect, injected)) = self.take(operation, subject, messages, false) else {
            return Ok(passage);
        };
        match effect {
            Effect::Refusal(status) => {
                injected.struck();
                Err(Instead::Refusal(status))
            }
            Effect::Answer(answer) if !answer.carried_out => {
                injected.struck();
                held_back(passage.arrived + answer.after, &injected).await;
                Err(Instead::Answer(answer))
            }
            Effect::Stall => {
                injected.struck();
                injected.lifted.cancelled().await;
                passage.cut().await
            }
            _ => {
                passage.pending = Some((effect, injected));
                Ok(passage)
            }
        }
    }

    /// Whether a fault inside the server strikes this operation on a message.
    pub(crate) fn strikes(&self, operation: O, subject: &str, message: &PubsubMessage) -> bool {
        let struck = self.take(operation, Some(subject), std::slice::from_ref(message), true);
        if let Some((_, injected)) = &struck {
            injected.struck();
        }
        struck.is_some()
    }

    /// The oldest fault that fits, one of its times used up.
    fn take(
        &self,
        operation: O,
        subject: Option<&str>,
        messages: &[PubsubMessage],
        inward: bool,
    ) -> Option<(Effect<R>, Injected)> {
        let mut armed = self.lock();
        armed.retain(|armed| !armed.injected.lifted.is_cancelled());
        let struck = armed.iter_mut().find(|Armed { fault, .. }| {
            let message = fault.message.as_ref();
            fault.times != Some(0)
                && fault.effect.is_inward() == inward
                && (fault.operations.is_empty() || fault.operations.contains(&operation))
                && fault.subject.covers(subject)
                && message.is_none_or(|Selector(wanted)| messages.iter().any(|m| wanted(m)))
        })?;
        if let Some(times) = &mut struck.fault.times {
            *times -= 1;
        }
        Some((struck.fault.effect.clone(), struck.injected.clone()))
    }

    /// Gives a time back that was not used after all.
    fn give_back(&self, injected: &Injected) {
        let mut armed = self.lock();
        let mine = armed.iter_mut().find(|armed| armed.injected.hits.same_channel(&injected.hits));
        if let Some(Armed { fault: Fault { times: Some(times), .. }, .. }) = mine {
            *times += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Armed<O, R>>> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<O: Copy + PartialEq, R: Copy> Passage<O, R> {
    /// Lets the answer out, unless it is lost; late if that is its fault. Returns the answer
    /// that takes its place, if there is one. `done` says whether the request was carried
    /// out.
    pub(crate) async fn leave(self, done: bool) -> Option<Arc<Answer>> {
        match &self.pending {
            None => {}
            Some((Effect::Answer(answer), injected)) if done => {
                injected.struck();
                held_back(self.arrived + answer.after, injected).await;
                return Some(Arc::clone(answer));
            }
            Some((Effect::LostReply, injected)) if done => {
                injected.struck();
                self.cut::<()>().await;
            }
            Some((Effect::Latency(latency), injected)) => {
                injected.struck();
                held_back(self.arrived + *latency, injected).await;
            }
            Some((_, injected)) => self.faults.give_back(injected),
        }
        None
    }
}

/// Until then, or until the fault is lifted.
async fn held_back(until: Instant, injected: &Injected) {
    tokio::select! {
        () = sleep_until(until) => {}
        () = injected.lifted.cancelled() => {}
    }
}

impl<O, R> Passage<O, R> {
    /// Ends the connection, and with it whoever waits here.
    async fn cut<T>(&self) -> T {
        self.cut.now();
        std::future::pending().await
    }
}
