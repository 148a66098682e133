//! A worker as `fleet worker` builds it, with one kind more, which does nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, ready};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use shared::OAuthClient;
use shared::adapters::{
    CloudStorage, CloudStorageConfig, HttpTokenEndpoint, SystemClock, http_client,
};
use shared::ports::{Bucket, Clock};
use shared::{TokenStore, UserId};
use tests::stage::BUCKET;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use worker::forward::{ForwardSettings, Forwarding, TIMEOUT};
use worker::kinds::{BODY_MEMORY, KindSettings, Kinds, builtin};
use worker::metered::{MeteredBucket, MeteredEndpoint};
use worker::pubsub::{Connection, Intake, IntakeSettings, OUTSTANDING_BYTES, Publisher};
use worker::replica::Stop;
use worker::telemetry::logging;
use worker::telemetry::prometheus::Scrape;
use worker::{Handler, Job, Places, Session, Verdict, Worker, metrics};

use crate::child::Work;
use crate::ground::{Place, user};

use super::{LOGS, ReplicaRole, Stopwatch, USER_AGENT, say};

/// How many credentials are read at once before it begins.
const WARMING: usize = 64;

/// Counts what a kind does.
///
/// The reference counts its jobs without a box for each, and so does this: what begins is
/// counted, and what ends only where it matters, at the end of a run.
struct Counted {
    inner: Option<Arc<dyn Handler>>,
    count: Arc<Count>,
}

struct Count {
    jobs: Option<u64>,
    begun: AtomicU64,
    /// As far as they are counted: the last [`TAIL`] of a run that has an end.
    done: AtomicU64,
    watch: OnceLock<Stopwatch>,
    result: OnceLock<Work>,
    over: Notify,
}

/// More than can be under way at once: when so many have ended, so have those before.
const TAIL: u64 = 20_000;

impl Count {
    /// How many jobs begin uncounted at their end.
    fn head(&self) -> u64 {
        self.jobs.map_or(0, |jobs| jobs.saturating_sub(TAIL))
    }

    fn ended(&self, watch: Stopwatch) {
        let done = self.head() + self.done.fetch_add(1, Ordering::AcqRel) + 1;
        if self.jobs == Some(done) {
            self.result.get_or_init(|| watch.stop(done));
            self.over.notify_one();
        }
    }
}

impl Handler for Counted {
    fn handle<'a>(&'a self, job: &'a Job, session: &'a Session<'a>) -> BoxFuture<'a, Verdict> {
        let watch = *self.count.watch.get_or_init(Stopwatch::start);
        let work = match &self.inner {
            Some(inner) => inner.handle(job, session),
            None => ready(Verdict::done(serde_json::Value::Null)).boxed(),
        };
        if self.count.begun.fetch_add(1, Ordering::Relaxed) < self.count.head() {
            return work;
        }
        async move {
            let verdict = work.await;
            if matches!(verdict, Verdict::Done { .. }) {
                self.count.ended(watch);
            }
            verdict
        }
        .boxed()
    }

    fn places(&self) -> Option<&Places> {
        self.inner.as_ref()?.places()
    }
}

/// A store as `fleet worker` builds it.
pub(super) async fn store(
    place: &Place,
    http: &reqwest::Client,
    cached_users: usize,
) -> anyhow::Result<(TokenStore, Arc<dyn Bucket>)> {
    let client = OAuthClient::from_json(place.client.to_string().as_bytes())?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let endpoint = Arc::new(HttpTokenEndpoint::new(&client, http.clone())?);
    let endpoint = Arc::new(MeteredEndpoint::new(endpoint, Arc::clone(&clock)));
    let config = CloudStorageConfig {
        bucket: BUCKET.to_owned(),
        timeout: None,
        emulator: Some(place.storage.clone()),
        emulator_grpc: place.storage_grpc.clone(),
    };
    let bucket = CloudStorage::connect(config).await.map_err(anyhow::Error::msg)?.shared();
    let bucket: Arc<dyn Bucket> = Arc::new(MeteredBucket::new(bucket, clock));
    let store =
        TokenStore::builder(Arc::clone(&bucket), endpoint).cached_users(cached_users).build()?;
    Ok((store, bucket))
}

