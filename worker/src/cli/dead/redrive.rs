//! Publishes jobs again, then removes them.

use std::collections::HashSet;
use std::io::IsTerminal as _;

use anyhow::Context as _;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use shared::adapters::SystemClock;
use shared::ports::{Bucket as _, Generation};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio_util::sync::CancellationToken;
use worker::parking::ParkedJob;
use worker::pubsub::{Delivery, Outgoing, PublishError, Publisher, Settle};
use worker::resuming::forget;

use super::super::connect::Place;
use super::super::output::{self, Usage};
use super::gather::{Handle, Item, gather};
use super::letter::{Letter, counted, revived};
use super::{Sources, WhichArgs, now, table};

/// So many are published, and then removed, at a time.
const BATCH: usize = 32;
/// Without a terminal, a line after so many.
const LINE_EVERY: usize = 100;
/// After so many failures in a row it is the topic or the bucket that fails.
const MAX_FAILURES: usize = 3;

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(super) struct HowArgs {
    /// Job topic: an ID or a full name
    #[arg(long, env = "FLEET_TOPIC")]
    topic: String,
    /// Show what would go on, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Also what is no job, and what was redriven several times before
    #[arg(long)]
    force: bool,
    /// Publish without ordering key: jobs of one user may overtake each other
    #[arg(long)]
    unordered: bool,
}

/// What became of them.
#[derive(Debug, Default)]
struct Counts {
    redriven: usize,
    skipped: usize,
    failed: usize,
    /// Gone before their turn: somebody else was faster.
    gone: usize,
}

impl Counts {
    fn seen(&self) -> usize {
        self.redriven + self.failed + self.gone
    }

    fn to_json(&self, left: usize) -> Value {
        json!({
            "redriven": self.redriven,
            "skipped": self.skipped,
            "failed": self.failed,
            "gone": self.gone,
            "left": left,
        })
    }
}

pub(super) async fn run(
    place: &Place,
    which: &WhichArgs,
    how: &HowArgs,
    sources: &Sources,
    limit: Option<usize>,
    json: bool,
) -> anyhow::Result<()> {
    let topic = which.project.topic("--topic", &how.topic)?;
    if !how.dry_run && !how.yes && !std::io::stdin().is_terminal() {
        return Err(Usage(
            "nobody can be asked: add --yes, or look first with --dry-run".to_owned(),
        )
        .into());
    }
    place.reach_pubsub().await?;
    let mut found = gather(place, which, sources, limit.unwrap_or(usize::MAX)).await?;
    let all = std::mem::take(&mut found.items);
    let (left_alone, meant): (Vec<Item>, Vec<Item>) =
        all.into_iter().partition(|item| !how.force && item.letter.doubt().is_some());
    for item in &left_alone {
        let why = item.letter.doubt().unwrap_or_default();
        found.notes.push(format!("{:?} is left: {why}; --force", item.letter.job));
    }
    found.notes.iter().for_each(output::note);
    let mut counts = Counts { skipped: left_alone.len(), ..Counts::default() };
    let total = meant.len();
    let result = if how.dry_run {
        let letters: Vec<&Letter> = meant.iter().map(|item| &item.letter).collect();
        let shown = table::show(&letters, now(), json);
        output::note(format!("{total} would be published to {topic}; nothing was changed"));
        found.items = meant;
        shown
    } else if total > 0 && !confirmed(how, total, &topic).await? {
        found.items = meant;
        Err(anyhow::anyhow!("nothing was changed"))
    } else {
        let done = redrive(place, sources, how, &topic, meant, &mut counts).await;
        tell(&counts, total, &topic, json).and(done)
    };
    found.items.extend(left_alone);
    found.give_back().await;
    result
}

fn tell(counts: &Counts, total: usize, topic: &str, json: bool) -> anyhow::Result<()> {
    let left = total - counts.redriven - counts.gone;
    if json {
        return output::json(&counts.to_json(left));
    }
    let mut text = format!("{} job(s) redriven to {topic}", counts.redriven);
    for (count, what) in [
        (counts.gone, "gone before"),
        (counts.skipped, "skipped"),
        (counts.failed, "failed"),
        (left - counts.failed, "left"),
    ] {
        if count > 0 {
            text = format!("{text}, {count} {what}");
        }
    }
    output::line(text)
}

async fn confirmed(how: &HowArgs, total: usize, topic: &str) -> anyhow::Result<bool> {
    if how.yes {
        return Ok(true);
    }
    output::note(format!("Publish {total} job(s) to {topic} and remove them here? [y/N]"));
    let mut answer = String::new();
    BufReader::new(tokio::io::stdin()).read_line(&mut answer).await?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Ctrl-C stops between two batches; a second one ends the process.
fn watch_for_ctrl_c() -> CancellationToken {
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_err() {
            return;
        }
        token.cancel();
        output::note("stopping after the ones under way; Ctrl-C again to end at once");
        if tokio::signal::ctrl_c().await.is_ok() {
            output::note("ended; what was under way may run twice, and nothing is lost");
            std::process::exit(130);
        }
    });
    stop
}

