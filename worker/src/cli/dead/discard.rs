//! Removes jobs for good.

use crate::parking::dropping::drop_parked;
use crate::parking::resumption::Entry;
use crate::parking::user_of;
use crate::pubsub::Delivery;
use crate::resuming::forget;
use anyhow::Context as _;
use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::json;
use shared::UserId;
use shared::adapters::SystemClock;

use super::super::confirm::confirmed;
use super::super::environment::Place;
use super::super::output;
use super::claims::HOLDER;
use super::gather::{Extent, Handle, Item, gather};
use super::letter::Letter;
use super::redrive::in_users_order;
use super::{Sources, WhichArgs, now, table};

/// So many are removed at a time, and parked ones of so many users.
const AT_ONCE: usize = 32;

#[derive(Debug, clap::Args)]
pub(super) struct HowArgs {
    /// Show what would be removed, and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub(super) yes: bool,
    /// At most so many [default: all]
    #[arg(long)]
    pub(super) limit: Option<usize>,
    /// The counts as JSON; with --dry-run one JSON object per line
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) async fn run(
    place: &Place,
    which: &WhichArgs,
    how: &HowArgs,
    sources: &Sources,
) -> anyhow::Result<()> {
    let limit = how.limit.unwrap_or(usize::MAX);
    let mut found = gather(place, which, sources, limit, Extent::All).await?;
    let all = std::mem::take(&mut found.items);
    let waits = |item: &Item| matches!(item.handle, Handle::Ending(_, false));
    let (waiting, mut meant): (Vec<Item>, Vec<Item>) = all.into_iter().partition(waits);
    found.notes.iter().for_each(output::note);
    if !waiting.is_empty() {
        let left = waiting.len();
        output::note(format!("{left} end(s) of jobs are left: workers write them"));
    }
    in_users_order(&mut meant);
    let total = meant.len();
    let result = if how.dry_run {
        let letters: Vec<&Letter> = meant.iter().map(|item| &item.letter).collect();
        let shown = table::show(&letters, now(), how.json);
        output::note(format!("{total} would be removed; nothing was changed"));
        found.items = meant;
        shown
    } else if total > 0 && !confirmed(how.yes, &format!("Remove {total} job(s) for good?")).await? {
        found.items = meant;
        Err(anyhow::anyhow!("nothing was changed"))
    } else {
        let dropped = remove_all(sources, meant).await;
        if how.json {
            output::json(&json!({ "dropped": dropped, "failed": total - dropped }))?;
        } else {
            output::line(format!("{dropped} job(s) removed"))?;
        }
        if dropped == total {
            Ok(())
        } else {
            Err(anyhow::anyhow!("{} job(s) are where they were", total - dropped))
        }
    };
    found.give_back().await;
    result
}

/// Removes several users' jobs at a time; how many.
async fn remove_all(sources: &Sources, items: Vec<Item>) -> usize {
    let is_parked = |item: &Item| matches!(item.handle, Handle::Parked(_));
    let (parked, others): (Vec<Item>, Vec<Item>) = items.into_iter().partition(is_parked);
    let mut dropped = 0;
    let mut note = |letter: &Letter, removed: anyhow::Result<()>| match removed {
        Ok(()) => dropped += 1,
        Err(error) => output::note(format!("{:?} stays where it is: {error:#}", letter.job)),
    };
    let removing = others.into_iter().map(|Item { letter, handle }| async move {
        (remove(sources, &letter, handle).await, letter)
    });
    let mut removing = stream::iter(removing).buffer_unordered(AT_ONCE);
    while let Some((removed, letter)) = removing.next().await {
        note(&letter, removed);
    }
    let removing =
        by_user(parked).into_iter().map(|(user, items)| remove_parked(sources, user, items));
    let mut removing = stream::iter(removing).buffer_unordered(AT_ONCE);
    while let Some(ended) = removing.next().await {
        for (letter, removed) in ended {
            note(&letter, removed);
        }
    }
    dropped
}

/// The parked jobs of each user.
fn by_user(items: Vec<Item>) -> Vec<(Option<UserId>, Vec<Item>)> {
    let mut users: Vec<(Option<UserId>, Vec<Item>)> = Vec::new();
    for item in items {
        let user = user_of(&item.letter.name);
        match users.last_mut() {
            // One user's follow each other.
            Some((last, items)) if *last == user => items.push(item),
            _ => users.push((user, vec![item])),
        }
    }
    users
}

async fn remove_parked(
    sources: &Sources,
    user: Option<UserId>,
    items: Vec<Item>,
) -> Vec<(Letter, anyhow::Result<()>)> {
    let found = items.iter().filter_map(|item| match item.handle {
        Handle::Parked(generation) => Some((item.letter.name.clone(), generation)),
        _ => None,
    });
    let found: Vec<Entry> = found.collect();
    let letters = items.into_iter().map(|item| item.letter);
    let ended = async {
        let user = user.context("this is no parked job's name")?;
        let bucket = sources.bucket.as_ref().context("no bucket")?;
        let clock = SystemClock::default();
        anyhow::Ok(drop_parked(bucket, &clock, HOLDER, &user, &found).await?)
    };
    match ended.await {
        Ok(ended) => {
            letters.zip(ended.into_iter().map(|ended| ended.map_err(Into::into))).collect()
        }
        Err(why) => letters.map(|letter| (letter, Err(anyhow::anyhow!("{why:#}")))).collect(),
    }
}

async fn remove(sources: &Sources, letter: &Letter, handle: Handle) -> anyhow::Result<()> {
    match handle {
        Handle::Dead(deliveries) => {
            for Delivery { settle, .. } in deliveries {
                anyhow::ensure!(settle.ack().await, "its acknowledgement was not confirmed");
            }
            Ok(())
        }
        Handle::Parked(_) => unreachable!("parked jobs are removed under their user's claim"),
        Handle::Ending(generation, _) => {
            let bucket = sources.bucket.as_ref().context("no bucket")?;
            Ok(forget(bucket, &letter.name, generation).await?)
        }
    }
}
