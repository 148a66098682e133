//! Finds parked jobs and dead letters.

use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::{BoxFuture, join_all};
use shared::adapters::{CloudStorage, SystemClock};
use shared::ports::{Bucket as _, Clock as _, Generation};
use worker::parking::{PREFIX, ParkedJob, prefix_of};
use worker::pubsub::{Delivery, Intake, IntakeSettings, OUTSTANDING_BYTES, Source};

use super::super::connect::Place;
use super::letter::Letter;
use super::{Sources, WhichArgs, now};

/// So many dead letters are held at once; the client stops at 100 MiB besides.
const MAX_HELD: usize = 10_000;
/// So many parked jobs are gone through in one command.
const MAX_PARKED: usize = 100_000;
/// So many parked jobs are read at once.
const READS: usize = 16;
/// How long dead letters stay unseen if this process dies, and on servers that do
/// not redeliver at once what is given back at the end: the least that is allowed.
const ACK_EXTENSION: Duration = Duration::from_secs(10);
/// How long giving back may take.
const RELEASE: Duration = Duration::from_secs(10);

/// A job and the way to it.
pub(super) struct Item {
    pub(super) letter: Letter,
    pub(super) handle: Handle,
}

pub(super) enum Handle {
    /// The object's generation when it was read.
    Parked(Generation),
    Dead(Delivery),
}

/// What was found.
pub(super) struct Found {
    /// One user's in their order.
    pub(super) items: Vec<Item>,
    /// What was left out and why, for people.
    pub(super) notes: Vec<String>,
    /// Dead letters that are not meant; they are held so that they do not come
    /// again while others are looked for.
    others: Vec<Delivery>,
    /// Ready when everything that was pulled is given back or acknowledged.
    released: Option<BoxFuture<'static, ()>>,
}

impl Found {
    /// Gives back every dead letter that was not acknowledged.
    pub(super) async fn give_back(self) {
        let Self { items, others, released, .. } = self;
        // Dropping a delivery gives it back.
        drop(items);
        drop(others);
        if let Some(released) = released {
            tokio::select! {
                biased;
                () = released => {}
                () = SystemClock::default().sleep(RELEASE) => {}
            }
        }
    }
}

/// Looks everywhere, for at most `limit` jobs.
pub(super) async fn gather(
    place: &Place,
    which: &WhichArgs,
    sources: &Sources,
    limit: usize,
) -> anyhow::Result<Found> {
    let mut found =
        Found { items: Vec::new(), notes: Vec::new(), others: Vec::new(), released: None };
    if let Some(bucket) = &sources.parked {
        parked(bucket, which, limit, &mut found)
            .await
            .with_context(|| format!("parked jobs of bucket {}", bucket.name()))?;
    }
    if let Some(subscription) = &sources.dead {
        dead(place, which, subscription, limit, &mut found).await?;
    }
    // Stable: parked jobs are in their order already.
    found.items.sort_by_key(|item| item.letter.published);
    Ok(found)
}

async fn parked(
    bucket: &CloudStorage,
    which: &WhichArgs,
    limit: usize,
    found: &mut Found,
) -> anyhow::Result<()> {
    let prefix = which.user.as_ref().map_or_else(|| PREFIX.to_owned(), prefix_of);
    let (mut page, mut looked_at) = (None, 0);
    loop {
        let listing = bucket.list(&prefix, page).await?;
        for names in listing.objects.chunks(READS) {
            looked_at += names.len();
            let objects = join_all(names.iter().map(|(name, _)| bucket.get(name))).await;
            for ((name, _), object) in names.iter().zip(objects) {
                let Some(object) = object? else { continue };
                let parked = match ParkedJob::decode(&object.content) {
                    Ok(parked) => parked,
                    Err(why) => {
                        found.notes.push(format!("{name} is left out: {why}"));
                        continue;
                    }
                };
                let letter = Letter::parked(&parked, name);
                if !which.want(&letter) {
                    continue;
                }
                if found.items.len() >= limit {
                    found.notes.push(format!("there are more than {limit} (--limit)"));
                    return Ok(());
                }
                found.items.push(Item { letter, handle: Handle::Parked(object.generation) });
            }
        }
        page = listing.next_page;
        if page.is_none() {
            return Ok(());
        }
        if looked_at >= MAX_PARKED {
            found.notes.push(format!("{MAX_PARKED} parked jobs were looked at; there are more"));
            return Ok(());
        }
    }
}

async fn dead(
    place: &Place,
    which: &WhichArgs,
    subscription: &str,
    limit: usize,
    found: &mut Found,
) -> anyhow::Result<()> {
    let settings = IntakeSettings {
        subscription: subscription.to_owned(),
        max_outstanding: MAX_HELD,
        max_outstanding_bytes: OUTSTANDING_BYTES,
        ack_extension: ACK_EXTENSION,
    };
    let mut messages: Box<dyn Source> =
        Box::new(Intake::open(&place.connection(), settings).await?);
    let clock = SystemClock::default();
    let mut held = 0;
    let result = loop {
        let delivery = tokio::select! {
            biased;
            delivery = messages.next() => delivery,
            () = clock.sleep(which.wait) => break Ok(()),
        };
        let delivery = match delivery {
            Ok(delivery) => delivery,
            Err(error) => break Err(anyhow::Error::new(error)),
        };
        held += 1;
        let letter = Letter::dead(&delivery.received, now());
        if !which.want(&letter) {
            found.others.push(delivery);
        } else if found.items.len() >= limit {
            found.others.push(delivery);
            found.notes.push(format!("there are more than {limit} (--limit)"));
            break Ok(());
        } else {
            found.items.push(Item { letter, handle: Handle::Dead(delivery) });
        }
        if held >= MAX_HELD {
            found.notes.push(format!("{MAX_HELD} dead letters were looked at; there may be more"));
            break Ok(());
        }
    };
    found.released = Some(messages.stop());
    result.context("dead letters (name their subscription with --dead-subscription)")
}
