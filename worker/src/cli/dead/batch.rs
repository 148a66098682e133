//! A batch of jobs that are redriven: published in order, then removed.

use std::collections::HashSet;

use crate::parking::{ParkedJob, user_of};
use crate::pubsub::{Delivery, Outgoing, PublishError, Publisher, Settle};
use crate::resuming::forget;
use anyhow::Context as _;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use shared::ports::{Bucket as _, Generation, Object};

use super::Sources;
use super::choice::{Counts, HowArgs};
use super::claims::Claims;
use super::gather::{Handle, Item};
use super::letter::{Letter, counted, revived};

/// How a published job is removed.
enum Removal {
    Object(String, Generation),
    Ack(Vec<Box<dyn Settle>>),
}

/// What was read of a parked job, if it is still there.
type Read = anyhow::Result<Option<Object>>;

/// A job on its way, and what removes it when it has arrived.
struct Sent {
    letter: Letter,
    publishing: BoxFuture<'static, Result<String, PublishError>>,
    removal: Removal,
}

/// What every job is redriven with.
pub(super) struct Work<'a> {
    pub(super) sources: &'a Sources,
    pub(super) how: &'a HowArgs,
    pub(super) publisher: &'a Publisher,
}

impl Work<'_> {
    /// Publishes in order, waits for every word of the topic, and removes what
    /// arrived. A user whose job did not is left from there on.
    pub(super) async fn one_batch(
        &self,
        batch: Vec<Item>,
        claims: &mut Claims,
        counts: &mut Counts,
        stuck_users: &mut HashSet<String>,
    ) -> Vec<(Letter, anyhow::Error)> {
        let mut failed = Vec::new();
        let mut sent = Vec::new();
        let mut read = self.read(&batch, claims).await.into_iter();
        for Item { letter, handle } in batch {
            let parked = matches!(handle, Handle::Parked(_)).then(|| read.next()).flatten();
            // Nothing of a user overtakes a job that failed.
            if letter.user.as_ref().is_some_and(|user| stuck_users.contains(user)) {
                continue;
            }
            match self.message(&letter, handle, parked) {
                Ok(Some((message, removal))) => {
                    let publishing = self.publisher.publish(message).boxed();
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
                Ok(_) => removals.push(self.remove(letter, removal)),
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

    /// Claims the users whose parked jobs these are, and reads the jobs, all at once: in their
    /// order.
    async fn read(&self, batch: &[Item], claims: &mut Claims) -> Vec<Read> {
        let Some(bucket) = &self.sources.bucket else { return Vec::new() };
        let is_parked = |item: &&Item| matches!(item.handle, Handle::Parked(_));
        let names: Vec<&String> =
            batch.iter().filter(is_parked).map(|item| &item.letter.name).collect();
        let left = claims.take(bucket, names.iter().filter_map(|name| user_of(name))).await;
        let left = &left;
        join_all(names.into_iter().map(async |name| {
            let user = user_of(name).context("this is no parked job's name")?;
            if let Some(why) = left.get(&user) {
                anyhow::bail!("{why:#}");
            }
            Ok(bucket.get(name).await?)
        }))
        .await
    }

    /// The message that is published; `None` when the job is gone. `parked`: what was read of a
    /// parked job.
    fn message(
        &self,
        letter: &Letter,
        handle: Handle,
        parked: Option<Read>,
    ) -> anyhow::Result<Option<(Outgoing, Removal)>> {
        let generation = match handle {
            Handle::Dead(deliveries) => {
                let first = deliveries.first().context("a group has a letter")?;
                let run = self.how.run(letter);
                let message = revived(&first.received, letter, run, self.how.unordered)?;
                let settle = deliveries.into_iter().map(|Delivery { settle, .. }| settle);
                return Ok(Some((message, Removal::Ack(settle.collect()))));
            }
            Handle::Ending(..) => return Ok(None),
            Handle::Parked(generation) => generation,
        };
        let name = &letter.name;
        let found = parked.context("no bucket")??;
        let Some(object) = found.filter(|object| object.generation == generation) else {
            return Ok(None);
        };
        let parked = ParkedJob::decode(name, &object.content, &self.sources.sealing)?;
        let mut message = parked.into_message()?;
        if self.how.unordered {
            message.ordering_key.clear();
        }
        Ok(Some((counted(message), Removal::Object(name.clone(), generation))))
    }

    async fn remove(
        &self,
        letter: Letter,
        removal: Removal,
    ) -> Result<(), (Letter, anyhow::Error)> {
        let result = match removal {
            Removal::Ack(settle) => {
                let acknowledged = join_all(settle.into_iter().map(Settle::ack)).await;
                if acknowledged.into_iter().all(|confirmed| confirmed) {
                    Ok(())
                } else {
                    Err(anyhow::anyhow!("its acknowledgement was not confirmed"))
                }
            }
            Removal::Object(name, generation) => match &self.sources.bucket {
                Some(bucket) => forget(bucket, &name, generation).await.map_err(anyhow::Error::new),
                None => Ok(()),
            },
        };
        result.map_err(|error| (letter, error.context("published, and it may come twice")))
    }
}
