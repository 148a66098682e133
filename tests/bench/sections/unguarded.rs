//! Beside the way credentials are often shared: load, refresh, save, without a guard.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use jiff::SignedDuration;
use shared::adapters::SystemClock;
use shared::ports::Clock as _;
use tests::contention::{Plan, Python, Row as Contention, Way, measure};
use tests::stage::{BUCKET, PROJECT};
use unguarded::{Credential, Store};

use crate::child::Client;
use crate::ground::{Ground, Place, user};
use crate::measure::{Samples, cpu_of};
use crate::report::{Plot, Report, Row};
use crate::roles::{ReplicaRole, Role};

use super::Pairs;

const USERS: usize = 500;
/// Jobs of one request; Python takes 3 ms for each.
const JOBS: usize = 15_000;
const PYTHON_JOBS: usize = 2000;
/// As the official Python client does it.
const AT_ONCE: usize = 10;
const FLEETS: [usize; 3] = [2, 8, 32];

pub(super) async fn run(runs: u16, report: &mut Report) -> anyhow::Result<()> {
    let python = match Python::find().await {
        Ok(python) => Some(python),
        Err(why) => {
            crate::eprintln_line(&format!("the Python way is left out: {why}"));
            None
        }
    };
    costs(runs, python.as_ref(), report).await?;
    contention(python.as_ref(), report).await
}

/// Jobs per second of the client's processor time.
async fn costs(runs: u16, python: Option<&Python>, report: &mut Report) -> anyhow::Result<()> {
    let mut ground = Ground::embedded().await?;
    ground.users(USERS).await?;
    store_unguarded(&ground).await?;
    let (mut rust, mut beside_python) = (Pairs::default(), Pairs::default());
    for _ in 0..runs {
        let ours = ours(&mut ground).await?;
        let place = ground.backlog("profile", JOBS, USERS).await?;
        let client = Client::start(&Role::Unguarded { place: place.clone(), at_once: 64 })?;
        rust.push(ours, per_second(&ground, &place, client, JOBS).await?);
        if let Some(python) = python {
            let place = ground.backlog("profile", PYTHON_JOBS, USERS).await?;
            let mut command = python.worker(1, AT_ONCE);
            command.envs(environment(&ground, &place));
            let client = Client::spawn(command)?;
            beside_python.push(ours, per_second(&ground, &place, client, PYTHON_JOBS).await?);
        }
    }
    let what = "jobs of one request per second of processor time";
    report.add(rust.row(what, "jobs", "unguarded, Rust", None));
    if python.is_some() {
        let ratio = beside_python.ratio.median();
        let aim = if ratio >= 20.0 { "≥ 10, aim 20" } else { "≥ 10 (aim 20)" };
        let aim = Some((aim, ratio >= 10.0));
        report.add(beside_python.row(what, "jobs", "unguarded, Python", aim));
    }
    Ok(())
}

async fn ours(ground: &mut Ground) -> anyhow::Result<f64> {
    let place = ground.backlog("profile", JOBS, USERS).await?;
    let mut client = Client::start(&Role::Replica(ReplicaRole {
        place: place.clone(),
        jobs: None,
        outstanding: 256,
        concurrency: 64,
        // Cold: each user's first job reads the record.
        users: 0,
        forward: None,
    }))?;
    client.says::<()>().await?;
    client.tell().await?;
    per_second(ground, &place, client, JOBS).await
}

/// Waits for the jobs, then ends the client.
async fn per_second(
    ground: &Ground,
    place: &Place,
    client: Client,
    jobs: usize,
) -> anyhow::Result<f64> {
    // Starting is not what is compared: Python imports for a second.
    ground.await_acknowledged(place, 1).await?;
    let process = client.id().context("a client has ended")?;
    let before = cpu_of(process)?;
    ground.await_acknowledged(place, jobs as u64).await?;
    let used = cpu_of(process)? - before;
    client.end().await?;
    Ok(jobs as f64 / used)
}

