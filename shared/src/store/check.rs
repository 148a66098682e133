//! Whether a stored record can be used, without using it.

use crate::error::Error;
use crate::protocol::Identity;
use crate::record::TokenRecord;
use crate::user_id::UserId;

use super::TokenStore;

impl TokenStore {
    /// Reads the stored record of `user` and looks whether this process could use it: it can
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

impl Identity {
    /// Whether a record of `user` belongs to this client; its secret is sent nowhere else.
    pub(crate) fn check(&self, user: &UserId, record: &TokenRecord) -> Result<(), Error> {
        let checks = [
            ("client_id", &record.client_id, &self.client_id),
            ("token_uri", &record.token_uri, &self.token_uri),
        ];
        match checks.into_iter().find(|(_, stored, configured)| **stored != ***configured) {
            None => Ok(()),
            Some((field, stored, configured)) => Err(Error::WrongClient {
                object: user.token_object(),
                field,
                stored: stored.clone(),
                configured: configured.to_string(),
            }),
        }
    }
}
