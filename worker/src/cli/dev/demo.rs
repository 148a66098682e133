//! `fleet demo`: the main job on a local stack, once, with a report.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;
use worker::pubsub::{Delivery, Intake, IntakeSettings, OUTSTANDING_BYTES, Publisher, Source as _};

use super::super::connect::duration;
use super::super::output::{self, Usage};
use super::compare;
use super::jobs::{self, Arrival};
use super::progress::Progress;
use super::report::{Facts, Report};
use super::stack::{DEAD_REVIEW, Line, OUTCOMES, Plan, Replica, Stack, TOPIC, full};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fleet demo
  fleet demo --users 100 --jobs 5000 --replicas 5
  fleet demo --kill 0 --json
  fleet demo --compare

Emulators run in this process, replicas as processes of the same binary. A replica
is killed with SIGKILL in the middle and another one started. Exit code 0 only if
nothing was lost and nobody was refreshed twice.

With --compare the same users, jobs and kills then meet the way that credentials are often
shared without Fleet: every replica loads them from a bucket, refreshes them when they have
expired and saves them, without any guard. Each side has emulators of its own. The jobs
carry no ordering key and arrive ten of a user at once, each time after the user's token
has expired. The exit code is Fleet's.")]
pub(crate) struct Args {
    /// How many replicas
    #[arg(long, default_value_t = 3)]
    pub(super) replicas: usize,
    /// How many users
    #[arg(long, default_value_t = 40)]
    pub(super) users: usize,
    /// How many jobs
    #[arg(long, default_value_t = 2000)]
    pub(super) jobs: usize,
    /// How long an access token lives, in whole seconds
    #[arg(long, default_value = "2s", value_parser = duration)]
    pub(super) token_lifetime: Duration,
    /// How many replicas to kill in the middle, one after another
    #[arg(long, default_value_t = 1)]
    pub(super) kill: usize,
    /// The same beside it with credentials that are shared without a guard
    #[arg(long)]
    compare: bool,
    /// One JSON object instead of the table
    #[arg(long)]
    pub(super) json: bool,
}

/// Long enough to be stalled by a busy machine, short enough that a dead
/// replica's lease is taken over while you watch.
const LEASE_TTL: &str = "5s";
const API_LATENCY: Duration = Duration::from_millis(100);
/// Without any news for this long the run has failed.
pub(super) const STUCK: Duration = Duration::from_secs(60);

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    args.check()?;
    let interrupted = async {
        match tokio::signal::ctrl_c().await {
            Ok(()) => anyhow::anyhow!("interrupted; nothing is left behind"),
            Err(error) => error.into(),
        }
    };
    tokio::select! {
        ended = async { if args.compare { compare::run(&args).await } else { alone(&args).await } } => ended,
        error = interrupted => Err(error),
    }
}

async fn alone(args: &Args) -> anyhow::Result<()> {
    let progress = Progress::new(args.jobs as u64);
    progress.say("starting emulators");
    let stack = Stack::start(args.plan()).await?;
    let report = play(args, &stack, &progress, Arrival::AtOnce).await?;
    progress.clear();
    if args.json {
        output::json(&report.to_json())?;
    } else {
        output::line(report.to_text())?;
    }
    match report.failure() {
        None => Ok(()),
        Some(why) => anyhow::bail!("{why}"),
    }
}

impl Args {
    fn check(&self) -> Result<(), Usage> {
        let usage = |text: &str| Err(Usage(text.to_owned()));
        if self.replicas == 0 || self.users == 0 || self.jobs == 0 {
            return usage("--replicas, --users and --jobs must be at least 1");
        }
        if self.token_lifetime < Duration::from_secs(2) || self.token_lifetime.subsec_nanos() != 0 {
            return usage(
                "--token-lifetime must be a whole number of seconds, at least 2s: each object may be written once a second",
            );
        }
        Ok(())
    }

    /// The stack that the fleet runs on.
    pub(super) fn plan(&self) -> Plan {
        Plan {
            token_lifetime: self.token_lifetime,
            api_latency: API_LATENCY,
            refresh_latency: Duration::ZERO,
            replica_flags: ["--lease-ttl", LEASE_TTL].map(str::to_owned).to_vec(),
        }
    }

    /// Whether it is time for the next kill: they are spread over the first two thirds.
    pub(super) fn kill_is_due(&self, killed: usize, ended: usize) -> bool {
        let at = self.jobs * (killed + 1) / (self.kill + 1) * 2 / 3;
        killed < self.kill && ended > at
    }
}

/// What the outcomes and the replicas' logs say.
#[derive(Default)]
struct Tally {
    /// Job → the first final status.
    ended: HashMap<String, String>,
    dead: HashSet<String>,
    /// Latencies of credentials in microseconds, all deliveries.
    token_us: Vec<u64>,
}

