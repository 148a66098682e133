//! Jobs that were done already: a message that comes again does not act again.
//!
//! Pub/Sub delivers at least once. A job is remembered after its handler has
//! finished and before its message is acknowledged; a delivery of a remembered job
//! is acknowledged without running it. What remains open is the time between the
//! API's effect and the memory of it: a replica that dies in between acts again,
//! as does, with [`Dedupe::Memory`], every redelivery to another replica.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;
use sha2::{Digest as _, Sha256};
use shared::encode_segment;
use shared::ports::{Bucket, BucketError, Clock, Generation};

use crate::job::Job;

/// How many jobs a process remembers: about 5 MB.
const REMEMBERED: usize = 100_000;

/// Where completed jobs are remembered.
#[derive(Debug, Clone, Default)]
pub enum Dedupe {
    /// Nowhere: every delivery runs.
    #[default]
    Off,
    /// In this process, the last 100,000 of them.
    Memory(Arc<Remembered>),
    /// In this process and, for all replicas, as objects
    /// `done/<user>/<job>.json`, created only if absent: one read before and one
    /// write after each job. A lifecycle rule on `done/` should delete them after
    /// the subscription's retention.
    Bucket(Arc<Remembered>, Arc<dyn Bucket>),
}

/// Digests of jobs, the oldest forgotten first.
#[derive(Default)]
pub struct Remembered(Mutex<(HashSet<Key>, VecDeque<Key>)>);

type Key = [u8; 16];

impl Dedupe {
    /// Whether anything is remembered.
    pub(crate) fn is_on(&self) -> bool {
        !matches!(self, Self::Off)
    }

    /// Remembers in this process.
    pub fn memory() -> Self {
        Self::Memory(Arc::default())
    }

    /// Remembers in `bucket`.
    pub fn bucket(bucket: Arc<dyn Bucket>) -> Self {
        Self::Bucket(Arc::default(), bucket)
    }

    /// Whether the job is known to be done.
    ///
    /// # Errors
    /// When the bucket does not answer.
    pub(crate) async fn done_before(&self, job: &Job) -> Result<bool, BucketError> {
        match self {
            Self::Off => Ok(false),
            Self::Memory(remembered) => Ok(remembered.contains(&key(job))),
            Self::Bucket(remembered, bucket) => {
                if remembered.contains(&key(job)) {
                    return Ok(true);
                }
                Ok(bucket.get(&object_name(job)).await?.is_some())
            }
        }
    }

    /// Remembers that the job is done.
    ///
    /// # Errors
    /// When the bucket does not answer; this process knows all the same.
    pub(crate) async fn remember(&self, job: &Job, clock: &dyn Clock) -> Result<(), BucketError> {
        match self {
            Self::Off => Ok(()),
            Self::Memory(remembered) => {
                remembered.insert(key(job));
                Ok(())
            }
            Self::Bucket(remembered, bucket) => {
                remembered.insert(key(job));
                let content = json!({ "version": 1, "done_at": clock.wall() }).to_string();
                match bucket.put(&object_name(job), content.into(), Generation::ABSENT).await {
                    // Another delivery of it, or this very write.
                    Ok(_) | Err(BucketError::PreconditionFailed) => Ok(()),
                    Err(error) => Err(error),
                }
            }
        }
    }
}

/// A job ID is the publisher's word and counts for its user only: nobody can keep
/// somebody else's job from running.
fn key(job: &Job) -> Key {
    let mut hash = Sha256::new();
    hash.update(job.user.as_str().len().to_be_bytes());
    hash.update(job.user.as_str());
    hash.update(&job.id);
    let mut key = Key::default();
    key.copy_from_slice(&hash.finalize()[..16]);
    key
}

fn object_name(job: &Job) -> String {
    format!("done/{}/{}.json", job.user.encoded(), encode_segment(&job.id))
}

impl Remembered {
    fn contains(&self, key: &Key) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).0.contains(key)
    }

    fn insert(&self, key: Key) {
        let (known, order) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !known.insert(key) {
            return;
        }
        order.push_back(key);
        if order.len() > REMEMBERED
            && let Some(oldest) = order.pop_front()
        {
            known.remove(&oldest);
        }
    }
}

impl fmt::Debug for Remembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).0.len();
        f.debug_struct("Remembered").field("jobs", &known).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(user: &str, id: &str) -> Job {
        Job::decode(format!(r#"{{"id":"{id}","user":"{user}","kind":"k"}}"#).as_bytes(), id)
            .unwrap()
    }

    #[test]
    fn an_id_counts_for_its_user_only() {
        assert_ne!(key(&job("ann", "1")), key(&job("bob", "1")));
        assert_ne!(key(&job("ann", "n1")), key(&job("annn", "1")));
        assert_eq!(key(&job("ann", "1")), key(&job("ann", "1")));
        assert_eq!(object_name(&job("a/b", "../x")), "done/a%2Fb/%2E%2E%2Fx.json");
    }

    #[test]
    fn memory_is_bounded_and_forgets_the_oldest() {
        let remembered = Remembered::default();
        let number = |n: usize| {
            let mut key = Key::default();
            key[..8].copy_from_slice(&n.to_be_bytes());
            key
        };
        for n in 0..REMEMBERED + 10 {
            remembered.insert(number(n));
            remembered.insert(number(n));
        }
        assert!(!remembered.contains(&number(9)));
        assert!(remembered.contains(&number(10)));
        let (known, order) = &*remembered.0.lock().unwrap();
        assert_eq!((known.len(), order.len()), (REMEMBERED, REMEMBERED));
    }
}
