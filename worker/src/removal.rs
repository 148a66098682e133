//! What is kept about a user beside the record: it goes when the record does.

use shared::ports::{Bucket, BucketError, Provider};
use shared::{Error, Revoked, TokenStore, UserId};
use tracing::warn;

use crate::dedupe;
use crate::events::state::Occasion;
use crate::events::{self, Decided, Events, Tell};
use crate::parking::{PREFIX, is_claim, prefix_of};
use crate::resuming::forget;
use crate::sign_outs;

/// What was removed of a user.
#[derive(Debug, Default)]
pub struct Removed {
    /// How many jobs were parked.
    pub parked: u64,
    /// That it has ended is to be told, if anybody is: [`Events::publish`] it. Until it is,
    /// the object that says so is kept.
    pub tell: Option<Tell>,
}

/// What became of a user whose grant was to end.
#[derive(Debug)]
pub struct Ended {
    /// What the provider said; the record is gone.
    pub grant: Revoked,
    /// What went with the record. Where that failed, ending it again removes the rest.
    pub traces: Result<Removed, BucketError>,
}

/// Ends a user's grant at the provider, then removes the record and all that is kept beside it:
/// one way for the command, for operators' pages, and for people who disconnect.
///
/// Cancelling it leaves some of it; doing it again is harmless.
///
/// # Errors
/// As [`TokenStore::revoke`]: the record stays, and so does the rest.
pub async fn end(
    store: &TokenStore,
    provider: &dyn Provider,
    user: &UserId,
    events: Option<&Events>,
) -> Result<Ended, Error> {
    let grant = store.revoke(user, provider).await?;
    let was_stored = grant != Revoked::Unknown;
    let traces = remove_traces(&*store.bucket(), user, was_stored, events).await;
    Ok(Ended { grant, traces })
}

/// Removes the user's parked jobs, their claim, the remembered ends of their jobs, the time of
/// their last sign-out, and what applications were told of them. The record has to be gone:
/// then nobody publishes the jobs meanwhile. `was_stored`: there was one until now.
///
/// Cancelling it leaves some; doing it again is harmless.
///
/// # Errors
/// When the bucket does not answer.
pub async fn remove_traces(
    bucket: &dyn Bucket,
    user: &UserId,
    was_stored: bool,
    events: Option<&Events>,
) -> Result<Removed, BucketError> {
    let tell = match events {
        Some(events) => to_tell(events, user, was_stored).await,
        None => None,
    };
    if tell.is_none() {
        events::remove(bucket, user, events.is_some()).await?;
    }
    let mut parked = 0;
    let remembered = format!("{}{}/", dedupe::PREFIX, user.encoded());
    for prefix in [prefix_of(user), remembered] {
        let mut page = None;
        loop {
            let listing = bucket.list(&prefix, page).await?;
            for (name, generation) in &listing.objects {
                forget(bucket, name, *generation).await?;
                parked += u64::from(name.starts_with(PREFIX) && !is_claim(name));
            }
            page = listing.next_page;
            if page.is_none() {
                break;
            }
        }
    }
    let name = sign_outs::object_of(user);
    if let Some(object) = bucket.get(&name).await? {
        forget(bucket, &name, object.generation).await?;
    }
    Ok(Removed { parked, tell })
}

async fn to_tell(events: &Events, user: &UserId, was_stored: bool) -> Option<Tell> {
    match events.decide(user, &Occasion::Removed { was_stored }, None).await {
        Ok(Decided::Mine(tell)) => Some(tell),
        Ok(Decided::Nothing | Decided::Held(_)) => None,
        Err(why) => {
            warn!(user = %user.digest(), "nobody is told that a user's consent has ended: {why}");
            None
        }
    }
}