async fn redrive(
    place: &Place,
    sources: &Sources,
    how: &HowArgs,
    topic: &str,
    items: Vec<Item>,
    counts: &mut Counts,
) -> anyhow::Result<()> {
    let publisher = Publisher::open(&place.connection(), topic).await?;
    let stop = watch_for_ctrl_c();
    let total = items.len();
    let bar = ProgressBar::new(total as u64).with_style(
        ProgressStyle::with_template("{bar:32} {pos}/{len} redriven, {per_sec}, {eta} left")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let mut stuck_users = HashSet::new();
    let (mut failures, mut last) = (0, None);
    let mut items = items.into_iter();
    while failures < MAX_FAILURES && !stop.is_cancelled() {
        let batch: Vec<Item> = items.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            break;
        }
        let (before, went_on) = (counts.seen(), counts.redriven);
        for (letter, error) in
            one_batch(sources, how, &publisher, batch, counts, &mut stuck_users).await
        {
            failures += 1;
            bar.suspend(|| output::note(format!("{:?} stays where it is: {error:#}", letter.job)));
            last = Some(error);
        }
        if counts.redriven > went_on {
            failures = 0;
        }
        bar.set_position(counts.redriven as u64);
        if bar.is_hidden() && counts.seen() / LINE_EVERY > before / LINE_EVERY {
            output::note(format!("{}/{total} redriven", counts.redriven));
        }
    }
    bar.finish_and_clear();
    if stop.is_cancelled() && counts.seen() < total {
        anyhow::bail!(
            "stopped: {} of {total} went on; the others are where they were, nothing is lost",
            counts.redriven
        );
    }
    match last {
        None => Ok(()),
        Some(error) => Err(error.context(format!(
            "{} of {total} went on; the others are where they were",
            counts.redriven
        ))),
    }
}

/// How a published job is removed.
enum Removal {
    Object(String, Generation),
    Ack(Box<dyn Settle>),
}

/// A job on its way, and what removes it when it has arrived.
struct Sent {
    letter: Letter,
    publishing: BoxFuture<'static, Result<String, PublishError>>,
    removal: Removal,
}

/// Publishes in order, waits for every word of the topic, and removes what
/// arrived. A user whose job did not is left from there on.
async fn one_batch(
    sources: &Sources,
    how: &HowArgs,
    publisher: &Publisher,
    batch: Vec<Item>,
    counts: &mut Counts,
    stuck_users: &mut HashSet<String>,
) -> Vec<(Letter, anyhow::Error)> {
    let mut failed = Vec::new();
    let mut sent = Vec::new();
    for Item { letter, handle } in batch {
        // Nothing of a user overtakes a job that failed.
        if letter.user.as_ref().is_some_and(|user| stuck_users.contains(user)) {
            continue;
        }
        match message(sources, how, handle, &letter.name).await {
            Ok(Some((message, removal))) => {
                let publishing = publisher.publish(message).boxed();
                sent.push(Sent { letter, publishing, removal });
            }
            Ok(None) => counts.gone += 1,
            Err(error) => {
                stuck_users.extend(letter.user.clone());
                failed.push((letter, error));
            }
        }
    }
    let mut removals = Vec::new();
    for Sent { letter, publishing, removal } in sent {
        match publishing.await {
            Ok(_) => removals.push(remove(sources, letter, removal)),
            Err(error) => {
                stuck_users.extend(letter.user.clone());
                failed.push((letter, error.into()));
            }
        }
    }
    for removed in join_all(removals).await {
        match removed {
            Ok(()) => counts.redriven += 1,
            Err(failure) => failed.push(failure),
        }
    }
    counts.failed += failed.len();
    failed
}

/// The message that is published; `None` when the job is gone.
async fn message(
    sources: &Sources,
    how: &HowArgs,
    handle: Handle,
    name: &str,
) -> anyhow::Result<Option<(Outgoing, Removal)>> {
    let generation = match handle {
        Handle::Dead(Delivery { received, settle }) => {
            return Ok(Some((revived(&received, how.unordered), Removal::Ack(settle))));
        }
        Handle::Parked(generation) => generation,
    };
    let bucket = sources.parked.as_ref().context("no bucket")?;
    let Some(object) = bucket.get(name).await?.filter(|o| o.generation == generation) else {
        return Ok(None);
    };
    let mut message = ParkedJob::decode(&object.content)?.into_message();
    if how.unordered {
        message.ordering_key.clear();
    }
    Ok(Some((counted(message), Removal::Object(name.to_owned(), generation))))
}

async fn remove(
    sources: &Sources,
    letter: Letter,
    removal: Removal,
) -> Result<(), (Letter, anyhow::Error)> {
    let result = match removal {
        Removal::Ack(settle) => {
            if settle.ack().await {
                Ok(())
            } else {
                Err(anyhow::anyhow!("its acknowledgement was not confirmed"))
            }
        }
        Removal::Object(name, generation) => match &sources.parked {
            Some(bucket) => forget(bucket, &SystemClock::default(), &name, generation)
                .await
                .map_err(anyhow::Error::new),
            None => Ok(()),
        },
    };
    result.map_err(|error| (letter, error.context("published, and it may come twice")))
}
