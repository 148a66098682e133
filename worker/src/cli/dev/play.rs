//! One run: replicas, users and jobs on a stack, and the kills in the middle.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::pubsub::{Delivery, Intake, IntakeSettings, OUTSTANDING_BYTES, Publisher, Source as _};
use anyhow::Context as _;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::connect::duration;
use super::super::output::Usage;
use super::jobs::{self, Arrival};
use super::progress::Progress;
use super::report::{Facts, Killed, Report};
use super::stack::{DEAD_REVIEW, Line, OUTCOMES, Plan, Replica, Stack, TOPIC, full};

/// How large a run is.
#[derive(Debug, clap::Args)]
pub(super) struct Scale {
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
    kill: usize,
}

/// Long enough to be stalled by a busy machine, short enough that a dead
/// replica's lease is taken over while you watch.
const LEASE_TTL: &str = "5s";
const API_LATENCY: Duration = Duration::from_millis(100);
/// Without any news for this long the run has failed.
pub(super) const STUCK: Duration = Duration::from_secs(60);

impl Scale {
    pub(super) fn check(&self) -> Result<(), Usage> {
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
            ports: None,
            strict_writes: true,
            token_lifetime: self.token_lifetime,
            api_latency: API_LATENCY,
            refresh_latency: Duration::ZERO,
            // A demonstration is not to wait as production should.
            min_backoff: Duration::from_secs(1),
            worker: None,
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
    /// Job → its user and its first final status.
    ended: HashMap<String, (String, String)>,
    dead: HashSet<String>,
    /// Latencies of credentials in microseconds, all deliveries.
    token_us: Vec<u64>,
}

/// Plays the demo on `stack`, from the first replica to the end of the last.
pub(super) async fn play(
    scale: &Scale,
    stack: &Stack,
    progress: &Progress,
    arrival: Arrival,
) -> anyhow::Result<Report> {
    let (lines, mut logged) = mpsc::unbounded_channel();
    progress.say(&format!("starting {} replicas", scale.replicas));
    let mut replicas = Vec::new();
    for number in 1..=scale.replicas {
        replicas.push(stack.replica(number, lines.clone()).await?);
    }
    let mut outcomes = intake(stack, OUTCOMES).await?;
    let mut dead = intake(stack, DEAD_REVIEW).await?;
    progress.say(&format!("importing {} users with live tokens", scale.users));
    let users = stack.import_users(scale.users).await?;
    let started = Instant::now();
    let publisher = Publisher::open(&stack.connection(), &full("topics", TOPIC)).await?;
    let publishing = tokio::spawn(jobs::publish(publisher, users, scale.jobs, arrival));
    let mut tally = Tally::default();
    let mut killed: Vec<Killed> = Vec::new();
    let mut next_number = scale.replicas + 1;
    let mut last_news = Instant::now();
    while tally.distinct() < scale.jobs {
        if scale.kill_is_due(killed.len(), tally.ended.len()) {
            let victim = replicas.remove(0);
            let (number, holder) = (victim.number, victim.holder.clone());
            victim.kill().await?;
            killed.push(Killed { number, holder });
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
                tally.dead_letter(&delivery);
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
    let report = Report::new(Facts {
        stack,
        replicas: scale.replicas,
        users: scale.users,
        published: scale.jobs as u64,
        token_lifetime: scale.token_lifetime,
        killed: &killed,
        ended,
        seconds: (ended - started).as_secs_f64(),
        done: tally.count("done"),
        rejected: tally.count("rejected"),
        parked: tally.parked(),
        dead: tally.dead.iter().filter(|id| !tally.ended.contains_key(*id)).count() as u64,
        token_us: tally.token_us,
    });
    for remark in report.remarks() {
        progress.say(&remark);
    }
    Ok(report)
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

    fn count(&self, status: &str) -> u64 {
        self.ended.values().filter(|(_, ended)| ended == status).count() as u64
    }

    /// How many jobs of each user are parked.
    fn parked(&self) -> HashMap<String, u64> {
        let mut parked = HashMap::new();
        for (user, _) in self.ended.values().filter(|(_, status)| status == "parked") {
            *parked.entry(user.clone()).or_default() += 1;
        }
        parked
    }

    fn outcome(&mut self, delivery: &Delivery) {
        let outcome: Value = serde_json::from_slice(&delivery.received.data).unwrap_or_default();
        let text = |field: &str| outcome[field].as_str().map(str::to_owned);
        if let (Some(job), Some(status)) = (text("job"), text("status")) {
            self.ended.entry(job).or_insert_with(|| (text("user").unwrap_or_default(), status));
        }
    }

    fn dead_letter(&mut self, delivery: &Delivery) {
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
        // What happened to a user is told once, when all jobs have ended; what happened to a
        // job is told at once, unless it is parked.
        let job = line.fields["status"].as_str().is_some_and(|status| status != "parked");
        let told_later = line.fields["user"].is_string() && !job;
        let warning = severity == Some("WARNING") && progress.warns() && !told_later;
        if severity == Some("ERROR") || warning {
            progress.say(&line.for_people());
        }
    }
}
