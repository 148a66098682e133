//! `fleet publish`: jobs, one by flags or many from a file.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::json;
use shared::UserId;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, BufReader};
use worker::Json;
use worker::job::Job;
use worker::pubsub::{Outgoing, Publisher};
use worker::spans;

use super::connect::{Place, ProjectArgs, user_id};
use super::output::{self, Usage};

#[derive(Debug, clap::Args)]
#[command(after_help = r#"Examples:
  fleet publish --topic jobs --user 1097 --kind profile
  fleet publish --topic jobs --user 1097 --kind api \
      --params '{"url": "https://www.googleapis.com/drive/v3/files"}'
  fleet publish --topic jobs --file jobs.jsonl

A file has one job per line: {"id": "…", "user": "…", "kind": "…", "params": {…}}
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
    let single = match &args.file {
        Some(_) => None,
        None => Some(args.single()?),
    };
    place.reach_pubsub().await?;
    let publisher = Publisher::open(&place.connection(), &topic).await?;
    let jobs = Jobs { unordered: args.unordered, trace: trace() };
    if let Some(job) = single {
        let id = publisher.publish(jobs.message(&job)?).await?;
        return if args.json {
            output::json(&json!({"published": 1, "message_id": id}))
        } else {
            output::line(id)
        };
    }
    let path = args.file.as_deref().unwrap_or_else(|| std::path::Path::new("-"));
    let published = if path.as_os_str() == "-" {
        publish_lines(&publisher, BufReader::new(tokio::io::stdin()), &jobs).await
    } else {
        let file = tokio::fs::File::open(path)
            .await
            .map_err(|e| Usage(format!("cannot read {}: {e}", path.display())))?;
        publish_lines(&publisher, BufReader::new(file), &jobs).await
    };
    let published = published.with_context(|| path.display().to_string())?;
    if args.json {
        output::json(&json!({"published": published}))
    } else {
        output::line(format!("published {published} job(s) to {topic}"))
    }
}

impl Args {
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
}

impl Jobs {
    /// Checks a job as a worker would, and makes it a message.
    fn message(&self, job: &[u8]) -> Result<Outgoing, Usage> {
        let read = Job::decode(job, "").map_err(|e| Usage(e.to_string()))?;
        let user = read.user.as_str();
        let ordering_key = if self.unordered { String::new() } else { user.to_owned() };
        let attributes = self.trace.clone();
        Ok(Outgoing { data: job.to_vec().into(), attributes, ordering_key })
    }
}

/// Publishes line by line; after a bad line everything before it is published.
async fn publish_lines(
    publisher: &Publisher,
    mut input: impl AsyncBufRead + Unpin,
    jobs: &Jobs,
) -> anyhow::Result<u64> {
    let bar = ProgressBar::new_spinner().with_style(
        ProgressStyle::with_template("{spinner} {pos} published, {per_sec}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    let mut window = VecDeque::new();
    let mut line = Vec::new();
    let (mut number, mut published) = (0_u64, 0_u64);
    let bad = loop {
        line.clear();
        if input.read_until(b'\n', &mut line).await? == 0 {
            break None;
        }
        number += 1;
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        match jobs.message(text) {
            Ok(message) => window.push_back(publisher.publish(message)),
            Err(error) => break Some(Usage(format!("line {number}: {error}"))),
        }
        if window.len() >= WINDOW
            && let Some(oldest) = window.pop_front()
        {
            oldest.await.with_context(|| format!("after {published} published jobs"))?;
            published += 1;
            bar.set_position(published);
        }
    };
    for rest in window {
        rest.await.with_context(|| format!("after {published} published jobs"))?;
        published += 1;
        bar.set_position(published);
    }
    bar.finish_and_clear();
    match bad {
        None => Ok(published),
        Some(error) => {
            Err(anyhow::Error::new(error).context(format!("{published} job(s) were published")))
        }
    }
}
