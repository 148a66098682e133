//! Jobs that wait for their user's consent: stored in the bucket, so that they
//! neither burn delivery attempts nor expire with the subscription.

mod object;

use std::sync::Arc;

use jiff::Timestamp;
use shared::ports::{Bucket, BucketError, Generation};
use shared::record::TokenRecord;
use shared::{ConsentReason, Error, TokenStore, UserId};

use crate::job::{Job, Received};

pub use object::{BadParked, PREFIX, ParkedJob, prefix_of, user_of};

/// Where jobs are parked.
#[derive(Debug, Clone)]
pub struct Parking {
    bucket: Arc<dyn Bucket>,
    store: TokenStore,
}

/// What became of an attempt to park.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parked {
    /// The job is stored; acknowledge the message.
    Stored,
    /// The credential changed meanwhile: run the job.
    RunIt,
}

/// What a parking decision looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    /// The write that was read; `None` without a record.
    write: Option<String>,
    active: bool,
    scopes: Vec<String>,
}

impl Parking {
    /// Parks in `bucket`, the one that `store` keeps its tokens in.
    pub fn new(bucket: Arc<dyn Bucket>, store: TokenStore) -> Self {
        Self { bucket, store }
    }

    /// Parks a job, unless the credential turns out to have changed. The check
    /// after the write closes the race with a login: whoever comes second sees
    /// the other, so no job sleeps beside an active credential.
    ///
    /// Cancelling it may leave the job parked; it is then delivered again and
    /// found parked.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the bucket does not answer.
    pub async fn park(
        &self,
        job: &Job,
        received: &Received,
        why: &ConsentReason,
        now: Timestamp,
    ) -> Result<Parked, Error> {
        let before = self.look(&job.user).await?;
        if !before.justifies(why) {
            return Ok(Parked::RunIt);
        }
        let name = object::object_name(job, received);
        let content = ParkedJob::new(job, received, why, before.scopes.clone(), now).encode();
        match self.bucket.put(&name, content.into(), Generation::ABSENT).await {
            // Parked by an earlier delivery, or by this very write.
            Ok(_) | Err(BucketError::PreconditionFailed) => {}
            Err(error) => return Err(Error::Unavailable(error.to_string().into())),
        }
        let after = self.look(&job.user).await?;
        if after == before {
            return Ok(Parked::Stored);
        }
        let text = |e: BucketError| Error::Unavailable(e.to_string().into());
        loop {
            let Some(object) = self.bucket.get(&name).await.map_err(text)? else {
                // Somebody resumed it: published again before it was deleted.
                return Ok(Parked::Stored);
            };
            match self.bucket.delete(&name, object.generation).await {
                Ok(true) => return Ok(Parked::RunIt),
                Ok(false) | Err(BucketError::PreconditionFailed) => {}
                Err(error) => return Err(text(error)),
            }
        }
    }

    async fn look(&self, user: &UserId) -> Result<Seen, Error> {
        match self.store.read_record(user).await {
            Ok(record) => Ok(Seen::of(&record)),
            Err(Error::NeedsConsent(_)) => {
                Ok(Seen { write: None, active: false, scopes: Vec::new() })
            }
            Err(error) => Err(error),
        }
    }
}

impl Seen {
    fn of(record: &TokenRecord) -> Self {
        Self {
            write: Some(record.write_id.0.clone()),
            active: record.is_active(),
            scopes: record.scopes.clone(),
        }
    }

    /// Whether a fresh read still says what the job was told.
    fn justifies(&self, why: &ConsentReason) -> bool {
        match why {
            ConsentReason::Unknown => self.write.is_none(),
            ConsentReason::Revoked { .. } => !self.active,
            ConsentReason::MissingScopes(missing) => {
                missing.is_empty() || missing.iter().any(|scope| !self.scopes.contains(scope))
            }
        }
    }
}
