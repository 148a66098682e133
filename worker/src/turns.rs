//! Turns that replicas take at something that one of them is to do now and then.
//!
//! Before its turn a replica writes a marker object, and it leaves its turn out when the marker
//! has changed since it last looked. No clock is compared and nothing needs releasing; a replica
//! that dies in the middle is followed by another one at most two intervals later. Two may
//! still work at once.

use bytes::Bytes;
use shared::ports::{Bucket, BucketError, Generation, Object};

/// Whose turn it is.
#[derive(Debug)]
pub(crate) enum Turn {
    /// This process's; the marker's new generation.
    Mine(Generation),
    /// Another replica has taken it since the last look; the marker, if it was seen.
    Others(Option<Object>),
}

/// Takes a turn, unless another replica has since `seen`, the marker's generation at the last
/// look. `content` makes the new marker of the one before, and each time another one.
pub(crate) async fn take(
    bucket: &dyn Bucket,
    marker: &str,
    seen: &mut Option<Generation>,
    content: impl FnOnce(Option<&Object>) -> Bytes,
) -> Result<Turn, BucketError> {
    let object = bucket.get(marker).await?;
    let found = generation(object.as_ref());
    if seen.replace(found).is_some_and(|before| before != found) {
        return Ok(Turn::Others(object));
    }
    match bucket.put(marker, content(object.as_ref()), found).await {
        Ok(written) => {
            *seen = Some(written);
            Ok(Turn::Mine(written))
        }
        // Another replica was faster; its marker is news at the next look.
        Err(BucketError::PreconditionFailed) => Ok(Turn::Others(None)),
        Err(error) => Err(error),
    }
}

/// The marker's generation now, for the first look.
pub(crate) async fn look(bucket: &dyn Bucket, marker: &str) -> Result<Generation, BucketError> {
    Ok(generation(bucket.get(marker).await?.as_ref()))
}

fn generation(object: Option<&Object>) -> Generation {
    object.map_or(Generation::ABSENT, |object| object.generation)
}
