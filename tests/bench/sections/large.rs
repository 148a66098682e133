//! Very many records, users and replicas.

use std::time::{Duration, Instant};

use ::tests::memory::{Fleet, pass};
use ::tests::stage::{BUCKET, token_record};
use bytes::Bytes;
use emulators::google;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::task::JoinSet;

use crate::child::{Client, this_program};
use crate::contender::Tools;
use crate::ground::{Ground, HOUR, user};
use crate::measure::peak;
use crate::report::{Figure, Plot, Report, Row};
use crate::roles::{Resident, Role};

const RECORDS: usize = 1_000_000;
/// When so many names have come, the rest fits into a pipe and the process is still there.
const MOST: usize = RECORDS - 10_000;
const HELD: usize = 100_000;
const FLEETS: [u64; 4] = [1, 8, 64, 1000];

pub(super) async fn run(tools: &Tools, report: &mut Report) -> anyhow::Result<()> {
    let mut ground = Ground::start(google::Config::default()).await?;
    let grant = ground.consent("someone");
    let record =
        token_record(&grant, "someone", &["openid"], HOUR, Duration::ZERO, &ground.google)?;
    for number in 0..RECORDS {
        store(&ground, &record, number)?;
    }
    let place = ground.place().await?;
    listed(tools, &ground, &place, report).await?;
    held(&ground, &place, report).await?;
    drop(ground);
    refreshes(report).await
}

fn store(ground: &Ground, record: &Value, number: usize) -> anyhow::Result<()> {
    let (sub, mut record) = (user(number), record.clone());
    record["user"] = sub.as_str().into();
    record["sub"] = sub.as_str().into();
    let content = Bytes::from(record.to_string());
    Ok(ground.storage().put(BUCKET, &format!("tokens/{sub}.json"), content)?)
}

/// `fleet users list`, and its memory.
#[expect(clippy::disallowed_methods, reason = "a measurement is of real time")]
async fn listed(
    tools: &Tools,
    ground: &Ground,
    place: &crate::ground::Place,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut list = tools.fleet(&["users", "list"], ground.environment(place));
    list.stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null());
    let began = Instant::now();
    let mut list = list.spawn()?;
    let out = list.stdout.take().ok_or_else(|| anyhow::anyhow!("no stdout"))?;
    let (mut lines, mut count, mut memory) = (BufReader::new(out).lines(), 0, 0);
    while lines.next_line().await?.is_some() {
        count += 1;
        if count == MOST {
            let process = list.id().ok_or_else(|| anyhow::anyhow!("it has ended"))?;
            memory = peak(process)?;
        }
    }
    let status = list.wait().await?;
    let took = began.elapsed().as_secs_f64();
    anyhow::ensure!(
        status.success() && count >= RECORDS,
        "`fleet users list` ended with {status} after {count} lines"
    );
    let figures = [Figure::new("s", took), Figure::new("MB", memory as f64 / 1e6)];
    report.add(Row::ours(format!("`fleet users list` of {RECORDS} records"), figures));
    Ok(())
}

/// What users in memory take of it.
async fn held(
    ground: &Ground,
    place: &crate::ground::Place,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut holding = this_program(&Role::Hold { users: vec![0, HELD] })?;
    holding.env_clear().envs(ground.environment(place));
    let mut client = Client::spawn(holding)?;
    let none: Resident = client.says().await?;
    let all: Resident = client.says().await?;
    client.end().await?;
    let bytes = all.bytes.saturating_sub(none.bytes) as f64;
    let figures = [
        Figure::new("MB beyond none", bytes / 1e6),
        Figure::new("bytes each", bytes / HELD as f64),
    ];
    report.add(Row::ours(format!("{} users in memory", all.users), figures));
    Ok(())
}

/// Storage requests per refresh, in virtual time.
async fn refreshes(report: &mut Report) -> anyhow::Result<()> {
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    for replicas in FLEETS {
        let counted = tokio::task::spawn_blocking(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()?
                .block_on(per_refresh(replicas))
        });
        let (read, written) = counted.await??;
        reads.push((replicas as f64, read));
        writes.push((replicas as f64, written));
        let what = format!("{replicas} replicas with one user: storage requests per refresh");
        let figures = [Figure::new("writes", written), Figure::new("reads by all", read)];
        let row = Row::ours(what, figures).aim("2 writes", written <= 2.0);
        report.add(Row { is_detail: replicas < 64, ..row });
    }
    report.plot(Plot {
        file: "requests-per-refresh",
        title: "Storage requests per refresh, of all replicas",
        x: "replicas",
        y: "requests",
        lines: vec![("reads".to_owned(), reads), ("writes".to_owned(), writes)],
    });
    Ok(())
}

const LIVES: u32 = 3;
/// Each replica uses the user so often.
const EVERY: Duration = Duration::from_secs(5);

/// Reads, and writes that were carried out, of the fleet per refresh.
async fn per_refresh(replicas: u64) -> anyhow::Result<(f64, f64)> {
    let fleet = Fleet::new(true);
    let user = fleet.user("u").await;
    fleet.bucket.set_latency(Duration::from_millis(30));
    fleet.provider.set_latency(Duration::from_millis(200));
    let stores: Vec<_> = (0..replicas).map(|i| fleet.replica(&format!("replica {i}"))).collect();
    let use_all = async || {
        let mut callers = JoinSet::new();
        for store in &stores {
            let (store, user) = (store.clone(), user.clone());
            callers.spawn(async move { store.get_credentials(&user).await });
        }
        while let Some(result) = callers.join_next().await {
            result??;
        }
        anyhow::Ok(())
    };
    use_all().await?;
    fleet.bucket.take_requests();
    let end = tokio::time::Instant::now() + HOUR * LIVES;
    while tokio::time::Instant::now() < end {
        use_all().await?;
        pass(EVERY).await;
    }
    let requests = fleet.bucket.take_requests();
    let refreshes = fleet.provider.calls() as f64;
    let leases: u64 = stores.iter().map(|s| s.counts().leases).sum();
    let refused = requests.lease_writes - leases;
    Ok((requests.reads() as f64 / refreshes, (requests.writes() - refused) as f64 / refreshes))
}

#[cfg(test)]
mod tests {
    #[tokio::test(start_paused = true)]
    async fn a_refresh_costs_two_writes_however_many_replicas_there_are() {
        for replicas in [1, 8] {
            let (reads, writes) = super::per_refresh(replicas).await.unwrap();
            assert!((1.9..=2.0).contains(&writes), "{replicas} replicas: {writes}");
            assert!(reads <= 3.0 * replicas as f64, "{replicas} replicas: {reads}");
        }
    }
}
