//! What is kept about a user beside the record: it goes when the record does.

use shared::UserId;
use shared::ports::{Bucket, BucketError};

use crate::dedupe;
use crate::parking::{PREFIX, is_claim, prefix_of};
use crate::resuming::forget;
use crate::sign_outs;

/// Removes the user's parked jobs, their claim, the remembered ends of their jobs and the
/// time of their last sign-out; how many jobs were parked. The record has to be gone: then
/// nobody publishes the jobs meanwhile.
///
/// Cancelling it leaves some; doing it again is harmless.
///
/// # Errors
/// When the bucket does not answer.
pub async fn remove_traces(bucket: &dyn Bucket, user: &UserId) -> Result<u64, BucketError> {
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
    Ok(parked)
}
