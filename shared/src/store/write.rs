//! Carries out the writes that need no lease: logins, imports and deletion.

use crate::error::Error;
use crate::ports::Act;
use crate::protocol::{Deletion, Grant, Granted, Granting, Held, Stored, Terms};
use crate::user_id::UserId;

use super::requests::run;
use super::{Inner, TokenStore};

/// What a login came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    /// The new grant is stored.
    Stored,
    /// No refresh token came, and none was needed: the account is known.
    SignedIn,
    /// No refresh token came and none is stored: repeat with `prompt=consent`.
    ConsentAgain,
}

/// What an import came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// There was no record.
    Created,
    /// A record was replaced.
    Replaced,
    /// This very refresh token is stored already.
    Unchanged,
}

impl TokenStore {
    /// Stores what a login brought, by compare-and-set: it replaces whatever is
    /// stored, clears `revoked`, and is never overwritten by an older refresh.
    ///
    /// Cancelling it leaves the old record or the new one, never a mixture.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when the stored object cannot be read (it is left as it
    /// is), [`Error::Unavailable`] when the bucket does not answer.
    pub async fn set_credentials(&self, user: &UserId, grant: Grant) -> Result<Login, Error> {
        match self.0.grant(user, grant, Terms::Login).await? {
            Granted::SignedIn => Ok(Login::SignedIn),
            Granted::ConsentAgain => Ok(Login::ConsentAgain),
            Granted::Stored { stored, as_granted, .. } => {
                self.0.take_in(user, *stored, as_granted);
                Ok(Login::Stored)
            }
            Granted::Unchanged => unreachable!("only an import leaves a record as it is"),
        }
    }

    /// Imports a grant that was obtained elsewhere. Importing the refresh token that is
    /// stored already changes nothing: a record that was revoked with this very token stays
    /// revoked ([`TokenStore::retry`] asks the provider), and one that was exported as
    /// revoked ([`Grant::ended`]) is stored as revoked.
    ///
    /// # Errors
    /// [`Error::Exists`] when an active record would be replaced and `replace` is
    /// false; [`Error::NeedsConsent`] when the grant has no refresh token; else
    /// as [`TokenStore::set_credentials`].
    pub async fn import(
        &self,
        user: &UserId,
        grant: Grant,
        replace: bool,
    ) -> Result<Imported, Error> {
        match self.0.grant(user, grant, Terms::Import { replace }).await? {
            Granted::Unchanged => Ok(Imported::Unchanged),
            Granted::Stored { stored, replaced, .. } => {
                if stored.record.is_active() {
                    self.0.take_in(user, *stored, false);
                }
                Ok(if replaced { Imported::Replaced } else { Imported::Created })
            }
            Granted::SignedIn | Granted::ConsentAgain => unreachable!("nobody signs in"),
        }
    }

    /// Deletes a user's record and then the lease, each at the generation that
    /// was read; a refresh in flight finds the record gone and writes nothing.
    /// Returns whether there was a record.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the bucket does not answer; the record may be
    /// gone or not, and deleting again is safe.
    pub async fn delete(&self, user: &UserId) -> Result<bool, Error> {
        let inner = &self.0;
        let mut deletion = Deletion::new(&inner.policy, inner.now());
        let deleted =
            run(inner, user, Act::Deleted, |event, now| deletion.step(event, now, &*inner.random))
                .await;
        if deleted.is_ok() {
            inner.entries.forget(user);
        }
        deleted
    }
}

impl Inner {
    /// Drives a login or an import to its end.
    async fn grant(&self, user: &UserId, grant: Grant, terms: Terms) -> Result<Granted, Error> {
        let identity = self.identity.clone();
        let act = match terms {
            Terms::Login => Act::Granted,
            Terms::Import { .. } => Act::Imported,
        };
        let mut granting =
            Granting::new(user.clone(), &self.policy, identity, grant, terms, self.now());
        run(self, user, act, |event, now| granting.step(event, now, &*self.random)).await
    }

    /// Serves this process's callers from a record that it just wrote. While a
    /// flight is under way its own commit finds the new record instead.
    fn take_in(&self, user: &UserId, stored: Stored, obtained_now: bool) {
        let entry = self.entries.of(user);
        let now = self.now();
        let mut state = entry.lock();
        if obtained_now {
            state.memory.obtained = Some((stored.record.grant_id.clone(), now));
        }
        let held = Held {
            obtained_at: obtained_now.then_some(now),
            ahead: self.policy.refresh_ahead_for(stored.record.expires_in, self.random.unit()),
            record: stored.record,
            generation: Some(stored.generation),
        };
        let served = self.serve(held, &state);
        state.served = Some(served);
        state.look_at_will();
    }
}
