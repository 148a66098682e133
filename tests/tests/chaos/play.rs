//! The run itself.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use emulators::account::{Account, Call, Rules};
use emulators::faults::Fault;
use emulators::google;
use emulators::storage::{Storage, Written};
use http::StatusCode;
use rustix::process::Signal;
use serde_json::{Map, Value};
use shared::keyring::KeyringFile;
use shared::sealing::{Opened, Sealing};
use tests::report;
use tests::stage::{Cloud, Stage, Worker, full};
use tokio::net::TcpListener;
use tokio::time::Instant;
use worker::pubsub::{Outgoing, Publisher};

use crate::echo::{self, REFUSED, REFUSED_USERS};
use crate::jobs::{Asked, Deserves, asked};
use crate::search::Pieces;

const TTL: Duration = Duration::from_secs(3);
const LIFE: Duration = Duration::from_secs(3);
/// Where the output of jobs goes.
pub(crate) const EXPORTS: &str = "exports";
const FLAGS: [&str; 10] = [
    "--lease-ttl",
    "3s",
    "--ack-extension",
    "10s",
    "--concurrency",
    "16",
    "--drain",
    "10s",
    "--allow-bucket",
    EXPORTS,
];

/// How much of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) replicas: usize,
    pub(crate) users: usize,
    pub(crate) jobs: usize,
    /// How often each blow falls.
    pub(crate) rounds: usize,
}

/// What may happen to the fleet.
#[derive(Debug, Clone, Copy)]
enum Blow {
    Kill,
    StorageBurst,
    Stop,
    EndpointBurst,
    ApiBurst,
    Terminate,
}

const BLOWS: [Blow; 6] = [
    Blow::Kill,
    Blow::StorageBurst,
    Blow::Stop,
    Blow::EndpointBurst,
    Blow::ApiBurst,
    Blow::Terminate,
];

/// The replicas that run, the one that is stopped, and what all of them said.
struct Fleet<'a> {
    stage: &'a Stage,
    running: Vec<Worker>,
    stopped: Option<(Worker, Instant)>,
    logs: Vec<String>,
    killed: usize,
    terminated: usize,
    stops: usize,
    bursts: usize,
}

impl Fleet<'_> {
    async fn strike(&mut self, blow: Blow) -> anyhow::Result<()> {
        let (_, storage) = self.stage.cloud.embedded.as_ref().context("embedded servers")?;
        let down = StatusCode::SERVICE_UNAVAILABLE;
        match blow {
            Blow::Kill => {
                let mut victim = self.running.remove(0);
                victim.signal(Signal::KILL)?;
                victim.ended().await?;
                self.logs.push(victim.log_text());
                self.killed += 1;
                self.running.push(self.stage.worker(&FLAGS).await?);
            }
            Blow::Terminate => {
                let mut victim = self.running.remove(0);
                self.running.push(self.stage.worker(&FLAGS).await?);
                ensure!(victim.terminate().await? == 0, "it ends in order");
                self.logs.push(victim.log_text());
                self.terminated += 1;
            }
            Blow::Stop => {
                self.go_on()?;
                let victim = self.running.remove(0);
                victim.signal(Signal::STOP)?;
                self.stopped = Some((victim, Instant::now()));
                self.stops += 1;
            }
            // Requests are refused before they do anything.
            Blow::StorageBurst => {
                storage.inject(Fault::refusal(down).times(40));
                self.bursts += 1;
            }
            Blow::EndpointBurst => {
                self.stage.google.inject(echo::endpoint_burst());
                self.bursts += 1;
            }
            Blow::ApiBurst => {
                self.stage.google.inject(echo::api_burst());
                self.bursts += 1;
            }
        }
        Ok(())
    }

    /// The stopped replica goes on.
    fn go_on(&mut self) -> anyhow::Result<()> {
        if let Some((worker, _)) = self.stopped.take() {
            worker.signal(Signal::CONT)?;
            self.running.push(worker);
        }
        Ok(())
    }

    /// Once it was stopped for longer than any lease lives.
    fn wake(&mut self) -> anyhow::Result<()> {
        match self.stopped {
            Some((_, since)) if since.elapsed() > 2 * TTL => self.go_on(),
            _ => Ok(()),
        }
    }

    /// Ends all in order; what they measured and said.
    async fn end(mut self) -> anyhow::Result<(Vec<String>, Vec<String>)> {
        self.go_on()?;
        let mut metrics = Vec::new();
        for mut worker in std::mem::take(&mut self.running) {
            let address = worker.health().context("it said where its health is served")?;
            let url = format!("http://{address}/metrics");
            metrics.push(reqwest::get(url).await?.error_for_status()?.text().await?);
            ensure!(worker.terminate().await? == 0, "it ends in order");
            self.logs.push(worker.log_text());
        }
        Ok((self.logs, metrics))
    }
}

