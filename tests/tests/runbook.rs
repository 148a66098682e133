//! The run book followed to the letter: the lines of its sections, run by a shell in which
//! kubectl, gcloud and terraform are stand-ins that act on real workers and the emulators
//! (`tests/standins/cloud.py`).
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use emulators::kms::Kms;
use serde_json::{Value, json};
use shared::adapters::SystemClock;
use shared::ports::Clock as _;
use tests::stage::{Cloud, Inbox, Output, PROJECT, Stage, fleet_binary, run_program};
use tokio::net::unix::pipe;

/// As the run book and the example's `settings.env` name it.
const BUCKET: &str = "my-project-fleet-tokens";
const KMS_KEY: &str = "projects/my-project/locations/eu/keyRings/fleet/cryptoKeys/keyring";
const HOUR: Duration = Duration::from_secs(3600);

/// A fleet on the stand-ins, with a keyring, two users and two workers.
struct Fleet {
    stage: Stage,
    home: PathBuf,
    _alive: pipe::Sender,
    _kms: Kms,
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().canonicalize().unwrap()
}

/// The commands of the blocks of a section, in their order, without prompts.
fn blocks(heading: &str) -> Vec<String> {
    let page = fs::read_to_string(repository().join("deploy/RUNBOOK.md")).unwrap();
    let page = format!("\n{page}");
    let level = format!("{} ", heading.split(' ').next().unwrap());
    let rest = page.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("{heading}")).1;
    let section = rest.split_once(&format!("\n{level}")).map_or(rest, |(section, _)| section);
    let blocks = section.split("```console\n").skip(1);
    let blocks: Vec<String> = blocks
        .map(|block| {
            let lines = block.split("```").next().unwrap().lines().map(str::trim_start);
            lines.map(|line| line.strip_prefix("$ ").unwrap_or(line).to_owned() + "\n").collect()
        })
        .collect();
    assert!(!blocks.is_empty(), "{heading} has no commands");
    blocks
}

impl Fleet {
    async fn set() -> anyhow::Result<Self> {
        let mut stage = Stage::set(Cloud::embedded().await?).await?;
        for bucket in [BUCKET, "my-backup"] {
            stage.cloud.create_bucket(bucket).await?;
        }
        let kms = Kms::start().await?;
        kms.create_key(KMS_KEY);
        let home = stage.path("standin");
        for folder in ["bin", "pods", "secrets/fleet-keyring", "secrets/fleet-oauth-client"] {
            fs::create_dir_all(home.join(folder))?;
        }
        for name in ["kubectl", "gcloud", "terraform"] {
            symlink(repository().join("tests/standins/cloud.py"), home.join("bin").join(name))?;
        }
        symlink(fleet_binary(), home.join("bin/fleet"))?;
        let keyring = home.join("secrets/fleet-keyring/1").display().to_string();
        for (name, value) in [
            ("FLEET_BUCKET", BUCKET.to_owned()),
            ("FLEET_KEYRING", keyring.clone()),
            ("FLEET_KMS_ROOT", kms.origin()),
        ] {
            stage.variables.push((name.to_owned(), value));
        }
        let made = stage.fleet(&["keyring", "new", &keyring]).await?;
        ensure!(made.code == 0, "{}", made.stderr);
        fs::copy(stage.path("client.json"), home.join("secrets/fleet-oauth-client/1"))?;
        for user in ["ann", "bob"] {
            stage.user(user, Duration::ZERO).await?;
        }
        fs::write(home.join("started"), "0")?;
        let fifo = home.join("alive");
        let made = tokio::process::Command::new("mkfifo").arg(&fifo).status().await?;
        ensure!(made.success(), "mkfifo failed");
        // Open for both, so that it is open before there is a worker.
        let alive = pipe::OpenOptions::new().read_write(true).open_sender(&fifo)?;
        let fleet = Self { stage, home, _alive: alive, _kms: kms };
        fleet.write_pod(&[])?;
        fleet
            .shell("kubectl -n fleet scale deploy/fleet-worker deploy/fleet-web --replicas=2")
            .await?;
        fleet.shell("kubectl -n fleet rollout status deploy/fleet-worker").await?;
        Ok(fleet)
    }

