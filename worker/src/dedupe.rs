//! Ends of jobs that are remembered: a job that has ended does not act again when its
//! message is delivered again.
//!
//! Pub/Sub delivers at least once. What is remembered is the end of a job that is done, or
//! whose effect must not be repeated; it is remembered before anything else is told, and a
//! later delivery of the job tells the same end again and runs nothing. Of two replicas that
//! end one job, the second reads what the first has written and tells that.
//!
//! What remains open is the time between an API's effect and the memory of it: a replica
//! that dies in between acts again, as does, with [`Dedupe::Memory`], every redelivery to
//! another replica.

mod memory;
mod object;

use std::sync::Arc;

use bytes::Bytes;
use shared::ports::{Bucket, BucketError, Clock, Generation};
use shared::sealing::Sealing;

use crate::effect::{Effect, Knowledge};
use crate::job::Job;
use crate::json::Json;
use crate::outcome::Status;

pub use memory::Remembered;

use memory::Found;
use object::Content;

/// Under this prefix lie the ends that are remembered.
pub const PREFIX: &str = "done/";

/// Where ends of jobs are remembered.
#[derive(Debug, Clone, Default)]
pub enum Dedupe {
    /// Nowhere: every delivery runs.
    #[default]
    Off,
    /// In this process: the last 100,000 ends, with results of 16 MiB.
    Memory(Arc<Remembered>),
    /// In this process and, for all replicas, as objects `done/<user>/<digest>.json`, created
    /// only if absent: one read before and one write after each job. A lifecycle rule on
    /// `done/` should delete them after the subscription's retention.
    Bucket(Arc<Remembered>, Arc<dyn Bucket>, Sealing),
}

/// An end that is remembered, and is told again.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// How the job ended.
    pub status: Status,
    /// What is known of its effect.
    pub effect: Effect,
    /// Whether doing it again does no harm.
    pub repeatable: bool,
    /// The API's status, if there was one.
    pub http_status: Option<u16>,
    /// The handler's result; null where there was no room to remember it.
    pub result: Json,
    /// What went wrong.
    pub reason: Option<String>,
}

/// What is remembered of a job's identity.
#[derive(Debug, Clone, PartialEq)]
pub enum Recalled {
    /// It ended like this.
    Same(Told),
    /// A job with this identity and other parameters has ended: this one must not run.
    OtherParameters,
    /// The object cannot be read, so the job may have acted.
    Unreadable {
        /// Its name.
        object: String,
    },
}

impl Told {
    /// What is known of the job's effect.
    pub fn known(&self) -> Knowledge {
        Knowledge { effect: self.effect, repeatable: self.repeatable }
    }
}

impl Dedupe {
    /// Whether anything is remembered.
    pub fn is_on(&self) -> bool {
        !matches!(self, Self::Off)
    }

    /// Remembers in this process.
    pub fn memory() -> Self {
        Self::Memory(Arc::default())
    }

    /// Remembers in `bucket`, sealed by `sealing`.
    pub fn bucket(bucket: Arc<dyn Bucket>, sealing: Sealing) -> Self {
        Self::Bucket(Arc::default(), bucket, sealing)
    }

    /// How the job ended, if that is remembered. Dropping the future is harmless.
    ///
    /// # Errors
    /// When the bucket does not answer.
    pub async fn recall(&self, job: &Job) -> Result<Option<Recalled>, BucketError> {
        let (remembered, bucket, sealing) = match self {
            Self::Off => return Ok(None),
            Self::Memory(remembered) => {
                return Ok(remembered.get(job).map(|found| found.recalled));
            }
            Self::Bucket(remembered, bucket, sealing) => (remembered, bucket, sealing),
        };
        // Where its result had no room in memory, the bucket has it, if it took it.
        let known = remembered.get(job);
        if let Some(Found { recalled, is_whole: true }) = known {
            return Ok(Some(recalled));
        }
        let Some(content) = read(&**bucket, job, sealing).await? else {
            return Ok(known.map(|found| found.recalled));
        };
        let recalled = content.recalled(job);
        if let Recalled::Same(told) = &recalled {
            remembered.insert(job, told);
        }
        Ok(Some(recalled))
    }

    /// Remembers how the job ended. `Some` is the end that another delivery of it has
    /// remembered first: it is to be told instead.
    ///
    /// Cancelling it leaves open whether it is remembered.
    ///
    /// # Errors
    /// When the bucket does not answer; this process knows all the same.
    pub async fn remember(
        &self,
        job: &Job,
        told: &Told,
        clock: &dyn Clock,
    ) -> Result<Option<Told>, BucketError> {
        match self {
            Self::Off => Ok(None),
            Self::Memory(remembered) => Ok(remembered.insert_if_new(job, told)),
            Self::Bucket(remembered, bucket, sealing) => {
                // A job whose end could not be written must not run here again.
                remembered.insert_if_new(job, told);
                let (name, content) = object::new(job, told, clock.wall(), sealing);
                match bucket.put(&name, content, Generation::ABSENT).await {
                    Ok(_) => {
                        remembered.insert(job, told);
                        return Ok(None);
                    }
                    Err(BucketError::PreconditionFailed) => {}
                    Err(error) => return Err(error),
                }
                let first = bucket.get(&name).await?;
                match first.map(|object| Content::read(&name, &object.content, sealing)) {
                    Some(Content::End { params, told: first })
                        if params == job.params_digest() && first != *told =>
                    {
                        remembered.insert(job, &first);
                        Ok(Some(first))
                    }
                    // This very write, whose answer was lost; or nothing that could be told:
                    // an object that cannot be read, or the end of a job with other
                    // parameters that ran at the same time.
                    _ => Ok(None),
                }
            }
        }
    }

    /// The object that remembers the job's end, for an end that is to be written later.
    /// `None` unless ends are remembered in the bucket.
    pub fn to_remember(
        &self,
        job: &Job,
        told: &Told,
        clock: &dyn Clock,
    ) -> Option<(String, Bytes)> {
        let Self::Bucket(.., sealing) = self else { return None };
        Some(object::new(job, told, clock.wall(), sealing))
    }
}

/// What the bucket remembers of a job's identity, also under the name that the release
/// before this one gave it.
async fn read(
    bucket: &dyn Bucket,
    job: &Job,
    sealing: &Sealing,
) -> Result<Option<Content>, BucketError> {
    let name = object::name(job);
    if let Some(found) = bucket.get(&name).await? {
        return Ok(Some(Content::read(&name, &found.content, sealing)));
    }
    let Some(old) = object::old_name(job) else { return Ok(None) };
    let found = bucket.get(&old).await?;
    Ok(found.and_then(|found| Content::read_old(&old, &found.content, sealing)))
}

#[cfg(test)]
mod tests;
