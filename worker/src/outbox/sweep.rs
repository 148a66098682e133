//! Workers sweep `endings/` each minute and write what can be written by now.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use jiff::Timestamp;
use shared::ports::{Bucket, BucketError, Clock, Generation, Randomness};
use shared::sealing::Sealing;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::claim::Sighting;
use crate::metrics;
use crate::pubsub::PublishError;

use super::clearing::{Clearing, Ended, Event, PAUSE, Step};
use super::ending::{BadEnding, ClaimedBy, PREFIX, StoredEnding, Writable};
use super::own::{Kept, Own};

/// The time between two sweeps, about.
const EVERY: Duration = Duration::from_secs(60);
/// How many ends are read or written at a time: each may have 16 MiB.
const AT_ONCE: usize = 8;
/// How many ends one sweep looks at, at most.
const MOST: usize = 10_000;

/// Sweeps `endings/`.
pub struct OutboxSweep {
    /// The token store's bucket.
    pub bucket: Arc<dyn Bucket>,
    /// Opens and seals them.
    pub sealing: Sealing,
    /// Where ends are written to.
    pub own: Own,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub random: Arc<Randomness>,
    /// The name of this process in claims.
    pub holder: String,
    /// Hears what a sweep shows of the topics and the bucket.
    pub on_sight: Arc<dyn Fn(Sight<'_>) + Send + Sync>,
}

/// What a sweep shows of the places that ends are written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight<'a> {
    /// The topic of this full name took a part of an end.
    TopicTakes(&'a str),
    /// The bucket took a claim.
    BucketTakes,
    /// The bucket was listed, and no end of this worker's waits in it.
    NothingWaits,
}

/// What one sweep found and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Ends that were written.
    pub written: usize,
    /// Ends that still wait, for whatever topics.
    pub left: usize,
    /// Ends that their topics refuse, which `left` counts too.
    pub refused: usize,
}

/// What a sweep remembers until the next one.
#[derive(Debug, Default)]
pub struct Memory {
    /// Others' claims.
    claims: BTreeMap<String, Sighting>,
    /// Objects that were read, by the generation that was read.
    read: BTreeMap<String, (Generation, Kept)>,
}

/// An end that waits: the time at which it was stored, its object, and its topics.
type Waiting = (Timestamp, String, BTreeSet<String>);

impl Memory {
    /// The ends that this worker may write.
    fn own(&self) -> impl Iterator<Item = Waiting> {
        self.read.iter().filter_map(|(name, (_, kept))| match kept {
            Kept::Own { stored_at, topics } => Some((*stored_at, name.clone(), topics.clone())),
            _ => None,
        })
    }
}

