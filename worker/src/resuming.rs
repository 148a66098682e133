//! Parked jobs go on when their user has consented.

use std::time::Duration;

use futures_util::future::join_all;
use shared::ports::{Bucket, BucketError, Clock, Generation};
use shared::record::TokenRecord;
use shared::{Error, TokenStore, UserId};
use tracing::warn;

use crate::metrics;
use crate::parking::{ParkedJob, prefix_of};
use crate::pubsub::{PublishError, Topic};

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
/// So many jobs of a user are read, published and deleted at a time. A crash in
/// between repeats at most these.
pub(crate) const BATCH: usize = 16;

/// Deletes what was published. A job that was parked a moment ago is throttled:
/// giving up at once would run it a second time.
///
/// # Errors
/// When the bucket did not delete it in all that time.
pub async fn forget(
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

/// Publishes those of a user's parked jobs that are due, in their order, and
/// deletes each after it was published: a crash in between runs a job twice,
/// never not at all. `names` are at most [`BATCH`]; how many went on, and what kept
/// the next one: it stays parked, and so does everything behind it that has the
/// same ordering key.
pub(crate) async fn resume_batch(
    bucket: &dyn Bucket,
    jobs: &dyn Topic,
    clock: &dyn Clock,
    record: &TokenRecord,
    names: &[(String, Generation)],
) -> (u64, Result<(), ResumeError>) {
    let objects = join_all(names.iter().map(|(name, _)| bucket.get(name))).await;
    let mut sent = Vec::with_capacity(names.len());
    let mut failure = None;
    for ((name, _), object) in names.iter().zip(objects) {
        let object = match object {
            Ok(Some(object)) => object,
            // Another resumer was faster.
            Ok(None) => continue,
            Err(error) => {
                // Nothing may overtake it.
                failure = Some(ResumeError::from(error));
                break;
            }
        };
        match ParkedJob::decode(&object.content) {
            Ok(parked) if parked.is_due(record) => {
                sent.push((name, object.generation, jobs.publish(parked.into_message())));
            }
            Ok(_) => {}
            Err(why) => warn!(object = name, "{why}; it stays where it is"),
        }
    }
    let mut published = Vec::with_capacity(sent.len());
    for (name, generation, publishing) in sent {
        match publishing.await {
            Ok(_) => published.push((name, generation)),
            Err(error) => failure = failure.or(Some(error.into())),
        }
    }
    let forgetting = published.iter().map(|(name, at)| forget(bucket, clock, name, *at));
    for forgotten in join_all(forgetting).await {
        match forgotten {
            Ok(()) => metrics::count(metrics::RESUMED),
            Err(error) => failure = failure.or(Some(error.into())),
        }
    }
    (published.len() as u64, failure.map_or(Ok(()), Err))
}

/// Publishes a user's parked jobs again, in their order, and deletes each after
/// it was published. How many went on; none while the user's consent is missing.
///
/// Cancelling it is a crash: what was published and not deleted yet runs twice.
///
/// # Errors
/// [`ResumeError`]; what was not published stays parked.
pub async fn resume_user(
    bucket: &dyn Bucket,
    store: &TokenStore,
    jobs: &dyn Topic,
    clock: &dyn Clock,
    user: &UserId,
) -> Result<u64, ResumeError> {
    let record = match store.read_record(user).await {
        Ok(record) => record,
        Err(Error::NeedsConsent(_)) => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    if !record.is_active() {
        return Ok(0);
    }
    let prefix = prefix_of(user);
    let (mut resumed, mut page) = (0, None);
    loop {
        let listing = bucket.list(&prefix, page).await?;
        for names in listing.objects.chunks(BATCH) {
            let (went_on, result) = resume_batch(bucket, jobs, clock, &record, names).await;
            resumed += went_on;
            result?;
        }
        page = listing.next_page;
        if page.is_none() {
            return Ok(resumed);
        }
    }
}
