//! The claim to resume a user's jobs: `parked/<user>/claim`.

use jiff::Timestamp;
use serde::Serialize;
use shared::UserId;
use shared::ports::{Bucket, BucketError, Clock, Generation, Monotonic};

use crate::claim::{Judged, RENEW_AFTER, STOP_AFTER, Sighting, judge};

use super::object::claim_of;

const VERSION: u32 = 1;
/// One object may change once a second.
const PAUSE: std::time::Duration = std::time::Duration::from_secs(1);
const TRIES: u32 = 8;

/// As it is stored, for people: that the object is there is what counts.
#[derive(Serialize)]
struct Stored<'a> {
    version: u32,
    holder: &'a str,
    at: Timestamp,
}

/// The right to publish a user's parked jobs again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    object: String,
    generation: Generation,
    /// When its last write was sent.
    renewed_at: Monotonic,
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
        let mut tries = 0;
        loop {
            let found = bucket.get(&object).await?.map(|found| found.generation);
            let expected = match judge(found, seen, clock.monotonic()) {
                Judged::Take(expected) => expected,
                Judged::Held(sighting) => return Ok(Claimed::Held(Some(sighting))),
            };
            let renewed_at = clock.monotonic();
            match bucket.put(&object, content(holder, clock), expected).await {
                Ok(generation) => {
                    return Ok(Claimed::Mine(Self { object, generation, renewed_at }));
                }
                Err(BucketError::PreconditionFailed) => return Ok(Claimed::Held(None)),
                // Another process has released it within this second.
                Err(BucketError::Throttled) if tries < TRIES => {
                    tries += 1;
                    clock.sleep(PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
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
        match bucket.put(&self.object, content(holder, clock), self.generation).await {
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
    pub async fn release(self, bucket: &dyn Bucket, clock: &dyn Clock) {
        for _ in 0..TRIES {
            let age = clock.monotonic().since(self.renewed_at);
            clock.sleep(PAUSE.saturating_sub(age)).await;
            match bucket.delete(&self.object, self.generation).await {
                Err(BucketError::Throttled | BucketError::Unavailable(_)) => {
                    clock.sleep(PAUSE).await;
                }
                _ => return,
            }
        }
    }
}

fn content(holder: &str, clock: &dyn Clock) -> bytes::Bytes {
    let stored = Stored { version: VERSION, holder, at: clock.wall() };
    serde_json::to_vec(&stored).expect("strings and numbers are JSON").into()
}
