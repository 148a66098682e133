//! A worker beside a bare loop of the official client.

use crate::child;
use crate::ground::Ground;
use crate::report::Report;
use crate::roles::{ReplicaRole, Role};

use super::Pairs;

const OUTSTANDING: usize = 10_000;
const USERS: usize = 1000;
const NOTHINGS: usize = 60_000;
const CALLS: usize = 15_000;
const AT_ONCE: usize = 256;

pub(super) async fn run(runs: u16, report: &mut Report) -> anyhow::Result<()> {
    let mut ground = Ground::embedded().await?;
    ground.users(USERS).await?;
    let (mut rate, mut cpu) = (Pairs::default(), Pairs::default());
    for run in 0..runs {
        let worker = async |ground: &mut Ground| {
            let place = ground.backlog("nothing", NOTHINGS, USERS).await?;
            let work = child::run(&Role::Replica(ReplicaRole {
                place: place.clone(),
                jobs: Some(NOTHINGS as u64),
                outstanding: OUTSTANDING,
                concurrency: OUTSTANDING / 4,
                users: USERS,
            }))
            .await?;
            ground.acknowledged(&place, NOTHINGS as u64)?;
            anyhow::Ok(work)
        };
        let bare = async |ground: &mut Ground| {
            let place = ground.backlog("nothing", NOTHINGS, USERS).await?;
            let jobs = NOTHINGS as u64;
            let role = Role::Bare { place: place.clone(), jobs, outstanding: OUTSTANDING };
            let work = child::run(&role).await?;
            ground.acknowledged(&place, jobs)?;
            anyhow::Ok(work)
        };
        let (ours, reference) = if run % 2 == 0 {
            let ours = worker(&mut ground).await?;
            (ours, bare(&mut ground).await?)
        } else {
            let reference = bare(&mut ground).await?;
            (worker(&mut ground).await?, reference)
        };
        rate.push(ours.rate(), reference.rate());
        cpu.push(ours.cpu_per_job(), reference.cpu_per_job());
    }
    let (rate_reached, cpu_reached) = (rate.ratio.median() >= 0.95, cpu.ratio.median() <= 1.5);
    let loop_ = "official client, acknowledging only";
    report.add(rate.row("jobs that do nothing", "jobs/s", loop_, Some(("≥ 0.95", rate_reached))));
    report.add(cpu.row("processor time of such a job", "µs", loop_, Some(("≤ 1.5", cpu_reached))));

    let token = ground.constant_token();
    let (mut rate, mut cpu) = (Pairs::default(), Pairs::default());
    for run in 0..runs {
        let jobs = CALLS as u64;
        let worker = async |ground: &mut Ground| {
            let place = ground.backlog("profile", CALLS, USERS).await?;
            let work = child::run(&Role::Replica(ReplicaRole {
                place: place.clone(),
                jobs: Some(jobs),
                outstanding: OUTSTANDING,
                concurrency: AT_ONCE,
                users: USERS,
            }))
            .await?;
            ground.acknowledged(&place, jobs)?;
            anyhow::Ok(work)
        };
        let bare = async |ground: &mut Ground| {
            let place = ground.backlog("profile", CALLS, USERS).await?;
            let work = child::run(&Role::BareCalls {
                place: place.clone(),
                jobs,
                outstanding: OUTSTANDING,
                at_once: AT_ONCE,
                token: token.clone(),
            })
            .await?;
            ground.acknowledged(&place, jobs)?;
            anyhow::Ok(work)
        };
        let (ours, reference) = if run % 2 == 0 {
            let ours = worker(&mut ground).await?;
            (ours, bare(&mut ground).await?)
        } else {
            let reference = bare(&mut ground).await?;
            (worker(&mut ground).await?, reference)
        };
        rate.push(ours.rate(), reference.rate());
        cpu.push(ours.cpu_per_job(), reference.cpu_per_job());
    }
    let reached = rate.ratio.median() >= 0.95;
    let loop_ = "official client and the same request with a constant token";
    report.add(rate.row("jobs of one request", "jobs/s", loop_, Some(("≥ 0.95", reached))));
    report.add(cpu.row("processor time of such a job", "µs", loop_, None));
    Ok(())
}
