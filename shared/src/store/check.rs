//! Whether a stored record can be used, without using it.

use crate::error::Error;
use crate::user_id::UserId;

use super::TokenStore;

impl TokenStore {
    /// Reads the stored record of `user` and checks whether this process could use it: it can
    /// be opened, and belongs to the configured OAuth client. Whether the user is active
    /// plays no part. Costs one read.
    ///
    /// Cancelling it does nothing.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::WrongClient`] when it cannot be used;
    /// [`Error::NeedsConsent`] when there is none, [`Error::Unavailable`] when the bucket
    /// does not answer.
    pub async fn check_record(&self, user: &UserId) -> Result<(), Error> {
        let record = self.read_record(user).await?;
        self.0.identity.check(user, &record)
    }
}
