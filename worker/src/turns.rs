//! Turns that replicas take at something that one of them is to do now and then.
//!
//! Before its turn a replica writes a marker object, and it leaves its turn out when the marker
//! has changed since it last looked. No clock is compared and nothing needs releasing; a replica
//! that dies in the middle is followed by another one at most two intervals later. Two may
//! still work at once.

use bytes::Bytes;
use shared::ports::{Bucket, BucketError, Generation};

/// Takes a turn, unless another replica has since `seen`, the marker's generation at the last
/// look; whether it is this process's. `content` is another one each time.
pub(crate) async fn take(
    bucket: &dyn Bucket,
    marker: &str,
    seen: &mut Option<Generation>,
    content: Bytes,
) -> Result<bool, BucketError> {
    let found = look(bucket, marker).await?;
    if seen.replace(found).is_some_and(|before| before != found) {
        return Ok(false);
    }
    match bucket.put(marker, content, found).await {
        Ok(written) => {
            *seen = Some(written);
            Ok(true)
        }
        // Another replica was faster; its marker is news at the next look.
        Err(BucketError::PreconditionFailed) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The marker's generation now.
pub(crate) async fn look(bucket: &dyn Bucket, marker: &str) -> Result<Generation, BucketError> {
    let object = bucket.get(marker).await?;
    Ok(object.map_or(Generation::ABSENT, |object| object.generation))
}
