//! `fleet worker`: one replica.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::events::Events;
use crate::forward::Forwarding;
use crate::health::{self, Probes};
use crate::keep_alive::KeepAlive;
use crate::kinds::{BODY_MEMORY, KindSettings, Kinds, MIN_BODY_MEMORY, Outputs, builtin};
use crate::log_user_ids;
use crate::metrics::{self, Process, Render};
use crate::pubsub::{Intake, IntakeSettings, OUTSTANDING_BYTES, Publisher, Topic};
use crate::replica::{OUTSTANDING_PER_SLOT, Stop};
use crate::sweep::{Sweep, UnknownUsers};
use crate::{Dedupe, Worker};
use anyhow::Context as _;
use clap::builder::FalseyValueParser;
use shared::adapters::SystemClock;
use shared::ports::{Clock, Randomness};
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::info;

use super::connect::{ProjectArgs, StoreArgs, duration, userinfo_url};
use super::days::{Days, days};
use super::environment::Place;
use super::events::{EventArgs, public_url};
use super::forward::{self, ForwardArgs};
use super::output::Usage;
use super::reach::ReachArgs;
use crate::telemetry::prometheus::Scrape;

/// How long a sweep may take to end the batch that it is at.
const SWEEP_END: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  fleet worker --project my-project --topic jobs --subscription jobs-workers \\
      --dead-topic jobs-dead --bucket my-tokens --client client.json

SIGTERM and Ctrl-C stop the intake and let running jobs end within --drain; a second
one cuts them. No secret is accepted as a flag's value.")]
pub(crate) struct Args {
    #[command(flatten)]
    project: ProjectArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    jobs: JobArgs,
    #[command(flatten)]
    forward: ForwardArgs,
}

/// What is taken, and how much at once.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Jobs")]
struct JobArgs {
    /// Job subscription: an ID or a full name
    #[arg(long, env = "FLEET_SUBSCRIPTION")]
    subscription: String,
    /// Job topic, where parked jobs go on when their user has consented
    #[arg(long, env = "FLEET_TOPIC")]
    topic: String,
    /// How often parked jobs are looked through, by one replica of the fleet; at least 1m
    #[arg(long, env = "FLEET_SWEEP", default_value = "10m", value_parser = duration)]
    sweep: Duration,
    /// How long jobs of unknown users are parked before they are rejected; at least 1m
    #[arg(long, env = "FLEET_PARK_UNKNOWN", default_value = "7d", value_parser = duration)]
    park_unknown: Duration,
    /// Refresh grants that nobody used for so long, a number of days such as 30d: providers end
    /// what is not used, Google after six months [default: none are]
    #[arg(long, env = "FLEET_KEEP_ALIVE", value_parser = days)]
    keep_alive: Option<Days>,
    /// Where outcomes are published [default: nowhere]
    #[arg(long, env = "FLEET_OUTCOMES_TOPIC")]
    outcomes_topic: Option<String>,
    #[command(flatten)]
    events: EventArgs,
    /// Publish events also of users who never consented
    #[arg(long, env = "FLEET_EVENTS_UNKNOWN", value_parser = FalseyValueParser::new())]
    events_unknown: bool,
    /// Where browsers reach `fleet web`, for the links in events [default: no links]
    #[arg(long, env = "FLEET_PUBLIC_URL", value_name = "URL")]
    public_url: Option<String>,
    /// Where rejected jobs go
    #[arg(long, env = "FLEET_DEAD_TOPIC")]
    dead_topic: String,
    #[command(flatten)]
    reach: ReachArgs,
    /// Where /healthz, /readyz and /metrics are served
    #[arg(long, env = "FLEET_LISTEN", default_value = "127.0.0.1:9090")]
    listen: SocketAddr,
    /// How long a dead replica's messages stay unseen, 10s to 600s
    #[arg(long, env = "FLEET_ACK_EXTENSION", default_value = "60s", value_parser = duration)]
    ack_extension: Duration,
    /// How many messages are held at once [default: 4 times --concurrency]
    #[arg(long, env = "FLEET_OUTSTANDING")]
    outstanding: Option<usize>,
    /// How many bytes of messages are held at once
    #[arg(long, env = "FLEET_OUTSTANDING_BYTES", default_value_t = OUTSTANDING_BYTES)]
    outstanding_bytes: usize,
    /// How many bytes the bodies and pages of all `api` jobs may hold together
    #[arg(long, env = "FLEET_BODY_MEMORY", default_value_t = BODY_MEMORY, value_name = "BYTES")]
    body_memory: usize,
    /// How many jobs run at once
    #[arg(long, env = "FLEET_CONCURRENCY", default_value_t = 64)]
    concurrency: usize,
    /// How many jobs of one user run at once
    #[arg(long, env = "FLEET_PER_USER", default_value_t = 1)]
    per_user: usize,
    /// How long running jobs may go on after SIGTERM; its last 5s are for writing their ends
    #[arg(long, env = "FLEET_DRAIN", default_value = "25s", value_parser = duration)]
    drain: Duration,
    /// Name users by their IDs in the lines about jobs, instead of by digests
    #[arg(long, env = "FLEET_LOG_USER_IDS", value_parser = FalseyValueParser::new())]
    log_user_ids: bool,
    /// How long a job without an ordering key may wait between its attempts before it is
    /// given back
    #[arg(long, env = "FLEET_RETRY_BUDGET", default_value = "60s", value_parser = duration)]
    retry_budget: Duration,
    /// How long a failing job with an ordering key is tried again where it is, before it is
    /// rejected
    #[arg(long, env = "FLEET_ORDERED_RETRY", default_value = "6h", value_parser = duration)]
    ordered_retry: Duration,
    /// Where the ends of jobs are remembered, so that a redelivery does not act again: in
    /// this process, or as objects under done/ in the bucket (one more read and write per job)
    #[arg(long, env = "FLEET_DEDUPE", default_value = "off")]
    dedupe: DedupeArg,
    /// Stop when stdin closes: ties a child to its parent
    #[arg(long, hide = true)]
    until_stdin_closes: bool,
}

