//! Decides by the stored state who tells a change, and tells it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use shared::ports::{Bucket, BucketError, Clock, Generation, Monotonic, Randomness};
use shared::record::TokenRecord;
use shared::{Error, TokenStore, UserId};
use tracing::{debug, warn};
use url::Url;

use crate::claim::{Judged, STOP_AFTER, Sighting, judge};
use crate::metrics;
use crate::parking::{is_claim, prefix_of};
use crate::pubsub::{PublishError, Topic};

use super::message::{Around, message};
use super::object::{BadEvent, ClaimedBy, StoredEvent, object_of};
use super::state::{Consent, Ending, Occasion, State, change};

/// How often something is tried that others hinder, and the pause before the next try.
const TRIES: u32 = 8;
const PAUSE: Duration = Duration::from_millis(500);
/// One object takes about one write per second.
const BETWEEN_WRITES: Duration = Duration::from_millis(1100);

/// Tells applications how it stands with users' consent.
pub struct Events {
    /// The store whose records decide, and in whose bucket it is noted what was told.
    pub store: TokenStore,
    /// Where events are published.
    pub topic: Arc<dyn Topic>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Names events.
    pub random: Arc<Randomness>,
    /// The events' source: a URI that names the token store.
    pub source: String,
    /// Where browsers reach `fleet web`, for links.
    pub site: Option<Url>,
    /// Whether to tell also of users who never consented.
    pub unknown_users: bool,
}

/// Why a change is not told, or not yet.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EventError {
    /// The user's record cannot be read.
    #[error(transparent)]
    Store(#[from] Error),
    /// The bucket does not answer.
    #[error("what was told of a user cannot be read or written: {0}")]
    Bucket(#[from] BucketError),
    /// Others went on changing it.
    #[error("others go on writing what was told of a user")]
    Contended,
    /// The topic did not take it; a sweep publishes it.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The claim was too old to publish under it.
    #[error(
        "so much time passed before an event was published that another process may have gone on"
    )]
    Late,
}

impl EventError {
    /// Whether other users' changes would meet it too. What is stored of one user says nothing
    /// about the next one.
    pub(super) fn concerns_everybody(&self) -> bool {
        match self {
            Self::Store(error) => matches!(error, Error::Unavailable(_)),
            Self::Publish(error) => !matches!(error, PublishError::Refused { .. }),
            Self::Bucket(_) | Self::Late => true,
            Self::Contended => false,
        }
    }
}

/// What a look at the stored state came to.
#[derive(Debug)]
pub enum Decided {
    /// There is nothing to tell.
    Nothing,
    /// Another process is telling it; this is what to remember of its claim.
    Held(Sighting),
    /// This process has to [`publish`](Events::publish) it.
    Mine(Tell),
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// There was nothing to tell.
    Nothing,
    /// Another process is telling it; this is what to remember of its claim.
    Held(Sighting),
    /// It was published.
    Published,
}

/// An event that this process has the right to publish.
#[derive(Debug)]
pub struct Tell {
    user: UserId,
    event: StoredEvent,
    generation: Generation,
    /// When its last write was sent.
    written_at: Monotonic,
}

impl Events {
    /// Tells what has changed about `user`, if it is this process that has to.
    ///
    /// Cancelling it is a crash: what was not told is told by a sweep.
    ///
    /// # Errors
    /// [`EventError`].
    pub async fn tell(
        &self,
        user: &UserId,
        occasion: &Occasion,
        seen: Option<Sighting>,
    ) -> Result<Told, EventError> {
        match self.decide(user, occasion, seen).await? {
            Decided::Nothing => Ok(Told::Nothing),
            Decided::Held(sighting) => Ok(Told::Held(sighting)),
            Decided::Mine(tell) => self.publish(tell).await.map(|()| Told::Published),
        }
    }

    /// Writes the new state, if there is one and no other process has. `seen` is what this
    /// process remembers of another's claim.
    ///
    /// Cancelling it may leave a claim that nobody publishes under, to be taken over.
    ///
    /// # Errors
    /// [`EventError`].
    pub async fn decide(
        &self,
        user: &UserId,
        occasion: &Occasion,
        seen: Option<Sighting>,
    ) -> Result<Decided, EventError> {
        let (bucket, name) = (self.store.bucket(), object_of(user));
        let mut own: Vec<(String, Monotonic)> = Vec::new();
        for _ in 0..TRIES {
            let object = bucket.get(&name).await?;
            let generation = object.as_ref().map_or(Generation::ABSENT, |o| o.generation);
            let stored = match object.map(|o| StoredEvent::decode(user, &o.content)).transpose() {
                Ok(stored) => stored,
                Err(why @ BadEvent::Version(_)) => {
                    warn!(object = name, "left as it is, so nothing is told: {why}");
                    return Ok(Decided::Nothing);
                }
                Err(why) => {
                    warn!(object = name, "taken for absent: {why}");
                    None
                }
            };
            let turn = stored.as_ref().and_then(|s| s.claim.as_ref()).map(|claim| &claim.turn);
            if let Some((_, written_at)) = own.iter().find(|(own, _)| Some(own) == turn)
                && let Some(event) = stored
            {
                let (user, written_at) = (user.clone(), *written_at);
                return Ok(Decided::Mine(Tell { user, event, generation, written_at }));
            }
            // After the object: what is decided by a record that is older than the state would
            // undo that.
            let record = self.read_record(user).await?;
            let now = self.clock.monotonic();
            let last = stored.as_ref().map(|stored| &stored.state);
            let next = match change(last, record.as_ref(), occasion, self.unknown_users) {
                Some(state) => self.event(state),
                None => match untold(stored, generation, occasion, seen, now) {
                    Ok(event) => event,
                    Err(None) => return Ok(Decided::Nothing),
                    Err(Some(sighting)) => return Ok(Decided::Held(sighting)),
                },
            };
            let turn = self.random.id();
            let holder = self.store.holder().to_owned();
            let claim = Some(ClaimedBy { holder, turn: turn.clone() });
            let event = StoredEvent { claim, ..next };
            let (content, hints) = event.encode(user);
            match bucket.put_with_hints(&name, content, hints, generation).await {
                Ok(generation) => {
                    let (user, written_at) = (user.clone(), now);
                    return Ok(Decided::Mine(Tell { user, event, generation, written_at }));
                }
                Err(error @ BucketError::Refused(_)) => return Err(error.into()),
                // The write may be applied all the same: then the next look shows it.
                Err(_) => own.push((turn, now)),
            }
            self.clock.sleep(PAUSE.mul_f64(0.5 + self.random.unit())).await;
        }
        Err(EventError::Contended)
    }

