//! Removes jobs for good.

use std::collections::HashMap;

use crate::parking::user_of;
use crate::pubsub::Delivery;
use crate::resuming::forget;
use anyhow::Context as _;
use futures_util::future::join_all;
use serde_json::json;
use shared::UserId;

use super::super::confirm::confirmed;
use super::super::environment::Place;
use super::super::output;
use super::claims::Claims;
use super::gather::{Extent, Handle, Item, gather};
use super::letter::Letter;
use super::redrive::in_users_order;
use super::{Sources, WhichArgs, now, table};

/// So many are removed at a time.
const BATCH: usize = 32;

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
    let mut claims = Claims::default();
    let mut dropped = 0;
    let mut items = items.into_iter().peekable();
    loop {
        let batch: Vec<Item> = items.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            return dropped;
        }
        let is_parked = |item: &&Item| matches!(item.handle, Handle::Parked(_));
        let parked = batch.iter().filter(is_parked);
        let users: Vec<UserId> = parked.filter_map(|item| user_of(&item.letter.name)).collect();
        let left = match &sources.bucket {
            Some(bucket) => claims.take(bucket, users).await,
            None => HashMap::new(),
        };
        let removing = batch.into_iter().map(|Item { letter, handle }| {
            let left = &left;
            async move { (remove(sources, &letter, handle, left).await, letter) }
        });
        for (removed, letter) in join_all(removing).await {
            match removed {
                Ok(()) => dropped += 1,
                Err(error) => {
                    output::note(format!("{:?} stays where it is: {error:#}", letter.job));
                }
            }
        }
        let next = items.peek().and_then(|item| item.letter.user.as_deref());
        claims.release_but(sources, next).await;
    }
}

/// `left`: users whose jobs another process has claimed.
async fn remove(
    sources: &Sources,
    letter: &Letter,
    handle: Handle,
    left: &HashMap<UserId, anyhow::Error>,
) -> anyhow::Result<()> {
    let bucket = || sources.bucket.as_ref().context("no bucket");
    match handle {
        Handle::Dead(deliveries) => {
            for Delivery { settle, .. } in deliveries {
                anyhow::ensure!(settle.ack().await, "its acknowledgement was not confirmed");
            }
        }
        Handle::Parked(generation) => {
            let user = user_of(&letter.name).context("this is no parked job's name")?;
            if let Some(why) = left.get(&user) {
                anyhow::bail!("{why:#}");
            }
            forget(bucket()?, &letter.name, generation).await?;
        }
        Handle::Ending(generation, _) => {
            forget(bucket()?, &letter.name, generation).await?;
        }
    }
    Ok(())
}
