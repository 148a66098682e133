//! Real jobs: how many a second, at which processor time each, with how much memory.
//!
//! A contender is started on a backlog. It is measured from when its first jobs are acknowledged,
//! with its connections open and its users' tokens in memory, until the time is over or the
//! backlog is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use emulators::google;
use serde_json::{Value, json};
use shared::adapters::SystemClock;
use shared::ports::Clock as _;
use tokio::net::TcpListener;

use crate::contender::{Contender, Task, Tools};
use crate::ground::{Ground, OUTPUTS, Place, user};
use crate::measure::{Samples, cpu_of, peak};
use crate::pod::Pod;
use crate::report::{Figure, Plot, Report, Row};

/// As many as any match has.
pub(super) const USERS: usize = 2 * 1000;
const WINDOW: Duration = Duration::from_millis(1500);
/// The backlog has jobs for so many seconds, which is longer, and for what is prefetched.
const OUTLASTED: usize = 2;
/// What the handler of forwarded jobs takes.
const HANDLING: Duration = Duration::from_millis(20);
/// More jobs of 0 ms than any contender does in a second, and more lists and uploads.
const CALLS: usize = 15_000;
const LISTS: usize = 6000;
const UPLOADS: usize = 600;

/// What a job does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One call, which takes so many milliseconds.
    Call(u64),
    /// A list of three pages, which becomes an object.
    Pages,
    /// An answer of 5 MB, which becomes an object.
    Upload,
    /// What an HTTP handler does in 20 ms.
    Forwarded,
}

/// Of what stands in the CSV file alone. It differs by more than runs do.
pub(super) const DETAIL_RUNS: u16 = 3;

/// A row: a job, how many at once, and who does it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Match {
    pub(super) kind: Kind,
    pub(super) slots: usize,
    pub(super) is_detail: bool,
}

const fn row(kind: Kind, slots: usize) -> Match {
    Match { kind, slots, is_detail: false }
}

const fn detail(kind: Kind, slots: usize) -> Match {
    Match { kind, slots, is_detail: true }
}

const MATCHES: [Match; 13] = [
    row(Kind::Call(0), 64),
    row(Kind::Call(20), 64),
    row(Kind::Call(100), 64),
    row(Kind::Call(100), 512),
    row(Kind::Call(100), 1000),
    row(Kind::Pages, 64),
    row(Kind::Upload, 64),
    row(Kind::Forwarded, 64),
    detail(Kind::Call(0), 512),
    detail(Kind::Call(20), 512),
    detail(Kind::Pages, 512),
    detail(Kind::Upload, 512),
    detail(Kind::Forwarded, 512),
];

impl Match {
    fn name(&self) -> String {
        let what = match self.kind {
            Kind::Call(ms) => format!("one HTTPS call of {ms} ms"),
            Kind::Pages => "three pages into an object".to_owned(),
            Kind::Upload => "5 MB into an object".to_owned(),
            Kind::Forwarded => "forwarded to a handler of 20 ms".to_owned(),
        };
        format!("{what}, {} slots", self.slots)
    }

    /// Everybody at 64 slots; beyond, those of whom much can be expected.
    fn contenders(&self, tools: &Tools) -> Vec<Contender> {
        let who: &[Contender] = if self.slots == 64 { &Contender::ALL } else { &Contender::FAST };
        who.iter().copied().filter(|who| tools.has(*who)).collect()
    }

    /// More jobs a second than there can be.
    fn most(&self) -> usize {
        let by_wait = |ms: u64| self.slots * 1000 / usize::try_from(ms.max(1)).unwrap_or(1);
        match self.kind {
            Kind::Call(0) => CALLS,
            Kind::Call(ms) => by_wait(ms).min(CALLS),
            Kind::Pages => LISTS,
            Kind::Upload => UPLOADS,
            Kind::Forwarded => by_wait(20).min(CALLS),
        }
    }

    /// One user's jobs run one after another, so that there are more users than slots.
    fn users(&self) -> usize {
        (2 * self.slots).max(100)
    }