    /// What pods are started with from now on.
    fn write_pod(&self, settings: &[(&str, &str)]) -> anyhow::Result<()> {
        let environment = self.stage.environment().into_iter();
        let settings =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let all: serde_json::Map<String, Value> =
            environment.chain(settings).map(|(name, value)| (name, value.into())).collect();
        let pod = json!({
            "environment": all,
            "fleet": fleet_binary(),
            "kms_key": KMS_KEY,
            "repository": repository(),
        });
        Ok(fs::write(self.home.join("pod.json"), pod.to_string())?)
    }

    /// Runs lines of the run book as an operator.
    async fn operator(&self, lines: &str) -> anyhow::Result<Output> {
        let begin = blocks("# Run book")[0].clone();
        self.shell(&format!("{begin}{lines}")).await
    }

    /// Runs them as a custodian, who has the files.
    async fn custodian(&self, lines: &str) -> anyhow::Result<Output> {
        let begin = blocks("# Run book")[..2].concat();
        self.shell(&format!("{begin}{lines}")).await
    }

    /// Runs lines in a shell; it stops at the first that fails.
    async fn shell(&self, lines: &str) -> anyhow::Result<Output> {
        let script = format!("set -euo pipefail\n{lines}");
        let path = format!("{}:{}", self.home.join("bin").display(), std::env::var("PATH")?);
        let mut variables: Vec<(String, String)> = self
            .stage
            .environment()
            .into_iter()
            .filter(|(name, _)| name.contains("EMULATOR_HOST") || name == "FLEET_KMS_ROOT")
            .collect();
        let home = self.home.display().to_string();
        let folder = self.home.display().to_string();
        for (name, value) in [("PATH", path), ("STANDIN", home), ("TMPDIR", folder)] {
            variables.push((name.to_owned(), value));
        }
        variables.push(("PYTHONDONTWRITEBYTECODE".to_owned(), "1".to_owned()));
        let root = repository().display().to_string();
        let script = format!("cd {root}\n{script}");
        let output = run_program(Path::new("bash"), &["-c", &script], &variables).await?;
        ensure!(output.code == 0, "{lines}\n{}{}", output.stdout, output.stderr);
        Ok(output)
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.home.join("calls.log")).unwrap()
    }

    fn workers(&self) -> usize {
        let pods = fs::read_dir(self.home.join("pods")).unwrap();
        let names = pods.map(|pod| pod.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("fleet-worker")).count()
    }

    async fn publish(&self, id: &str, user: &str) -> anyhow::Result<()> {
        self.stage.publish(&[json!({"id": id, "user": user, "kind": "profile"})], &[]).await
    }

    /// How a job of this user ends now.
    async fn ends(&self, outcomes: &mut Inbox, id: &str, user: &str) -> anyhow::Result<Value> {
        self.publish(id, user).await?;
        let told = outcomes.outcomes(1).await?;
        Ok(told.get(id).with_context(|| format!("{told:?}"))?["status"].clone())
    }
}

#[test]
fn sections_are_found_with_their_commands() {
    let top = blocks("# Run book");
    assert!(top[0].contains("fleet() {") && top[1].starts_with("unset -f fleet"), "{top:?}");
    let letters = blocks("### FleetDeadLetters").concat();
    assert_eq!(letters.lines().filter(|line| line.starts_with("fleet dead")).count(), 3);
}

