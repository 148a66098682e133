//! Ends of jobs that could not be written: kept in the bucket until they can be.
//!
//! A job that has acted must not run again, so its message is held until its end is written:
//! remembered, published to the dead topic, told to the outcomes topic. A topic that takes
//! nothing for a quarter of an hour, or refuses this very message, must not hold it for
//! ever: what is left to write is stored here ([`Outbox::store`]), and the message is
//! acknowledged. Every worker sweeps these objects each minute ([`OutboxSweep`]); those of
//! which only what was refused is left wait for people.
//!
//! The object is `endings/<user>/<digest of the job's identity>-<message ID>.json`, with `_`
//! in place of the user where the message names none.

pub mod clearing;
mod ending;
mod own;
mod sweep;

use std::sync::Arc;

use shared::ports::{Bucket, BucketError, Generation};
use shared::sealing::Sealing;

pub use ending::{BadEnding, PREFIX, StoredEnding, Writable, prefix_of};
pub use own::Own;
pub use sweep::{Memory, OutboxSweep, Sight, Swept};

/// Stores ends.
#[derive(Debug, Clone)]
pub struct Outbox {
    bucket: Arc<dyn Bucket>,
    sealing: Sealing,
}

impl Outbox {
    /// Stores in `bucket`.
    pub fn new(bucket: Arc<dyn Bucket>, sealing: Sealing) -> Self {
        Self { bucket, sealing }
    }

    /// Stores an end. From then on it will be written, and the message may be acknowledged.
    ///
    /// Cancelling it leaves open whether it is stored; storing it again is harmless.
    ///
    /// # Errors
    /// When the bucket does not take it.
    pub async fn store(&self, ending: &StoredEnding) -> Result<(), BucketError> {
        let name = ending.object_name();
        match self.bucket.put(&name, ending.encode(None, &self.sealing), Generation::ABSENT).await {
            // An earlier delivery of the message, or this very write.
            Ok(_) | Err(BucketError::PreconditionFailed) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