/// Collects what replicas export as traces.
async fn collector() -> anyhow::Result<(String, Arc<Mutex<Vec<Bytes>>>)> {
    let exported = Arc::<Mutex<Vec<Bytes>>>::default();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let origin = format!("http://{}", listener.local_addr()?);
    let sink = Arc::clone(&exported);
    let app = Router::new().route(
        "/v1/traces",
        post(move |body: Bytes| async move { sink.lock().unwrap().push(body) }),
    );
    // Ends with the test's runtime.
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok((origin, exported))
}

/// As a careless publisher would: not by `fleet publish`, which refuses what is no job.
async fn publish(stage: &Stage, asked: &[Asked]) -> anyhow::Result<()> {
    let topic = Publisher::open(&stage.connection(), &full("topics", "jobs")).await?;
    let published: Vec<_> = asked
        .iter()
        .map(|job| {
            topic.publish(Outgoing {
                data: job.message.to_string().into(),
                ordering_key: job.user.clone(),
                ..Outgoing::default()
            })
        })
        .collect();
    for one in published {
        one.await?;
    }
    Ok(())
}

/// A keyring for the stage; what opens the bucket with it.
async fn keyring(stage: &mut Stage) -> anyhow::Result<Sealing> {
    let path = stage.path("keyring.json");
    let file = path.display().to_string();
    let made = stage.fleet(&["keyring", "new", &file]).await?;
    ensure!(made.code == 0, "{}", made.stderr);
    stage.variables.push(("FLEET_KEYRING".to_owned(), file));
    let KeyringFile::Plain(keyring) = KeyringFile::read(&path)? else {
        anyhow::bail!("its keys are wrapped");
    };
    Ok(Sealing::new(Some(keyring)).accept_unsealed(true))
}

/// An object as it is without its seal.
fn opened(sealing: &Sealing, written: &Written) -> Value {
    match sealing.open(&written.name, &written.content) {
        Ok(Opened::Sealed { clear: Value::Object(mut members), secret }) => {
            members.extend(serde_json::from_slice::<Map<_, _>>(&secret).unwrap_or_default());
            members.into()
        }
        _ => serde_json::from_slice(&written.content).unwrap_or_default(),
    }
}

/// Everything that is written to the bucket from now on.
fn written(storage: &Storage) -> Arc<Mutex<Vec<Written>>> {
    let all = Arc::<Mutex<Vec<Written>>>::default();
    let seen = Arc::clone(&all);
    storage.on_write(move |written| seen.lock().unwrap().push(written.clone()));
    all
}

