//! An API rejected a token.

use crate::error::Error;

use super::TokenStore;
use super::credentials::Credentials;

impl TokenStore {
    /// A successor for a credential that an API answered with 401. A thousand
    /// such reports of one grant cost one refresh.
    ///
    /// A rejection of an unexpired grant younger than the lease ttl is not
    /// believed: others keep using the token, and this caller is told to try
    /// again later, so that an API that answers 401 to everything costs at most
    /// one refresh per user and ttl. Cancelling it cancels the wait only.
    ///
    /// # Errors
    /// [`Error::Busy`] in that case; else as [`TokenStore::get_credentials`].
    pub async fn renew(&self, used: &Credentials) -> Result<Credentials, Error> {
        let entry = self.0.entries.of(used.user());
        {
            let held = used.held();
            let now = self.0.clock.now();
            let mut state = entry.lock();
            let known = state.memory.rejected.contains(&held.record.grant_id);
            let young = held.age(used.since(), now) < self.0.policy.lease_ttl;
            if !known && young && !held.expired(now) {
                return Err(Error::Busy(
                    "the API rejected a token that was renewed a moment ago; try again later"
                        .into(),
                ));
            }
            if !known {
                state.memory.rejected.insert(&held.record.grant_id);
                self.0.counters.token_rejected();
            }
        }
        self.get_credentials(used.user()).await
    }
}
