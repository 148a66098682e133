//! What the released binary needs: disk, memory, time to start, and doing nothing.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use shared::adapters::SystemClock;
use shared::ports::Clock as _;
use tests::stage::{BUCKET, PROJECT};
use tests::write_secret;
use tokio::process::{Child, Command};

use crate::child::Client;
use crate::ground::{Ground, Place};
use crate::measure::{Samples, cpu_of, resident};
use crate::report::{Report, Row};
use crate::roles::{Resident, Role};

use super::Pairs;

const STEPS: [usize; 3] = [0, 10_000, 100_000];
const IDLE: Duration = Duration::from_secs(20);
const IDLE_AIM: f64 = 0.005;
const SIZE_AIM: u64 = 25_000_000;
const RESIDENT_AIM: f64 = 35e6;

pub(super) async fn run(runs: u16, report: &mut Report) -> anyhow::Result<()> {
    let fleet = build().await?;
    let size = std::fs::metadata(&fleet)?.len();
    let single = |value: f64| Samples::from_iter([value]);
    let plain = |what: &str, unit, ours, aim: Option<(&str, bool)>| Row {
        what: what.to_owned(),
        unit,
        ours,
        reference: None,
        ratio: None,
        aim: aim.map(|(aim, reached)| (aim.to_owned(), reached)),
    };
    let aim = Some(("< 25 MB", size < SIZE_AIM));
    report.add(plain(
        "size of the `fleet` binary of the image",
        "MB",
        single(size as f64 / 1e6),
        aim,
    ));

    let mut ground = Ground::embedded().await?;
    ground.users(STEPS[2]).await?;
    let folder = tempfile::tempdir()?;
    let place = ground.backlog("profile", 0, 1).await?;
    write_secret(folder.path().join("client.json"), place.client.to_string())?;

    let mut starts = Pairs::default();
    for _ in 0..runs {
        let place = ground.backlog("profile", 0, 1).await?;
        let ours = first_pull(&ground, &place, worker(&fleet, &place, folder.path())?).await?;
        let place = ground.backlog("profile", 0, 1).await?;
        let bare = Role::Bare { place: place.clone(), jobs: 1, outstanding: 1 };
        let reference = first_pull(&ground, &place, Client::start(&bare)?.into_child()).await?;
        starts.push(ours * 1e3, reference * 1e3);
    }
    report.add(starts.row(
        "from the start of the process to the first pull",
        "ms",
        "official client",
        None,
    ));

    let place = ground.backlog("profile", 0, 1).await?;
    let child = worker(&fleet, &place, folder.path())?;
    let process = child.id().context("it has ended")?;
    ground.await_consumer(&place).await?;
    let before = cpu_of(process)?;
    SystemClock::default().sleep(IDLE).await;
    let idle = (cpu_of(process)? - before) / IDLE.as_secs_f64();
    let aim = Some(("< 0.5 %", idle < IDLE_AIM));
    report.add(plain("an idle replica", "% of a core", single(idle * 100.0), aim));
    let bytes = resident(process)? as f64;
    let aim = Some(("≤ 35 MB", bytes <= RESIDENT_AIM));
    report.add(plain("resident, idle replica", "MB", single(bytes / 1e6), aim));
    drop(child);

    let mut client = Client::start(&Role::Hold { place, steps: STEPS.to_vec() })?;
    let mut first = None;
    for _ in STEPS {
        let Resident { users, bytes } = client.says().await?;
        let base = *first.get_or_insert(bytes);
        let what = format!("resident with {users} users in memory, beyond none");
        let beyond = bytes.saturating_sub(base) as f64;
        if users > 0 {
            report.add(plain(&what, "MB", single(beyond / 1e6), None));
        }
    }
    client.end().await
}

/// The binary as the container image has it, built by cargo.
async fn build() -> anyhow::Result<PathBuf> {
    crate::eprintln_line("building the binary of the image (some minutes when cold)");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--release", "--quiet", "-p", "worker", "--no-default-features"])
        .args(["--message-format=json"])
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .context("cargo cannot be started")?;
    ensure!(built.status.success(), "the binary cannot be built");
    let text = String::from_utf8_lossy(&built.stdout);
    let path = text.lines().find_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        line["executable"].as_str().map(PathBuf::from)
    });
    path.context("cargo names no binary")
}

fn worker(fleet: &Path, place: &Place, folder: &Path) -> anyhow::Result<Child> {
    let variables = [
        ("GOOGLE_CLOUD_PROJECT", PROJECT.to_owned()),
        ("PUBSUB_EMULATOR_HOST", place.pubsub.clone()),
        ("STORAGE_EMULATOR_HOST", place.storage.clone()),
        ("STORAGE_EMULATOR_HOST_GRPC", place.storage_grpc.clone().unwrap_or_default()),
        ("FLEET_USERINFO_URL", place.userinfo.clone()),
        ("FLEET_BUCKET", BUCKET.to_owned()),
        ("FLEET_SUBSCRIPTION", place.subscription.clone()),
        ("FLEET_OAUTH_CLIENT", folder.join("client.json").display().to_string()),
        ("FLEET_LISTEN", "127.0.0.1:0".to_owned()),
        // As the image sets it.
        ("MIMALLOC_ALLOW_THP", "0".to_owned()),
    ];
    Command::new(fleet)
        .arg("worker")
        .env_clear()
        .envs(variables)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("the replica cannot be started")
}

/// Seconds from now until a client that was just started pulls.
#[expect(clippy::disallowed_methods, reason = "a measurement is of real time")]
async fn first_pull(ground: &Ground, place: &Place, child: Child) -> anyhow::Result<f64> {
    let began = Instant::now();
    ground.await_consumer(place).await?;
    let took = began.elapsed().as_secs_f64();
    drop(child);
    Ok(took)
}