fn environment(ground: &Ground, place: &Place) -> Vec<(&'static str, String)> {
    vec![
        ("GOOGLE_CLOUD_PROJECT", PROJECT.to_owned()),
        ("PUBSUB_EMULATOR_HOST", place.pubsub.clone()),
        ("STORAGE_EMULATOR_HOST", place.storage.clone()),
        ("FLEET_API_ROOT", ground.google.origin()),
        ("FLEET_BUCKET", BUCKET.to_owned()),
        ("FLEET_SUBSCRIPTION", place.subscription.clone()),
    ]
}

/// The users' credentials as the unguarded way has them, good for an hour.
async fn store_unguarded(ground: &Ground) -> anyhow::Result<()> {
    let client = ground.oauth_client()?;
    let secret = client.client_secret().context("the client has a secret")?;
    let origin = &ground.cloud.storage;
    let store = Store::connect(origin, BUCKET, reqwest::Client::new(), Duration::ZERO).await?;
    let expiry = SystemClock::default().wall() + SignedDuration::from_secs(3600);
    for number in 0..USERS {
        let grant = ground.consent(&user(number));
        let credential = Credential {
            token: Some(grant.access_token),
            refresh_token: grant.refresh_token,
            token_uri: client.token_uri().to_owned(),
            client_id: client.client_id().to_owned(),
            client_secret: secret.expose().to_owned(),
            scopes: grant.scopes,
            expiry: Some(expiry),
        };
        store.save(&user(number), &credential).await?;
    }
    Ok(())
}

/// What happens at an expiry with more and more replicas.
async fn contention(python: Option<&Python>, report: &mut Report) -> anyhow::Result<()> {
    let ways = [Way::UnguardedRust, Way::UnguardedPython];
    let ways = ways.into_iter().filter(|way| *way != Way::UnguardedPython || python.is_some());
    let ways: Vec<Way> = [Way::Fleet].into_iter().chain(ways).collect();
    let mut calls: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let mut locked: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for rotating in [true, false] {
        for replicas in FLEETS {
            let plan = Plan { rotating, ..Plan::with(replicas) };
            let mut ours: Option<Contention> = None;
            for way in &ways {
                let row = measure(*way, &plan, python).await?;
                let at = (replicas as f64, row.refresh_calls_per_expiry);
                if rotating {
                    let at = (replicas as f64, row.locked_out_users as f64);
                    locked.entry(way.to_string()).or_default().push(at);
                } else {
                    calls.entry(way.to_string()).or_default().push(at);
                }
                match &ours {
                    None => ours = Some(row),
                    Some(ours) => report.add(beside(rotating, ours, &row)),
                }
            }
        }
    }
    report.plot(Plot {
        file: "locked-out",
        title: "Users locked out of 20 (rotating refresh tokens)",
        x: "replicas",
        y: "users",
        lines: locked.into_iter().collect(),
    });
    report.plot(Plot {
        file: "refresh-calls",
        title: "Refresh calls per expiry (refresh tokens that stay)",
        x: "replicas",
        y: "calls",
        lines: calls.into_iter().collect(),
    });
    Ok(())
}

fn beside(rotating: bool, ours: &Contention, theirs: &Contention) -> Row {
    let single = |value: f64| Samples::from_iter([value]);
    let (replicas, reference) = (ours.replicas, theirs.way.to_string());
    if rotating {
        let users = ours.users;
        return Row {
            what: format!("{replicas} replicas, rotating provider: locked out of {users} users"),
            unit: "users",
            ours: single(ours.locked_out_users as f64),
            reference: Some((reference, single(theirs.locked_out_users as f64))),
            ratio: None,
            aim: Some(("0".to_owned(), ours.locked_out_users == 0)),
        };
    }
    let (ours, theirs) = (ours.refresh_calls_per_expiry, theirs.refresh_calls_per_expiry);
    Row {
        what: format!("{replicas} replicas: refresh calls per expiry"),
        unit: "calls",
        ours: single(ours),
        reference: Some((reference, single(theirs))),
        ratio: Some(single(ours / theirs)),
        aim: Some(("1".to_owned(), ours <= 1.0)),
    }
}
