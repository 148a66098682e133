//! Parked jobs go on when their user has consented.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use shared::ports::{Bucket, BucketError, Clock, Generation};
use shared::record::TokenRecord;
use shared::{Error, TokenStore, UserId};
use tracing::warn;

use crate::metrics;
use crate::pubsub::{Outgoing, PublishError, Publisher};

/// Why a user's jobs still wait.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// The user's record cannot be read.
    #[error(transparent)]
    Store(#[from] Error),
    /// The bucket does not answer.
    #[error("parked jobs cannot be read: {0}")]
    Bucket(#[from] BucketError),
    /// A job could not be published; it stays parked.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// One object may change once a second.
const PAUSE: Duration = Duration::from_secs(1);
const TRIES: u32 = 8;

/// What a parked object says (see `parking`).
#[derive(Deserialize)]
struct ParkedJob {
    reason: String,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    ordering_key: String,
    #[serde(default)]
    attributes: HashMap<String, String>,
    data: String,
}

impl ParkedJob {
    /// The message, if the user's record is what the job waited for.
    fn due(self, record: &TokenRecord) -> Option<Outgoing> {
        let changed = self.reason != "scopes" || self.scopes != record.scopes;
        if !record.is_active() || !changed {
            return None;
        }
        let data = STANDARD.decode(&self.data).ok()?.into();
        Some(Outgoing { data, attributes: self.attributes, ordering_key: self.ordering_key })
    }
}

/// Deletes what was published. A job that was parked a moment ago is throttled:
/// giving up at once would run it a second time.
async fn forget(
    bucket: &dyn Bucket,
    clock: &dyn Clock,
    name: &str,
    generation: Generation,
) -> Result<(), BucketError> {
    let mut tries = 0;
    loop {
        match bucket.delete(name, generation).await {
            Ok(_) | Err(BucketError::PreconditionFailed) => return Ok(()),
            Err(BucketError::Throttled | BucketError::Unavailable(_)) if tries < TRIES => {
                tries += 1;
                clock.sleep(PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Publishes a user's parked jobs again, in their order, and deletes each after
/// it was published: a crash in between runs a job twice, never not at all. How
/// many went on.
///
/// Cancelling it is such a crash.
///
/// # Errors
/// [`ResumeError`]; what was not published stays parked.
pub async fn resume_user(
    bucket: &dyn Bucket,
    store: &TokenStore,
    jobs: &Publisher,
    clock: &dyn Clock,
    user: &UserId,
) -> Result<u64, ResumeError> {
    let record = match store.read_record(user).await {
        Ok(record) => record,
        Err(Error::NeedsConsent(_)) => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    let prefix = format!("parked/{}/", user.encoded());
    let (mut resumed, mut page) = (0, None);
    loop {
        let listing = bucket.list(&prefix, page).await?;
        for (name, _) in &listing.objects {
            let Some(object) = bucket.get(name).await? else {
                // Another resumer was faster.
                continue;
            };
            let Ok(parked) = serde_json::from_slice::<ParkedJob>(&object.content) else {
                warn!(object = name, "this parked job cannot be read and stays where it is");
                continue;
            };
            let Some(message) = parked.due(&record) else { continue };
            jobs.publish(message).await?;
            forget(bucket, clock, name, object.generation).await?;
            metrics::count(metrics::RESUMED);
            resumed += 1;
        }
        page = listing.next_page;
        if page.is_none() {
            return Ok(resumed);
        }
    }
}
