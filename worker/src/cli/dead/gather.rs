//! Finds parked jobs, dead letters and ends of jobs that wait.

use std::time::Duration;

use crate::outbox::{self, StoredEnding};
use crate::parking::{BadParked, PREFIX, ParkedJob, is_claim, prefix_of};
use crate::pubsub::{Delivery, Intake, IntakeError, IntakeSettings, OUTSTANDING_BYTES, Source};
use anyhow::Context as _;
use futures_util::future::{BoxFuture, join_all};
use shared::adapters::{RetryingBucket, SystemClock};
use shared::ports::{Bucket as _, Clock as _, Generation};
use shared::sealing::{NotOpened, Sealing};

use super::super::environment::Place;
use super::super::output::{Usage, note};
use super::group::{Group, grouped};
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
/// How long dead letters are waited for, unless something else is said: nobody can tell how
/// many there are. What an earlier look gave back may have been delivered once more to the
/// stream of that look before it closed, and is seen again when that delivery's lease ends.
const WAIT: Duration = ACK_EXTENSION.saturating_add(Duration::from_secs(2));
/// And by those who only look, once some have come: what is there comes in one go.
const WAIT_FOR_MORE: Duration = Duration::from_secs(1);
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
    /// All letters of the job.
    Dead(Vec<Delivery>),
    /// The object's generation when it was read, and whether a topic refuses what is in it:
    /// if not, the workers write it.
    Ending(Generation, bool),
}

/// How far is looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// Until there are as many jobs as are wanted.
    Limit,
    /// To the end, so that all letters of one job are found.
    All,
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
    extent: Extent,
) -> anyhow::Result<Found> {
    let mut found =
        Found { items: Vec::new(), notes: Vec::new(), others: Vec::new(), released: None };
    if let Some(bucket) = &sources.bucket {
        if sources.parked {
            parked((bucket, &sources.sealing), which, limit, &mut found)
                .await
                .with_context(|| format!("parked jobs of bucket {}", sources.bucket_name))?;
        }
        if sources.endings {
            endings((bucket, &sources.sealing), which, limit, &mut found)
                .await
                .with_context(|| format!("ends of jobs in bucket {}", sources.bucket_name))?;
        }
    }
    if let Some(subscription) = &sources.dead {
        dead(place, which, subscription, limit, extent, &mut found).await?;
    }
    let sealed = found.items.iter().filter(|item| item.letter.is_sealed).count();
    if sealed > 0 {
        found.notes.push(format!(
            "the messages of {sealed} parked job(s) are sealed, and this process has not their key: \
             what is shown of them stands beside the seal, and nothing vouches for it (--keyring)"
        ));
    }
    // Stable: parked jobs are in their order already.
    found.items.sort_by_key(|item| item.letter.published);
    Ok(found)
}

