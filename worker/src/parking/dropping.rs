//! An operator has parked jobs removed for good.

use futures_util::future::join_all;
use shared::UserId;
use shared::ports::{Bucket, BucketError, Clock};

use super::claiming::{Claim, Claimed, Renewed};
use super::object::{is_claim, prefix_of};
use super::resumption::Entry;
use crate::resuming::forget;

/// So many are removed at a time.
const BATCH: usize = 32;

/// Why a parked job was not removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotDropped {
    /// Whoever has the claim may have published it already.
    #[error("another process resumes this user's parked jobs; try again in a moment")]
    Held,
    /// The bucket does not answer.
    #[error(transparent)]
    Bucket(#[from] BucketError),
}

/// Removes these parked jobs of `user`, under the user's claim, so that nobody publishes them
/// meanwhile; of each whether it is gone. The bucket is one that tries again.
///
/// Cancelling it leaves some of them, and the claim to be taken over.
///
/// # Errors
/// [`NotDropped`] when the claim is not to be had; then all of them are where they were.
pub(crate) async fn drop_parked(
    bucket: &dyn Bucket,
    clock: &dyn Clock,
    holder: &str,
    user: &UserId,
    jobs: &[Entry],
) -> Result<Vec<Result<(), NotDropped>>, NotDropped> {
    let Claimed::Mine(mut claim) = Claim::take(bucket, clock, user, holder, None).await? else {
        return Err(NotDropped::Held);
    };
    let mut ended = Vec::with_capacity(jobs.len());
    for batch in jobs.chunks(BATCH) {
        match claim.renew(bucket, clock, holder).await {
            Ok(Renewed::Mine) => {
                let removing = batch.iter().map(|(name, at)| forget(bucket, name, *at));
                let removed = join_all(removing).await;
                ended.extend(removed.into_iter().map(|removed| removed.map_err(Into::into)));
            }
            Ok(Renewed::Lost) => ended.extend(batch.iter().map(|_| Err(NotDropped::Held))),
            Err(error) => ended.extend(batch.iter().map(|_| Err(error.clone().into()))),
        }
    }
    claim.release(bucket).await;
    Ok(ended)
}

/// Removes all parked jobs of `user`; how many.
///
/// Cancelling it leaves some of them.
///
/// # Errors
/// [`NotDropped`]; some may be gone.
pub(crate) async fn drop_all(
    bucket: &dyn Bucket,
    clock: &dyn Clock,
    holder: &str,
    user: &UserId,
) -> Result<u64, NotDropped> {
    let (prefix, mut jobs, mut page) = (prefix_of(user), Vec::new(), None);
    loop {
        let listing = bucket.list(&prefix, page).await?;
        jobs.extend(listing.objects.into_iter().filter(|(name, _)| !is_claim(name)));
        page = listing.next_page;
        if page.is_none() {
            break;
        }
    }
    if jobs.is_empty() {
        return Ok(0);
    }
    let mut dropped = 0;
    for ended in drop_parked(bucket, clock, holder, user, &jobs).await? {
        ended?;
        dropped += 1;
    }
    Ok(dropped)
}

#[cfg(test)]
mod tests {
    use shared::adapters::{MemoryBucket, SystemClock};
    use shared::ports::Generation;

    use super::*;

    async fn names(bucket: &MemoryBucket) -> Vec<String> {
        let listed = bucket.list("parked/", None).await.unwrap();
        listed.objects.into_iter().map(|(name, _)| name).collect()
    }

    #[tokio::test]
    async fn nothing_is_dropped_while_another_process_resumes_the_user() {
        let (bucket, clock) = (MemoryBucket::default(), SystemClock::default());
        let user = UserId::new("ann").unwrap();
        for name in ["parked/ann/1-a.json", "parked/ann/2-b.json", "parked/bob/1-a.json"] {
            bucket.put(name, "{}".into(), Generation::ABSENT).await.unwrap();
        }
        let held = Claim::take(&bucket, &clock, &user, "other", None).await.unwrap();
        let Claimed::Mine(held) = held else { panic!("nobody else has it") };
        let refused = drop_all(&bucket, &clock, "me", &user).await;
        assert!(matches!(refused, Err(NotDropped::Held)), "{refused:?}");
        assert_eq!(names(&bucket).await.len(), 4);
        held.release(&bucket).await;
        assert_eq!(drop_all(&bucket, &clock, "me", &user).await.unwrap(), 2);
        assert_eq!(names(&bucket).await, ["parked/bob/1-a.json"], "and no claim is left");
        assert_eq!(drop_all(&bucket, &clock, "me", &user).await.unwrap(), 0);
    }
}
