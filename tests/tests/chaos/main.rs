//! Chaos: replicas are killed, stopped past the ttl and terminated, storage and token
//! endpoint fail in bursts, tokens live for three seconds and refresh tokens may be used
//! once. What refuses, endpoint and APIs, quotes the request with its secrets. At the end every
//! job has ended as its input deserves, nothing is lost, no refresh token was spent twice but
//! where a replica failed to store its grant in time, and nothing that the fleet has written
//! holds a secret: logs, outcomes, dead letters, metrics, traces, and every version of every
//! object, since the bucket is sealed.
//!
//! `cargo test` runs a small version; `FLEET_CHAOS=full` the large one.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod echo;
mod jobs;
mod play;
mod search;

use play::{Plan, play};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_job_ends_as_its_input_deserves() -> anyhow::Result<()> {
    let small = Plan { replicas: 4, users: 30, jobs: 1500, rounds: 2 };
    let full = Plan { replicas: 8, users: 200, jobs: 20_000, rounds: 6 };
    let plan =
        if std::env::var_os("FLEET_CHAOS").is_some_and(|v| v == "full") { full } else { small };
    play(plan).await
}
