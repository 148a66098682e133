//! `fleet publish`: jobs, one by flags or many from a file.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::Json;
use crate::dead_letter::KIND;
use crate::job::Job;
use crate::kinds::{HostRules, OutputRules, check_api};
use crate::pubsub::{Outgoing, PublishError, Publisher};
use crate::spans;
use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;
use shared::UserId;

use super::connect::{ProjectArgs, user_id};
use super::environment::Place;
use super::outcomes::{Awaited, WaitArgs};
use super::output::{self, Usage};
use super::reach::ReachArgs;

#[derive(Debug, clap::Args)]
#[command(after_help = r#"Examples:
  fleet publish --topic jobs --user 1097 --kind profile
  fleet publish --topic jobs --user 1097 --kind api \
      --params '{"url": "https://www.googleapis.com/drive/v3/files"}'
  fleet publish --topic jobs --user 1097 --kind profile --wait --outcomes-topic jobs-outcomes
  fleet publish --topic jobs --file jobs.jsonl

A file has one job per line: {"id": "…", "user": "…", "kind": "…", "params": {…}}
It is checked whole before the first job is published. Jobs of kind `api` are checked as a
worker does: give it the workers' --allow-host, --allow-bucket and --bucket.
The variables TRACEPARENT and TRACESTATE (W3C Trace Context), where they are set, name the
trace that the jobs continue."#)]
pub(crate) struct Args {
    #[command(flatten)]
    project: ProjectArgs,
    /// Job topic: an ID or a full name
    #[arg(long, env = "FLEET_TOPIC")]
    topic: String,
    /// On whose behalf
    #[arg(long, value_parser = user_id, required_unless_present = "file")]
    user: Option<UserId>,
    /// What kind of job
    #[arg(long, required_unless_present = "file")]
    kind: Option<String>,
    /// The job's parameters, a JSON object
    #[arg(long, value_name = "JSON")]
    params: Option<String>,
    /// The job's ID [default: the message ID]
    #[arg(long)]
    id: Option<String>,
    /// Jobs as JSON Lines; - for stdin
    #[arg(long, conflicts_with_all = ["user", "kind", "params", "id"])]
    file: Option<PathBuf>,
    #[command(flatten)]
    reach: ReachArgs,
    /// Bucket of the token store, which no job may reach
    #[arg(long, env = "FLEET_BUCKET")]
    bucket: Option<String>,
    /// Publish without ordering key: jobs of one user may overtake each other
    #[arg(long)]
    unordered: bool,
    #[command(flatten)]
    wait: WaitArgs,
    /// The count, and the message ID of a single job, as JSON; with --wait the outcomes, one
    /// JSON object per line
    #[arg(long)]
    json: bool,
}

/// How many messages may be on their way at once: the client's queue has no end.
const WINDOW: usize = 1000;

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let place = Place::from_env()?;
    let topic = args.project.topic("--topic", &args.topic)?;
    let bucket = args.bucket.as_deref().filter(|name| !name.is_empty());
    let (hosts, outputs) = args.reach.rules(bucket)?;
    let jobs = Jobs { unordered: args.unordered, trace: trace(), hosts, outputs };
    let checked = match &args.file {
        Some(path) => {
            let content = read_whole(path)?;
            let checked = checked(&content, &jobs);
            checked.map_err(|why| Usage(format!("{}: {why}", args.name())))?
        }
        None => vec![jobs.check(&args.single()?)?],
    };
    let publisher = place.publisher(&topic).await?;
    let users: BTreeSet<&UserId> = checked.iter().map(|job| &job.user).collect();
    let waiting = args.wait.begin(&place, &args.project, users, args.json).await?;
    let publishing = async {
        let published = publish_all(&publisher, checked).await;
        if args.file.is_some() { published.with_context(|| args.name()) } else { published }
    };
    let Some(waiting) = waiting else {
        let published = publishing.await?;
        return match (&args.file, &published[..]) {
            (None, [Awaited { message, .. }]) if args.json => {
                output::json(&json!({"published": 1, "message_id": message}))
            }
            (None, [Awaited { message, .. }]) => output::line(message),
            _ if args.json => output::json(&json!({"published": published.len()})),
            _ => output::line(format!("published {} job(s) to {topic}", published.len())),
        };
    };
    waiting.for_jobs(publishing).await
}

/// The file, or stdin where it is called `-`.
fn read_whole(path: &Path) -> Result<Vec<u8>, Usage> {
    let mut content = Vec::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().lock().read_to_end(&mut content).map(drop)
    } else {
        std::fs::read(path).map(|read| content = read)
    };
    read.map_err(|e| Usage(format!("cannot read {}: {e}", path.display())))?;
    Ok(content)
}

