//! The writes that need no lease: logins, imports and deletion.

use std::time::Duration;

use jiff::Timestamp;

use crate::error::{ConsentReason, Error};
use crate::ports::{BucketError, Generation};
use crate::protocol::{Held, Stored};
use crate::record::{GrantId, State, TokenRecord, WriteId};
use crate::schedule::Schedule;
use crate::secret::Secret;
use crate::user_id::UserId;

use super::{Inner, TokenStore, unavailable};

/// A user's grant as a login or an import brings it.
#[derive(Debug, Clone, Default)]
pub struct Grant {
    /// The refresh token; a repeated login may come without one.
    pub refresh_token: Option<Secret>,
    /// The access token, if there is one.
    pub access_token: Option<Secret>,
    /// When the access token expires; an access token without this is not used.
    pub expires_at: Option<Timestamp>,
    /// The access token's lifetime when it was issued.
    pub expires_in: Option<Duration>,
    /// The granted scopes.
    pub scopes: Vec<String>,
    /// The account at the provider.
    pub sub: Option<String>,
}

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

/// What to write, given what is stored.
enum Change {
    Write(Box<TokenRecord>),
    Leave,
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
        let Some(refresh_token) = grant.refresh_token.clone() else {
            let known = match self.0.read(user).await? {
                Some(stored) => {
                    stored.record.is_active()
                        && stored.record.sub.is_some()
                        && stored.record.sub == grant.sub
                        && *stored.record.client_id == *self.0.identity.client_id
                }
                None => false,
            };
            return Ok(if known { Login::SignedIn } else { Login::ConsentAgain });
        };
        let inner = &self.0;
        let written = inner
            .write(user, |stored| {
                Ok(Change::Write(Box::new(inner.granted(user, &grant, &refresh_token, stored))))
            })
            .await?;
        if let Some(stored) = written {
            inner.take_in(user, stored, true);
        }
        Ok(Login::Stored)
    }

    /// Imports a grant that was obtained elsewhere. Importing the refresh token
    /// that is stored already changes nothing.
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
        let Some(refresh_token) = grant.refresh_token.clone() else {
            return Err(Error::NeedsConsent(ConsentReason::Unknown));
        };
        let inner = &self.0;
        let mut outcome = Imported::Created;
        let written = inner
            .write(user, |stored| {
                outcome = Imported::Created;
                if let Some(stored) = stored {
                    if stored.is_active() && stored.refresh_token == refresh_token {
                        outcome = Imported::Unchanged;
                        return Ok(Change::Leave);
                    }
                    if stored.is_active() && !replace {
                        return Err(Error::Exists { object: user.token_object() });
                    }
                    outcome = Imported::Replaced;
                }
                Ok(Change::Write(Box::new(inner.granted(user, &grant, &refresh_token, stored))))
            })
            .await?;
        if let Some(stored) = written {
            inner.take_in(user, stored, false);
        }
        Ok(outcome)
    }

    /// Deletes a user's record and then the lease, each at the generation that
    /// was read; a refresh in flight finds the record gone and writes nothing.
    /// Returns whether there was a record.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the bucket does not answer; the record may be
    /// gone or not, and deleting again is safe.
    pub async fn delete(&self, user: &UserId) -> Result<bool, Error> {
        let (token, lease) = (user.token_object(), user.lease_object());
        let bucket = &self.0.bucket;
        let mut pauses = self.0.pauses();
        let lease_before = bucket.get(&lease).await.map_err(unavailable)?.map(|o| o.generation);
        let mut existed = false;
        loop {
            let Some(object) = bucket.get(&token).await.map_err(unavailable)? else {
                break;
            };
            existed = true;
            match bucket.delete(&token, object.generation).await {
                Ok(_) => break,
                Err(BucketError::PreconditionFailed) => {}
                Err(error) => self.0.pause(&mut pauses, error).await?,
            }
        }
        self.0.slots.remove(user);
        if let Some(generation) = lease_before {
            loop {
                match bucket.delete(&lease, generation).await {
                    // Taken meanwhile, by a refresh that will find no record.
                    Ok(_) | Err(BucketError::PreconditionFailed) => break,
                    Err(error) => self.0.pause(&mut pauses, error).await?,
                }
            }
        }
        Ok(existed)
    }
}

