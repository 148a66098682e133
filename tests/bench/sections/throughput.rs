//! A worker beside a bare loop of the official client, on the embedded emulators and on
//! Google's Pub/Sub emulator where it is installed.

use emulators::google;
use tests::stage::{Cloud, Missing};

use crate::child;
use crate::ground::{Ground, Place};
use crate::report::Report;
use crate::roles::{Call, ReplicaRole, Role};

use super::Pairs;

const OUTSTANDING: usize = 10_000;
const USERS: usize = 1000;
const AT_ONCE: usize = 256;
/// Of jobs of one request. What a job that does nothing costs is shown, and no aim.
const AIM: f64 = 0.85;
const CPU_AIM: f64 = 1.35;

/// How many jobs a run has: enough for seconds, so that the first touch of memory, which
/// every process pays once, does not stand for what a job costs.
struct Jobs {
    nothing: usize,
    calls: usize,
}

pub(super) async fn run(runs: u16, report: &mut Report) -> anyhow::Result<()> {
    let ground = Ground::embedded().await?;
    on("embedded emulator", ground, &Jobs { nothing: 1_000_000, calls: 240_000 }, runs, report)
        .await?;
    match Cloud::external().await {
        Ok(cloud) => {
            let ground = Ground::new(cloud, google::Config::default()).await?;
            let jobs = Jobs { nothing: 6000, calls: 6000 };
            on("Google's emulator", ground, &jobs, runs, report).await
        }
        Err(error) => match error.downcast_ref::<Missing>() {
            Some(missing) => {
                crate::eprintln_line(&format!("Google's emulator is left out: {missing}"));
                Ok(())
            }
            None => Err(error),
        },
    }
}

/// What a worker is compared with.
#[derive(Debug, Clone)]
enum Reference {
    Acknowledging,
    /// By `tracing`'s own formatter.
    Lines,
    /// By the worker's.
    WorkersLines,
    Calls {
        token: String,
    },
}

impl Reference {
    fn name(&self) -> &'static str {
        match self {
            Self::Acknowledging => "official client, acknowledging only",
            Self::Lines => "official client, reading each job and logging a line by tracing",
            Self::WorkersLines => "official client, reading each job and logging the worker's line",
            Self::Calls { .. } => "official client, the same request with a constant token",
        }
    }

    fn role(&self, place: Place, jobs: u64) -> Role {
        let outstanding = OUTSTANDING;
        match self {
            Self::Acknowledging => Role::Bare { place, jobs, outstanding },
            Self::Lines => Role::BareLines { place, jobs, outstanding, as_worker: false },
            Self::WorkersLines => Role::BareLines { place, jobs, outstanding, as_worker: true },
            Self::Calls { token } => {
                let call = Call::Profile { token: token.clone() };
                Role::BareCalls { place, jobs, outstanding, at_once: AT_ONCE, call }
            }
        }
    }
}

async fn on(
    place: &str,
    mut ground: Ground,
    jobs: &Jobs,
    runs: u16,
    report: &mut Report,
) -> anyhow::Result<()> {
    ground.users(USERS).await?;
    let token = ground.constant_token();
    let nothing = ("nothing", jobs.nothing, "jobs that do nothing", OUTSTANDING / 4);
    let calls = ("profile", jobs.calls, "jobs of one request", AT_ONCE);
    for ((kind, count, what, concurrency), reference) in [
        (nothing, Reference::Acknowledging),
        (nothing, Reference::Lines),
        (nothing, Reference::WorkersLines),
        (calls, Reference::Calls { token }),
    ] {
        let (mut rate, mut cpu) = (Pairs::default(), Pairs::default());
        for run in 0..runs {
            let mut works = Vec::new();
            // Who begins changes with every pair.
            for is_ours in [run % 2 == 0, run % 2 != 0] {
                let place = ground.backlog(kind, count, USERS).await?;
                let jobs = count as u64;
                let role = if is_ours {
                    Role::Replica(ReplicaRole {
                        place: place.clone(),
                        jobs: Some(jobs),
                        outstanding: OUTSTANDING,
                        concurrency,
                        users: USERS,
                        forward: None,
                    })
                } else {
                    reference.role(place.clone(), jobs)
                };
                works.push((is_ours, child::run(&role).await?));
                ground.acknowledged(&place, jobs)?;
            }
            works.sort_by_key(|(is_ours, _)| !is_ours);
            let [(_, ours), (_, bare)] = works[..] else { unreachable!("two of them") };
            rate.push(ours.rate(), bare.rate());
            cpu.push(ours.cpu_per_job(), bare.cpu_per_job());
        }
        let calls = matches!(reference, Reference::Calls { .. });
        let aim = calls.then(|| ("≥ 0.85", rate.ratio.median() >= AIM));
        report.add(rate.row(format!("{what}, {place}"), "jobs/s", reference.name(), aim));
        let aim = calls.then(|| ("≤ 1.35", cpu.ratio.median() <= CPU_AIM));
        let what = format!("processor time of {what}, {place}");
        report.add(cpu.row(what, "µs", reference.name(), aim));
    }
    Ok(())
}
