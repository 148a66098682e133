//! Holding a job while what it needs is not there, instead of giving it back: an
//! outage must not burn delivery attempts.

use std::time::Duration;

use shared::ports::BucketError;
use shared::{Credentials, Error, Schedule, UserId};
use tracing::Instrument as _;

use crate::job::Job;
use crate::metrics::Had;
use crate::spans;

use super::ending::End;
use super::{Desk, Measured, STOPPING, Stopped};

/// Pauses between two looks while a job is held.
const HOLD_MIN: Duration = Duration::from_secs(1);
const HOLD_MAX: Duration = Duration::from_secs(30);

impl Desk {
    /// A fresh credential. While the bucket or the token endpoint is down the
    /// job is held here, unacknowledged.
    pub(super) async fn credentials(
        &self,
        job: &Job,
        measured: &mut Measured<'_>,
    ) -> Result<Credentials, Stopped> {
        let span = spans::token();
        let in_memory = self.carrier.store.credentials_in_memory(&job.user);
        let (got, had, waited) = if let Some(credentials) = in_memory {
            (Ok(credentials), Had::Hit, Duration::ZERO)
        } else {
            let asked = self.now();
            let credentials = || self.carrier.store.get_credentials(&job.user);
            let waiting = self.held_unless(&job.user, credentials);
            // Boxed, as most jobs need no wait and should not carry its state.
            let got = Box::pin(waiting).instrument(span.clone()).await;
            (got, Had::Wait, self.now().since(asked))
        };
        measured.token = got.is_ok().then_some(waited);
        measured.user_digest = got.as_ref().ok().map(Credentials::user_digest);
        let had = if got.is_ok() { had } else { Had::Error };
        spans::token_had(&span, had);
        self.meters.credential(had, waited);
        got.map_err(|stopped| match stopped {
            Ok(end) => Stopped::from(end),
            Err(Error::NeedsConsent(why)) => Stopped::Consent(why),
            Err(error) => Stopped::from(End::retry(error.to_string())),
        })
    }

    /// Does something that needs the bucket, and holds the job while that is down.
    pub(super) async fn held<T, E, F>(
        &self,
        user: &UserId,
        attempt: impl Fn() -> F,
    ) -> Result<T, End>
    where
        F: Future<Output = Result<T, E>>,
        E: Into<Trouble>,
    {
        self.held_unless(user, async || attempt().await.map_err(|e| e.into().0)).await.map_err(
            |stopped| match stopped {
                Ok(end) => end,
                Err(error) => End::retry(error.to_string()),
            },
        )
    }

    /// Tries until it works or fails otherwise than by an outage; `Err(Ok(_))` at
    /// the end of the replica.
    async fn held_unless<T, F>(
        &self,
        user: &UserId,
        attempt: impl Fn() -> F,
    ) -> Result<T, Result<End, Error>>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut pauses = Schedule::new(HOLD_MIN, HOLD_MAX);
        let mut held = None;
        loop {
            let got = tokio::select! {
                biased;
                got = attempt() => got,
                () = self.stopping.cancelled() => return Err(Ok(End::retry(STOPPING))),
            };
            let error = match got {
                Ok(got) => return Ok(got),
                Err(error @ (Error::Unavailable(_) | Error::Misconfigured(_))) => error,
                // Who waits for a refresh that an outage holds up sees its limit.
                Err(error @ Error::Busy(_)) if self.outage.is_on() => error,
                Err(error) => return Err(Err(error)),
            };
            held.get_or_insert_with(|| self.outage.hold(user, &error));
            self.pause(pauses.next(self.random.unit())).await;
            if self.stopping.is_cancelled() {
                return Err(Ok(End::retry(format!("{STOPPING}, and {error}"))));
            }
        }
    }
}

/// Trouble with the bucket, as the store would name it.
pub(super) struct Trouble(Error);

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

impl From<BucketError> for Trouble {
    fn from(error: BucketError) -> Self {
        Self(Error::Unavailable(error.to_string().into()))
    }
}
