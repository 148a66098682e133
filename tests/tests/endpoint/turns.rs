//! The endpoint answers late, with a page of HTML, dies before it has done its work, freezes and
//! answers in turns, while jobs keep coming: nobody is locked out, every job is done, and no call is made
//! without need.
//!
//! `cargo test` runs a short version; `FLEET_CHAOS=full` two minutes with the fleet's own
//! lease.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::ensure;
use emulators::account::Account;
use emulators::google;
use tests::gateway::{Asked, End, Manner, Passage};
use tests::report;
use tests::stage::{Stage, full};
use tokio::time::Instant;
use worker::pubsub::{Outgoing, Publisher};

use crate::{job, judged, storage};

const REPLICAS: usize = 3;
const USERS: usize = 24;
/// How often each user gets a job.
const ROUNDS: u32 = 40;

/// How long things take.
#[derive(Debug, Clone, Copy)]
struct Plan {
    ttl: Duration,
    /// Of an access token.
    life: Duration,
    late: [Duration; 2],
    /// How long the whole endpoint stands still, twice.
    frozen: Duration,
    /// How long jobs keep coming.
    length: Duration,
}

impl Plan {
    /// What the request with this number meets.
    fn turn(&self, asked: &Asked) -> Manner {
        match asked.before % 7 {
            1 => Manner::honest().after(self.late[0]),
            3 => Manner::dead(),
            4 => Manner::honest().after(self.late[1]),
            5 => Manner::dead().after(self.late[0]),
            6 => Manner::refused(403, &[("content-type", "text/html")], "<html>Sorry</html>"),
            _ => Manner::honest(),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_misbehaves_in_turns_locks_nobody_out() -> anyhow::Result<()> {
    let seconds = Duration::from_secs;
    let full = Plan {
        ttl: seconds(30),
        life: seconds(60),
        late: [seconds(12), seconds(27)],
        frozen: seconds(8),
        length: seconds(120),
    };
    // A fifth of it. The lease is a little longer than that: a busy machine is no failure.
    let short = Plan {
        ttl: seconds(8),
        life: seconds(12),
        late: [Duration::from_millis(2400), Duration::from_millis(5400)],
        frozen: Duration::from_millis(1600),
        length: seconds(24),
    };
    let all = std::env::var_os("FLEET_CHAOS").is_some_and(|v| v == "full");
    play(if all { full } else { short }).await
}

async fn play(plan: Plan) -> anyhow::Result<()> {
    let settings = google::Config { token_lifetime: plan.life, ..google::Config::default() };
    let stage = Stage::behind_gateway(settings).await?;
    let account = Account::open(storage(&stage));
    stage.gateway().script(move |asked| plan.turn(asked));
    let mut outcomes = stage.inbox("outcomes").await?;
    let ttl = format!("{}s", plan.ttl.as_secs());
    let mut replicas = Vec::new();
    for _ in 0..REPLICAS {
        replicas.push(stage.worker(&["--lease-ttl", &ttl, "--ack-extension", "60s"]).await?);
    }
    let users: Vec<String> = (0..USERS).map(|n| format!("user-{n}")).collect();
    for user in &users {
        stage.write_user(user, plan.life).await?;
    }

    // A job of each user every fortieth of the time, users in turn; the endpoint freezes
    // after a third and after two thirds.
    let begin = Instant::now();
    let publisher = Publisher::open(&stage.connection(), &full("topics", "jobs")).await?;
    let publishing = async {
        let mut published = Vec::new();
        for round in 0..ROUNDS {
            for user in &users {
                let data = job(&format!("{user}-{round}"), user).to_string().into();
                published.push(publisher.publish(Outgoing { data, ..Outgoing::default() }));
            }
            tokio::time::sleep_until(begin + plan.length * (round + 1) / ROUNDS).await;
        }
        for one in published {
            one.await?;
        }
        anyhow::Ok(())
    };
    let freezing = async {
        for third in 1..=2 {
            tokio::time::sleep_until(begin + plan.length * third / 3).await;
            stage.gateway().freeze(true);
            tokio::time::sleep_until(begin + plan.length * third / 3 + plan.frozen).await;
            stage.gateway().freeze(false);
        }
    };
    let jobs = USERS * usize::try_from(ROUNDS)?;
    let (told, published, ()) = tokio::join!(outcomes.outcomes(jobs), publishing, freezing);
    let told = told?;
    published?;
    for (id, outcome) in &told {
        ensure!(outcome["status"] == "done", "{id} is not done: {outcome}");
    }
    for replica in &mut replicas {
        ensure!(replica.terminate().await? == 0, "it ends in order");
    }

    let passages = stage.gateway().passages();
    let judgement = judged(&stage, &account, plan.life, plan.ttl);
    let expiries = expiries(&stage, plan.life);
    report::say(format!(
        "turns: {jobs} jobs of {USERS} users on {REPLICAS} replicas in {:.0?}: {}; {} calls, {} carried out, \
         {} reused, {} cut off, {} questions",
        begin.elapsed(),
        ends(&passages),
        passages.len(),
        judgement.calls,
        judgement.reused,
        judgement.cut_off,
        judgement.questions,
    ));
    ensure!(judgement.faults.is_empty(), "without need:\n{}", judgement.faults.join("\n"));
    for user in &users {
        let record = stage.record(user).await?;
        ensure!(record["state"] == "active", "{user} is locked out: {:?}", judgement.struck);
        let of: Vec<&Passage> =
            passages.iter().filter(|passage| passage.user.as_ref() == Some(user)).collect();
        let open = of.iter().filter(|passage| passage.ended_open()).count();
        let not_now = of.iter().filter(|passage| passage.said_not_now()).count();
        let due = expiries.get(user).copied().unwrap_or_default();
        ensure!(
            of.len() <= due + open + not_now,
            "{user}: {} calls for {due} expiries, {open} lost answers and {not_now} refusals: {of:?}",
            of.len()
        );
    }
    let late = passages.iter().filter(|passage| passage.end == End::Answered(200)).count();
    let died = passages.iter().filter(|passage| passage.end == End::Closed).count();
    let pages = passages.iter().filter(|passage| passage.end == End::Answered(403)).count();
    ensure!(
        late > USERS && died > 3 && pages > 0,
        "it did not misbehave enough: {}",
        ends(&passages)
    );
    Ok(())
}

/// How requests ended.
fn ends(passages: &[Passage]) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for passage in passages {
        *counts.entry(format!("{:?}", passage.end)).or_default() += 1;
    }
    format!("{counts:?}")
}

/// How many access tokens of each user have become due by now, the imported ones included.
/// A grant's age counts from before its request was sent, and that is not seen here: half of a
/// lifetime is the least age at which a replica refreshes.
fn expiries(stage: &Stage, life: Duration) -> HashMap<String, usize> {
    let now = Instant::now();
    let mut due: HashMap<String, usize> = HashMap::new();
    for passage in stage.gateway().passages() {
        let Some(user) = passage.user else { continue };
        // The imported one, when its first refresh is asked for.
        let count = due.entry(user).or_insert(1);
        if passage.end == End::Answered(200) && now >= passage.at + life / 2 {
            *count += 1;
        }
    }
    due
}
