//! An operator has a revoked record's token presented once more.

use std::sync::Arc;

use crate::error::Error;
use crate::protocol::Flight;
use crate::user_id::UserId;

use super::TokenStore;
use super::credentials::Credentials;
use super::entry::Phase;

impl TokenStore {
    /// Presents the refresh token of `user`'s revoked record once more, under the lease:
    /// some providers say `invalid_grant` by mistake. When it is granted the record is
    /// active again and jobs can resume as after a login. A record that is active is
    /// refreshed if that is due.
    ///
    /// Nothing else presents such a token: it may be spent, and presenting a spent one can
    /// end a newer grant of that person. Cancelling it cancels the wait only.
    ///
    /// # Errors
    /// [`Error::NeedsConsent`] when the provider still rejects it; the record stays as it
    /// is. Else as [`TokenStore::get_credentials`].
    pub async fn retry(&self, user: &UserId) -> Result<Credentials, Error> {
        let entry = self.0.entries.of(user);
        loop {
            let (mut running, mine) = {
                let mut state = entry.lock();
                if let Some(running) = &state.flight {
                    (running.clone(), false)
                } else {
                    let policy = Arc::clone(&self.0.policy);
                    let identity = self.0.identity.clone();
                    let now = self.0.now();
                    let flight = Flight::presenting(user.clone(), policy, identity, now);
                    (self.begin(&entry, &mut state, flight, true), true)
                }
            };
            if !mine && !self.0.stopping.is_cancelled() {
                // Somebody else's flight, to its end: it may not have presented this token. An
                // error says that its task has ended.
                let over = |phase: &Phase| matches!(phase, Phase::Done(_) | Phase::HeldElsewhere);
                drop(running.phase.wait_for(over).await);
                continue;
            }
            match self.join(&entry, &mut running).await {
                Some(Ok(served)) => return Ok(Credentials(served)),
                Some(Err(error)) => return Err(error),
                None => return Err(Error::Busy("another replica is refreshing this user".into())),
            }
        }
    }
}
