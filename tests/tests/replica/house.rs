//! What these tests begin with.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use jiff::SignedDuration;
use serde_json::{Value, json};
use shared::ports::{Bucket, Clock as _, Monotonic, Randomness};
use shared::{TokenStore, UserId};
use tests::memory::{Fleet, Heard, Queue, QueueSettings, VirtualClock, pass};
use tokio::task::JoinHandle;
use worker::pubsub::Topic;
use worker::replica::{Builder, Readiness, ReplicaError, Stop};
use worker::{Handler, Job, Session, Verdict, Worker};

/// A bucket, a provider, a subscription, and topics.
#[derive(Debug)]
pub(crate) struct House {
    pub(crate) fleet: Fleet,
    pub(crate) jobs: Queue,
    pub(crate) outcomes: Heard,
    pub(crate) dead: Heard,
}

/// A replica that runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) store: TokenStore,
    pub(crate) stop: Stop,
    pub(crate) ready: Arc<Readiness>,
    task: JoinHandle<Result<(), ReplicaError>>,
}

impl Running {
    /// Stops it in order.
    pub(crate) async fn end(self) {
        self.stop.drain.cancel();
        self.task.await.unwrap().unwrap();
    }
}

pub(crate) fn clock() -> VirtualClock {
    VirtualClock::new(SignedDuration::ZERO)
}

pub(crate) fn now() -> Monotonic {
    clock().monotonic()
}

pub(crate) fn job(id: &str, user: &str, kind: &str) -> Value {
    json!({"id": id, "user": user, "kind": kind})
}

impl House {
    pub(crate) fn new(settings: QueueSettings) -> Self {
        Self {
            fleet: Fleet::new(true),
            jobs: Queue::new(settings),
            outcomes: Heard::new("outcomes"),
            dead: Heard::new("dead"),
        }
    }

    pub(crate) async fn users(&self, names: impl IntoIterator<Item = String>) -> Vec<UserId> {
        let mut users = Vec::new();
        for name in names {
            users.push(self.fleet.user(&name).await);
        }
        users
    }

    /// A replica's builder, to which only handlers are to be added.
    pub(crate) fn builder(&self, name: &str) -> (TokenStore, Builder) {
        let store = self.fleet.replica(name);
        let bucket: Arc<dyn Bucket> = Arc::<tests::memory::FaultyBucket>::clone(&self.fleet.bucket);
        let topic = |heard: &Heard| -> Arc<dyn Topic> { Arc::new(heard.clone()) };
        let builder = Worker::builder()
            .store(store.clone())
            .bucket(bucket)
            .source(self.jobs.consumer())
            .outcomes(Some(topic(&self.outcomes)))
            .jobs(Arc::new(self.jobs.clone()))
            .outstanding(256)
            .dead_letters(topic(&self.dead))
            .clock(Arc::new(clock()))
            .randomness(Arc::new(Randomness::seeded(name.len() as u64)));
        (store, builder)
    }

    /// Starts a replica with one handler.
    pub(crate) fn start(
        &self,
        name: &str,
        handler: impl Handler,
        settings: impl FnOnce(Builder) -> Builder,
    ) -> Running {
        let (store, builder) = self.builder(name);
        self.run(store, settings(builder).handler("k", handler))
    }

    /// Starts a replica that is put together.
    #[expect(clippy::unused_self, reason = "it is one of this house's replicas")]
    pub(crate) fn run(&self, store: TokenStore, builder: Builder) -> Running {
        let worker = builder.build().unwrap();
        let (stop, ready) = (Stop::default(), worker.readiness());
        let task = tokio::spawn(worker.run(stop.clone()));
        Running { store, stop, ready, task }
    }

    /// How many outcomes of each status were told.
    pub(crate) fn statuses(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for outcome in self.outcomes.outcomes() {
            *counts.entry(outcome["status"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        counts
    }
}

/// A handler that notes when each job ran and takes as long as it is told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Notebook {
    pub(crate) ran: Arc<Mutex<Vec<(String, String, Monotonic)>>>,
    pub(crate) takes: Duration,
}

impl Notebook {
    pub(crate) fn taking(takes: Duration) -> Self {
        Self { ran: Arc::default(), takes }
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.ran.lock().unwrap().iter().map(|(id, ..)| id.clone()).collect()
    }

    /// When the job ran first.
    pub(crate) fn began(&self, id: &str) -> Option<Monotonic> {
        self.ran.lock().unwrap().iter().find(|(ran, ..)| ran == id).map(|(.., at)| *at)
    }
}

impl Handler for Notebook {
    fn handle<'a>(&'a self, job: &'a Job, session: &'a Session<'a>) -> BoxFuture<'a, Verdict> {
        async move {
            assert_eq!(&job.user, session.user(), "acts as the right person");
            let user = job.user.as_str().to_owned();
            self.ran.lock().unwrap().push((job.id.clone(), user, now()));
            pass(self.takes).await;
            Verdict::done(Value::Null)
        }
        .boxed()
    }
}
