//! `fleet publish`: jobs, one by flags or many from a file.

use std::collections::{HashMap, VecDeque};
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
use super::output::{self, Usage};
use super::reach::ReachArgs;

#[derive(Debug, clap::Args)]
#[command(after_help = r#"Examples:
  fleet publish --topic jobs --user 1097 --kind profile
  fleet publish --topic jobs --user 1097 --kind api \
      --params '{"url": "https://www.googleapis.com/drive/v3/files"}'
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
    /// The count, and the message ID of a single job, as JSON
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
    let (single, many) = match &args.file {
        Some(path) => {
            let content = read_whole(path)?;
            let checked = checked(&content, &jobs);
            (None, checked.map_err(|why| Usage(format!("{}: {why}", args.name())))?)
        }
        None => (Some(jobs.message(&args.single()?)?), Vec::new()),
    };
    place.reach_pubsub().await?;
    let publisher = Publisher::open(&place.connection(), &topic).await?;
    if let Some(message) = single {
        let id = publisher.publish(message).await.map_err(named)?;
        return if args.json {
            output::json(&json!({"published": 1, "message_id": id}))
        } else {
            output::line(id)
        };
    }
    let published = publish_all(&publisher, many).await;
    let published = published.with_context(|| args.name())?;
    if args.json {
        output::json(&json!({"published": published}))
    } else {
        output::line(format!("published {published} job(s) to {topic}"))
    }
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
    fn message(&self, job: &[u8]) -> Result<Outgoing, Usage> {
        let read = Job::decode(job, "").map_err(|e| Usage(e.to_string()))?;
        if read.kind == "api" {
            check_api(&read, &self.hosts, &self.outputs).map_err(Usage)?;
        }
        let user = read.user.as_str();
        let ordering_key = if self.unordered { String::new() } else { user.to_owned() };
        let mut attributes = self.trace.clone();
        // Subscriptions can be filtered by it.
        attributes.insert(KIND.to_owned(), read.kind);
        Ok(Outgoing { data: job.to_vec().into(), attributes, ordering_key })
    }
}

/// The jobs of a file, checked to the last line.
fn checked(content: &[u8], jobs: &Jobs) -> Result<Vec<Outgoing>, Usage> {
    let mut messages = Vec::new();
    for (line, number) in content.split(|byte| *byte == b'\n').zip(1_u64..) {
        let text = line.trim_ascii();
        if !text.is_empty() {
            let message = jobs.message(text);
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

async fn publish_all(publisher: &Publisher, messages: Vec<Outgoing>) -> anyhow::Result<u64> {
    let bar = ProgressBar::new(messages.len() as u64).with_style(
        ProgressStyle::with_template("{bar:30} {pos}/{len} published, {per_sec}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let mut window = VecDeque::new();
    let mut published = 0_u64;
    let mut messages = messages.into_iter();
    loop {
        let next = messages.next();
        let done = next.is_none();
        window.extend(next.map(|message| publisher.publish(message)));
        if window.len() < WINDOW && !done {
            continue;
        }
        let Some(oldest) = window.pop_front() else { break };
        let sent = oldest.await.map_err(named);
        sent.with_context(|| format!("after {published} published jobs"))?;
        published += 1;
        bar.set_position(published);
    }
    bar.finish_and_clear();
    Ok(published)
}
