//! What a process of this program does as a client.

mod bare;
mod raw;
mod replica;
mod unguarded;
mod users;

use std::io::Write as _;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use worker::telemetry::logging::Plan;

use crate::child::Work;
use crate::ground::Place;
use crate::measure::cpu;

pub(crate) use users::{Resident, Used};

/// A client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Role {
    /// Acknowledges over plain gRPC: what the server can do.
    Raw { place: Place, jobs: u64, outstanding: usize },
    /// The official client's loop that only acknowledges.
    Bare { place: Place, jobs: u64, outstanding: usize },
    /// The same, which reads each job and logs a line about it: by `tracing`'s own
    /// formatter, or as a worker does.
    BareLines { place: Place, jobs: u64, outstanding: usize, as_worker: bool },
    /// The loop with one request per message.
    BareCalls { place: Place, jobs: u64, outstanding: usize, at_once: usize, call: Call },
    /// A worker.
    Replica(ReplicaRole),
    /// A worker that loads, refreshes and saves credentials without a guard.
    Unguarded { place: Place, at_once: usize },
    /// A replica that uses every user every so often until all tokens are renewed.
    Use { place: Place, users: usize, every: Duration },
    /// A replica that holds more and more users in memory.
    Hold { place: Place, steps: Vec<usize> },
}

/// What the loop asks for each message.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Call {
    /// The user's profile, always with the same token.
    Profile { token: String },
    /// The handler at this URL, to do the job.
    Handler { url: String },
}

/// How a worker works.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ReplicaRole {
    pub(crate) place: Place,
    /// How many it does; without a number it says that it is ready, waits to be told,
    /// and works until its stdin ends.
    pub(crate) jobs: Option<u64>,
    pub(crate) outstanding: usize,
    pub(crate) concurrency: usize,
    /// Users whose credentials are in memory when it begins.
    pub(crate) users: usize,
    /// The handler that jobs of the kind `forwarded` are sent to, `KIND=URL`.
    pub(crate) forward: Option<String>,
}

/// How a worker logs.
const LOGS: Plan<'static> = Plan { filter: "info", project: None, service: "fleet-worker" };

/// What tells the APIs that answers may be compressed, as `fleet worker` does.
const USER_AGENT: &str = "fleet-bench (gzip)";

/// Plays it.
pub(crate) fn play(role: Role) -> anyhow::Result<()> {
    crate::runtime()?.block_on(async {
        match role {
            Role::Raw { place, jobs, outstanding } => raw::run(place, jobs, outstanding).await,
            Role::Bare { place, jobs, outstanding } => bare::run(place, jobs, outstanding).await,
            Role::BareLines { place, jobs, outstanding, as_worker } => {
                bare::run_lines(place, jobs, outstanding, as_worker).await
            }
            Role::BareCalls { place, jobs, outstanding, at_once, call } => {
                bare::run_calls(place, jobs, outstanding, at_once, call).await
            }
            Role::Replica(role) => replica::run(role).await,
            Role::Unguarded { place, at_once } => unguarded::run(place, at_once).await,
            Role::Use { place, users, every } => users::run(place, users, every).await,
            Role::Hold { place, steps } => users::hold(place, steps).await,
        }
    })
}

/// Measures from the first job to the last.
#[derive(Debug, Clone, Copy)]
struct Stopwatch {
    began: Instant,
    cpu: Duration,
}

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "a measurement is of real time")]
    fn start() -> Self {
        Self { began: Instant::now(), cpu: cpu() }
    }

    fn stop(&self, jobs: u64) -> Work {
        Work {
            jobs,
            wall: self.began.elapsed().as_secs_f64(),
            cpu: cpu().saturating_sub(self.cpu).as_secs_f64(),
        }
    }
}

/// Tells the parent.
fn say(what: &impl Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(what)?)?;
    Ok(out.flush()?)
}