    /// Jobs that are done before it counts: each user's first one, where they do not take long.
    fn warming(&self) -> usize {
        if self.kind == Kind::Upload { self.slots } else { self.users() }
    }

    /// The jobs of a run.
    fn jobs(&self, place: &Place, count: usize) -> impl Iterator<Item = Value> + use<> {
        let (kind, users) = (self.kind, self.users());
        let folder = place.topic.rsplit('/').next().unwrap_or_default().to_owned();
        (0..count).map(move |number| {
            let api = |path: &str| format!("https://www.googleapis.com/bench/{path}");
            let output = || format!("gs://{OUTPUTS}/{folder}/{number}");
            let params = match kind {
                Kind::Call(ms) => json!({"method": "GET", "url": api(&format!("call?ms={ms}"))}),
                Kind::Pages => json!({
                    "method": "GET", "url": api("pages"), "paginate": true, "output": output(),
                }),
                Kind::Upload => {
                    json!({"method": "GET", "url": api("bytes"), "output": output()})
                }
                Kind::Forwarded => json!({"n": number}),
            };
            let kind = if kind == Kind::Forwarded { "forwarded" } else { "api" };
            let id = format!("{folder}-{number}");
            json!({"id": id, "user": user(number % users), "kind": kind, "params": params})
        })
    }
}

/// What one contender did in one run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    /// Jobs per second.
    pub(super) rate: f64,
    /// Microseconds of processor time per job.
    pub(super) cpu: f64,
    /// The most memory, in MB.
    pub(super) memory: f64,
}

#[derive(Debug, Default)]
pub(super) struct Runs {
    pub(super) rate: Samples,
    pub(super) cpu: Samples,
    pub(super) memory: Samples,
}

impl Runs {
    pub(super) fn push(&mut self, run: Run) {
        self.rate.push(run.rate);
        self.cpu.push(run.cpu);
        self.memory.push(run.memory);
    }
}

pub(super) async fn run(runs: u16, tools: &Tools, report: &mut Report) -> anyhow::Result<()> {
    let mut ground = Ground::start(google::Config::default()).await?;
    ground.users(USERS, Duration::ZERO).await?;
    let handler = handler().await?;
    let mut by_slots: BTreeMap<Contender, Vec<(f64, f64)>> = BTreeMap::new();
    let mut by_wait: BTreeMap<Contender, Vec<(f64, f64)>> = BTreeMap::new();
    for measured in &MATCHES {
        let contenders = measured.contenders(tools);
        let mut all: BTreeMap<Contender, Runs> = BTreeMap::new();
        let mut failed = BTreeSet::new();
        let runs = if measured.is_detail { runs.min(DETAIL_RUNS) } else { runs };
        for run in 0..runs {
            // Who begins changes with every run.
            for turn in 0..contenders.len() {
                let who = contenders[(turn + usize::from(run)) % contenders.len()];
                if failed.contains(&who) {
                    continue;
                }
                let did = one(&mut ground, tools, who, measured, (&handler, None)).await;
                match did.with_context(|| format!("{who}, {}", measured.name())) {
                    Ok(did) => all.entry(who).or_default().push(did),
                    Err(error) if who == Contender::Fleet => return Err(error),
                    Err(error) => {
                        crate::say(&format!("left out: {error:#}"));
                        failed.insert(who);
                    }
                }
            }
        }
        all.retain(|who, _| !failed.contains(who));
        for (who, runs) in &all {
            if measured.kind == Kind::Call(100) {
                let point = (measured.slots as f64, runs.rate.median());
                by_slots.entry(*who).or_default().push(point);
            }
            if let (Kind::Call(ms), 64) = (measured.kind, measured.slots) {
                by_wait.entry(*who).or_default().push((ms as f64, runs.cpu.median()));
            }
        }
        report.add(judged(measured, &all));
    }
    let lines = |points: BTreeMap<Contender, Vec<(f64, f64)>>| {
        points.into_iter().map(|(who, line)| (who.to_string(), line)).collect()
    };
    report.plot(Plot {
        file: "calls-by-slots",
        title: "Jobs of one HTTPS call of 100 ms",
        x: "slots",
        y: "jobs/s",
        lines: lines(by_slots),
    });
    report.plot(Plot {
        file: "processor-time",
        title: "Processor time of a job of one HTTPS call, 64 slots",
        x: "ms that the call takes",
        y: "µs",
        lines: lines(by_wait),
    });
    Ok(())
}

