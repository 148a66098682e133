//! Publishes jobs again, then removes them.

use std::collections::{HashMap, HashSet};

use crate::pubsub::Publisher;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::super::confirm::confirmed;
use super::super::environment::Place;
use super::super::output;
use super::batch::Work;
use super::choice::{Counts, HowArgs, Judged};
use super::claims::Claims;
use super::gather::{Extent, Item, gather};
use super::letter::Letter;
use super::{Sources, WhichArgs, now, table};

/// So many are published, and then removed, at a time.
const BATCH: usize = 32;
/// Without a terminal, a line after so many.
const LINE_EVERY: usize = 100;
/// After so many failures in a row it is the topic or the bucket that fails.
const MAX_FAILURES: usize = 3;

pub(super) async fn run(
    place: &Place,
    which: &WhichArgs,
    how: &HowArgs,
    sources: &Sources,
    topic: &str,
) -> anyhow::Result<()> {
    place.reach_pubsub().await?;
    let limit = how.limit.unwrap_or(usize::MAX);
    let mut found = gather(place, which, sources, limit, Extent::All).await?;
    let all = std::mem::take(&mut found.items);
    let mut counts = Counts::default();
    let (mut left_alone, mut meant) = (Vec::new(), Vec::new());
    for item in all {
        match how.judge(&item.letter, &mut counts) {
            Judged::Meant => meant.push(item),
            Judged::Counted => left_alone.push(item),
            Judged::Named(why) => {
                found.notes.push(format!("{:?} is left: {why}", item.letter.job));
                left_alone.push(item);
            }
        }
    }
    if counts.spent > 0 {
        found.notes.push(format!(
            "{} job(s) are left: they have acted, or may have; --effect any does them again",
            counts.spent
        ));
    }
    if counts.unrecorded > 0 {
        found.notes.push(format!(
            "{} job(s) are left: they never ended here, so nobody knows whether they have acted; --effect unrecorded",
            counts.unrecorded
        ));
    }
    found.notes.iter().for_each(output::note);
    in_users_order(&mut meant);
    let total = meant.len();
    let result = if how.dry_run {
        let letters: Vec<&Letter> = meant.iter().map(|item| &item.letter).collect();
        let shown = table::show(&letters, now(), how.json);
        output::note(format!("{total} would be published to {topic}; nothing was changed"));
        found.items = meant;
        shown
    } else if total > 0
        && !confirmed(how.yes, &format!("Publish {total} job(s) to {topic} and remove them here?"))
            .await?
    {
        found.items = meant;
        Err(anyhow::anyhow!("nothing was changed"))
    } else {
        let done = redrive(place, sources, how, topic, meant, &mut counts).await;
        tell(&counts, total, topic, how.json).and(done)
    };
    found.items.extend(left_alone);
    found.give_back().await;
    result
}

/// One user's jobs follow each other in their order, so that a claim is held for a short
/// time; users come by their first job.
pub(super) fn in_users_order(items: &mut [Item]) {
    let mut first: HashMap<Option<String>, Timestamp> = HashMap::new();
    for item in &*items {
        let published = item.letter.published;
        let at = first.entry(item.letter.user.clone()).or_insert(published);
        *at = published.min(*at);
    }
    items.sort_by(|a, b| {
        let key = |item: &Item| (first[&item.letter.user], item.letter.user.clone());
        (key(a), a.letter.published).cmp(&(key(b), b.letter.published))
    });
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
        (counts.spent, "spent and left"),
        (counts.unrecorded, "of unknown effect and left"),
        (counts.failed, "failed"),
        (left - counts.failed, "left"),
    ] {
        if count > 0 {
            text = format!("{text}, {count} {what}");
        }
    }
    output::line(text)
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
    let mut items = items.into_iter().peekable();
    let mut claims = Claims::default();
    while failures < MAX_FAILURES && !stop.is_cancelled() {
        let batch: Vec<Item> = items.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            break;
        }
        let (before, went_on) = (counts.seen(), counts.redriven);
        let work = Work { sources, how, publisher: &publisher };
        for (letter, error) in work.one_batch(batch, &mut claims, counts, &mut stuck_users).await {
            failures += 1;
            bar.suspend(|| output::note(format!("{:?} stays where it is: {error:#}", letter.job)));
            last = Some(error);
        }
        let next = items.peek().and_then(|item| item.letter.user.as_deref());
        claims.release_but(sources, next).await;
        if counts.redriven > went_on {
            failures = 0;
        }
        bar.set_position(counts.redriven as u64);
        if bar.is_hidden() && counts.seen() / LINE_EVERY > before / LINE_EVERY {
            output::note(format!("{}/{total} redriven", counts.redriven));
        }
    }
    claims.release_but(sources, None).await;
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