    fn event(&self, state: State) -> StoredEvent {
        let changed_at = self.clock.wall();
        StoredEvent { id: self.random.id(), state, changed_at, told: false, claim: None }
    }

    async fn read_record(&self, user: &UserId) -> Result<Option<TokenRecord>, Error> {
        match self.store.read_record(user).await {
            Ok(record) => Ok(Some(record)),
            Err(Error::NeedsConsent(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Publishes an event, and notes that it is told. One that the topic does not take is left
    /// to a sweep.
    ///
    /// Cancelling it is a crash: the event may be published again, with the same ID.
    ///
    /// # Errors
    /// [`EventError`].
    pub async fn publish(&self, tell: Tell) -> Result<(), EventError> {
        let waiting = match &tell.event.state.consent {
            Consent::Needed { .. } => self.waiting(&tell.user).await,
            Consent::Granted | Consent::Ended(_) => None,
        };
        let around = Around { source: &self.source, site: self.site.as_ref(), waiting };
        let message = message(&tell.user, &tell.event, around);
        if self.clock.monotonic().since(tell.written_at) >= STOP_AFTER {
            return Err(EventError::Late);
        }
        let published = self.topic.publish_alone(message).await;
        if published.is_ok() {
            metrics::event(tell.event.state.consent.word());
        }
        self.note(tell, published.is_ok()).await;
        Ok(published.map(drop)?)
    }

    /// How many jobs of the user are parked.
    async fn waiting(&self, user: &UserId) -> Option<usize> {
        let (bucket, prefix) = (self.store.bucket(), prefix_of(user));
        let (mut count, mut page) = (0, None);
        loop {
            let listing = bucket.list(&prefix, page).await.ok()?;
            count += listing.objects.iter().filter(|(name, _)| !is_claim(name)).count();
            page = listing.next_page;
            if page.is_none() {
                return Some(count);
            }
        }
    }

    /// Notes that an event is told, or gives the claim on it back. What was told of somebody
    /// who is gone is removed.
    async fn note(&self, tell: Tell, told: bool) {
        let Tell { user, event, mut generation, written_at } = tell;
        let (bucket, name) = (self.store.bucket(), object_of(&user));
        let noted = StoredEvent { told, claim: None, ..event.clone() };
        let gone = told && event.state.consent == Consent::Ended(Ending::Disconnected);
        let passed = self.clock.monotonic().since(written_at);
        self.clock.sleep(BETWEEN_WRITES.saturating_sub(passed)).await;
        for _ in 0..TRIES {
            let written = if gone {
                bucket.delete(&name, generation).await.map(drop)
            } else {
                let (content, hints) = noted.encode(&user);
                bucket.put_with_hints(&name, content, hints, generation).await.map(drop)
            };
            match written {
                Ok(()) => return,
                Err(BucketError::Refused(why)) => {
                    warn!(object = name, "it is not noted that an event was published: {why}");
                    return;
                }
                Err(_) => {}
            }
            match self.still_claimed(&*bucket, &name, &user, &event).await {
                Ok(Some(found)) => generation = found,
                // It was noted, or somebody has told what came after it.
                Ok(None) => return,
                Err(error) => debug!(object = name, "{error}"),
            }
            self.clock.sleep(BETWEEN_WRITES).await;
        }
        warn!(object = name, "it could not be noted that an event was published: it may be again");
    }

    /// The object's generation, if it still has this claim.
    async fn still_claimed(
        &self,
        bucket: &dyn Bucket,
        name: &str,
        user: &UserId,
        event: &StoredEvent,
    ) -> Result<Option<Generation>, BucketError> {
        let object = bucket.get(name).await?;
        let found = object.and_then(|object| {
            let stored = StoredEvent::decode(user, &object.content).ok()?;
            (stored.claim == event.claim).then_some(object.generation)
        });
        Ok(found)
    }
}

/// The stored event, if it is to be told now; what to remember of the claim of another process
/// that is about to tell it.
fn untold(
    stored: Option<StoredEvent>,
    generation: Generation,
    occasion: &Occasion,
    seen: Option<Sighting>,
    now: Monotonic,
) -> Result<StoredEvent, Option<Sighting>> {
    let event = stored.filter(|event| !event.told && *occasion == Occasion::Untold).ok_or(None)?;
    match event.claim.as_ref().map(|_| judge(Some(generation), seen, now)) {
        Some(Judged::Held(sighting)) => Err(Some(sighting)),
        Some(Judged::Take(_)) | None => Ok(event),
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").field("topic", &self.topic).finish_non_exhaustive()
    }
}