pub(crate) async fn play(plan: Plan) -> anyhow::Result<()> {
    let began = Instant::now();
    let settings = google::Config { token_lifetime: LIFE, ..google::Config::default() };
    let mut stage = Stage::set_with(Cloud::embedded().await?, settings).await?;
    let (origin, traces) = collector().await?;
    stage.variables.push(("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), origin));
    let sealing = keyring(&mut stage).await?;
    stage.cloud.create_bucket(EXPORTS).await?;
    let (pubsub, storage) = stage.cloud.embedded.as_ref().context("embedded servers")?;
    let account = Account::open_with(storage, move |written| opened(&sealing, written));
    for n in 0..plan.users {
        stage.write_user(&format!("user-{n}"), LIFE).await?;
    }
    for n in 0..REFUSED_USERS {
        stage.write_expired_user(&format!("{REFUSED}{n}")).await?;
    }
    let reseal = stage.fleet(&["users", "reseal", "--all", "--accept-unsealed"]).await?;
    ensure!(reseal.code == 0, "{}", reseal.stderr);
    let written = written(storage);
    stage.google.inject(echo::endpoint_refusal());
    let mut outcomes = stage.inbox("outcomes").await?;
    let mut fleet = Fleet {
        stage: &stage,
        running: Vec::new(),
        stopped: None,
        logs: Vec::new(),
        killed: 0,
        terminated: 0,
        stops: 0,
        bursts: 0,
    };
    for _ in 0..plan.replicas {
        fleet.running.push(stage.worker(&FLAGS).await?);
    }
    let asked: Vec<Asked> = (0..plan.jobs).map(|n| asked(n, plan.users)).collect();
    publish(&stage, &asked).await?;

    // Job → outcome; malformed ones are named by their message.
    let mut told: HashMap<String, Value> = HashMap::new();
    let mut words = String::new();
    // Users of whom a message came more than once.
    let mut again: HashSet<String> = HashSet::new();
    let mut blows = BLOWS.iter().cycle().take(BLOWS.len() * plan.rounds);
    let mut fallen = 0;
    let all = BLOWS.len() * plan.rounds;
    while told.len() < plan.jobs {
        let next = outcomes.next().await;
        let (outcome, _) =
            next.with_context(|| format!("{} of {} ended", told.len(), plan.jobs))?;
        words.push_str(&outcome.to_string());
        if outcome["delivery_attempt"].as_i64() != Some(1) {
            again.insert(outcome["user"].as_str().context("a user")?.to_owned());
        }
        told.entry(outcome["job"].as_str().context("a job")?.to_owned()).or_insert(outcome);
        fleet.wake()?;
        if told.len() * (all + 1) > plan.jobs * (fallen + 1)
            && let Some(blow) = blows.next()
        {
            fallen += 1;
            fleet.strike(*blow).await?;
        }
    }
    let ended = Instant::now();
    let (killed, terminated) = (fleet.killed, fleet.terminated);
    let (stops, bursts) = (fleet.stops, fleet.bursts);
    let (logs, metrics) = fleet.end().await?;

    // Every job ended as its input deserves; nobody had to consent again but those
    // whose grant a blow took away.
    let due_age = LIFE * 3 / 4;
    // After a lost answer a holder waits for two seconds, and for a third of its ttl before it
    // doubts a rejection.
    let rules = Rules { due_age, resend: TTL / 3 };
    let refreshes = account.judge(stage.google.refresh_calls().into_iter().map(Call::from), rules);
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let malformed = asked.iter().filter(|job| job.deserves == Deserves::Malformed).count();
    let mut struck = 0;
    for job in &asked {
        let wanted = match job.deserves {
            Deserves::Done => "done",
            Deserves::Rejected => "rejected",
            Deserves::Parked => "parked",
            Deserves::Malformed => continue,
        };
        let outcome = told.get(&job.id).with_context(|| format!("{} is lost", job.id))?;
        let status = outcome["status"].as_str().context("a status")?;
        if status == "parked" && wanted != "parked" && refreshes.struck.contains_key(&job.user) {
            struck += 1;
        } else {
            ensure!(status == wanted, "{} should be {wanted}: {outcome}", job.id);
        }
        *counts.entry(wanted).or_default() += 1;
    }
    let nameless = told.values().filter(|o| o["kind"] == "" && o["status"] == "rejected").count();
    ensure!(nameless == malformed, "{nameless} of {malformed} malformed messages were rejected");
    ensure!(told.len() == plan.jobs, "{} outcomes of {} jobs", told.len(), plan.jobs);

    // The provider's view. It has not carried out what the refused users' tokens were due for.
    let expiries = stage.google.expiries(due_age, Instant::now());
    let expiries = expiries.saturating_sub(REFUSED_USERS as u64);
    let window = refreshes.cut_off;
    let duplicates = pubsub
        .subscription_stats(&full("subscriptions", "jobs-workers"))
        .map_or(0, |stats| stats.redeliveries);
    report::say(format!(
        "chaos: {} jobs of {} users on {} replicas in {:.0?}: {counts:?}, {malformed} malformed; \
         {killed} killed, {stops} stopped, {terminated} terminated, {bursts} bursts; \
         {} refreshes for {expiries} expiries, {} reused, crash window {window} ({struck} jobs parked for it); \
         {duplicates} redeliveries",
        plan.jobs,
        plan.users,
        plan.replicas,
        ended - began,
        refreshes.calls,
        refreshes.reused,
    ));
    ensure!(
        refreshes.faults.is_empty(),
        "the protocol does not allow these calls:\n{}",
        refreshes.faults.join("\n")
    );
    ensure!(
        refreshes.calls <= expiries + window,
        "{} refreshes for {expiries} expiries and {window} cut off",
        refreshes.calls
    );

    in_order(&stage, again)?;

    // Nobody said a secret.
    let mut letters = String::new();
    let mut review = stage.inbox("jobs-dead-review").await?;
    let buried = pubsub.subscription_stats(&full("subscriptions", "jobs-dead-review"));
    for _ in 0..buried.context("the dead letters' subscription")?.published {
        let (letter, attributes) = review.next().await?;
        writeln!(letters, "{letter} {attributes:?}")?;
    }
    let traces = std::mem::take(&mut *traces.lock().unwrap());
    ensure!(!traces.is_empty() && metrics.iter().all(|text| text.contains("fleet_jobs_total")));
    let written = std::mem::take(&mut *written.lock().unwrap());
    let is_written = |prefix: &str| written.iter().any(|object| object.name.starts_with(prefix));
    ensure!(["tokens/", "leases/", "parked/", "job-"].into_iter().all(is_written));
    let objects = written.iter().map(|o| [o.name.as_bytes(), b" ", &o.content, b"\n"].concat());
    let places: [(&str, Vec<u8>); 6] = [
        ("logs", logs.join("\n").into()),
        ("outcomes", words.into()),
        ("dead letters", letters.into()),
        ("metrics", metrics.concat().into()),
        ("traces", traces.concat()),
        ("objects", objects.collect::<Vec<_>>().concat()),
    ];
    let secrets = stage.google.secrets();
    ensure!(secrets.len() > 2 * plan.users, "{} secrets were issued", secrets.len());
    let pieces = Pieces::of(&secrets);
    let mut found = Vec::new();
    for (place, text) in &places {
        ensure!(!text.is_empty(), "no {place}");
        found.extend(pieces.found_in(text).map(|around| format!("in the {place}: {around}")));
    }
    ensure!(found.is_empty(), "secrets stand\n{}", found.join("\n"));
    let sizes = places.iter().map(|(place, text)| format!("{} kB of {place}", text.len() / 1000));
    report::say(format!(
        "chaos: none of {} secrets in {}",
        secrets.len(),
        sizes.collect::<Vec<_>>().join(", ")
    ));
    Ok(())
}

/// Effects of a user come in the order of the jobs, unless a message came again; an
/// effect that happened twice tells of one, too.
fn in_order(stage: &Stage, mut again: HashSet<String>) -> anyhow::Result<()> {
    let mut seen = HashSet::new();
    let effects = stage.google.effects();
    for effect in &effects {
        if !seen.insert(effect.id.clone()) {
            again.insert(effect.sub.clone());
        }
    }
    let mut last: HashMap<String, String> = HashMap::new();
    let mut in_order = 0;
    for effect in &effects {
        let id = effect.id.clone().context("an effect has its job")?;
        if again.contains(&effect.sub) {
            continue;
        }
        if let Some(before) = last.insert(effect.sub.clone(), id.clone()) {
            ensure!(before < id, "{id} of {} came after {before}", effect.sub);
            in_order += 1;
        }
    }
    report::say(format!(
        "chaos: {in_order} effects followed each other in order; {} users had messages that came again",
        again.len()
    ));
    // On a busy machine every one of a few users can have one.
    ensure!(in_order > 0 || effects.len() < 5_000, "somebody was left alone");
    Ok(())
}
