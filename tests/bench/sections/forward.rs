//! Jobs that an HTTP handler does, beside a bare loop of the official client that calls the same
//! handler. The handler does nothing, so that nothing of it is hidden.

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use tokio::net::TcpListener;

use crate::child;
use crate::ground::Ground;
use crate::report::Report;
use crate::roles::{Call, ReplicaRole, Role};

use super::Pairs;

const JOBS: usize = 30_000;
const USERS: usize = 1000;
const OUTSTANDING: usize = 1024;
/// What both call the handler with at once.
const AT_ONCE: usize = 64;
const AIM: f64 = 0.8;

pub(super) async fn run(runs: u16, report: &mut Report) -> anyhow::Result<()> {
    let mut ground = Ground::embedded().await?;
    ground.users(USERS).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    let routes = Router::new().route("/", post(async |_: Bytes| "OK"));
    // Ends with the program.
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let (mut rate, mut cpu) = (Pairs::default(), Pairs::default());
    for run in 0..runs {
        let mut works = Vec::new();
        // Who begins changes with every pair.
        for is_ours in [run % 2 == 0, run % 2 != 0] {
            let place = ground.backlog("forwarded", JOBS, USERS).await?;
            let jobs = JOBS as u64;
            let role = if is_ours {
                Role::Replica(ReplicaRole {
                    place: place.clone(),
                    jobs: Some(jobs),
                    outstanding: OUTSTANDING,
                    concurrency: AT_ONCE,
                    users: USERS,
                    forward: Some(format!("forwarded={url}")),
                })
            } else {
                let call = Call::Handler { url: url.clone() };
                let (place, outstanding) = (place.clone(), OUTSTANDING);
                Role::BareCalls { place, jobs, outstanding, at_once: AT_ONCE, call }
            };
            works.push((is_ours, child::run(&role).await?));
            ground.acknowledged(&place, jobs)?;
        }
        works.sort_by_key(|(is_ours, _)| !is_ours);
        let [(_, ours), (_, bare)] = works[..] else { unreachable!("two of them") };
        rate.push(ours.rate(), bare.rate());
        cpu.push(ours.cpu_per_job(), bare.cpu_per_job());
    }
    let reference = "official client, calling the same handler";
    let reached = rate.ratio.median() >= AIM;
    report.add(rate.row("forwarded jobs", "jobs/s", reference, Some(("≥ 0.8", reached))));
    report.add(cpu.row("processor time of forwarded jobs", "µs", reference, None));
    Ok(())
}