/// The main job on `stack`, from the first replica to the end of the last.
pub(super) async fn play(
    args: &Args,
    stack: &Stack,
    progress: &Progress,
    arrival: Arrival,
) -> anyhow::Result<Report> {
    let (lines, mut logged) = mpsc::unbounded_channel();
    progress.say(&format!("starting {} replicas", args.replicas));
    let mut replicas = Vec::new();
    for number in 1..=args.replicas {
        replicas.push(stack.replica(number, lines.clone()).await?);
    }
    let mut outcomes = intake(stack, OUTCOMES).await?;
    let mut dead = intake(stack, DEAD_REVIEW).await?;
    progress.say(&format!("importing {} users with live tokens", args.users));
    let users = stack.import_users(args.users).await?;
    let started = Instant::now();
    let publisher = Publisher::open(&stack.connection(), &full("topics", TOPIC)).await?;
    let publishing = tokio::spawn(jobs::publish(publisher, users, args.jobs, arrival));
    let mut tally = Tally::default();
    let mut killed: Vec<String> = Vec::new();
    let mut next_number = args.replicas + 1;
    let mut last_news = Instant::now();
    while tally.distinct() < args.jobs {
        if args.kill_is_due(killed.len(), tally.ended.len()) {
            let victim = replicas.remove(0);
            let (number, holder) = (victim.number, victim.holder.clone());
            victim.kill().await?;
            killed.push(holder);
            progress.say(&format!("killed replica {number}, starting replica {next_number}"));
            progress.remark("(the dead replica's messages come back within 10 s)");
            replicas.push(stack.replica(next_number, lines.clone()).await?);
            next_number += 1;
        }
        tokio::select! {
            delivery = outcomes.next() => {
                let delivery = delivery?;
                tally.outcome(&delivery);
                delivery.settle.ack().await;
                last_news = Instant::now();
                progress.at(tally.distinct() as u64);
            }
            delivery = dead.next() => {
                let delivery = delivery?;
                tally.buried(&delivery);
                delivery.settle.ack().await;
                last_news = Instant::now();
            }
            Some(line) = logged.recv() => tally.line(&line, progress),
            died = any_death(&mut replicas) => anyhow::bail!("{died}"),
            () = tokio::time::sleep_until(last_news + STUCK) => {
                progress.say(&format!("no news for {STUCK:?}; giving up"));
                break;
            }
        }
    }
    let ended = Instant::now();
    publishing.await.context("the publisher panicked")??;
    progress.say("all jobs have ended; stopping the replicas");
    for replica in replicas {
        replica.terminate().await?;
    }
    drop(lines);
    while let Some(line) = logged.recv().await {
        tally.line(&line, progress);
    }
    let count = |status: &str| tally.ended.values().filter(|s| *s == status).count() as u64;
    Ok(Report::new(Facts {
        stack,
        replicas: args.replicas,
        users: args.users,
        published: args.jobs as u64,
        token_lifetime: args.token_lifetime,
        killed: &killed,
        ended,
        seconds: (ended - started).as_secs_f64(),
        done: count("done"),
        parked: count("parked"),
        rejected: count("rejected"),
        dead: tally.dead.iter().filter(|id| !tally.ended.contains_key(*id)).count() as u64,
        token_us: tally.token_us,
    }))
}

async fn intake(stack: &Stack, subscription: &str) -> anyhow::Result<Intake> {
    let settings = IntakeSettings {
        subscription: full("subscriptions", subscription),
        max_outstanding: 1000,
        max_outstanding_bytes: OUTSTANDING_BYTES,
        ack_extension: Duration::from_secs(60),
    };
    Ok(Intake::open(&stack.connection(), settings).await?)
}

/// Ends when a replica does, which none should by itself.
pub(super) async fn any_death(replicas: &mut [Replica]) -> String {
    let deaths = replicas.iter_mut().map(|replica| Box::pin(replica.died()));
    futures_util::future::select_all(deaths).await.0
}

impl Tally {
    fn distinct(&self) -> usize {
        self.ended.len() + self.dead.iter().filter(|id| !self.ended.contains_key(*id)).count()
    }

    fn outcome(&mut self, delivery: &Delivery) {
        let outcome: Value = serde_json::from_slice(&delivery.received.data).unwrap_or_default();
        if let (Some(job), Some(status)) = (outcome["job"].as_str(), outcome["status"].as_str()) {
            self.ended.entry(job.to_owned()).or_insert_with(|| status.to_owned());
        }
    }

    fn buried(&mut self, delivery: &Delivery) {
        let job: Value = serde_json::from_slice(&delivery.received.data).unwrap_or_default();
        if let Some(id) = job["id"].as_str() {
            self.dead.insert(id.to_owned());
        }
    }

    fn line(&mut self, line: &Line, progress: &Progress) {
        if let Some(us) = line.fields["token_us"].as_u64() {
            self.token_us.push(us);
        }
        let severity = line.fields["severity"].as_str();
        if severity == Some("ERROR") || (severity == Some("WARNING") && progress.warns()) {
            progress.say(&line.for_people());
        }
    }
}