impl OutboxSweep {
    /// Sweeps until `stop`. It first finishes the ends that it is writing.
    pub async fn run(self, stop: CancellationToken) {
        let mut memory = Memory::default();
        let mut told = String::new();
        let mut pause = EVERY.mul_f64(self.random.unit());
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.clock.sleep(pause) => {}
            }
            match self.turn(&mut memory, &stop).await {
                Ok(Swept { written, left, refused }) => {
                    told.clear();
                    if written > 0 {
                        info!(written, left, refused, "stored ends of jobs are written");
                    }
                }
                Err(error) => {
                    // An outage would say the same each minute.
                    let text = error.to_string();
                    if text != told {
                        warn!("stored ends of jobs cannot be listed and wait: {text}");
                    }
                    told = text;
                }
            }
            pause = EVERY.mul_f64(0.75 + self.random.unit() / 4.0);
        }
    }

    /// One sweep, by the ends' age: one alone until its topics have taken it, and then those
    /// of the same topics at once. After one that could not be written no other of its topics
    /// is tried.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub async fn turn(
        &self,
        memory: &mut Memory,
        stop: &CancellationToken,
    ) -> Result<Swept, BucketError> {
        let listed = self.list().await?;
        self.read_new(memory, &listed).await;
        let mut waiting: Vec<_> = memory.own().collect();
        waiting.sort_unstable();
        let waited_for_own = !waiting.is_empty();
        let (mut taking, mut stuck) = (BTreeSet::new(), BTreeSet::new());
        let mut cleared = 0;
        let mut waiting = waiting.into_iter().peekable();
        while let Some((_, name, topics)) = waiting.next()
            && !stop.is_cancelled()
        {
            if !topics.is_disjoint(&stuck) {
                continue;
            }
            let (mut names, mut all) = (vec![name], topics);
            if all.is_subset(&taking) {
                let goes_too = |(_, _, topics): &Waiting| topics.is_subset(&taking);
                while names.len() < AT_ONCE
                    && let Some((_, name, topics)) = waiting.next_if(goes_too)
                {
                    names.push(name);
                    all.extend(topics);
                }
            }
            let (written, unwritten) = self.clear(memory, names, stop).await;
            cleared += written;
            if unwritten {
                taking.retain(|topic| !all.contains(topic));
                stuck.extend(all);
            } else if written > 0 {
                taking.extend(all);
            }
        }
        let refused = memory.read.values().filter(|(_, kept)| *kept == Kept::Refused).count();
        let left = listed.len() - cleared;
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        metrics::set(metrics::ENDINGS, left as f64);
        if !waited_for_own {
            (self.on_sight)(Sight::NothingWaits);
        }
        Ok(Swept { written: cleared, left, refused })
    }

    async fn list(&self) -> Result<Vec<(String, Generation)>, BucketError> {
        let (mut all, mut page) = (Vec::new(), None);
        loop {
            let listing = self.bucket.list(PREFIX, page).await?;
            all.extend(listing.objects);
            page = listing.next_page;
            if page.is_none() || all.len() >= MOST {
                return Ok(all);
            }
        }
    }

    /// Reads what is new or has changed, and forgets what is gone.
    async fn read_new(&self, memory: &mut Memory, listed: &[(String, Generation)]) {
        let names: BTreeMap<&String, Generation> =
            listed.iter().map(|(name, generation)| (name, *generation)).collect();
        memory.read.retain(|name, (generation, _)| names.get(name) == Some(generation));
        memory.claims.retain(|name, _| names.contains_key(name));
        let new = names.into_keys().filter(|name| !memory.read.contains_key(*name)).cloned();
        let new: Vec<String> = new.collect();
        let mut objects = stream::iter(new)
            .map(async |name| {
                let object = self.bucket.get(&name).await;
                (name, object)
            })
            .buffer_unordered(AT_ONCE);
        while let Some((name, object)) = objects.next().await {
            // What cannot be read now is read at the next sweep.
            let Ok(Some(object)) = object else { continue };
            let kept = match StoredEnding::decode(&name, &object.content, &self.sealing) {
                Ok(ending) => self.own.kept(&ending),
                Err(why) => {
                    warn!(object = name, "a stored end of a job stays where it is: {why}");
                    Kept::Unreadable
                }
            };
            memory.read.insert(name, (object.generation, kept));
        }
    }

    /// Writes these ends: how many were, and whether a topic or the bucket took nothing.
    async fn clear(
        &self,
        memory: &mut Memory,
        names: Vec<String>,
        stop: &CancellationToken,
    ) -> (usize, bool) {
        let clearing = names.into_iter().map(|name| {
            let seen = memory.claims.get(&name).copied();
            async move {
                let ended = self.clear_one(&name, seen, stop).await;
                (name, ended)
            }
        });
        let (mut written, mut unwritten) = (0, false);
        for (name, ended) in futures_util::future::join_all(clearing).await {
            match ended {
                Ended::Held(sighting) => {
                    memory.claims.insert(name, sighting);
                }
                Ended::Cleared => {
                    memory.read.remove(&name);
                    written += 1;
                }
                Ended::Refused => {
                    warn!(
                        object = name,
                        "a topic refuses this end of a job; see `fleet dead list`"
                    );
                    memory.read.entry(name).and_modify(|(_, kept)| *kept = Kept::Refused);
                }
                Ended::Unwritten => unwritten = true,
                Ended::Lost | Ended::Skipped => {}
            }
        }
        (written, unwritten)
    }

    /// Drives one [`Clearing`].
    async fn clear_one(
        &self,
        name: &str,
        seen: Option<Sighting>,
        stop: &CancellationToken,
    ) -> Ended {
        let mut clearing = Clearing::new(seen);
        let mut ending = None;
        let mut event = Event::Start;
        loop {
            let step = clearing.step(&event, self.clock.monotonic());
            event = match (step, &mut ending) {
                (Step::End(ended), _) => return ended,
                (Step::Read, ending) => match self.bucket.get(name).await {
                    Err(_) => Event::NotSaved,
                    Ok(None) => Event::NotFound,
                    Ok(Some(object)) => match self.decode(name, &object.content) {
                        Err(_) => Event::NotFound,
                        Ok((found, claimed)) => {
                            let own = matches!(self.own.kept(&found), Kept::Own { .. });
                            let parts = found.rest.len();
                            *ending = Some(found);
                            Event::Found {
                                generation: object.generation,
                                claimed,
                                parts,
                                may_be_written: own,
                            }
                        }
                    },
                },
                (Step::Wait(pause), _) => tokio::select! {
                    biased;
                    () = stop.cancelled(), if pause > PAUSE => Event::Stopped,
                    () = self.clock.sleep(pause) => Event::Waited,
                },
                (Step::Delete(expected), _) => match self.bucket.delete(name, expected).await {
                    Ok(_) => Event::Deleted,
                    Err(error) => not_saved(&error),
                },
                (_, None) => unreachable!("it was read first"),
                (Step::Claim(expected) | Step::Rewrite(expected), Some(ending)) => {
                    self.save(name, ending, true, expected).await
                }
                (Step::Release { expected, refused }, Some(ending)) => {
                    ending.refused |= refused;
                    self.save(name, ending, false, expected).await
                }
                (Step::Write, Some(ending)) => self.write(ending).await,
            };
        }
    }

    fn decode(&self, name: &str, content: &[u8]) -> Result<(StoredEnding, bool), BadEnding> {
        StoredEnding::decode_claimed(name, content, &self.sealing)
    }

    async fn save(
        &self,
        name: &str,
        ending: &StoredEnding,
        claimed: bool,
        expected: Generation,
    ) -> Event {
        let claim =
            claimed.then(|| ClaimedBy { holder: self.holder.clone(), turn: self.random.id() });
        let asked = self.clock.monotonic();
        let content = ending.encode(claim, &self.sealing);
        match self.bucket.put(name, content, expected).await {
            Ok(generation) => {
                (self.on_sight)(Sight::BucketTakes);
                Event::Saved(generation, asked)
            }
            Err(error) => not_saved(&error),
        }
    }

    /// Writes the first part that is left, and takes it off.
    async fn write(&self, ending: &mut StoredEnding) -> Event {
        let Some(part) = ending.rest.first() else { return Event::Written };
        let event = match part {
            Writable::Remember { object, content } => {
                match self.bucket.put(object, content.clone(), Generation::ABSENT).await {
                    // Another delivery's end is remembered, or this very write.
                    Ok(_) | Err(BucketError::PreconditionFailed) => Event::Written,
                    Err(_) => Event::Unwritten,
                }
            }
            Writable::DeadLetter { topic, message } | Writable::Outcome { topic, message } => {
                let Some(publisher) = self.own.topic(part) else { return Event::Unwritten };
                match publisher.publish_alone(message.clone()).await {
                    Ok(_) => {
                        (self.on_sight)(Sight::TopicTakes(topic));
                        Event::Written
                    }
                    Err(PublishError::Refused { .. }) => Event::Refused,
                    Err(_) => Event::Unwritten,
                }
            }
        };
        if event == Event::Written {
            ending.rest.remove(0);
        }
        event
    }
}

fn not_saved(error: &BucketError) -> Event {
    match error {
        BucketError::PreconditionFailed => Event::Conflict,
        _ => Event::NotSaved,
    }
}

impl fmt::Debug for OutboxSweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OutboxSweep").field("own", &self.own).finish_non_exhaustive()
    }
}
