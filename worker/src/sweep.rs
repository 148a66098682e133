//! Workers sweep `parked/` at start and now and then, so that no job sleeps for
//! good because the process that should have resumed it died.
//!
//! A fleet sweeps about once per interval however many replicas it has: these take
//! turns. Two may still sweep at once: they meet at each user's claim
//! ([`crate::claim`]). A claim that is held is looked at again after the time in which it
//! may be taken over, whoever sweeps next.
//!
//! The same turn publishes what applications were not told ([`crate::events`]), and tells them
//! of the users whose jobs it found parked.

mod claims;

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shared::ports::{Bucket, BucketError, Clock, Generation, Object, Randomness};
use shared::{TokenStore, UserId};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::events::Events;
use crate::events::state::Occasion;
use crate::metrics;
use crate::parking::{PREFIX, is_claim, user_of};
use crate::pubsub::Topic;
use crate::resuming::{Finish, ResumeError, Resuming};
use crate::turns::{self, Turn};

pub use claims::Claims;

use claims::due;

/// Says that a sweep was begun, and what the last one found.
const MARKER: &str = "sweeps/parked.json";
const VERSION: u32 = 1;
/// The first sweep comes within this share of the interval, so that replicas
/// that start together do not sweep together.
const START_SHARE: u32 = 20;
/// How long after its claim the marker may be written again.
const PAUSE: Duration = Duration::from_secs(1);
const TRIES: u32 = 4;
/// After so many users in a row whose jobs do not go on it is the topic or the
/// bucket that fails: the rest waits for the next turn.
const MAX_FAILURES: u32 = 3;

/// Sweeps `parked/`.
pub struct Sweep {
    /// The bucket of `store`.
    pub bucket: Arc<dyn Bucket>,
    /// Tells who is active again.
    pub store: TokenStore,
    /// Where jobs go on.
    pub jobs: Arc<dyn Topic>,
    /// Tells applications, where they are told.
    pub events: Option<Arc<Events>>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Jitter.
    pub random: Arc<Randomness>,
    /// How long between two turns, about.
    pub every: Duration,
}

/// What a sweep found and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Jobs that were published again.
    pub resumed: u64,
    /// Jobs that are still parked.
    pub jobs: u64,
    /// Users whose jobs they are.
    pub users: u64,
    /// Changes of users' consent that are still to be published.
    pub untold: u64,
}

/// The marker's content, for people and for the gauges of the other replicas.
#[derive(Serialize, Deserialize)]
struct Marker {
    version: u32,
    holder: String,
    /// Makes each write another one.
    turn: String,
    jobs: u64,
    users: u64,
    #[serde(default)]
    untold: u64,
}

