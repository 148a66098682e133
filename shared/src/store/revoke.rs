//! Revocation: the provider forgets the grant, then the bucket does.

use crate::error::Error;
use crate::ports::{BucketError, EndpointError, Provider, Revocation};
use crate::user_id::UserId;

use super::{TokenStore, unavailable};

/// What a revocation came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revoked {
    /// The provider ended the grant and the record is gone.
    Revoked,
    /// The provider did not honour the grant any more; the record is gone.
    WasInvalid,
    /// There was no record.
    Unknown,
}

impl TokenStore {
    /// Ends a user's grant at the provider, then deletes the record, and last the lease. When a
    /// login or a refresh replaced the record meanwhile, its token is revoked
    /// too; one that stores a record after the deletion stays. Nothing is deleted before the
    /// provider has answered.
    ///
    /// Cancelling it may leave a record whose grant has ended; revoking again is
    /// safe.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the provider or the bucket does not answer,
    /// [`Error::WrongClient`] when the record belongs to another OAuth client
    /// (its token is not sent), [`Error::Corrupt`] when it cannot be read.
    pub async fn revoke(&self, user: &UserId, provider: &dyn Provider) -> Result<Revoked, Error> {
        let (object, lease_object) = (user.token_object(), user.lease_object());
        // Read before the token is deleted, as in every deletion: whoever logs in afterwards
        // writes another one, which stays.
        let lease = self.0.bucket.get(&lease_object).await.map_err(unavailable)?;
        let mut outcome = Revoked::Unknown;
        while let Some(stored) = self.0.read(user).await? {
            let record = &stored.record;
            self.0.identity.check(user, record)?;
            let limits = self.0.policy.exchange_limits();
            match provider.revoke(&record.refresh_token, limits).await {
                Ok(Revocation::Revoked) => {
                    self.0.note_end(user, record);
                    outcome = Revoked::Revoked;
                }
                Ok(Revocation::AlreadyInvalid) | Err(EndpointError::InvalidGrant(_)) => {
                    if outcome == Revoked::Unknown {
                        outcome = Revoked::WasInvalid;
                    }
                }
                Err(EndpointError::Refused { code, why }) if &*code == "invalid_client" => {
                    return Err(Error::Misconfigured(why));
                }
                // The grant may live, and without the record nobody could end it here.
                Err(error) => {
                    let why = format!("the provider did not confirm that the grant ended: {error}");
                    return Err(Error::Unavailable(why.into()));
                }
            }
            let deleted = self.0.bucket.delete(&object, stored.generation).await;
            self.0.note_deletion(user, &deleted);
            match deleted {
                Ok(_) => break,
                Err(BucketError::PreconditionFailed) => {}
                Err(error) => return Err(unavailable(error)),
            }
        }
        self.0.entries.forget(user);
        if let Some(lease) = lease {
            match self.0.bucket.delete(&lease_object, lease.generation).await {
                Ok(_) | Err(BucketError::PreconditionFailed) => {}
                Err(error) => return Err(unavailable(error)),
            }
        }
        Ok(outcome)
    }
}
