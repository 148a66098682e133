//! Putting a worker together.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use shared::TokenStore;
use shared::adapters::http_client;
use shared::ports::{Bucket, Clock, Randomness};
use url::Url;

use crate::api_clients::{ApiClients, Make};
use crate::carrier::Carrier;
use crate::dedupe::Dedupe;
use crate::events::Events;
use crate::handler::Handler;
use crate::health::Pulse;
use crate::hosts::HostRules;
use crate::kinds::Kinds;
use crate::observer::Observer;
use crate::pubsub::{OUTSTANDING_BYTES, Source, Topic};

use super::build_error::{BuildError, MAX_KIND};
use super::{Readiness, Worker};

/// Messages held per job that may run, at most and by default. An acknowledgement is sent up
/// to 100 ms after its job, and until then its message counts: with four, jobs of 20 ms kept no
/// more than four fifths of the slots busy. More would leave less for others to find.
pub const OUTSTANDING_PER_SLOT: usize = 8;
/// Of the client that is built without another. Google compresses for those that name gzip.
const USER_AGENT: &str = concat!("fleet/", env!("CARGO_PKG_VERSION"), " (gzip)");

/// Collects a worker's parts; see [`Worker`].
#[derive(Default)]
#[must_use = "nothing runs before `build` and `run`"]
pub struct Builder {
    store: Option<TokenStore>,
    bucket: Option<Arc<dyn Bucket>>,
    source: Option<Box<dyn Source>>,
    subscription: String,
    handlers: Vec<(String, Arc<dyn Handler>)>,
    http: Option<Box<Make>>,
    hosts: HostRules,
    api_root: Option<Url>,
    jobs: Option<Arc<dyn Topic>>,
    dead: Option<Arc<dyn Topic>>,
    outcomes: Option<Arc<dyn Topic>>,
    events: Option<Arc<Events>>,
    dedupe: Dedupe,
    clock: Option<Arc<dyn Clock>>,
    random: Option<Arc<Randomness>>,
    concurrency: Option<usize>,
    per_user: Option<usize>,
    outstanding: Option<usize>,
    outstanding_bytes: Option<usize>,
    drain: Option<Duration>,
    retry_budget: Option<Duration>,
    ordered_retry: Option<Duration>,
}

impl Builder {
    /// Hands out credentials. Required.
    pub fn store(mut self, store: TokenStore) -> Self {
        self.store = Some(store);
        self
    }

    /// The bucket of the store, for parked jobs. Required.
    pub fn bucket(mut self, bucket: Arc<dyn Bucket>) -> Self {
        self.bucket = Some(bucket);
        self
    }

    /// Where jobs come from. Required.
    pub fn source(mut self, source: impl Source + 'static) -> Self {
        self.source = Some(Box::new(source));
        self
    }

    /// The name of the subscription behind the source, for traces.
    pub fn subscription(mut self, name: impl Into<String>) -> Self {
        self.subscription = name.into();
        self
    }

    /// What does the jobs of one kind.
    pub fn handler(mut self, kind: impl Into<String>, handler: impl Handler) -> Self {
        self.handlers.push((kind.into(), Arc::new(handler)));
        self
    }

    /// What does the jobs of several kinds, [`crate::kinds::builtin`]'s for example.
    pub fn handlers(mut self, kinds: Kinds) -> Self {
        self.handlers.extend(kinds);
        self
    }

    /// Carries the requests of [`crate::Session::request`], those of the built-in kinds too.
    /// It must follow no redirects, since where the token goes and whether a call is repeated
    /// is decided for each; it should limit the time to connect. By default
    /// [`shared::adapters::http_client`]. One is made for each 64 jobs that run at once, so
    /// that HTTP/2 carries them all.
    pub fn http(mut self, make: impl Fn() -> reqwest::Client + Send + Sync + 'static) -> Self {
        self.http = Some(Box::new(make));
        self
    }

    /// Where [`crate::Session::request`] may send a user's token: by default
    /// Google's APIs.
    pub fn hosts(mut self, hosts: HostRules) -> Self {
        self.hosts = hosts;
        self
    }

    /// With emulators, what stands in for Google's API origins.
    pub fn api_root(mut self, api_root: Option<Url>) -> Self {
        self.api_root = api_root;
        self
    }

    /// Where outcomes are published; by default nowhere.
    pub fn outcomes(mut self, topic: Option<Arc<dyn Topic>>) -> Self {
        self.outcomes = topic;
        self
    }

    /// Tells applications of changes of users' consent; by default nobody is told. What this
    /// worker could not tell is told by a [`crate::sweep`].
    pub fn events(mut self, events: Option<Arc<Events>>) -> Self {
        self.events = events;
        self
    }

    /// Where jobs are published, and go on when their user has consented. Required.
    pub fn jobs(mut self, topic: Arc<dyn Topic>) -> Self {
        self.jobs = Some(topic);
        self
    }

    /// Where rejected jobs are published. Required.
    pub fn dead_letters(mut self, topic: Arc<dyn Topic>) -> Self {
        self.dead = Some(topic);
        self
    }

    /// Whether and where done jobs are remembered; by default nowhere.
    pub fn dedupe(mut self, dedupe: Dedupe) -> Self {
        self.dedupe = dedupe;
        self
    }

    /// Time, for tests; by default the system's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Jitter, for tests; by default seeded by the system.
    pub fn randomness(mut self, random: Arc<Randomness>) -> Self {
        self.random = Some(random);
        self
    }

    /// How many handlers run at once; by default 64.
    pub fn concurrency(mut self, jobs: usize) -> Self {
        self.concurrency = Some(jobs);
        self
    }

