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
//! | [`Fault::forgotten`] (Pub/Sub) | is answered and not carried out | success, and later the message again |
//! | [`Fault::duplicated`] (Pub/Sub) | is carried out twice | one message ID, two ack IDs |
//! | [`Fault::answer`] | is carried out or not, as the answer says | that answer, byte by byte, at the identity provider and the APIs; elsewhere its status |
//!
//! A reply is lost only if the request changed or read something: one that was refused
//! anyhow (a failed precondition, say) is answered, and the fault waits for the next.
//! Over gRPC a cut connection takes all of its calls along.
//!
//! Of the faults that fit a request the oldest strikes, alone. A fault strikes until its
//! [`times`](Fault::times) are used up or it is [lifted](Injected::lift); dropping its
//! handle lifts nothing.
//!
//! # Pub/Sub
//!
//! [`PubSub::inject`] takes [`pubsub::Fault`], which refuses with gRPC codes. A fault is
//! narrowed by [`Operation`], by the full name of the topic or subscription
//! ([`about`](Fault::about)) and by the message ([`with_attribute`](Fault::with_attribute),
//! [`matching`](Fault::matching)); one message that fits makes its whole request fit.
//!
//! ```no_run
//! # async fn run() -> std::io::Result<()> {
//! use emulators::pubsub::{Config, Fault, Operation, PubSub};
//! use tonic::Code;
//!
//! let pubsub = PubSub::start(Config::default()).await?;
//! // A topic that takes no outcomes until this is lifted.
//! let gone = Fault::refusal(Code::NotFound).on(Operation::Publish).about("projects/p/topics/t");
//! let gone = pubsub.inject(gone);
//! // One message that is refused for itself, and its batch with it.
//! pubsub.inject(Fault::refusal(Code::InvalidArgument).with_attribute("job", "7").times(2));
//! // The look at a topic: a server that knows no TestIamPermissions.
//! pubsub.inject(Fault::refusal(Code::Unimplemented).on(Operation::TestPermissions));
//! // Each message of a subscription twice; every acknowledgement answered and lost.
//! pubsub.inject(Fault::duplicated().about("projects/p/subscriptions/s"));
//! pubsub.inject(Fault::forgotten().on(Operation::Acknowledge).times(1));
//! gone.lift();
//! # Ok(()) }
//! ```
//!
//! Not requests, and therefore methods of [`PubSub`]: `create_topic`, `delete_topic`,
//! `set_retry_policy`, `set_dead_letter_policy`, `end_streams`, `expire_leases`.
//!
//! An address that accepts and closes, or that swallows everything silently, is a
//! [`Proxy`](crate::proxy::Proxy) before any server.
//!
//! [`Operation`]: crate::pubsub::Operation
//! [`PubSub`]: crate::pubsub::PubSub
//! [`PubSub::inject`]: crate::pubsub::PubSub::inject

mod armed;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use googleapis_tonic_google_pubsub_v1::google::pubsub::v1::PubsubMessage;
use http::StatusCode;

pub use crate::made_up::Answer;
use crate::pubsub;

pub use armed::Injected;
pub(crate) use armed::{Faults, Instead, Passage};

/// What is to go wrong, with which requests. `O` is the server's kind of operation, `R`
/// what it refuses with.
#[derive(Clone, Debug)]
pub struct Fault<O, R = StatusCode> {
    effect: Effect<R>,
    operations: Vec<O>,
    subject: Subject,
    message: Option<Selector>,
    times: Option<u64>,
}

#[derive(Clone, Debug)]
enum Effect<R> {
    Answer(Arc<Answer>),
    Latency(Duration),
    LostReply,
    Refusal(R),
    Stall,
    Forgotten,
    Duplicated,
}

impl<R> Effect<R> {
    /// Strikes inside the server: what the client sees of the request is as always.
    fn is_inward(&self) -> bool {
        matches!(self, Self::Forgotten | Self::Duplicated)
    }
}

/// Which messages a request must carry one of.
#[derive(Clone)]
struct Selector(Arc<dyn Fn(&PubsubMessage) -> bool + Send + Sync>);

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Selector")
    }
}

/// What a request is about: an object or Pub/Sub resource by its name, or a user by
/// their `sub`.
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
    /// The request gets this answer.
    pub fn answer(answer: Answer) -> Self {
        Self::of(Effect::Answer(Arc::new(answer)))
    }
}

impl<O, R> Fault<O, R> {
    /// The request is carried out, and its connection is cut instead of an answer.
    pub fn lost_reply() -> Self {
        Self::of(Effect::LostReply)
    }

    /// The request is not carried out and answered with this HTTP status or gRPC code.
    pub fn refusal(status: R) -> Self {
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

    fn of(effect: Effect<R>) -> Self {
        Self { effect, operations: Vec::new(), subject: Subject::Any, message: None, times: None }
    }

    /// Strikes this operation only; given more than once, any of them.
    #[must_use]
    pub fn on(mut self, operation: O) -> Self {
        self.operations.push(operation);
        self
    }

    /// Strikes requests about this object, Pub/Sub resource or user only.
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

impl Fault<pubsub::Operation, tonic::Code> {
    /// [`Acknowledge`](pubsub::Operation::Acknowledge), and nothing else, is answered and
    /// not carried out: the lease runs on, and its message comes again when that ends.
    pub fn forgotten() -> Self {
        Self::of(Effect::Forgotten).on(pubsub::Operation::Acknowledge)
    }

    /// A message that a subscription takes in is delivered twice, under one message ID and
    /// with an ack ID each, both of which must be settled.
    pub fn duplicated() -> Self {
        Self::of(Effect::Duplicated).on(pubsub::Operation::Deliver)
    }

    /// Strikes requests that carry a message with this attribute only.
    #[must_use]
    pub fn with_attribute(self, name: &str, value: &str) -> Self {
        let (name, value) = (name.to_owned(), value.to_owned());
        self.matching(move |message| message.attributes.get(&name) == Some(&value))
    }

    /// Strikes requests that carry such a message only: those published, delivered or
    /// acknowledged by it. Other requests carry none.
    #[must_use]
    pub fn matching(
        mut self,
        wanted: impl Fn(&PubsubMessage) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.message = Some(Selector(Arc::new(wanted)));
        self
    }
}
