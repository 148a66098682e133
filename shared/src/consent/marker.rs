//! `state` is used once: the marker that says it was.

use jiff::{SignedDuration, Timestamp};

use bytes::Bytes;

use super::pending::Pending;
use super::{Consent, LOGIN_LIFETIME};
use crate::ports::{Bucket, BucketError, Clock, Generation};

/// Replicas' clocks may differ by less than this: a marker outlives its login by
/// as much.
const SLACK: SignedDuration = SignedDuration::from_hours(1);

/// Marks a login as used; `false` when it was already.
pub(super) async fn spend(consent: &Consent, pending: &Pending) -> Result<bool, BucketError> {
    const TRIES: usize = 3;
    let lifetime = SignedDuration::try_from(LOGIN_LIFETIME).unwrap_or(SignedDuration::MAX);
    let until = pending.started_at.saturating_add(lifetime + SLACK).map_or(0, Timestamp::as_second);
    let name = format!("logins/{until:012}-{}.json", pending.digest());
    // Recognises my own marker after a lost reply.
    let attempt = consent.random.id();
    let content = Bytes::from(format!("{{\"version\":1,\"attempt\":\"{attempt}\"}}\n"));
    let mut last = BucketError::PreconditionFailed;
    for _ in 0..TRIES {
        match consent.markers.put(&name, content.clone(), Generation::ABSENT).await {
            Ok(_) => return Ok(true),
            Err(error @ BucketError::Refused(_)) => return Err(error),
            Err(error) => last = error,
        }
        if let Some(stored) = consent.markers.get(&name).await? {
            return Ok(stored.content == content);
        }
    }
    Err(last)
}

/// Removes the markers of logins that have long expired; how many. Any replica
/// may do it at any time.
///
/// # Errors
/// When the bucket does not answer; what is left is removed next time.
pub async fn sweep_logins(bucket: &dyn Bucket, clock: &dyn Clock) -> Result<u64, BucketError> {
    let now = clock.wall().as_second();
    let (mut removed, mut page) = (0, None);
    loop {
        let listing = bucket.list("logins/", page).await?;
        for (name, generation) in &listing.objects {
            let until = name.strip_prefix("logins/").and_then(|rest| rest.split_once('-'));
            let until: Option<i64> = until.and_then(|(until, _)| until.parse().ok());
            if until.is_some_and(|until| until < now) {
                match bucket.delete(name, *generation).await {
                    Ok(true) => removed += 1,
                    // Another replica was faster.
                    Ok(false) | Err(BucketError::PreconditionFailed) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        page = listing.next_page;
        if page.is_none() {
            return Ok(removed);
        }
    }
}
