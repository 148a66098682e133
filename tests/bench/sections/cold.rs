//! First calls: of a process that has just been started, of a job that has just been published, and
//! of users whose tokens have expired.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use emulators::faults::Fault;
use emulators::google::{self, StatsQuery};
use serde_json::{Value, json};
use tests::stage::BUCKET;

use crate::contender::{Contender, Task, Tools};
use crate::ground::{Ground, HOUR, PATIENCE, Place, user};
use crate::measure::Samples;
use crate::report::{Figure, Report, Row};

/// What a storage request takes, and a refresh.
const STORAGE: Duration = Duration::from_millis(20);
const ENDPOINT: Duration = Duration::from_millis(150);
const USERS: usize = 40;
const REPLICAS: usize = 8;
const CROWD: usize = 2000;
/// Jobs of each of them.
const EACH: usize = 8;

pub(super) async fn run(runs: u16, tools: &Tools, report: &mut Report) -> anyhow::Result<()> {
    first_calls(runs, tools, report).await?;
    expired(tools, report).await?;
    crowd(tools, report).await
}

fn call(number: usize) -> Value {
    let url = "https://www.googleapis.com/bench/call?ms=0";
    json!({"user": user(number), "kind": "api", "params": {"method": "GET", "url": url}})
}

/// Milliseconds until the next call arrives.
#[expect(clippy::disallowed_methods, reason = "a measurement is of real time")]
async fn until_called(
    ground: &Ground,
    cause: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<f64> {
    let (calls, began) = (ground.front.calls(), Instant::now());
    cause().await?;
    tokio::time::timeout(PATIENCE, ground.front.await_calls(calls + 1)).await?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

/// Of processes and of jobs, by everybody.
async fn first_calls(runs: u16, tools: &Tools, report: &mut Report) -> anyhow::Result<()> {
    let mut ground = Ground::start(google::Config::default()).await?;
    ground.users(USERS, Duration::ZERO).await?;
    let mut starts: BTreeMap<Contender, Samples> = BTreeMap::new();
    let mut jobs: BTreeMap<Contender, Samples> = BTreeMap::new();
    for _ in 0..runs {
        for who in Contender::ALL.into_iter().filter(|who| tools.has(*who)) {
            match first_call(&mut ground, tools, who).await.context(who) {
                Ok((start, job)) => {
                    starts.entry(who).or_default().push(start);
                    jobs.entry(who).or_default().push(job);
                }
                Err(error) if who == Contender::Fleet => return Err(error),
                Err(error) => crate::say(&format!("left out of one run: {error:#}")),
            }
        }
    }
    let figures = |all: BTreeMap<Contender, Samples>| {
        all.into_iter().map(|(who, samples)| (who, vec![Figure::new("ms", samples)])).collect()
    };
    let start = starts[&Contender::Fleet].median();
    let what = "start of a process to its first call".to_owned();
    let row = Row { what, figures: figures(starts), ..Row::default() };
    report.add(row.aim("≤ 50 ms", start <= 50.0));
    let by_go = jobs.get(&Contender::Go).map(|go| jobs[&Contender::Fleet].by(go));
    let what = "publishing of a job to its call, p50".to_owned();
    let mut row = Row { what, figures: figures(jobs), ..Row::default() };
    if let Some(ratio) = by_go {
        let reached = ratio.median() <= 1.0;
        row = row.beside("Go", ratio).aim("≤ Go's", reached);
    }
    report.add(row);
    Ok(())
}

async fn first_call(
    ground: &mut Ground,
    tools: &Tools,
    who: Contender,
) -> anyhow::Result<(f64, f64)> {
    let place = ground.place().await?;
    ground.publish_alone(&place, call(0)).await?;
    let task = Task { place: &place, slots: 64, handler: "http://127.0.0.1:9/" };
    let mut client = None;
    let start = until_called(ground, async || {
        client = Some(tools.start(who, ground, &task)?);
        Ok(())
    })
    .await?;
    for number in 0..USERS {
        until_called(ground, async || ground.publish_alone(&place, call(number)).await).await?;
    }
    let mut took = Samples::default();
    for number in 0..USERS {
        took.push(
            until_called(ground, async || ground.publish_alone(&place, call(number)).await).await?,
        );
    }
    client.context("it was started")?.kill().await?;
    ground.forget(place).await?;
    Ok((start, took.median()))
}

/// Servers as far away as in a region, and users whose tokens have expired.
async fn far_away(users: usize) -> anyhow::Result<Ground> {
    let provider = google::Config { refresh_latency: ENDPOINT, ..google::Config::default() };
    let ground = Ground::start(provider).await?;
    ground.users(users, HOUR + Duration::from_secs(60)).await?;
    ground.storage().inject(Fault::latency(STORAGE));
    Ok(ground)
}

/// The first jobs of users whose tokens have expired, whom no replica has refreshed before, and
/// whom one has.
async fn expired(tools: &Tools, report: &mut Report) -> anyhow::Result<()> {
    let mut ground = far_away(USERS).await?;
    for (what, trips) in [
        ("first job of an expired user, storage 20 ms, endpoint 150 ms, never refreshed before", 4),
        ("the same, refreshed before by another replica", 2),
    ] {
        let aim = (ENDPOINT + STORAGE * trips).as_secs_f64() * 1e3 + 10.0;
        let place = ground.place().await?;
        let client = worker(&ground, tools, &place)?;
        // The connections are open and the one user's token is fresh.
        let warm = USERS - 1;
        until_called(&ground, async || ground.publish_alone(&place, call(warm)).await).await?;
        let mut took = Samples::default();
        for number in 0..warm {
            took.push(
                until_called(&ground, async || ground.publish_alone(&place, call(number)).await)
                    .await?,
            );
        }
        let reached = took.median() <= aim;
        report.add(Row::ours(what, [Figure::new("ms", took)]).aim(format!("≤ {aim} ms"), reached));
        // What was refreshed is stored by now; it expires anew for another process.
        ground.await_acknowledged(&place, USERS as u64).await?;
        client.kill().await?;
        ground.forget(place).await?;
        for number in 0..USERS {
            expire(&ground, number)?;
        }
    }
    Ok(())
}

fn worker(ground: &Ground, tools: &Tools, place: &Place) -> anyhow::Result<crate::child::Client> {
    crate::child::Client::spawn(tools.fleet(&["worker"], ground.environment(place)))
}

/// Sets back the end of a stored token.
fn expire(ground: &Ground, number: usize) -> anyhow::Result<()> {
    let name = format!("tokens/{}.json", user(number));
    let object = ground.storage().object(BUCKET, &name).context("a user without a record")?;
    let mut record: Value = serde_json::from_slice(&object.content)?;
    record["expires_at"] = "2026-01-01T00:00:00Z".into();
    Ok(ground.storage().put(BUCKET, &name, Bytes::from(record.to_string()))?)
}

/// Replicas that all meet the same expired users for the first time.
#[expect(clippy::disallowed_methods, reason = "a measurement is of real time")]
async fn crowd(tools: &Tools, report: &mut Report) -> anyhow::Result<()> {
    let mut ground = far_away(CROWD).await?;
    let place = ground.place().await?;
    let jobs = CROWD * EACH;
    ground.publish(&place, (0..jobs).map(|number| call(number % CROWD))).await?;
    let began = Instant::now();
    let replicas = (0..REPLICAS)
        .map(|_| worker(&ground, tools, &place))
        .collect::<anyhow::Result<Vec<_>>>()?;
    ground.await_acknowledged(&place, jobs as u64).await?;
    let took = began.elapsed().as_secs_f64();
    let refreshes = ground.google.stats(&StatsQuery::default());
    for replica in replicas {
        replica.kill().await?;
    }
    let exact = refreshes.token_calls == CROWD as u64 && refreshes.reused == 0;
    let what =
        format!("{REPLICAS} replicas start and meet {CROWD} expired users, {EACH} jobs each");
    let figures =
        [Figure::new("refreshes", refreshes.token_calls as f64), Figure::new("s in all", took)];
    report.add(Row::ours(what, figures).aim("2000 refreshes", exact));
    Ok(())
}