#[tokio::test]
async fn dead_letters_are_looked_at_and_published_again() -> anyhow::Result<()> {
    let fleet = Fleet::set().await?;
    let mut outcomes = fleet.stage.inbox("outcomes").await?;
    fleet.stage.cloud.create_bucket("exports").await?;
    let params = json!({
        "method": "GET",
        "url": "https://www.googleapis.com/v1/bytes?size=5",
        "output": "gs://exports/j",
    });
    let forbidden = json!({"id": "j", "user": "ann", "kind": "api", "params": params});
    fleet.stage.publish_unchecked(&[forbidden], true).await?;
    assert_eq!(outcomes.outcomes(1).await?["j"]["status"], "rejected");
    let commands = blocks("### FleetDeadLetters");
    let listed = fleet.operator(&commands[0]).await?;
    assert!(listed.stdout.contains("ann") && listed.stdout.contains("api"), "{}", listed.stdout);
    // "A host or bucket that jobs should reach: whoever deploys adds it to FLEET_ALLOW_HOSTS or
    // FLEET_ALLOW_BUCKETS in settings.env and applies that; then publish again."
    fleet.write_pod(&[("FLEET_ALLOW_BUCKETS", "exports")])?;
    fleet.shell("kubectl -n fleet rollout restart deployment").await?;
    fleet.operator(&commands[1]).await?;
    assert_eq!(outcomes.outcomes(1).await?["j"]["status"], "done");
    let listed = fleet.operator(&commands[0]).await?;
    assert!(!listed.stdout.contains("ann"), "{}", listed.stdout);
    Ok(())
}

#[tokio::test]
async fn the_last_good_keyring_comes_back() -> anyhow::Result<()> {
    let fleet = Fleet::set().await?;
    let mut outcomes = fleet.stage.inbox("outcomes").await?;
    let wrong = "fleet keyring new wrong.json\n\
                 gcloud secrets versions add fleet-keyring --data-file=wrong.json\n\
                 kubectl -n fleet rollout restart deployment\n";
    fleet.custodian(wrong).await?;
    fleet.publish("held", "ann").await?;
    let check = "kubectl -n fleet exec deploy/fleet-worker -- /usr/local/bin/fleet worker --check";
    let said = fleet.shell(check).await.unwrap_err().to_string();
    assert!(said.contains("which the keyring does not have"), "{said}");
    let lines = blocks("### FleetRecordsUnusable").concat().replace("VERSION", "1");
    fleet.custodian(&lines).await?;
    fleet.shell("kubectl -n fleet rollout status deploy/fleet-worker").await?;
    assert_eq!(outcomes.outcomes(1).await?["held"]["status"], "done");
    fleet.shell(check).await?;
    Ok(())
}

/// The keyring is rotated, and then Cloud KMS wraps it.
#[tokio::test]
async fn a_keyring_is_rotated() -> anyhow::Result<()> {
    let fleet = Fleet::set().await?;
    let mut outcomes = fleet.stage.inbox("outcomes").await?;
    let sealed_by = async || -> anyhow::Result<String> {
        let record = fleet.stage.cloud.object(BUCKET, "tokens/bob.json").await?;
        let record: Value = serde_json::from_str(&record)?;
        Ok(record["sealed"]["key"].as_str().context("it is sealed")?.to_owned())
    };
    let mut before = sealed_by().await?;
    for (number, heading) in
        ["## Rotate the keyring", "## Have Cloud KMS wrap the keyring"].into_iter().enumerate()
    {
        // KEY_ID is what the first command printed: the key that was added, in its last line but
        // for who wraps it.
        let lines = blocks(heading).concat();
        let (first, rest) = lines.split_once("--promote KEY_ID").context("KEY_ID")?;
        let add = first.lines().find(|line| line.contains("--add")).context("--add")?;
        let first = first.replace(add, &format!("{add} | tee added"));
        let key = "\"$(grep -oE '^[0-9a-f]{16}' added | tail -n 1)\"";
        fleet.custodian(&format!("{first}--promote {key}{rest}")).await?;
        let now = sealed_by().await?;
        assert_ne!(now, before, "{heading}");
        before = now;
        let id = format!("after-{number}");
        assert_eq!(fleet.ends(&mut outcomes, &id, "ann").await?, "done", "{heading}");
    }
    let newest = fs::read_dir(fleet.home.join("secrets/fleet-keyring"))?.count();
    assert_eq!(newest, 5, "two rollouts each");
    let keyring = fs::read_to_string(fleet.home.join(format!("secrets/fleet-keyring/{newest}")))?;
    assert!(keyring.contains(KMS_KEY), "Cloud KMS wraps it");
    Ok(())
}

