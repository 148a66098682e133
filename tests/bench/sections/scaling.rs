//! One to sixteen replicas whose jobs wait 100 ms for an API; and, in virtual time, what
//! a refresh costs the bucket with one to sixty-four.

use std::time::{Duration, Instant};

use emulators::google;
use tests::memory::{Fleet, pass};
use tests::stage::Cloud;
use tokio::task::JoinSet;

use crate::child::Client;
use crate::ground::Ground;
use crate::measure::{Samples, machine};
use crate::report::{Plot, Report, Row};
use crate::roles::{ReplicaRole, Role};

const REPLICAS: [usize; 5] = [1, 2, 4, 8, 16];
const USERS: usize = 1000;
const LATENCY: Duration = Duration::from_millis(100);
const CONCURRENCY: usize = 6;
/// Jobs for each replica: about ten seconds' worth.
const JOBS: usize = 600;
/// Beyond this the machine limits, not the fleet.
const BUSY: f64 = 0.7;
const AIM: f64 = 0.9;

pub(super) async fn run(runs: u16, report: &mut Report) -> anyhow::Result<()> {
    let provider = google::Config { api_latency: LATENCY, ..google::Config::default() };
    let mut ground = Ground::new(Cloud::embedded().await?, provider).await?;
    ground.users(USERS).await?;
    let mut rates = vec![Samples::default(); REPLICAS.len()];
    let mut loads = vec![Samples::default(); REPLICAS.len()];
    for _ in 0..runs.min(3) {
        for (at, &replicas) in REPLICAS.iter().enumerate() {
            let (rate, load) = measure(&mut ground, replicas).await?;
            rates[at].push(rate);
            loads[at].push(load);
        }
    }
    let alone = rates[0].median();
    let mut line = Vec::new();
    for ((replicas, rate), load) in REPLICAS.into_iter().zip(rates).zip(loads) {
        let linear = alone * replicas as f64;
        line.push((replicas as f64, rate.median()));
        let efficiency: Samples = [rate.median() / linear].into_iter().collect();
        let judged = load.median() < BUSY;
        let reached = efficiency.median() >= AIM;
        report.add(Row {
            what: format!(
                "{replicas} replicas, 100 ms per request (machine {:.0} % busy)",
                load.median() * 100.0
            ),
            unit: "jobs/s",
            ours: rate,
            reference: Some(("linear".to_owned(), Samples::from_iter([linear]))),
            ratio: Some(efficiency),
            aim: judged.then(|| ("≥ 0.9".to_owned(), reached)),
        });
    }
    let linear = line.iter().map(|&(replicas, _)| (replicas, alone * replicas)).collect();
    report.plot(Plot {
        file: "scaling",
        title: "Jobs of one 100 ms request",
        x: "replicas",
        y: "jobs/s",
        lines: vec![("measured".to_owned(), line), ("linear".to_owned(), linear)],
    });
    costs(report).await
}

/// Jobs per second, and how busy the machine was.
#[expect(clippy::disallowed_methods, reason = "a measurement is of real time")]
async fn measure(ground: &mut Ground, replicas: usize) -> anyhow::Result<(f64, f64)> {
    let jobs = JOBS * replicas;
    let place = ground.backlog("profile", jobs, USERS).await?;
    let mut clients = (0..replicas)
        .map(|_| {
            Client::start(&Role::Replica(ReplicaRole {
                place: place.clone(),
                jobs: None,
                outstanding: 4 * CONCURRENCY,
                concurrency: CONCURRENCY,
                users: USERS,
                forward: None,
            }))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    for client in &mut clients {
        client.says::<()>().await?;
    }
    let (worked, idled) = machine()?;
    let began = Instant::now();
    for client in &mut clients {
        client.tell().await?;
    }
    ground.await_acknowledged(&place, jobs as u64).await?;
    let took = began.elapsed().as_secs_f64();
    let (work, idle) = machine()?;
    let (work, idle) = (work - worked, idle - idled);
    for client in clients {
        client.end().await?;
    }
    ground.acknowledged(&place, jobs as u64)?;
    Ok((jobs as f64 / took, work as f64 / (work + idle) as f64))
}

const LIFE: Duration = Duration::from_secs(3600);
const LIVES: u32 = 4;

/// Storage requests of a fleet per refresh, in virtual time.
async fn costs(report: &mut Report) -> anyhow::Result<()> {
    for replicas in [1_u64, 8, 64] {
        let counted = tokio::task::spawn_blocking(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()?
                .block_on(per_refresh(replicas))
        });
        let (reads, writes, refused) = counted.await??;
        let budget = 2.0;
        report.add(Row {
            what: format!(
                "{replicas} replicas in virtual time: writes per refresh ({reads:.1} reads and {refused:.1} refused writes by all)"
            ),
            unit: "writes",
            ours: Samples::from_iter([writes]),
            reference: Some(("budget".to_owned(), Samples::from_iter([budget]))),
            ratio: Some(Samples::from_iter([writes / budget])),
            aim: Some(("≤ 1".to_owned(), writes <= budget)),
        });
    }
    Ok(())
}

/// Reads, writes that were charged, and refused writes, of the fleet per refresh.
async fn per_refresh(replicas: u64) -> anyhow::Result<(f64, f64, f64)> {
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
    let end = tokio::time::Instant::now() + LIFE * LIVES;
    while tokio::time::Instant::now() < end {
        use_all().await?;
        pass(Duration::from_secs(2)).await;
    }
    let requests = fleet.bucket.take_requests();
    let refreshes = fleet.provider.calls() as f64;
    let leases: u64 = stores.iter().map(|s| s.counts().leases).sum();
    let refused = requests.lease_writes - leases;
    Ok((
        requests.reads() as f64 / refreshes,
        (requests.writes() - refused) as f64 / refreshes,
        refused as f64 / refreshes,
    ))
}
