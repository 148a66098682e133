//! Calls while six other jobs have stopped reading their answers, since the bucket that they write
//! to takes nothing: from the publishing of a job to its outcome.

use std::time::{Duration, Instant};

use emulators::google;
use serde_json::json;

use crate::contender::Tools;
use crate::ground::{Ground, PATIENCE, Place, user};
use crate::measure::Samples;
use crate::report::{Figure, Report, Row};

const UPLOADS: usize = 6;
const USERS: usize = 20;
/// Calls, one after the other.
const CALLS: usize = 40;

pub(super) async fn run(runs: u16, tools: &Tools, report: &mut Report) -> anyhow::Result<()> {
    let (mut undisturbed, mut beside) = (Samples::default(), Samples::default());
    let mut worst = Samples::default();
    for _ in 0..runs {
        let (alone, disturbed) = one(tools).await?;
        undisturbed.push(alone.median());
        beside.push(disturbed.median());
        worst.push(disturbed.highest());
    }
    let ratio = beside.by(&undisturbed);
    let reached = ratio.median() <= 2.0;
    let what = format!("a call of 0 ms to its outcome beside {UPLOADS} stalled uploads of 32 MB");
    let figures = [Figure::new("ms", beside), Figure::new("ms at worst", worst)];
    let row = Row::ours(what, figures).beside("undisturbed", ratio).aim("≤ 2", reached);
    report.add(row);
    let what = "a call of 0 ms to its outcome, undisturbed";
    report.add(Row { is_detail: true, ..Row::ours(what, [Figure::new("ms", undisturbed)]) });
    Ok(())
}

/// Milliseconds of each call, undisturbed and beside the uploads.
async fn one(tools: &Tools) -> anyhow::Result<(Samples, Samples)> {
    let mut ground = Ground::start(google::Config::default()).await?;
    ground.users(USERS + UPLOADS, Duration::ZERO).await?;
    let (place, outcomes) = (ground.place().await?, ground.place().await?);
    let mut environment = ground.environment(&place);
    environment.push(("FLEET_OUTCOMES_TOPIC", outcomes.topic.clone()));
    let worker = tools.fleet(&["worker"], environment);
    let _worker = crate::child::Client::spawn(worker)?;
    // Each user's first, so that tokens are in memory and connections open.
    calls(&ground, &place, &outcomes, USERS).await?;
    let alone = calls(&ground, &place, &outcomes, CALLS).await?;
    let stalled = ground.front.stalled();
    let uploads = (USERS..USERS + UPLOADS).map(|number| {
        let output = format!("gs://{}/{number}", crate::front::STALLED_BUCKET);
        let url = "https://www.googleapis.com/bench/large";
        let params = json!({"method": "GET", "url": url, "output": output});
        json!({"user": user(number), "kind": "api", "params": params})
    });
    ground.publish(&place, uploads).await?;
    let all = ground.front.await_stalled(stalled + UPLOADS as u64);
    tokio::time::timeout(PATIENCE, all).await?;
    let disturbed = calls(&ground, &place, &outcomes, CALLS).await?;
    Ok((alone, disturbed))
}

#[expect(clippy::disallowed_methods, reason = "a measurement is of real time")]
async fn calls(
    ground: &Ground,
    place: &Place,
    outcomes: &Place,
    count: usize,
) -> anyhow::Result<Samples> {
    let mut took = Samples::default();
    for number in 0..count {
        let told = ground.stats(outcomes).published;
        let url = "https://www.googleapis.com/bench/call?ms=0";
        let params = json!({"method": "GET", "url": url});
        let job = json!({"user": user(number % USERS), "kind": "api", "params": params});
        let began = Instant::now();
        ground.publish(place, [job]).await?;
        let told = ground
            .pubsub()
            .wait_for_subscription(&outcomes.subscription, |stats| stats.published > told);
        tokio::time::timeout(PATIENCE, told).await?;
        took.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(took)
}
