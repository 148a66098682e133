//! Re-sealing: what finishes a rotation of the keyring for records that nobody
//! else writes.

use std::sync::Arc;
use std::time::Duration;

use tracing::debug;

use crate::error::Error;
use crate::ports::Act;
use crate::protocol::{Action, Event, Finish, Flight, Stored};
use crate::reason::ConsentReason;
use crate::user_id::UserId;

use super::entry::Entry;
use super::requests::run;
use super::{Inner, TokenStore, unavailable};

/// What a re-seal came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resealed {
    /// The record was written again, sealed with the primary key.
    Done,
    /// Nothing to do: it is sealed with the primary key, or there is neither a
    /// keyring nor a seal.
    AlreadyCurrent,
    /// A refresh of this user is under way here or elsewhere, or died: its own
    /// write seals the record, too. Ask again after this long; what was
    /// observed of the lease is remembered until then, so that a lease which was
    /// left behind is taken over.
    Busy {
        /// How long until asking again can help.
        retry_after: Duration,
    },
}

impl TokenStore {
    /// Seals `user`'s record with the keyring's primary key, unless it is already.
    /// The grant stays as it is. It starts with the lease, like a refresh, and
    /// never waits for another replica; logins and refreshes go on meanwhile and
    /// none of them is lost.
    ///
    /// Costs one read when there is nothing to do, otherwise up to three reads and
    /// two writes. Cancelling it cancels the wait: what was begun ends by itself,
    /// and [`TokenStore::shutdown`] waits for it.
    ///
    /// # Errors
    /// [`Error::NeedsConsent`] when there is no record, [`Error::Corrupt`] when it
    /// does not open (it is left as it is), [`Error::Busy`] or
    /// [`Error::Unavailable`] when the bucket was too slow or does not answer.
    pub async fn reseal(&self, user: &UserId) -> Result<Resealed, Error> {
        let entry = self.0.entries.of(user);
        if entry.is_flying() {
            return Ok(Resealed::Busy { retry_after: self.0.policy.poll_max });
        }
        // In a task of its own: a lease that was taken and not used would hold up
        // everybody for its ttl.
        let task = self.0.tasks.spawn(reseal(Arc::clone(&self.0), entry));
        task.await.unwrap_or_else(|_| {
            let why = "the task that re-sealed it ended unexpectedly; try again";
            Err(Error::Unavailable(why.into()))
        })
    }
}

async fn reseal(inner: Arc<Inner>, entry: Arc<Entry>) -> Result<Resealed, Error> {
    let Some(stored) = sealed_otherwise(&inner, &entry).await? else {
        return Ok(Resealed::AlreadyCurrent);
    };
    let mut flight = Flight::resealing(
        entry.user.clone(),
        Arc::clone(&inner.policy),
        inner.identity.clone(),
        inner.now(),
    );
    let mut first_read = Some(stored);
    let finish = run(&inner, &entry.user, Act::Resealed, |event, now| {
        let memory = &mut entry.lock().memory;
        match flight.step(event, now, memory, &*inner.random) {
            Action::ReadToken if first_read.is_some() => {
                let event = Event::TokenRead(Ok(first_read.take()));
                flight.step(event, now, memory, &*inner.random)
            }
            action => action,
        }
    })
    .await;
    inner.counters.flight_over(flight.notes(), &finish);
    match finish {
        Finish::Resealed(stored) => {
            debug!(user = %entry.user.digest(), "re-sealed");
            entry.moved(&stored);
            Ok(Resealed::Done)
        }
        Finish::Failed(error) => Err(error),
        // Whoever wrote it, or is about to, seals it too.
        Finish::HeldElsewhere | Finish::Use(..) => {
            if sealed_otherwise(&inner, &entry).await?.is_none() {
                return Ok(Resealed::AlreadyCurrent);
            }
            let seen = entry.lock().memory.observation.clone();
            let left = seen.map(|seen| seen.remaining(inner.now()));
            Ok(Resealed::Busy { retry_after: left.unwrap_or(inner.policy.poll_max) })
        }
    }
}

/// The record, unless it is sealed with the primary key.
async fn sealed_otherwise(inner: &Inner, entry: &Entry) -> Result<Option<Box<Stored>>, Error> {
    let name = entry.user.token_object();
    let Some(object) = inner.bucket.get(&name).await.map_err(unavailable)? else {
        return Err(Error::NeedsConsent(ConsentReason::Unknown));
    };
    match inner.codec.decode(&entry.user, &object.content) {
        Err(why) => Err(Error::Corrupt { object: name, why }),
        Ok(_) if inner.codec.is_current(&entry.user, &object.content) => Ok(None),
        Ok(record) => Ok(Some(Box::new(Stored { record, generation: object.generation }))),
    }
}

impl Entry {
    /// Follows a record whose version changed and whose grant did not, so that the
    /// next refresh does not take it for news.
    fn moved(&self, stored: &Stored) {
        let mut state = self.lock();
        let Some(served) = &state.served else {
            return;
        };
        let held = served.held();
        let older = held.generation.is_some_and(|held| held < stored.generation);
        if older && held.record.grant_id == stored.record.grant_id {
            let moved = Arc::new(served.moved_to(stored.generation));
            state.served = Some(moved);
        }
    }
}