impl Args {
    /// The project that the job subscription and traces are in, if it is named.
    pub(super) fn project(&self) -> Option<&str> {
        let named = self.project.project.as_deref().filter(|project| !project.is_empty());
        named.or_else(|| self.jobs.subscription.strip_prefix("projects/")?.split('/').next())
    }
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum DedupeArg {
    Off,
    Memory,
    Bucket,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let Args { project, store, jobs, forward } = args;
    jobs.check()?;
    log_user_ids(jobs.log_user_ids);
    let place = Place::from_env()?;
    let subscription = project.subscription(&jobs.subscription)?;
    let forward = forward.settings(&subscription)?;
    let (hosts, output_rules) = jobs.reach.rules(Some(&store.bucket))?;
    let userinfo_url = userinfo_url()?;
    let outcomes_topic =
        project.optional_topic("--outcomes-topic", jobs.outcomes_topic.as_ref())?;
    let dead_topic = project.topic("--dead-topic", &jobs.dead_topic)?;
    let job_topic = project.topic("--topic", &jobs.topic)?;
    let site = public_url(jobs.public_url.as_deref())?;
    let events_topic = jobs.events.topic(&project)?;
    let listener = health::bind(jobs.listen).await.map_err(anyhow::Error::msg)?;
    let connected = store.connect_to_serve(&place, &listener).await?;
    place.reach_pubsub().await?;
    let connection = place.connection();
    let topic = async |name: String| -> anyhow::Result<Arc<dyn Topic>> {
        let topic: Arc<dyn Topic> = Arc::new(Publisher::open(&connection, &name).await?);
        Ok(topic)
    };
    let job_topic = topic(job_topic).await?;
    let dead_topic = topic(dead_topic).await?;
    let outcomes_topic = match outcomes_topic {
        Some(name) => Some(topic(name).await?),
        None => None,
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let outputs = if output_rules.is_empty() {
        None
    } else {
        let store = place.output_store(Arc::clone(&clock)).await?;
        Some(Outputs { rules: output_rules, store })
    };
    let scrape = Scrape::start()?;
    let api_root = place.emulators.as_ref().and_then(|e| e.api_root.clone());
    let mut kinds = builtin(KindSettings { userinfo_url, outputs, body_memory: jobs.body_memory });
    let forwarding = match forward {
        Some(settings) => Some(forward::open(settings, &place, &connected.store).await?),
        None => None,
    };
    let forwarded = forwarding.as_ref().map(Forwarding::handlers).unwrap_or_default();
    if let Some(kind) = forwarded.keys().find(|kind| kinds.contains_key(*kind)) {
        return Err(
            Usage(format!("--forward: kind {kind} is built in; choose another name")).into()
        );
    }
    kinds.extend(forwarded.clone());
    let names = |kinds: &Kinds| kinds.keys().cloned().collect::<Vec<_>>();
    let (all, forwarded) = (names(&kinds), names(&forwarded));
    metrics::begin(
        Process::Worker,
        all.iter().map(String::as_str),
        forwarded.iter().map(String::as_str),
    );
    info!(
        replica = connected.store.holder(),
        health = %listener.local_addr().context("the health listener has no address")?,
        subscription,
        "starting"
    );
    let intake = IntakeSettings {
        subscription: subscription.clone(),
        max_outstanding: jobs.outstanding(),
        max_outstanding_bytes: jobs.outstanding_bytes,
        ack_extension: jobs.ack_extension,
    };
    let events = match events_topic {
        Some(topic) => {
            let events = EventArgs::open(&topic, &place, &connected.store, &store.bucket).await?;
            Some(Arc::new(Events { site, unknown_users: jobs.events_unknown, ..events }))
        }
        None => None,
    };
    let keep_alive = jobs.keep_alive.and_then(|days| days.0).map(|period| KeepAlive {
        bucket: connected.store.bucket(),
        store: connected.store.clone(),
        events: events.clone(),
        clock: Arc::clone(&clock),
        random: Arc::new(Randomness::from_system()),
        period,
    });
    let sweep = Sweep {
        bucket: connected.store.bucket(),
        store: connected.store.clone(),
        jobs: Arc::clone(&job_topic),
        unknown: Some(UnknownUsers {
            after: jobs.park_unknown,
            dead: Arc::clone(&dead_topic),
            outcomes: outcomes_topic.clone(),
        }),
        events: events.clone(),
        clock: Arc::clone(&clock),
        random: Arc::new(Randomness::from_system()),
        every: jobs.sweep,
    };
    let counted = connected.store.clone();
    // Until the last job has ended.
    let _tokens = forwarding.map(|forwarding| {
        let serving =
            forwarding.serve(connected.store.clone(), Arc::clone(&clock), CancellationToken::new());
        AbortOnDropHandle::new(tokio::spawn(serving))
    });
    let worker = Worker::builder()
        .dedupe(match jobs.dedupe {
            DedupeArg::Off => Dedupe::Off,
            DedupeArg::Memory => Dedupe::memory(),
            DedupeArg::Bucket => {
                let sealing = connected.store.sealing().clone();
                Dedupe::bucket(Arc::clone(&connected.bucket), sealing)
            }
        })
        .store(connected.store)
        .bucket(connected.bucket)
        .source(Intake::open(&connection, intake).await?)
        .subscription(subscription)
        .handlers(kinds)
        .http(connected.http)
        .hosts(hosts)
        .api_root(api_root)
        .jobs(job_topic)
        .dead_letters(dead_topic)
        .outcomes(outcomes_topic)
        .events(events)
        .clock(clock)
        .concurrency(jobs.concurrency)
        .per_user(jobs.per_user)
        .outstanding(jobs.outstanding())
        .outstanding_bytes(jobs.outstanding_bytes)
        .drain(jobs.drain)
        .retry_budget(jobs.retry_budget)
        .ordered_retry(jobs.ordered_retry)
        .build()?;
    let stop = Stop::default();
    watch_signals(&stop)?;
    if jobs.until_stdin_closes {
        let stop = stop.clone();
        tokio::spawn(async move {
            watch_stdin().await;
            stop.drain.cancel();
            stop.cut.cancel();
        });
    }
    let sweep_stop = stop.drain.child_token();
    let mut sweeping = tokio::spawn(sweep.run(sweep_stop.clone()));
    // The store finishes what it has begun.
    let _keeping = keep_alive
        .map(|keep_alive| AbortOnDropHandle::new(tokio::spawn(keep_alive.run(sweep_stop.clone()))));
    let ready = worker.readiness();
    let pulse = ready.pulse().clone();
    let probes = Probes {
        ready: Arc::clone(&ready),
        metrics: Render::new(move || {
            metrics::read_store(&counted);
            metrics::readiness(Process::Worker, ready.check().is_ok());
            scrape.render()
        }),
    };
    // Until the very end, so that the last jobs are counted where they are seen.
    let serving = tokio::spawn(health::serve(listener, probes, CancellationToken::new()));
    let result = tokio::select! {
        biased;
        result = worker.run(stop) => result,
        never = pulse.keep() => match never {},
    };
    serving.abort();
    // The replica may have ended by an error, unasked.
    sweep_stop.cancel();
    // Cut between publishing and deleting, it would run jobs twice.
    tokio::select! {
        biased;
        _ = &mut sweeping => {}
        () = SystemClock::default().sleep(SWEEP_END) => sweeping.abort(),
    }
    result.map_err(Into::into)
}

/// No sweep comes sooner after another.
const SWEEP_MIN: Duration = Duration::from_secs(60);

/// A user has that long to consent before the first job ends.
const PARK_UNKNOWN_MIN: Duration = Duration::from_secs(60);

impl JobArgs {
    fn outstanding(&self) -> usize {
        let default = self.concurrency.saturating_mul(OUTSTANDING_PER_SLOT);
        self.outstanding.unwrap_or(default)
    }

    fn check(&self) -> Result<(), Usage> {
        if self.concurrency == 0 || self.per_user == 0 {
            return Err(Usage("--concurrency and --per-user must be at least 1".to_owned()));
        }
        if self.outstanding == Some(0) || self.outstanding() > 4 * self.concurrency {
            return Err(Usage(format!(
                "--outstanding is {}; it must be 1 to 4 times --concurrency ({})",
                self.outstanding(),
                self.concurrency
            )));
        }
        if self.body_memory < MIN_BODY_MEMORY {
            return Err(Usage(format!(
                "--body-memory is {}; one upload needs {MIN_BODY_MEMORY}",
                self.body_memory
            )));
        }
        if self.sweep < SWEEP_MIN {
            return Err(Usage(format!("--sweep is {:?}; the least is {SWEEP_MIN:?}", self.sweep)));
        }
        if self.park_unknown < PARK_UNKNOWN_MIN {
            return Err(Usage(format!(
                "--park-unknown is {:?}; the least is {PARK_UNKNOWN_MIN:?}",
                self.park_unknown
            )));
        }
        for (flag, topic) in [("--topic", &self.topic), ("--dead-topic", &self.dead_topic)] {
            if topic.is_empty() {
                return Err(Usage(format!(
                    "{flag} names no topic; a worker needs one (`fleet setup` or Terraform makes it)"
                )));
            }
        }
        let (low, high) = (Duration::from_secs(10), Duration::from_secs(600));
        if self.ack_extension < low || self.ack_extension > high {
            return Err(Usage(format!(
                "--ack-extension is {:?}; Pub/Sub allows {low:?} to {high:?}",
                self.ack_extension
            )));
        }
        Ok(())
    }
}

/// The first SIGTERM or SIGINT drains, the second cuts.
fn watch_signals(stop: &Stop) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be watched")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be watched")?;
    let stop = stop.clone();
    tokio::spawn(async move {
        for token in [&stop.drain, &stop.cut] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            token.cancel();
        }
    });
    Ok(())
}

/// Ends when stdin does.
pub(super) async fn watch_stdin() {
    let mut byte = [0];
    while matches!(tokio::io::stdin().read(&mut byte).await, Ok(n) if n > 0) {}
}