/// The row, with what ours is beside Go, or beside the bare loop where there is no Go.
fn judged(measured: &Match, all: &BTreeMap<Contender, Runs>) -> Row {
    let mut row = Row {
        what: measured.name(),
        is_detail: measured.is_detail,
        figures: BTreeMap::new(),
        ..Row::default()
    };
    for (who, runs) in all {
        let figures = vec![
            Figure::new("/s", runs.rate.clone()),
            Figure::new("µs", runs.cpu.clone()),
            Figure::new("MB", runs.memory.clone()),
        ];
        row.figures.insert(*who, figures);
    }
    let beside = [Contender::Go, Contender::Rust].into_iter().find(|who| all.contains_key(who));
    let (Some(ours), Some((name, other))) =
        (all.get(&Contender::Fleet), beside.and_then(|who| Some((who, all.get(&who)?))))
    else {
        return row;
    };
    let (rate, cpu) = (ours.rate.by(&other.rate), ours.cpu.by(&other.cpu));
    let memory = ours.memory.by(&other.memory);
    let (fast, cheap, small) = (rate.median() >= 0.95, cpu.median() <= 1.0, memory.median() <= 2.0);
    row = row.beside(format!("rate by {name}"), rate).beside("µs", cpu);
    if measured.kind == Kind::Upload {
        row = row.beside("MB", memory);
    }
    row = row.aim("rate ≥ 0.95", fast).aim("µs ≤ 1", cheap);
    if measured.kind == Kind::Upload { row.aim("MB ≤ 2", small) } else { row }
}

/// One contender's run, in a pod if there is one.
pub(super) async fn one(
    ground: &mut Ground,
    tools: &Tools,
    who: Contender,
    measured: &Match,
    (handler, pod): (&str, Option<&Pod>),
) -> anyhow::Result<Run> {
    let place = ground.place().await?;
    let (warming, slots) = (measured.warming(), measured.slots);
    let jobs = warming + measured.most() * OUTLASTED + 9 * slots;
    ground.publish(&place, measured.jobs(&place, jobs)).await?;
    let task = Task { place: &place, slots, handler };
    let mut client = tools.start(who, ground, &task)?;
    if let Some(pod) = pod {
        pod.take(client.id()?)?;
    }
    ground.await_acknowledged(&place, warming as u64).await?;
    let did = window(ground, &place, client.id()?, (jobs - 8 * slots) as u64).await;
    client.kill().await?;
    ground.forget(place).await?;
    did
}

/// What a process does in a time that begins and ends with an acknowledgement, or until so many
/// jobs have been acknowledged.
#[expect(clippy::disallowed_methods, reason = "a measurement is of real time")]
async fn window(ground: &Ground, place: &Place, process: u32, jobs: u64) -> anyhow::Result<Run> {
    let next = async || {
        let seen = ground.stats(place).acknowledged;
        ground.await_acknowledged(place, seen + 1).await
    };
    next().await?;
    let (began, cpu) = (Instant::now(), cpu_of(process)?);
    let first = ground.stats(place).acknowledged;
    tokio::select! {
        done = ground.await_acknowledged(place, jobs) => done?,
        () = SystemClock::default().sleep(WINDOW) => next().await?,
    }
    let (took, used) = (began.elapsed().as_secs_f64(), cpu_of(process)? - cpu);
    let done = (ground.stats(place).acknowledged - first) as f64;
    anyhow::ensure!(done > 0.0, "nothing was done");
    Ok(Run { rate: done / took, cpu: used * 1e6 / done, memory: peak(process)? as f64 / 1e6 })
}

/// The URL of what does forwarded jobs. It ends with the program.
async fn handler() -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    let handle = async |_: Bytes| {
        SystemClock::default().sleep(HANDLING).await;
        "{}"
    };
    let routes = Router::new().route("/", post(handle));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Ok(url)
}