impl Args {
    /// How the file is named to people.
    fn name(&self) -> String {
        match &self.file {
            Some(path) if path.as_os_str() == "-" => "stdin".to_owned(),
            Some(path) => path.display().to_string(),
            None => "the job".to_owned(),
        }
    }

    fn single(&self) -> Result<Vec<u8>, Usage> {
        let params = match &self.params {
            None => None,
            Some(params) => Some(Json::parse(params.as_bytes()).map_err(|e| {
                Usage(format!("--params is not JSON (line {}, column {})", e.line(), e.column()))
            })?),
        };
        let job = Single {
            id: self.id.as_deref(),
            user: self.user.as_ref().map(UserId::as_str),
            kind: self.kind.as_deref(),
            params,
        };
        Ok(serde_json::to_vec(&job).expect("strings and JSON are JSON"))
    }
}

/// A job of flags; its parameters as they were given.
#[derive(Serialize)]
struct Single<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    user: Option<&'a str>,
    kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    params: Option<Json>,
}

/// The trace that the environment names, as attributes of a message.
fn trace() -> HashMap<String, String> {
    let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let Some(parent) = variable("TRACEPARENT") else {
        return HashMap::new();
    };
    spans::continuing(&parent, variable("TRACESTATE").as_deref()).unwrap_or_else(|| {
        output::note("TRACEPARENT is no W3C trace context (00-TRACE-SPAN-FLAGS); it is left out");
        HashMap::new()
    })
}

/// What the published jobs have in common.
struct Jobs {
    unordered: bool,
    trace: HashMap<String, String>,
    hosts: HostRules,
    outputs: OutputRules,
}

impl Jobs {
    /// Checks a job as a worker would, and makes it a message.
    fn check(&self, job: &[u8]) -> Result<Checked, Usage> {
        let read = Job::decode(job, "").map_err(|e| Usage(e.to_string()))?;
        if read.kind == "api" {
            check_api(&read, &self.hosts, &self.outputs).map_err(Usage)?;
        }
        let user = read.user.as_str();
        let ordering_key = if self.unordered { String::new() } else { user.to_owned() };
        let mut attributes = self.trace.clone();
        // Subscriptions can be filtered by it.
        attributes.insert(KIND.to_owned(), read.kind.clone());
        let message = Outgoing { data: job.to_vec().into(), attributes, ordering_key };
        Ok(Checked { message, user: read.user, kind: read.kind, id: read.id })
    }
}

/// A job that a worker would take, as a message.
struct Checked {
    message: Outgoing,
    user: UserId,
    kind: String,
    /// Empty if it has none of its own.
    id: String,
}

/// The jobs of a file, checked to the last line.
fn checked(content: &[u8], jobs: &Jobs) -> Result<Vec<Checked>, Usage> {
    let mut messages = Vec::new();
    for (line, number) in content.split(|byte| *byte == b'\n').zip(1_u64..) {
        let text = line.trim_ascii();
        if !text.is_empty() {
            let message = jobs.check(text);
            messages
                .push(message.map_err(|why| {
                    Usage(format!("line {number}: {why}; nothing was published"))
                })?);
        }
    }
    Ok(messages)
}

/// A topic that does not exist is the command line's.
fn named(error: PublishError) -> anyhow::Error {
    match error {
        PublishError::NoTopic { topic, .. } => Usage(format!(
            "{topic} does not exist; create it (`fleet setup`, or Terraform) or correct --topic"
        ))
        .into(),
        error => error.into(),
    }
}

async fn publish_all(publisher: &Publisher, jobs: Vec<Checked>) -> anyhow::Result<Vec<Awaited>> {
    let many = jobs.len() > 1;
    let bar = if many { ProgressBar::new(jobs.len() as u64) } else { ProgressBar::hidden() };
    let bar = bar.with_style(
        ProgressStyle::with_template("{bar:30} {pos}/{len} published, {per_sec}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let mut window = VecDeque::new();
    let mut published = Vec::new();
    let mut jobs = jobs.into_iter();
    loop {
        let next = jobs.next();
        let done = next.is_none();
        window.extend(next.map(|Checked { message, user, kind, id }| {
            (publisher.publish(message), Awaited { user, kind, job: id, message: String::new() })
        }));
        if window.len() < WINDOW && !done {
            continue;
        }
        let Some((oldest, job)) = window.pop_front() else { break };
        let mut sent = oldest.await.map_err(named);
        if many {
            sent = sent.with_context(|| format!("after {} published jobs", published.len()));
        }
        let message = sent?;
        let id = if job.job.is_empty() { message.clone() } else { job.job };
        published.push(Awaited { job: id, message, ..job });
        bar.set_position(published.len() as u64);
    }
    bar.finish_and_clear();
    Ok(published)
}
