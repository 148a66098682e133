//! The claim to resume a user's jobs: `parked/<user>/claim`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::UserId;
use shared::ports::{Bucket, BucketError, Clock, Generation, Monotonic};
use tracing::debug;

use crate::claim::{Judged, RENEW_AFTER, STOP_AFTER, Sighting, judge};

use super::object::{claim_of, user_of};
use super::resumption::Entry;

const VERSION: u32 = 1;

/// As it is stored. That the object is there is what counts; who holds it is for people.
#[derive(Serialize, Deserialize)]
struct Stored {
    version: u32,
    holder: String,
    at: Timestamp,
    /// Parked jobs that were published and could not be deleted, by name and generation.
    #[serde(default)]
    published: Vec<(String, i64)>,
}

/// The right to publish a user's parked jobs again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    object: String,
    generation: Generation,
    /// When its last write was sent.
    renewed_at: Monotonic,
    /// Parked jobs that were published and could not be deleted.
    published: Vec<Entry>,
}

/// Whether the claim was had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claimed {
    /// It was.
    Mine(Claim),
    /// Another process has it; this is what to remember of its claim.
    Held(Option<Sighting>),
}

/// Whether the claim still is one's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewed {
    /// It is.
    Mine,
    /// Another process has taken it over: publish nothing more.
    Lost,
}

impl Claim {
    /// Claims a user's parked jobs for `holder`. `seen` is what this process remembers of
    /// another's claim.
    ///
    /// Cancelling it may leave a claim that nobody releases, to be taken over.
    ///
    /// # Errors
    /// When the bucket does not answer.
    pub async fn take(
        bucket: &dyn Bucket,
        clock: &dyn Clock,
        user: &UserId,
        holder: &str,
        seen: Option<Sighting>,
    ) -> Result<Claimed, BucketError> {
        let object = claim_of(user);
        let found = bucket.get(&object).await?;
        let generation = found.as_ref().map(|found| found.generation);
        let expected = match judge(generation, seen, clock.monotonic()) {
            Judged::Take(expected) => expected,
            Judged::Held(sighting) => return Ok(Claimed::Held(Some(sighting))),
        };
        let renewed_at = clock.monotonic();
        let published = found.map_or_else(Vec::new, |found| noted(user, &found.content));
        match bucket.put(&object, content(holder, clock, &published), expected).await {
            Ok(generation) => Ok(Claimed::Mine(Self { object, generation, renewed_at, published })),
            Err(BucketError::PreconditionFailed) => Ok(Claimed::Held(None)),
            Err(error) => Err(error),
        }
    }

    /// Parked jobs that an earlier holder has published and could not delete.
    pub fn published(&self) -> &[Entry] {
        &self.published
    }

    /// Writes into the claim that these were published. Whoever takes it over deletes them
    /// and does not publish them again.
    ///
    /// # Errors
    /// When the bucket does not take it: they are published again.
    pub async fn note(
        &mut self,
        bucket: &dyn Bucket,
        clock: &dyn Clock,
        holder: &str,
        published: Vec<Entry>,
    ) -> Result<(), BucketError> {
        self.published = published;
        let asked = clock.monotonic();
        let content = content(holder, clock, &self.published);
        self.generation = bucket.put(&self.object, content, self.generation).await?;
        self.renewed_at = asked;
        Ok(())
    }

    /// Whether something may be published under the claim at `now`.
    pub fn holds(&self, now: Monotonic) -> bool {
        now.since(self.renewed_at) < STOP_AFTER
    }

    /// Writes the claim again if it is getting old.
    ///
    /// # Errors
    /// When the bucket does not answer; nothing more may be published then.
    pub async fn renew(
        &mut self,
        bucket: &dyn Bucket,
        clock: &dyn Clock,
        holder: &str,
    ) -> Result<Renewed, BucketError> {
        let now = clock.monotonic();
        if now.since(self.renewed_at) < RENEW_AFTER {
            return Ok(Renewed::Mine);
        }
        let content = content(holder, clock, &self.published);
        match bucket.put(&self.object, content, self.generation).await {
            Ok(generation) => {
                self.generation = generation;
                self.renewed_at = now;
                Ok(Renewed::Mine)
            }
            Err(BucketError::PreconditionFailed) => Ok(Renewed::Lost),
            Err(error) => Err(error),
        }
    }

    /// Gives the claim up. What cannot be deleted is taken over by somebody later.
    pub async fn release(self, bucket: &dyn Bucket) {
        if let Err(error) = bucket.delete(&self.object, self.generation).await {
            debug!(object = self.object, "a claim is not released: {error}");
        }
    }
}

/// The jobs that a claim names as published. Whoever can write into the bucket must not be
/// able to have other users' jobs deleted by this.
fn noted(user: &UserId, content: &[u8]) -> Vec<Entry> {
    let Ok(Stored { published, .. }) = serde_json::from_slice(content) else { return Vec::new() };
    let own = |(name, _): &(String, i64)| user_of(name).as_ref() == Some(user);
    let published = published.into_iter().filter(own);
    published.map(|(name, generation)| (name, Generation(generation))).collect()
}

fn content(holder: &str, clock: &dyn Clock, published: &[Entry]) -> bytes::Bytes {
    let published = published.iter().map(|(name, at)| (name.clone(), at.0)).collect();
    let stored =
        Stored { version: VERSION, holder: holder.to_owned(), at: clock.wall(), published };
    serde_json::to_vec(&stored).expect("strings and numbers are JSON").into()
}
