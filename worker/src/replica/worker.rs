//! A replica that is ready to run.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use shared::ports::{Bucket, Clock, Randomness};
use tokio_util::task::AbortOnDropHandle;

use crate::carrier::Carrier;
use crate::dedupe::Dedupe;
use crate::events::Events;
use crate::kinds::Kinds;
use crate::pubsub::{Source, Topic};

use super::builder::Builder;
use super::{Readiness, ReplicaError, Stop};

/// A replica that is ready to run: jobs come from a [`Source`], are done by the
/// [`Handler`](crate::Handler) of their kind as their user, and end in an outcome.
///
/// ```no_run
/// use std::sync::Arc;
/// use std::time::Duration;
/// use serde_json::json;
/// use shared::TokenStore;
/// use shared::ports::Bucket;
/// use worker::pubsub::{Connection, Intake, IntakeSettings, OUTSTANDING_BYTES, Topic};
/// use worker::replica::{Stop, Worker};
/// use worker::{Job, Session, Verdict};
///
/// async fn greet(job: &Job, session: &Session<'_>) -> Verdict {
///     Verdict::done(json!({ "hello": job.user.as_str() }))
/// }
///
/// # async fn example(
/// #     store: TokenStore, bucket: Arc<dyn Bucket>, jobs: Arc<dyn Topic>, dead: Arc<dyn Topic>,
/// # ) -> Result<(), Box<dyn std::error::Error>> {
/// let settings = IntakeSettings {
///     subscription: "projects/my-project/subscriptions/jobs-workers".to_owned(),
///     max_outstanding: 256,
///     max_outstanding_bytes: OUTSTANDING_BYTES,
///     ack_extension: Duration::from_secs(60),
/// };
/// let intake = Intake::open(&Connection::default(), settings).await?;
/// let worker = Worker::builder()
///     .store(store)
///     .bucket(bucket)
///     .source(intake)
///     .jobs(jobs)
///     .dead_letters(dead)
///     .handler("greet", greet)
///     .build()?;
/// worker.run(Stop::by_signals()?).await?;
/// # Ok(())
/// # }
/// ```
///
/// [`Worker::from_env`] is the same with all of these parts connected, as `fleet worker` does
/// it.
pub struct Worker {
    pub(super) carrier: Carrier,
    pub(super) bucket: Arc<dyn Bucket>,
    pub(super) source: Box<dyn Source>,
    pub(super) subscription: String,
    pub(super) kinds: Kinds,
    pub(super) jobs: Arc<dyn Topic>,
    pub(super) dead: Arc<dyn Topic>,
    pub(super) outcomes: Option<Arc<dyn Topic>>,
    pub(super) events: Option<Arc<Events>>,
    pub(super) dedupe: Dedupe,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) random: Arc<Randomness>,
    pub(super) concurrency: usize,
    pub(super) per_user: usize,
    pub(super) outstanding: usize,
    pub(super) outstanding_bytes: usize,
    pub(super) drain: Duration,
    pub(super) retry_budget: Duration,
    pub(super) ordered_retry: Duration,
    pub(super) ready: Arc<Readiness>,
}

impl Worker {
    /// A worker without parts.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// What health checks look at.
    pub fn readiness(&self) -> Arc<Readiness> {
        Arc::clone(&self.ready)
    }

    /// Takes jobs until `stop` is asked for: once to drain, twice to cut.
    ///
    /// Dropping the future abandons running jobs, whose messages come again; only
    /// `stop` ends it in order.
    ///
    /// # Errors
    /// [`ReplicaError`] when a setting is wrong, so that work cannot start.
    pub async fn run(self, stop: Stop) -> Result<(), ReplicaError> {
        // In a task of its own, since where this future is polled may be no thread of the
        // runtime, and messages are taken in by it.
        let running = AbortOnDropHandle::new(tokio::spawn(super::run(self, stop)));
        match running.await {
            Ok(ended) => ended,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is going down, and this future with it.
                Err(_aborted) => std::future::pending().await,
            },
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("subscription", &self.subscription)
            .field("kinds", &self.kinds.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
