//! What waits for one person: their parked jobs, and what these need.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use shared::consent::missing_scopes;
use shared::ports::{Bucket, BucketError};
use shared::record::TokenRecord;
use shared::sealing::Sealing;
use shared::{Reason, UserId};

use crate::parking::{ParkedJob, is_claim, prefix_of};

/// So many parked jobs are read; of more only the number is known.
const READ: usize = 200;

/// A person's parked jobs.
#[derive(Debug, Clone, Default)]
pub struct Waiting {
    /// How many there are.
    pub jobs: usize,
    read: Vec<ParkedJob>,
}

impl Waiting {
    /// The scopes that jobs need and `held` does not have, sorted.
    pub fn scopes(&self, held: &[String]) -> Vec<String> {
        let asked = self.read.iter().filter(|job| job.why() == Some(Reason::ScopesMissing));
        let scopes: BTreeSet<&String> = asked.flat_map(|job| &job.missing_scopes).collect();
        missing_scopes(&scopes.into_iter().cloned().collect::<Vec<_>>(), held)
    }

    /// How many of them wait for scopes.
    pub fn for_scopes(&self) -> usize {
        self.read.iter().filter(|job| job.why() == Some(Reason::ScopesMissing)).count()
    }

    /// Those that were read, in their order.
    pub(crate) fn read(&self) -> &[ParkedJob] {
        &self.read
    }

    /// How many go on with this record.
    pub fn due(&self, record: &TokenRecord) -> usize {
        self.read.iter().filter(|job| job.is_due(record)).count()
    }
}

/// What waits for `user` now. A parked object that cannot be read is counted alone.
///
/// # Errors
/// When the bucket does not answer.
pub async fn waiting(
    bucket: &dyn Bucket,
    user: &UserId,
    sealing: &Sealing,
) -> Result<Waiting, BucketError> {
    let (prefix, mut names, mut page) = (prefix_of(user), Vec::new(), None);
    loop {
        let listing = bucket.list(&prefix, page).await?;
        names.extend(listing.objects.into_iter().map(|(name, _)| name).filter(|n| !is_claim(n)));
        page = listing.next_page;
        if page.is_none() {
            break;
        }
    }
    let objects = join_all(names.iter().take(READ).map(|name| bucket.get(name))).await;
    let mut read = Vec::new();
    for (name, object) in names.iter().zip(objects) {
        if let Some(object) = object?
            && let Ok(job) = ParkedJob::decode(name, &object.content, sealing)
        {
            read.push(job);
        }
    }
    Ok(Waiting { jobs: names.len(), read })
}
