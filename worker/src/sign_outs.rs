//! The time of a person's last sign-out: `sessions/<user>.json`. A session notes the time
//! that it found when it began, and ends when another one stands there, so that a copy of
//! its cookie ends too. The token record is never written for this.

use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use shared::UserId;
use shared::ports::{Bucket, BucketError, Clock, Generation};
use std::time::Duration;

/// One object may change once a second.
const PAUSE: Duration = Duration::from_secs(1);
const TRIES: u32 = 4;

#[derive(Debug, Serialize, Deserialize)]
struct SignOut {
    version: u32,
    signed_out_at: Timestamp,
}

pub(crate) fn object_of(user: &UserId) -> String {
    format!("sessions/{}.json", user.encoded())
}

/// When the person signed out last. What cannot be read as a time is none: then sessions
/// that noted one end.
pub(crate) async fn last(
    bucket: &dyn Bucket,
    user: &UserId,
) -> Result<Option<Timestamp>, BucketError> {
    Ok(bucket.get(&object_of(user)).await?.and_then(|object| read(&object.content)))
}

fn read(content: &[u8]) -> Option<Timestamp> {
    serde_json::from_slice(content).ok().map(|SignOut { signed_out_at, .. }| signed_out_at)
}

/// Ends every session of the person.
pub(crate) async fn sign_out(
    bucket: &dyn Bucket,
    clock: &dyn Clock,
    user: &UserId,
) -> Result<(), BucketError> {
    let name = object_of(user);
    let mut tries = 0;
    loop {
        let before = bucket.get(&name).await?;
        let last = before.as_ref().and_then(|object| read(&object.content));
        // Another time than the last one, whatever the clock says.
        let next = last.and_then(|at| at.checked_add(SignedDuration::from_nanos(1)).ok());
        let signed_out_at = next.map_or(clock.wall(), |next| next.max(clock.wall()));
        let content = serde_json::to_vec(&SignOut { version: 1, signed_out_at });
        let expected = before.map_or(Generation::ABSENT, |object| object.generation);
        let content = Bytes::from(content.unwrap_or_default());
        match bucket.put(&name, content, expected).await {
            // Of two at once, either ends the sessions.
            Ok(_) | Err(BucketError::PreconditionFailed) => return Ok(()),
            Err(BucketError::Throttled | BucketError::Unavailable(_)) if tries < TRIES => {
                tries += 1;
                clock.sleep(PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::adapters::{MemoryBucket, SystemClock};

    use super::*;

    #[tokio::test]
    async fn each_sign_out_is_told_from_the_last_one() {
        let (bucket, clock) = (MemoryBucket::default(), SystemClock::default());
        let user = UserId::new("a/b").unwrap();
        assert_eq!(last(&bucket, &user).await, Ok(None));
        let mut seen = None;
        for _ in 0..3 {
            sign_out(&bucket, &clock, &user).await.unwrap();
            let now = last(&bucket, &user).await.unwrap();
            assert!(now > seen);
            seen = now;
        }
        let ahead = SignOut { version: 1, signed_out_at: "2999-01-01T00:00:00Z".parse().unwrap() };
        let content = Bytes::from(serde_json::to_vec(&ahead).unwrap());
        let generation = bucket.get(&object_of(&user)).await.unwrap().unwrap().generation;
        bucket.put(&object_of(&user), content, generation).await.unwrap();
        sign_out(&bucket, &clock, &user).await.unwrap();
        assert!(last(&bucket, &user).await.unwrap().unwrap() > ahead.signed_out_at);
    }
}
