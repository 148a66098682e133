//! What many replicas do when the tokens of their users expire: Fleet's store beside the
//! [`unguarded`] way, in Rust and in Python.
//!
//! Every way gets the same: users, tokens, jobs in the same order at the same moments, a
//! provider and a bucket of its own, the embedded emulators. Bursts of jobs arrive when all
//! tokens have lapsed. Jobs carry no ordering key. The Rust ways run the same worker loop
//! in this process, around different stores; the Python workers are processes of their own,
//! forked after the imports.

mod python;
mod scene;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use shared::adapters::{HttpTokenEndpoint, http_client};
use shared::{TokenStore, UserId};
use tokio::process::Child;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use unguarded::{Store, Tally, Tokens};

pub use python::{NoPython, Python};
use scene::Scene;

/// How credentials are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Fleet's [`TokenStore`], one per replica.
    Fleet,
    /// [`unguarded::Store`], one per replica.
    UnguardedRust,
    /// `python/worker.py` of [`unguarded`], a process per replica.
    UnguardedPython,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fleet => "fleet",
            Self::UnguardedRust => "unguarded, Rust",
            Self::UnguardedPython => "unguarded, Python",
        })
    }
}

/// One measurement.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How many replicas share the subscription.
    pub replicas: usize,
    /// How many jobs a replica does at a time.
    pub concurrency: usize,
    /// How many users.
    pub users: usize,
    /// How often a burst of jobs arrives after all tokens have lapsed.
    pub bursts: usize,
    /// How many jobs a burst has of each user.
    pub jobs_per_user: usize,
    /// How long an access token lives.
    pub token_lifetime: Duration,
    /// Whether the provider rotates refresh tokens, and ends a grant whose spent one comes
    /// again.
    pub rotating: bool,
    /// How long the token endpoint takes.
    pub refresh_latency: Duration,
    /// How long the API takes.
    pub api_latency: Duration,
    /// Orders the jobs of a burst.
    pub seed: u64,
}

impl Plan {
    /// The comparison at so many replicas: 20 users and three bursts of 120 jobs with a
    /// provider that rotates, about 15 s.
    pub fn with(replicas: usize) -> Self {
        Self {
            replicas,
            concurrency: 4,
            users: 20,
            bursts: 3,
            jobs_per_user: 6,
            token_lifetime: Duration::from_secs(4),
            rotating: true,
            refresh_latency: Duration::from_millis(100),
            api_latency: Duration::from_millis(20),
            seed: 1,
        }
    }

    /// From one burst to the next. Tokens that were refreshed in one have lapsed in the
    /// next, though not in the middle of it.
    fn interval(&self) -> Duration {
        self.token_lifetime + Duration::from_secs(2)
    }

    fn jobs(&self) -> usize {
        self.bursts * self.users * self.jobs_per_user
    }
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// How credentials were shared.
    pub way: Way,
    /// How many replicas there were.
    pub replicas: usize,
    /// Whether the provider rotated refresh tokens and detected reuse.
    pub rotating: bool,
    /// How many users there were.
    pub users: usize,
    /// See [`Tally::expiries`].
    pub expiries: u64,
    /// Calls of the token endpoint.
    pub refresh_calls: u64,
    /// Without those in vain; ideally 1.
    pub refresh_calls_per_expiry: f64,
    /// Calls that presented a spent refresh token.
    pub reused_refresh_tokens: u64,
    /// Calls for users who had been locked out for a while: their jobs were tried again.
    pub vain_refresh_calls: u64,
    /// Users whose refresh token the provider no longer takes.
    pub locked_out_users: u64,
    /// Published.
    pub jobs: u64,
    /// Acknowledged after success.
    pub jobs_done: u64,
    /// Given up after five deliveries, or not done in time.
    pub jobs_failed: u64,
    /// From the first burst to the last job.
    pub seconds: f64,
}

/// Measures one way once. `python` is needed for [`Way::UnguardedPython`] only.
///
/// Cancelling it ends everything that it started.
///
/// # Errors
/// When a server or a replica does not start.
pub async fn measure(way: Way, plan: &Plan, python: Option<&Python>) -> anyhow::Result<Row> {
    let scene = Scene::set(plan).await?;
    let stop = CancellationToken::new();
    // Cancelled with this future: a replica must not outlive its scene.
    let _stopping = stop.clone().drop_guard();
    let mut replicas = JoinSet::new();
    let mut children: Vec<Child> = Vec::new();
    let mut input = None;
    scene.store_users(way).await?;
    match way {
        Way::UnguardedPython => {
            let python = python.context("no Python is given")?;
            let mut command = python.worker(plan.replicas, plan.concurrency);
            command.envs(scene.environment());
            children.push(command.spawn().context("Python cannot be started")?);
            // Waiting for a child closes its input, which would end it.
            input = children.first_mut().and_then(|child| child.stdin.take());
        }
        Way::Fleet | Way::UnguardedRust => {
            for number in 1..=plan.replicas {
                let config = scene.config(&format!("replica-{number}"))?;
                let tokens = scene.tokens(way, &config.name).await?;
                let stop = stop.clone();
                replicas.spawn(async move { unguarded::run_with(&config, tokens, stop).await });
            }
        }
    }
    scene.wait_for_replicas(&mut children).await?;
    let (stats, seconds) = scene.play().await?;
    stop.cancel();
    while let Some(ended) = replicas.join_next().await {
        ended.context("a replica panicked")??;
    }
    drop(input);
    for child in &mut children {
        child.wait().await?;
    }
    let tally = Tally::of(&scene.google.refresh_calls(), plan.token_lifetime);
    let jobs = plan.jobs() as u64;
    Ok(Row {
        way,
        replicas: plan.replicas,
        rotating: plan.rotating,
        users: plan.users,
        expiries: tally.expiries,
        refresh_calls: tally.refresh_calls,
        refresh_calls_per_expiry: tally.calls_per_expiry(),
        reused_refresh_tokens: tally.reused,
        vain_refresh_calls: tally.vain,
        locked_out_users: tally.locked_out_users,
        jobs,
        jobs_done: stats.acknowledged,
        jobs_failed: jobs.saturating_sub(stats.acknowledged),
        seconds,
    })
}

/// Fleet's store, for the worker loop of the unguarded way.
#[derive(Debug)]
struct Guarded(TokenStore);

impl Tokens for Guarded {
    fn token<'a>(&'a self, user: &'a str) -> BoxFuture<'a, Result<String, String>> {
        async move {
            let user = UserId::new(user).map_err(|e| e.to_string())?;
            let credentials = self.0.get_credentials(&user).await.map_err(|e| e.to_string())?;
            Ok(credentials.access_token().expose().to_owned())
        }
        .boxed()
    }
}

impl Scene {
    /// Where a replica of that name gets its tokens from.
    async fn tokens(&self, way: Way, name: &str) -> anyhow::Result<Arc<dyn Tokens>> {
        Ok(if way == Way::Fleet {
            let endpoint = HttpTokenEndpoint::new(&self.client()?, http_client(name)?)?;
            let store = TokenStore::builder(self.bucket().await?, Arc::new(endpoint));
            Arc::new(Guarded(store.holder(name).build()?))
        } else {
            Arc::new(self.unguarded(name).await?)
        })
    }

    async fn unguarded(&self, name: &str) -> anyhow::Result<Store> {
        let config = self.config(name)?;
        let http = reqwest::Client::builder().user_agent(name.to_owned()).build()?;
        Ok(Store::connect(&config.storage, &config.bucket, http, config.early).await?)
    }
}