#[tokio::test]
async fn a_bucket_is_restored() -> anyhow::Result<()> {
    let fleet = Fleet::set().await?;
    let mut outcomes = fleet.stage.inbox("outcomes").await?;
    assert_eq!(fleet.ends(&mut outcomes, "waits", "carl").await?, "parked");
    let commands = blocks("## Restore the bucket");
    fleet.operator(&commands[0]).await?;
    for lost in ["tokens/ann.json", "tokens/bob.json"] {
        let url = format!(
            "{}/storage/v1/b/{BUCKET}/o/{}",
            fleet.stage.cloud.storage,
            lost.replace('/', "%2F")
        );
        reqwest::Client::new().delete(url).send().await?.error_for_status()?;
    }
    // Stop the writers.
    fleet.operator(&commands[1]).await?;
    assert_eq!(fleet.workers(), 0);
    fleet.publish("meanwhile", "ann").await?;
    // Copy back, which the text says in a line.
    let page = fs::read_to_string(repository().join("deploy/RUNBOOK.md"))?;
    let back = page
        .split('`')
        .find(|quoted| quoted.contains("--no-clobber gs://"))
        .context("copy back")?;
    fleet.operator(back).await?;
    let looked = fleet.custodian("fleet users list\nfleet token ann").await?;
    assert!(looked.stdout.contains("bob"), "{}", looked.stdout);
    // Start everything.
    fleet.operator(&commands[2]).await?;
    assert_eq!(fleet.workers(), 2);
    assert_eq!(outcomes.outcomes(1).await?["meanwhile"]["status"], "done");
    assert_eq!(fleet.stage.cloud.objects(BUCKET, "parked/carl/").await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_user_is_looked_at() -> anyhow::Result<()> {
    let fleet = Fleet::set().await?;
    let lines = blocks("## A user says it stopped working").concat().replace("USER_ID", "ann");
    let said = fleet.operator(&lines).await?.stdout;
    assert!(said.contains("active") && said.contains("ann@example.com"), "{said}");
    // It is asked in a pod, and no file comes to this machine.
    assert!(
        fleet
            .calls()
            .contains("exec -i deploy/fleet-worker -- /usr/local/bin/fleet users show ann")
    );
    Ok(())
}

#[tokio::test]
async fn jobs_are_stopped_thrown_away_and_taken_again() -> anyhow::Result<()> {
    let fleet = Fleet::set().await?;
    let mut outcomes = fleet.stage.inbox("outcomes").await?;
    let commands = blocks("## Too many jobs, or the wrong ones");
    fleet.operator(&commands[0]).await?;
    assert_eq!(fleet.workers(), 0);
    fleet.publish("wrong", "ann").await?;
    let now = SystemClock::default().wall();
    fleet.operator(&commands[1].replace("2026-11-23T03:00:00Z", &now.to_string())).await?;
    fleet.publish("right", "ann").await?;
    fleet.operator(&commands[2]).await?;
    assert_eq!(fleet.workers(), 2);
    let told = outcomes.outcomes(1).await?;
    assert_eq!(told.keys().collect::<Vec<_>>(), ["right"], "the other one must not run");
    Ok(())
}

#[tokio::test]
async fn a_release_comes_and_goes() -> anyhow::Result<()> {
    let fleet = Fleet::set().await?;
    let mut outcomes = fleet.stage.inbox("outcomes").await?;
    for (number, lines) in blocks("## Upgrade, and back").into_iter().enumerate() {
        fleet.operator(&lines).await?;
        let id = format!("after-{number}");
        assert_eq!(fleet.ends(&mut outcomes, &id, "ann").await?, "done");
    }
    let calls = fleet.calls();
    let at = |call: &str| calls.find(call).with_context(|| call.to_owned());
    assert!(at("rollout undo deploy/fleet-web")? < at("rollout undo deploy/fleet-worker")?);
    assert!(fleet.stage.user("dora", HOUR / 2).await.is_ok(), "{PROJECT} goes on");
    Ok(())
}
