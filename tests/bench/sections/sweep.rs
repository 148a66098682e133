//! Parked jobs of users who have consented since go on: by one replica that starts, with storage
//! 20 ms away.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use emulators::faults::Fault;
use emulators::google;
use emulators::storage::Stats;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;
use shared::adapters::{
    CloudStorage, CloudStorageConfig, HttpTokenEndpoint, SystemClock, http_client,
};
use shared::ports::Clock as _;
use shared::{ConsentReason, OAuthClient, TokenStore};
use tests::stage::BUCKET;
use worker::job::{Job, Received};
use worker::parking::Parking;

use crate::child::Client;
use crate::contender::Tools;
use crate::ground::{Ground, PATIENCE, user};
use crate::report::{Figure, Report, Row};

const STORAGE: Duration = Duration::from_millis(20);
const USERS: usize = 2000;
const EACH: usize = 10;
/// Jobs that are parked at once.
const PARKING: usize = 64;

#[expect(clippy::disallowed_methods, reason = "a measurement is of real time")]
pub(super) async fn run(tools: &Tools, report: &mut Report) -> anyhow::Result<()> {
    let mut ground = Ground::start(google::Config::default()).await?;
    park(&ground).await?;
    ground.users(USERS, Duration::ZERO).await?;
    ground.storage().inject(Fault::latency(STORAGE));
    let place = ground.place().await?;
    let before = requests(&ground.storage().stats());
    let began = Instant::now();
    let worker = Client::spawn(tools.fleet(&["worker"], ground.environment(&place)))?;
    let all = (USERS * EACH) as u64;
    let resumed =
        ground.pubsub().wait_for_subscription(&place.subscription, |s| s.published >= all);
    tokio::time::timeout(PATIENCE, resumed).await.context("the parked jobs do not go on")?;
    let took = began.elapsed().as_secs_f64();
    let apart = STORAGE.as_secs_f64() * (requests(&ground.storage().stats()) - before) as f64;
    worker.kill().await?;
    let faster = apart / took;
    let what = format!("{all} parked jobs of {USERS} users go on, storage 20 ms");
    let row = Row::ours(what, [Figure::new("s", took)]);
    let row = row.beside("one request after another, times as fast", faster);
    report.add(row.aim("≥ 10", faster >= 10.0));
    Ok(())
}

fn requests(stats: &Stats) -> u64 {
    stats.reads + stats.writes + stats.deletes + stats.lists + stats.not_found
}

/// Parks jobs of users whom nobody knows yet.
async fn park(ground: &Ground) -> anyhow::Result<()> {
    let client = ground.google.client_json(google::ClientKind::Installed, &[]);
    let client = OAuthClient::from_json(client.to_string().as_bytes())?;
    let config = CloudStorageConfig {
        bucket: BUCKET.to_owned(),
        timeout: None,
        emulator: Some(ground.cloud.storage.clone()),
        emulator_grpc: ground.cloud.storage_grpc.clone(),
    };
    let bucket = CloudStorage::connect(config).await.map_err(anyhow::Error::msg)?.shared();
    let endpoint = Arc::new(HttpTokenEndpoint::new(&client, http_client("fleet-bench")?)?);
    let store = TokenStore::builder(Arc::clone(&bucket), endpoint).build()?;
    let parking = &Parking::new(bucket, store);
    stream::iter(0..USERS * EACH)
        .map(|number| async move {
            let url = "https://www.googleapis.com/bench/call?ms=0";
            let job = json!({
                "id": format!("parked-{number}"), "user": user(number % USERS), "kind": "api",
                "params": {"method": "GET", "url": url},
            });
            let received = Received {
                data: job.to_string().into(),
                attributes: HashMap::new(),
                ordering_key: String::new(),
                message_id: format!("{number}"),
                publish_time: Some(jiff::Timestamp::UNIX_EPOCH),
                delivery_attempt: None,
            };
            let job = Job::of(&received).map_err(|_| anyhow::anyhow!("the job is not readable"))?;
            let now = SystemClock::default().wall();
            let parked = parking.park(&job, &received, &ConsentReason::Unknown, now).await;
            parked.map(drop).map_err(|error| anyhow::anyhow!("parking: {error:?}"))
        })
        .buffer_unordered(PARKING)
        .try_collect()
        .await
}
