//! `fleet demo --compare`: the demo's jobs on Fleet and, beside it, on replicas that share
//! credentials without a guard.

use std::process::Stdio;
use std::time::Duration;

use crate::pubsub::Publisher;
use anyhow::Context as _;
use emulators::pubsub::Stats;
use tokio::time::Instant;
use unguarded::{Credential, Tally};

use super::super::output;
use super::comparison::{Comparison, Side};
use super::jobs::{self, Arrival};
use super::play::{STUCK, Scale, any_death, play};
use super::progress::Progress;
use super::stack::{BUCKET, Plan, Replica, Stack, full};

const TOPIC: &str = "unguarded-jobs";
const SUBSCRIPTION: &str = "unguarded-jobs-workers";
const DEAD_TOPIC: &str = "unguarded-jobs-dead";
/// A tenth of what providers take. It is for the unguarded side: the shorter, the fewer
/// replicas meet. And a kill falls less often between a refresh and its commit.
const REFRESH_LATENCY: Duration = Duration::from_millis(10);
/// Every bunch of jobs meets an expired token, so that a stall of a busy machine would more
/// often than in the plain demo fall between a refresh and its commit.
const FLAGS: [&str; 2] = ["--lease-ttl", "12s"];
/// As many jobs at a time as Fleet's replicas do.
const CONCURRENCY: &str = "64";

pub(super) async fn run(scale: &Scale, json: bool) -> anyhow::Result<()> {
    let plan = Plan {
        ports: None,
        refresh_latency: REFRESH_LATENCY,
        replica_flags: FLAGS.map(str::to_owned).to_vec(),
        ..scale.plan()
    };
    let [ours, theirs] = Progress::of_two(scale.jobs as u64, ["fleet", "unguarded"]);
    let arrival = Arrival::Bunches { token_lifetime: scale.token_lifetime };
    // One after the other: retries of jobs that cannot succeed would take the machine from
    // the other side.
    let (report, tally) = {
        let stack = Stack::start(plan.clone()).await?;
        let report = play(scale, &stack, &ours, arrival).await?;
        (report, Tally::of(&stack.google.refresh_calls(), scale.token_lifetime))
    };
    ours.remark("");
    let unguarded = {
        let stack = Stack::start(plan).await?;
        play_unguarded(scale, &stack, &theirs, arrival).await?
    };
    ours.clear();
    let comparison = Comparison {
        replicas: scale.replicas,
        users: scale.users,
        published: scale.jobs as u64,
        lifetime: scale.token_lifetime,
        failure: report.failure(),
        fleet: report.side(tally),
        unguarded,
    };
    if json {
        output::json(&comparison.to_json())?;
    } else {
        output::line(comparison.to_text())?;
    }
    match comparison.failure {
        None => Ok(()),
        Some(why) => anyhow::bail!("{why}"),
    }
}

/// As [`play`], with replicas of the other kind.
async fn play_unguarded(
    scale: &Scale,
    stack: &Stack,
    progress: &Progress,
    arrival: Arrival,
) -> anyhow::Result<Side> {
    let pubsub = stack.pubsub.address().to_string();
    let (topic, subscription) = (full("topics", TOPIC), full("subscriptions", SUBSCRIPTION));
    let dead_topic = full("topics", DEAD_TOPIC);
    unguarded::create_subscription(&pubsub, &topic, &subscription, &dead_topic).await?;
    progress.say(&format!("starting {} replicas", scale.replicas));
    let early = scale.token_lifetime / 10;
    let mut replicas = Vec::new();
    for number in 1..=scale.replicas {
        replicas.push(start(stack, number, early)?);
    }
    let up = stack
        .pubsub
        .wait_for_subscription(&subscription, |stats| stats.consumers >= scale.replicas as u64);
    tokio::select! {
        _ = up => {}
        died = any_death(&mut replicas) => anyhow::bail!("{died}"),
    }
    let users = store_users(stack, scale.users, early).await?;
    let publisher = Publisher::open(&stack.connection(), &topic).await?;
    let publishing = tokio::spawn(jobs::publish(publisher, users, scale.jobs, arrival));
    let ended = |stats: &Stats| stats.acknowledged + stats.dead_lettered;
    let mut stats = Stats::default();
    let mut killed = 0;
    let mut last_news = Instant::now();
    while ended(&stats) < scale.jobs as u64 {
        if scale.kill_is_due(killed, usize::try_from(ended(&stats))?) {
            let victim = replicas.remove(0);
            let (number, next) = (victim.number, scale.replicas + killed + 1);
            victim.kill().await?;
            killed += 1;
            progress.say(&format!("killed replica {number}, starting replica {next}"));
            replicas.push(start(stack, next, early)?);
        }
        let news =
            stack.pubsub.wait_for_subscription(&subscription, |now| ended(now) > ended(&stats));
        tokio::select! {
            now = news => {
                stats = now;
                last_news = Instant::now();
                progress.at(ended(&stats));
            }
            died = any_death(&mut replicas) => anyhow::bail!("{died}"),
            () = tokio::time::sleep_until(last_news + STUCK) => {
                progress.say(&format!("no news for {STUCK:?}; giving up"));
                break;
            }
        }
    }
    publishing.await.context("the publisher panicked")??;
    progress.say("all jobs have ended; stopping the replicas");
    for replica in replicas {
        replica.terminate().await?;
    }
    Ok(Side {
        killed,
        done: stats.acknowledged,
        set_aside: stats.dead_lettered,
        lost: (scale.jobs as u64).saturating_sub(ended(&stats)),
        crash_window: 0,
        tally: Tally::of(&stack.google.refresh_calls(), scale.token_lifetime),
    })
}

fn start(stack: &Stack, number: usize, early: Duration) -> anyhow::Result<Replica> {
    let name = format!("unguarded-{number}");
    let child = stack
        .command("unguarded-worker")?
        .env("FLEET_SUBSCRIPTION", SUBSCRIPTION)
        .env("UNGUARDED_CONCURRENCY", CONCURRENCY)
        .env("UNGUARDED_EARLY_MS", early.as_millis().to_string())
        .env("UNGUARDED_NAME", &name)
        // It warns of every failed job, and there will be many.
        .env("FLEET_LOG", "error")
        .stderr(Stdio::inherit())
        .spawn()
        .context("an unguarded replica cannot be started")?;
    Ok(Replica::new(number, name, child))
}

/// Users that have consented, with live access tokens, as that way stores them.
async fn store_users(
    stack: &Stack,
    count: usize,
    early: Duration,
) -> anyhow::Result<Vec<shared::UserId>> {
    let client = stack.client()?;
    let secret = client.client_secret().context("the OAuth client has no secret")?;
    let origin = stack.storage.http_origin();
    let store = unguarded::Store::connect(&origin, BUCKET, reqwest::Client::new(), early).await?;
    let mut users = Vec::with_capacity(count);
    for number in 1..=count {
        let (sub, granted, expires_at) = stack.consent(number)?;
        let credential = Credential {
            token: Some(granted.access_token),
            refresh_token: granted.refresh_token,
            token_uri: client.token_uri().to_owned(),
            client_id: client.client_id().to_owned(),
            client_secret: secret.expose().to_owned(),
            scopes: granted.scopes,
            expiry: Some(expires_at),
        };
        store.save(&sub, &credential).await?;
        users.push(shared::UserId::new(&sub)?);
    }
    Ok(users)
}