impl Sweep {
    /// Sweeps until `stop`: soon after the start, and then at every turn that no
    /// other replica took. It ends after the user that it is at.
    pub async fn run(self, stop: CancellationToken) {
        let looking = turns::look(&*self.bucket, MARKER);
        let Some(looked) = stop.run_until_cancelled(looking).await else { return };
        let mut seen = looked.ok();
        let mut claims = Claims::default();
        let first = self.every.mul_f64(self.random.unit()) / START_SHARE;
        let mut turn_at = self.clock.monotonic().plus(first);
        let mut told = String::new();
        loop {
            let wakes_at = claims.next().map_or(turn_at, |claim| claim.min(turn_at));
            let pause = wakes_at.since(self.clock.monotonic());
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.clock.sleep(pause) => {}
            }
            let now = self.clock.monotonic();
            for user in due(&claims.parked, now) {
                if stop.is_cancelled() {
                    return;
                }
                self.resume_abandoned(&user, &mut claims).await;
            }
            for user in due(&claims.events, now) {
                if stop.is_cancelled() {
                    return;
                }
                self.tell_abandoned(&user, &mut claims).await;
            }
            if now < turn_at {
                continue;
            }
            match self.turn(&mut seen, &mut claims, &stop).await {
                Ok(None) => told.clear(),
                Ok(Some(swept)) => {
                    told.clear();
                    let Swept { resumed, jobs, users, untold } = swept;
                    if resumed > 0 || jobs > 0 {
                        info!(resumed, parked = jobs, users, "parked jobs swept");
                    }
                    if untold > 0 {
                        warn!(untold, "changes of users' consent are not told yet");
                    }
                }
                Err(error) => {
                    // An outage would say the same at every turn.
                    let text = error.to_string();
                    if text != told {
                        warn!("parked jobs are not swept and wait for the next turn: {text}");
                    }
                    told = text;
                }
            }
            let pause = self.every.mul_f64(0.75 + self.random.unit() / 2.0);
            turn_at = self.clock.monotonic().plus(pause);
        }
    }

    /// Looks again at a user whose claim stood still.
    async fn resume_abandoned(&self, user: &UserId, claims: &mut Claims) {
        let seen = claims.parked.remove(user);
        let mut resuming = self.resuming(user);
        match resuming.run(seen).await {
            Ok(finish) => claims.note(user, &finish),
            Err(error) => {
                warn!(user = %user.digest(), "parked jobs wait for the next turn: {error}");
            }
        }
    }

    /// Looks again at a user whose change of consent somebody else was to tell.
    async fn tell_abandoned(&self, user: &UserId, claims: &mut Claims) {
        let Some(events) = &self.events else { return };
        if let Err(why) = events.tell_untold(user, &mut claims.events).await {
            warn!(user = %user.digest(), "a change of consent waits for the next turn: {why}");
        }
    }

    fn resuming<'a>(&'a self, user: &'a UserId) -> Resuming<'a> {
        Resuming::new(&*self.bucket, &self.store, &*self.jobs, &*self.clock, user)
    }

    /// One turn; `None` when another replica swept since `seen`, the marker's
    /// generation at the last look.
    ///
    /// # Errors
    /// [`ResumeError`]; what did not go on stays parked.
    pub async fn turn(
        &self,
        seen: &mut Option<Generation>,
        claims: &mut Claims,
        stop: &CancellationToken,
    ) -> Result<Option<Swept>, ResumeError> {
        let next = |marker: Option<&Object>| self.marker(read(marker));
        let claim = match turns::take(&*self.bucket, MARKER, seen, next).await? {
            Turn::Mine(claim) => claim,
            Turn::Others(marker) => {
                if marker.is_some() {
                    tell(read(marker.as_ref()));
                }
                return Ok(None);
            }
        };
        let swept = self.sweep(claims, stop).await?;
        if stop.is_cancelled() {
            // Perhaps not all of it was seen.
            return Ok(Some(swept));
        }
        tell(swept);
        for _ in 0..TRIES {
            self.clock.sleep(PAUSE).await;
            match self.bucket.put(MARKER, self.marker(swept), claim).await {
                Ok(written) => {
                    *seen = Some(written);
                    break;
                }
                Err(BucketError::Throttled) => {}
                // Only the other replicas' gauges miss it.
                Err(_) => break,
            }
        }
        Ok(Some(swept))
    }

    /// Publishes what was not told, then goes through all parked jobs once, one user at a
    /// time.
    ///
    /// # Errors
    /// [`ResumeError`] when the names cannot be listed, or several users' jobs in a
    /// row do not go on.
    pub async fn sweep(
        &self,
        claims: &mut Claims,
        stop: &CancellationToken,
    ) -> Result<Swept, ResumeError> {
        let (mut swept, mut needed) = (Swept::default(), HashSet::new());
        if let Some(events) = &self.events {
            match events.sweep(&mut claims.events, stop).await {
                Ok(found) => (swept.untold, needed) = (found.untold, found.needed),
                // Jobs go on, whether somebody can be told or not.
                Err(why) => warn!("what was not told waits for the next turn: {why}"),
            }
        }
        let mut current: Option<(UserId, u64)> = None;
        let (mut page, mut failures) = (None, 0);
        loop {
            let listing = self.bucket.list(PREFIX, page).await?;
            for (name, _) in &listing.objects {
                if is_claim(name) {
                    continue;
                }
                let Some(user) = user_of(name) else {
                    warn!(object = name, "this is no parked job's name; it stays");
                    continue;
                };
                match &mut current {
                    Some((at, jobs)) if *at == user => *jobs += 1,
                    before => {
                        if stop.is_cancelled() {
                            return Ok(swept);
                        }
                        if let Some((user, jobs)) = before.replace((user, 1)) {
                            let is_told = needed.contains(&user);
                            self.resume(&user, jobs, is_told, claims, &mut swept, &mut failures)
                                .await?;
                        }
                    }
                }
            }
            page = listing.next_page;
            if page.is_none() {
                if let Some((user, jobs)) = current {
                    let is_told = needed.contains(&user);
                    self.resume(&user, jobs, is_told, claims, &mut swept, &mut failures).await?;
                }
                return Ok(swept);
            }
        }
    }

    /// Resumes one user, of whom so many jobs are parked. A failure ends its user's turn, so
    /// that order is kept; several in a row end the sweep. `is_told`: applications know that
    /// the user is needed.
    async fn resume(
        &self,
        user: &UserId,
        jobs: u64,
        is_told: bool,
        claims: &mut Claims,
        swept: &mut Swept,
        failures: &mut u32,
    ) -> Result<(), ResumeError> {
        let mut resuming = self.resuming(user);
        let ended = resuming.run(claims.parked.get(user).copied()).await;
        let published = resuming.published;
        swept.resumed += published;
        let waiting = jobs.saturating_sub(published);
        swept.jobs += waiting;
        swept.users += u64::from(waiting > 0);
        match ended {
            Ok(finish) => {
                if matches!(finish, Finish::Done) {
                    let waits = resuming.waits();
                    self.tell_found(user, published, waiting, waits, is_told).await;
                }
                claims.note(user, &finish);
                if published > 0 {
                    *failures = 0;
                }
                Ok(())
            }
            Err(error) => {
                *failures += 1;
                if *failures >= MAX_FAILURES {
                    return Err(error);
                }
                let replica = self.store.holder();
                warn!(user = %user.digest(), replica, "parked jobs wait: {error}");
                Ok(())
            }
        }
    }

    /// Tells what was found of a user whose jobs are parked, or were: the process that parked
    /// them, or stored the new grant, may not have told it.
    async fn tell_found(
        &self,
        user: &UserId,
        published: u64,
        waiting: u64,
        waits: Occasion,
        is_told: bool,
    ) {
        let Some(events) = &self.events else { return };
        let occasion = match (published, waiting) {
            (0, 0) => return,
            (0, _) if is_told => return,
            (_, 0) => Occasion::Changed,
            _ => waits,
        };
        if let Err(why) = events.tell(user, &occasion, None).await {
            warn!(user = %user.digest(), "a change of consent is not told yet: {why}");
        }
    }

    fn marker(&self, found: Swept) -> Bytes {
        let marker = Marker {
            version: VERSION,
            holder: self.store.holder().to_owned(),
            turn: self.random.id(),
            jobs: found.jobs,
            users: found.users,
            untold: found.untold,
        };
        serde_json::to_vec(&marker).expect("strings and numbers are JSON").into()
    }
}

/// What the last sweep found, by its marker.
fn read(marker: Option<&Object>) -> Swept {
    let last: Option<Marker> =
        marker.and_then(|object| serde_json::from_slice(&object.content).ok());
    last.map_or_else(Swept::default, |Marker { jobs, users, untold, .. }| Swept {
        resumed: 0,
        jobs,
        users,
        untold,
    })
}

fn tell(found: Swept) {
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    let level = |count: u64| count as f64;
    metrics::set(metrics::PARKED_JOBS, level(found.jobs));
    metrics::set(metrics::NEED_CONSENT, level(found.users));
    metrics::set(metrics::EVENTS_UNTOLD, level(found.untold));
}

impl fmt::Debug for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sweep").field("every", &self.every).finish_non_exhaustive()
    }
}
