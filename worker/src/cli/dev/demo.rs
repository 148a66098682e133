//! `fleet demo`: the main job on a local stack, once, with a report.

use std::collections::{HashMap, HashSet};
use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use shared::UserId;
use tokio::sync::mpsc;
use tokio::time::Instant;
use worker::pubsub::{Delivery, Intake, IntakeSettings, Outgoing, Publisher, Source as _};

use super::super::connect::duration;
use super::super::output::{self, Usage};
use super::report::{Facts, Report};
use super::stack::{DEAD, Line, OUTCOMES, Plan, Replica, Stack, TOPIC, full};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fleet demo
  fleet demo --users 100 --jobs 5000 --replicas 5
  fleet demo --kill 0 --json

Emulators run in this process, replicas as processes of the same binary. A replica
is killed with SIGKILL in the middle and another one started. Exit code 0 only if
nothing was lost and nobody was refreshed twice.")]
pub(crate) struct Args {
    /// How many replicas
    #[arg(long, default_value_t = 3)]
    replicas: usize,
    /// How many users
    #[arg(long, default_value_t = 40)]
    users: usize,
    /// How many jobs
    #[arg(long, default_value_t = 2000)]
    jobs: usize,
    /// How long an access token lives, in whole seconds
    #[arg(long, default_value = "2s", value_parser = duration)]
    token_lifetime: Duration,
    /// How many replicas to kill in the middle, one after another
    #[arg(long, default_value_t = 1)]
    kill: usize,
    /// One JSON object instead of the table
    #[arg(long)]
    json: bool,
}

/// Long enough to be stalled by a busy machine, short enough that a dead
/// replica's lease is taken over while you watch.
const LEASE_TTL: &str = "5s";
const ATTEMPT_TIMEOUT: &str = "2s";
const API_LATENCY: Duration = Duration::from_millis(100);
/// Without any news for this long the run has failed.
const STUCK: Duration = Duration::from_secs(60);
/// Every so many jobs one is of kind `profile`; the others are `api`.
const PROFILE_EVERY: usize = 5;

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    args.check()?;
    let progress = Progress::new(args.jobs as u64);
    progress.say("starting emulators");
    let stack = Stack::start(Plan {
        token_lifetime: args.token_lifetime,
        api_latency: API_LATENCY,
        replica_flags: ["--lease-ttl", LEASE_TTL, "--attempt-timeout", ATTEMPT_TIMEOUT]
            .map(str::to_owned)
            .to_vec(),
    })
    .await?;
    let report = tokio::select! {
        report = play(&args, &stack, &progress) => report?,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted; nothing is left behind"),
    };
    progress.bar.finish_and_clear();
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
}

/// What is shown while it runs: a bar on a terminal, plain lines elsewhere.
struct Progress {
    bar: ProgressBar,
}

impl Progress {
    fn new(jobs: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(jobs), ProgressDrawTarget::stderr());
        if let Ok(style) =
            ProgressStyle::with_template("{bar:30} {pos}/{len} jobs  {elapsed}  {msg}")
        {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(250));
        Self { bar }
    }

    /// So many jobs have ended; without a terminal every quarter is a line.
    fn at(&self, jobs: u64) {
        let (before, total) = (self.bar.position(), self.bar.length().unwrap_or(1));
        self.bar.set_position(jobs);
        if !std::io::stderr().is_terminal() && before * 4 / total < jobs * 4 / total {
            output::note(format!("{jobs}/{total} jobs"));
        }
    }

    fn say(&self, text: &str) {
        if std::io::stderr().is_terminal() {
            self.bar.println(format!("· {text}"));
        } else {
            output::note(text);
        }
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

async fn play(args: &Args, stack: &Stack, progress: &Progress) -> anyhow::Result<Report> {
    let (lines, mut logged) = mpsc::unbounded_channel();
    progress.say(&format!("starting {} replicas", args.replicas));
    let mut replicas = Vec::new();
    for number in 1..=args.replicas {
        replicas.push(stack.replica(number, lines.clone()).await?);
    }
    let mut outcomes = intake(stack, OUTCOMES).await?;
    let mut dead = intake(stack, DEAD).await?;
    progress.say(&format!("importing {} users with live tokens", args.users));
    let users = stack.import_users(args.users).await?;
    let started = Instant::now();
    let publishing = tokio::spawn(publish(stack_publisher(stack).await?, users, args.jobs));
    let mut tally = Tally::default();
    let mut killed: Vec<String> = Vec::new();
    let mut next_number = args.replicas + 1;
    let mut last_news = Instant::now();
    while tally.distinct() < args.jobs {
        let kill_at = args.jobs * (killed.len() + 1) / (args.kill + 1) * 2 / 3;
        if killed.len() < args.kill && tally.ended.len() > kill_at {
            let victim = replicas.remove(0);
            let (number, holder) = (victim.number, victim.holder.clone());
            victim.kill().await?;
            killed.push(holder);
            progress.say(&format!("killed replica {number}, starting replica {next_number}"));
            progress.bar.set_message("(the dead replica's messages come back within 10 s)");
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
        ack_extension: Duration::from_secs(60),
    };
    Ok(Intake::open(&stack.connection(), settings).await?)
}

async fn stack_publisher(stack: &Stack) -> anyhow::Result<Publisher> {
    Ok(Publisher::open(&stack.connection(), &full("topics", TOPIC)).await?)
}

/// Publishes the jobs, users in turn, each under its user as ordering key.
async fn publish(publisher: Publisher, users: Vec<UserId>, jobs: usize) -> anyhow::Result<()> {
    let published: Vec<_> = (0..jobs)
        .map(|number| {
            let user = &users[number % users.len()];
            let id = format!("job-{number}");
            let job = if number % PROFILE_EVERY == PROFILE_EVERY - 1 {
                json!({"id": id, "user": user.as_str(), "kind": "profile"})
            } else {
                json!({"id": id, "user": user.as_str(), "kind": "api", "params": {
                    "method": "POST",
                    "url": "https://tasks.googleapis.com/tasks/v1/lists/@default/tasks",
                    // Counted by the emulator, so that duplicates show.
                    "headers": {"x-effect-id": id},
                    "body": {"title": format!("Task {number}")},
                }})
            };
            publisher.publish(Outgoing {
                data: job.to_string().into(),
                ordering_key: user.as_str().to_owned(),
                ..Outgoing::default()
            })
        })
        .collect();
    for one in published {
        one.await?;
    }
    Ok(())
}

/// Ends when a replica does, which none should by itself.
async fn any_death(replicas: &mut [Replica]) -> String {
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
        if matches!(line.fields["severity"].as_str(), Some("WARNING" | "ERROR")) {
            progress.say(&line.for_people());
        }
    }
}