    /// How many jobs of one user run at once; by default 1. Those with an ordering
    /// key always run one after another.
    pub fn per_user(mut self, jobs: usize) -> Self {
        self.per_user = Some(jobs);
        self
    }

    /// How many messages the source hands out at most before they are settled; by default
    /// [`OUTSTANDING_PER_SLOT`] times the concurrency. Messages that wait for something known fill half of it.
    pub fn outstanding(mut self, messages: usize) -> Self {
        self.outstanding = Some(messages);
        self
    }

    /// How many bytes of data these have at most; by default 64 MiB.
    pub fn outstanding_bytes(mut self, bytes: usize) -> Self {
        self.outstanding_bytes = Some(bytes);
        self
    }

    /// How long running jobs may go on after the end was asked for, the writing of their
    /// ends included; by default 25 s.
    pub fn drain(mut self, drain: Duration) -> Self {
        self.drain = Some(drain);
        self
    }

    /// How long a delivery without an ordering key may wait between its attempts, all in
    /// all, before its message is given back; by default one minute.
    pub fn retry_budget(mut self, budget: Duration) -> Self {
        self.retry_budget = Some(budget);
        self
    }

    /// How long a failing job with an ordering key is tried again where it is, counted from
    /// its publication; by default 6 h. Then it is rejected.
    pub fn ordered_retry(mut self, limit: Duration) -> Self {
        self.ordered_retry = Some(limit);
        self
    }

    /// The worker.
    ///
    /// # Errors
    /// [`BuildError`] names the part that is missing or wrong.
    ///
    /// # Panics
    /// When no HTTP client can be built, as `reqwest::Client::new` does.
    pub fn build(self) -> Result<Worker, BuildError> {
        let clock =
            self.clock.unwrap_or_else(|| Arc::new(shared::adapters::SystemClock::default()));
        let kinds = by_kind(self.handlers)?;
        if kinds.is_empty() {
            return Err(BuildError::Missing("a handler"));
        }
        let positive = |name, n: Option<usize>, default| match n.unwrap_or(default) {
            0 => Err(BuildError::Zero(name)),
            n => Ok(n),
        };
        let concurrency = positive("concurrency", self.concurrency, 64)?;
        let outstanding = concurrency.saturating_mul(OUTSTANDING_PER_SLOT);
        Ok(Worker {
            carrier: Carrier {
                store: self.store.ok_or(BuildError::Missing("a token store"))?,
                clients: Arc::new(ApiClients::new(
                    concurrency,
                    self.http.unwrap_or_else(|| {
                        Box::new(|| {
                            http_client(USER_AGENT).expect("the TLS backend is compiled in")
                        })
                    }),
                )),
                hosts: self.hosts,
                api_root: self.api_root,
                observer: Arc::new(Observer::new(Arc::clone(&clock))),
                host_limits: Arc::default(),
            },
            bucket: self.bucket.ok_or(BuildError::Missing("the bucket of its store"))?,
            source: self.source.ok_or(BuildError::Missing("a source of jobs"))?,
            subscription: self.subscription,
            kinds,
            jobs: self.jobs.ok_or(BuildError::Missing("the topic of its jobs"))?,
            dead: self.dead.ok_or(BuildError::Missing("a topic for rejected jobs"))?,
            outcomes: self.outcomes,
            events: self.events,
            dedupe: self.dedupe,
            random: self.random.unwrap_or_else(|| Arc::new(Randomness::from_system())),
            concurrency,
            outstanding: positive("outstanding", self.outstanding, outstanding)?,
            outstanding_bytes: positive(
                "outstanding_bytes",
                self.outstanding_bytes,
                OUTSTANDING_BYTES,
            )?,
            per_user: positive("per_user", self.per_user, 1)?,
            drain: self.drain.unwrap_or(Duration::from_secs(25)),
            retry_budget: self.retry_budget.unwrap_or(Duration::from_secs(60)),
            ordered_retry: self.ordered_retry.unwrap_or(Duration::from_secs(6 * 60 * 60)),
            ready: Arc::new(Readiness::new(Pulse::new(Arc::clone(&clock)))),
            clock,
        })
    }
}

/// Handlers by the kind that they do.
///
/// # Errors
/// [`BuildError::Kind`] and [`BuildError::Twice`].
pub(crate) fn by_kind(handlers: Vec<(String, Arc<dyn Handler>)>) -> Result<Kinds, BuildError> {
    let mut kinds = Kinds::new();
    for (kind, handler) in handlers {
        if kind.is_empty() || kind.len() > MAX_KIND {
            return Err(BuildError::Kind(kind));
        }
        if kinds.contains_key(&kind) {
            return Err(BuildError::Twice(kind));
        }
        kinds.insert(kind, handler);
    }
    Ok(kinds)
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("subscription", &self.subscription).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Job;
    use crate::outcome::Verdict;
    use crate::session::Session;

    async fn nothing(_: &Job, _: &Session<'_>) -> Verdict {
        Verdict::done(serde_json::Value::Null)
    }

    #[test]
    fn says_what_is_missing_or_wrong() {
        let says = |builder: Builder| builder.build().unwrap_err().to_string();
        assert!(says(Worker::builder()).contains("a handler"));
        assert!(says(Worker::builder().handler("k", nothing)).contains("a token store"));
        let twice = Worker::builder().handler("k", nothing).handler("k", nothing);
        assert!(says(twice).contains("\"k\" has two handlers"));
        assert!(says(Worker::builder().handler("", nothing)).contains("1 to 128 bytes"));
    }
}