impl Inner {
    /// Compare-and-set until it holds; what was written, unless `change` left
    /// the record as it is.
    async fn write(
        &self,
        user: &UserId,
        mut change: impl FnMut(Option<&TokenRecord>) -> Result<Change, Error>,
    ) -> Result<Option<Stored>, Error> {
        let name = user.token_object();
        let mut pauses = self.pauses();
        let mut sent: Vec<WriteId> = Vec::new();
        loop {
            let stored = self.read(user).await?;
            if let Some(stored) = stored.as_ref()
                && sent.contains(&stored.record.write_id)
            {
                // The reply to my own write was lost.
                return Ok(Some(stored.clone()));
            }
            let record = match change(stored.as_ref().map(|s| &s.record))? {
                Change::Write(record) => record,
                Change::Leave => return Ok(None),
            };
            let expected = stored.map_or(Generation::ABSENT, |s| s.generation);
            sent.push(record.write_id.clone());
            match self.bucket.put(&name, self.codec.encode(&record), expected).await {
                Ok(generation) => return Ok(Some(Stored { record: *record, generation })),
                Err(BucketError::PreconditionFailed) => {}
                Err(error) => self.pause(&mut pauses, error).await?,
            }
        }
    }

    pub(super) fn pauses(&self) -> Schedule {
        Schedule::new(self.policy.retry_min, self.policy.retry_max)
    }

    /// Waits before the next try, or gives up with `error` after some.
    pub(super) async fn pause(
        &self,
        pauses: &mut Schedule,
        error: BucketError,
    ) -> Result<(), Error> {
        const TRIES: u32 = 8;
        if matches!(error, BucketError::Refused(_)) || pauses.count() >= TRIES {
            return Err(unavailable(error));
        }
        let pause = pauses.next(self.random.unit());
        self.clock.sleep(pause).await;
        Ok(())
    }

    fn granted(
        &self,
        user: &UserId,
        grant: &Grant,
        refresh_token: &Secret,
        stored: Option<&TokenRecord>,
    ) -> TokenRecord {
        let now = self.clock.wall();
        let mut scopes = grant.scopes.clone();
        scopes.sort();
        scopes.dedup();
        TokenRecord {
            user: user.clone(),
            sub: grant.sub.clone().or_else(|| stored.and_then(|s| s.sub.clone())),
            state: State::Active,
            reason: None,
            refresh_token: refresh_token.clone(),
            access_token: grant.access_token.clone().filter(|_| grant.expires_at.is_some()),
            expires_at: grant.expires_at,
            expires_in: grant.expires_in,
            scopes,
            token_uri: self.identity.token_uri.to_string(),
            client_id: self.identity.client_id.to_string(),
            grant_id: GrantId(self.random.id()),
            write_id: WriteId(self.random.id()),
            holder: self.identity.holder.to_string(),
            // Still the lease's generation, unless a refresh is under way; then
            // the hint fails once and the lease is read.
            lease_generation: stored.and_then(|s| s.lease_generation),
            created_at: stored.map_or(now, |s| s.created_at),
            updated_at: now,
        }
    }

    /// Serves this process's callers from a record that it just wrote. While a
    /// flight is under way its own commit finds the new record instead.
    fn take_in(&self, user: &UserId, stored: Stored, received_now: bool) {
        let slot = self.slot(user);
        let now = self.now();
        let mut state = slot.entry().lock();
        if received_now {
            state.memory.received = Some((stored.record.grant_id.clone(), now));
        }
        let held = Held {
            received_at: received_now.then_some(now),
            ahead: self.policy.refresh_ahead_for(stored.record.expires_in, self.random.unit()),
            record: stored.record,
            generation: Some(stored.generation),
        };
        state.hold(Some(self.serve(held)));
        state.look_at_will();
    }
}