/// Reads the credentials of the users from 0.
pub(super) async fn warm(store: &TokenStore, users: std::ops::Range<usize>) -> anyhow::Result<()> {
    stream::iter(users)
        .map(|number| async move {
            store.get_credentials(&UserId::new(user(number))?).await?;
            anyhow::Ok(())
        })
        .buffer_unordered(WARMING)
        .try_collect()
        .await
}

/// Does so many jobs.
pub(super) async fn run(role: ReplicaRole) -> anyhow::Result<()> {
    let ReplicaRole { place, jobs, outstanding, concurrency, users, forward } = role;
    let _logs = logging::start(&LOGS, None).map_err(anyhow::Error::msg)?;
    let _scrape = Scrape::start()?;
    let http = http_client(USER_AGENT)?;
    let (store, bucket) = store(&place, &http, 100_000).await?;
    warm(&store, 0..users).await?;
    let count = Arc::new(Count {
        jobs,
        begun: AtomicU64::new(0),
        done: AtomicU64::new(0),
        watch: OnceLock::new(),
        result: OnceLock::new(),
        over: Notify::new(),
    });
    let mut kinds: Kinds = builtin(KindSettings {
        userinfo_url: place.userinfo.clone(),
        outputs: None,
        body_memory: BODY_MEMORY,
    })
    .into_iter()
    .map(|(kind, inner)| {
        let counted = Counted { inner: Some(inner), count: Arc::clone(&count) };
        (kind, Arc::new(counted) as Arc<dyn Handler>)
    })
    .collect();
    if let Some(route) = forward {
        let settings = ForwardSettings {
            routes: vec![route.parse()?],
            once: Vec::new(),
            concurrency,
            timeout: TIMEOUT,
            token_listen: "127.0.0.1:0".parse()?,
            subscription: place.subscription.clone(),
        };
        let forwarding = Forwarding::open(settings).await?;
        kinds.extend(forwarding.handlers().into_iter().map(|(kind, inner)| {
            let counted = Counted { inner: Some(inner), count: Arc::clone(&count) };
            (kind, Arc::new(counted) as Arc<dyn Handler>)
        }));
        let clock = Arc::new(SystemClock::default());
        tokio::spawn(forwarding.serve(store.clone(), clock, CancellationToken::new()));
    }
    let nothing = Counted { inner: None, count: Arc::clone(&count) };
    kinds.insert("nothing".to_owned(), Arc::new(nothing));
    metrics::begin(metrics::Process::Worker, kinds.keys().map(String::as_str), []);
    let settings = IntakeSettings {
        subscription: place.subscription.clone(),
        max_outstanding: outstanding,
        max_outstanding_bytes: OUTSTANDING_BYTES,
        ack_extension: Duration::from_secs(60),
    };
    let connection = Connection { emulator: Some(place.pubsub.clone()) };
    // The topic is called as its subscription; no job of a bench is rejected.
    let topic = place.subscription.replace("/subscriptions/", "/topics/");
    let jobs_topic = Arc::new(Publisher::open(&connection, &topic).await?);
    let worker = Worker::builder()
        .store(store)
        .bucket(bucket)
        .source(Intake::open(&connection, settings).await?)
        .subscription(place.subscription)
        .jobs(Arc::<Publisher>::clone(&jobs_topic))
        .dead_letters(jobs_topic)
        .handlers(kinds)
        .http(|| http_client(USER_AGENT).expect("the TLS backend is compiled in"))
        .concurrency(concurrency)
        .build()?;
    let mut told = BufReader::new(tokio::io::stdin()).lines();
    if jobs.is_none() {
        say(&())?;
        told.next_line().await?;
    }
    let stop = Stop::default();
    let ending = async {
        match jobs {
            Some(_) => count.over.notified().await,
            // Nothing more is told: the line is the end.
            None => drop(told.next_line().await),
        }
        stop.drain.cancel();
    };
    let (ran, ()) = tokio::join!(worker.run(stop.clone()), ending);
    ran?;
    let done = count.head() + count.done.load(Ordering::Acquire);
    match jobs {
        None => say(&done),
        Some(jobs) => {
            ensure!(done == jobs, "{done} jobs were done, and there were {jobs}");
            say(count.result.get().context("no result")?)
        }
    }
}
