//! Jobs that wait for their user's consent: stored in the bucket, so that they
//! neither burn delivery attempts nor expire with the subscription.
//!
//! A parked object *is* the job. Whoever has stored it acknowledges the message in every
//! case; and one process at a time publishes a user's jobs again ([`resumption`]), deleting
//! each after that. So nobody has to decide whether a job that is parked still has to run.

mod absence;
mod claiming;
pub(crate) mod dropping;
pub(crate) mod hints;
mod object;
pub mod resumption;

use std::sync::Arc;

use jiff::Timestamp;
use shared::ports::{Bucket, BucketError, Generation};
use shared::record::TokenRecord;
use shared::{ConsentReason, Error, TokenStore, UserId};

use crate::job::{Job, Received};

pub use claiming::{Claim, Claimed, Renewed};
pub use object::{
    BadParked, NoRoom, PREFIX, ParkedJob, claim_of, is_claim, prefix_of, user_of, with_identity,
};

use absence::Absences;
use object::Met;

/// Where jobs are parked.
#[derive(Debug, Clone)]
pub struct Parking {
    bucket: Arc<dyn Bucket>,
    store: TokenStore,
    absences: Arc<Absences>,
}

/// What became of an attempt to park.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parked {
    /// The job is stored; acknowledge the message.
    Stored {
        /// The user's record changed meanwhile: resume the user's jobs, as a login does.
        moved: bool,
    },
    /// The credential is not what the job was told: run the job.
    RunIt,
}

/// What a parking decision looks at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Seen {
    /// The write that was read; `None` without a record.
    write: Option<String>,
    active: bool,
    blocked: bool,
    met: Met,
}

impl Parking {
    /// Parks in `bucket`, the one that `store` keeps its tokens in.
    pub fn new(bucket: Arc<dyn Bucket>, store: TokenStore) -> Self {
        Self { bucket, store, absences: Arc::default() }
    }

    /// The bucket was asked for the record of `user`, not before `at`, and has none. What may
    /// follow from that is said where it is kept.
    pub fn note_absent(&self, user: &UserId, at: Timestamp) {
        self.absences.note(user, at);
    }

    /// Whether the job in `received` may be parked as an unknown user's without another look
    /// before the parking write.
    pub fn is_known_absent(&self, user: &UserId, received: &Received, now: Timestamp) -> bool {
        self.absences.spares_a_look(user, received, now)
    }

    /// Parks a job, unless the credential turns out to have changed. The look after the
    /// write closes the race with a login: whoever comes second sees the other, so no job
    /// sleeps beside an active credential. It is never spared; the one before it is where the
    /// user was seen to be unknown a moment ago.
    ///
    /// A record that cannot be read justifies whatever the job was told: the job is safe where it
    /// is parked, and goes on when somebody has mended the record.
    ///
    /// Cancelling it may leave the job parked, as does an error. Delivered again, it is found
    /// parked; but if the user consents before that, it runs once by each of the two.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the bucket does not answer, takes nothing, or does not say
    /// whether it has the job. Parking it again is harmless.
    pub async fn park(
        &self,
        job: &Job,
        received: &Received,
        why: &ConsentReason,
        now: Timestamp,
    ) -> Result<Parked, Error> {
        let name = object::object_name(job, received);
        let text = |error: BucketError| Error::Unavailable(error.to_string().into());
        let is_absent =
            *why == ConsentReason::Unknown && self.absences.spares_a_look(&job.user, received, now);
        let before = if is_absent { Ok(Seen::default()) } else { self.look(&job.user, now).await };
        if let Err(error @ Error::Unavailable(_)) = before {
            return Err(error);
        }
        if before.as_ref().is_ok_and(|seen| !seen.justifies(why)) {
            // An earlier try, whose answer was lost, may have stored it: then that is the job.
            return match self.bucket.get(&name).await.map_err(text)? {
                Some(_) => Ok(Parked::Stored { moved: true }),
                None => Ok(Parked::RunIt),
            };
        }
        let met = before.as_ref().map(|seen| seen.met.clone()).unwrap_or_default();
        let parked = ParkedJob::new(job, received, why, met, now);
        let content = parked.encode(&name, self.store.sealing());
        let (content, hints) = (content.into(), hints::of(&parked));
        match self.bucket.put_with_hints(&name, content, hints, Generation::ABSENT).await {
            // Parked by an earlier delivery, or by this very write.
            Ok(_) | Err(BucketError::PreconditionFailed) => {}
            // Only the answer may be lost.
            Err(error) => match self.bucket.get(&name).await {
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return Err(text(error)),
            },
        }
        // The job is stored, so that the message must be acknowledged: where this look
        // fails, resuming looks again.
        let after = self.look(&job.user, now).await;
        Ok(Parked::Stored { moved: after.is_err() || after.ok() != before.ok() })
    }

    /// Reads the user's record, not before `now`.
    async fn look(&self, user: &UserId, now: Timestamp) -> Result<Seen, Error> {
        match self.store.read_record(user).await {
            Ok(record) => {
                self.absences.forget(user);
                Ok(Seen::of(&record))
            }
            Err(Error::NeedsConsent(_)) => {
                self.absences.note(user, now);
                Ok(Seen::default())
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
            blocked: record.blocked.is_some(),
            met: Met { grant_id: Some(record.grant_id.0.clone()), scopes: record.scopes.clone() },
        }
    }

    /// Whether a fresh read still says what the job was told.
    fn justifies(&self, why: &ConsentReason) -> bool {
        match why {
            ConsentReason::Unknown => self.write.is_none(),
            ConsentReason::Revoked { .. } => !self.active,
            ConsentReason::Blocked { .. } => self.active && self.blocked,
            ConsentReason::MissingScopes(missing) => {
                missing.is_empty() || missing.iter().any(|scope| !self.met.scopes.contains(scope))
            }
        }
    }
}