async fn parked(
    (bucket, sealing): (&RetryingBucket, &Sealing),
    which: &WhichArgs,
    limit: usize,
    found: &mut Found,
) -> anyhow::Result<()> {
    let prefix = which.user.as_ref().map_or_else(|| PREFIX.to_owned(), prefix_of);
    let (mut page, mut looked_at) = (None, 0);
    loop {
        let listing = bucket.list(&prefix, page).await?;
        let names = listing.objects.into_iter().filter(|(name, _)| !is_claim(name));
        for names in names.collect::<Vec<_>>().chunks(READS) {
            looked_at += names.len();
            let objects = join_all(names.iter().map(|(name, _)| bucket.get(name))).await;
            for ((name, _), object) in names.iter().zip(objects) {
                let Some(object) = object? else { continue };
                let letter = match parked_letter(name, &object.content, sealing) {
                    Ok(letter) => letter,
                    Err(why) => {
                        found.notes.push(format!("{name} is left out: {why}"));
                        continue;
                    }
                };
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

/// Without the key, what stands beside the seal tells enough to list a job, or to drop it.
fn parked_letter(name: &str, content: &[u8], sealing: &Sealing) -> Result<Letter, BadParked> {
    match ParkedJob::decode(name, content, sealing) {
        Ok(parked) => Ok(Letter::parked(&parked, name)),
        Err(BadParked::Sealed(NotOpened::NoKeyring(_) | NotOpened::UnknownKey(_))) => {
            let clear = ParkedJob::decode_clear(name, content)?;
            Ok(Letter { is_sealed: true, ..Letter::parked(&clear, name) })
        }
        Err(why) => Err(why),
    }
}

async fn endings(
    (bucket, sealing): (&RetryingBucket, &Sealing),
    which: &WhichArgs,
    limit: usize,
    found: &mut Found,
) -> anyhow::Result<()> {
    let prefix = which
        .user
        .as_ref()
        .map_or_else(|| outbox::PREFIX.to_owned(), |user| outbox::prefix_of(Some(user)));
    let mut page = None;
    loop {
        let listing = bucket.list(&prefix, page).await?;
        for names in listing.objects.chunks(READS) {
            let objects = join_all(names.iter().map(|(name, _)| bucket.get(name))).await;
            for ((name, _), object) in names.iter().zip(objects) {
                let Some(object) = object? else { continue };
                let (letter, refused) = match StoredEnding::decode(name, &object.content, sealing) {
                    Ok(ending) => (Letter::ending(&ending, name), ending.refused),
                    Err(why) => {
                        found.notes.push(format!("{name} is left out: {why}"));
                        continue;
                    }
                };
                if !which.want(&letter) {
                    continue;
                }
                if found.items.len() >= limit {
                    found.notes.push(format!("there are more than {limit} (--limit)"));
                    return Ok(());
                }
                let handle = Handle::Ending(object.generation, refused);
                found.items.push(Item { letter, handle });
            }
        }
        page = listing.next_page;
        if page.is_none() {
            return Ok(());
        }
    }
}

async fn dead(
    place: &Place,
    which: &WhichArgs,
    subscription: &str,
    limit: usize,
    extent: Extent,
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
    let wait = which.wait.unwrap_or(WAIT);
    note(format!("looking for dead letters until none has come for {} s", wait.as_secs_f64()));
    let clock = SystemClock::default();
    let (mut pulled, mut wanted) = (Vec::new(), found.items.len());
    let result = loop {
        let wait = match extent {
            Extent::Limit if !pulled.is_empty() => which.wait.unwrap_or(WAIT_FOR_MORE),
            Extent::Limit | Extent::All => wait,
        };
        let delivery = tokio::select! {
            biased;
            delivery = messages.next() => delivery,
            () = clock.sleep(wait) => break Ok(()),
        };
        let delivery = match delivery {
            Ok(delivery) => delivery,
            Err(IntakeError::NoSubscription(name)) => {
                let why = format!(
                    "{name} does not exist; create it (`fleet setup`, or Terraform) or correct --dead-topic, or --dead-subscription"
                );
                break Err(Usage(why).into());
            }
            Err(error) => break Err(anyhow::Error::new(error).context("dead letters")),
        };
        let letter = Letter::dead(&delivery.received, now());
        wanted += usize::from(which.want(&letter));
        pulled.push((letter, delivery));
        if wanted > limit && extent == Extent::Limit {
            break Ok(());
        }
        if pulled.len() >= MAX_HELD {
            found.notes.push(format!("{MAX_HELD} dead letters were looked at; there may be more"));
            break Ok(());
        }
    };
    let mut is_cut = false;
    for Group { letter, deliveries } in grouped(pulled) {
        let is_wanted = which.want(&letter);
        if is_wanted && found.items.len() < limit {
            found.items.push(Item { letter, handle: Handle::Dead(deliveries) });
        } else {
            is_cut |= is_wanted;
            found.others.extend(deliveries);
        }
    }
    if is_cut {
        found.notes.push(format!("there are more than {limit} (--limit)"));
    }
    found.released = Some(messages.stop());
    result
}
