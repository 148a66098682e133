//! Workers sweep `parked/` at start and now and then, so that no job sleeps for
//! good because the process that should have resumed it died.
//!
//! One replica of a fleet sweeps at a time, about once per interval: it holds a marker
//! (`marker`), and another one goes on where it was if it stops or dies. A sweep chooses by
//! listings: jobs whose user has no record, or none that they could go on with, are not read,
//! however many there are. Two processes that are at one user all the same meet at the user's
//! claim ([`crate::claim`]). A claim that is held is looked at again after the time in which it
//! may be taken over, whoever sweeps next.
//!
//! The same turn publishes what applications were not told ([`crate::events`]), tells them
//! of the users whose jobs it found parked, and ends those of unknown users (`ending`).

mod ending;
mod marker;
mod memory;
mod round;
mod users;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shared::ports::{Bucket, BucketError, Clock, Generation, Monotonic, Randomness};
use shared::{Error, TokenStore, UserId};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::claim::{RENEW_AFTER, STOP_AFTER, Sighting};
use crate::events::Events;
use crate::metrics;
use crate::pubsub::Topic;
use crate::resuming::{Finish, ResumeError, Resuming};
use crate::turns;

pub use ending::UnknownUsers;
pub use memory::Memory;

use marker::{Marker, Progress, Stage};
use memory::due;
use round::lock;

/// The first sweep comes within this share of the interval, so that replicas
/// that start together do not sweep together.
const START_SHARE: u32 = 20;
/// How long after it was written the marker may be written again.
const PAUSE: Duration = Duration::from_secs(1);
/// Before a marker that could not be written again is tried once more.
const KEEP_AGAIN: Duration = Duration::from_secs(10);
/// So many users are gone through at a time. Each of them waits for about a second before its
/// claim, which was just written, can be deleted.
const AT_ONCE: usize = 24;

/// Sweeps `parked/`.
pub struct Sweep {
    /// The bucket of `store`.
    pub bucket: Arc<dyn Bucket>,
    /// Tells who is active again.
    pub store: TokenStore,
    /// Where jobs go on.
    pub jobs: Arc<dyn Topic>,
    /// When and how jobs of unknown users end; without it they never do.
    pub unknown: Option<UnknownUsers>,
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
    /// Jobs of unknown users that were rejected.
    pub ended: u64,
    /// Jobs that are still parked.
    pub jobs: u64,
    /// Users whose jobs they are.
    pub users: u64,
    /// Changes of users' consent that are still to be published.
    pub untold: u64,
}

/// The marker, while this process sweeps under it.
struct Hold {
    marker: Marker,
    generation: Generation,
    written_at: Monotonic,
    /// Another process has taken the marker, or may have.
    is_lost: bool,
}

impl Sweep {
    /// Sweeps until `stop`: soon after the start, and then at every turn that no
    /// other replica took. It first finishes the user whose jobs it is resuming.
    pub async fn run(self, stop: CancellationToken) {
        let looking = turns::look(&*self.bucket, marker::NAME);
        let Some(looked) = stop.run_until_cancelled(looking).await else { return };
        let at = self.clock.monotonic();
        let mut seen = looked.ok().map(|generation| Sighting { generation, at });
        let mut memory = Memory::default();
        let first = self.every.mul_f64(self.random.unit()) / START_SHARE;
        let mut turn_at = self.clock.monotonic().plus(first);
        let mut told = String::new();
        loop {
            let wakes_at = memory.next().map_or(turn_at, |claim| claim.min(turn_at));
            let pause = wakes_at.since(self.clock.monotonic());
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.clock.sleep(pause) => {}
            }
            let now = self.clock.monotonic();
            for user in due(&memory.parked, now) {
                if stop.is_cancelled() {
                    return;
                }
                self.resume_abandoned(&user, &mut memory).await;
            }
            for user in due(&memory.events, now) {
                if stop.is_cancelled() {
                    return;
                }
                self.tell_abandoned(&user, &mut memory).await;
            }
            if now < turn_at {
                continue;
            }
            match self.turn(&mut seen, &mut memory, &stop).await {
                Ok(None) => told.clear(),
                Ok(Some(swept)) => {
                    told.clear();
                    let Swept { resumed, ended, jobs, users, untold } = swept;
                    if resumed > 0 || ended > 0 || jobs > 0 {
                        info!(resumed, ended, parked = jobs, users, "parked jobs swept");
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
    async fn resume_abandoned(&self, user: &UserId, memory: &mut Memory) {
        let seen = memory.parked.remove(user);
        match self.go_on(user, seen).await {
            Ok(finish) => memory.note_claim(user, &finish),
            Err(error) => {
                warn!(user = %user.digest(), "parked jobs wait for the next turn: {error}");
            }
        }
    }

    /// Does what somebody else had claimed: the end of an unknown user's jobs, or resuming them.
    async fn go_on(&self, user: &UserId, seen: Option<Sighting>) -> Result<Finish, ResumeError> {
        if let Some(unknown) = &self.unknown
            && matches!(self.store.read_record(user).await, Err(Error::NeedsConsent(_)))
        {
            return self.end_unknown(unknown, user, seen).await.map(|(_, finish)| finish);
        }
        self.resuming(user).run(seen).await
    }

    /// Looks again at a user whose change of consent somebody else was to tell.
    async fn tell_abandoned(&self, user: &UserId, memory: &mut Memory) {
        let Some(events) = &self.events else { return };
        if let Err(why) = events.tell_untold(user, &mut memory.events).await {
            warn!(user = %user.digest(), "a change of consent waits for the next turn: {why}");
        }
    }

    fn resuming<'a>(&'a self, user: &'a UserId) -> Resuming<'a> {
        Resuming::new(&*self.bucket, &self.store, &*self.jobs, &*self.clock, user)
    }

    /// One turn; `None` when another replica sweeps, or has swept since `seen`, what this one
    /// remembers of the marker.
    ///
    /// Cancelling it is a crash; `stop` ends it in order, and another replica goes on.
    ///
    /// # Errors
    /// [`ResumeError`]; what did not go on stays parked.
    pub async fn turn(
        &self,
        seen: &mut Option<Sighting>,
        memory: &mut Memory,
        stop: &CancellationToken,
    ) -> Result<Option<Swept>, ResumeError> {
        let object = self.bucket.get(marker::NAME).await?;
        let found = object.as_ref().map_or(Generation::ABSENT, |object| object.generation);
        let mut marker = Marker::read(object.as_ref());
        if !marker.is_free(found, seen, self.clock.monotonic()) {
            tell(marker.found());
            return Ok(None);
        }
        let progress = Mutex::new(marker.progress.take().unwrap_or_default());
        marker.stage = Stage::UnderWay;
        let written_at = self.clock.monotonic();
        let mut hold = Hold { marker, generation: found, written_at, is_lost: false };
        let so_far = lock(&progress).clone();
        match self.write(&mut hold, Some(so_far)).await {
            Ok(()) => {}
            // Another replica was faster; its marker is news at the next look.
            Err(BucketError::PreconditionFailed) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let (is_over, cut) = (CancellationToken::new(), stop.child_token());
        let sweeping = async {
            let swept = self.round(memory, &progress, &cut).await;
            is_over.cancel();
            swept
        };
        let (swept, ()) = tokio::join!(sweeping, self.keep(&mut hold, &progress, &is_over, &cut));
        if !hold.is_lost {
            let is_whole = !cut.is_cancelled();
            hold.marker.stage = if is_whole { Stage::Over } else { Stage::Cut };
            if let (Ok(swept), true) = (&swept, is_whole) {
                let Swept { jobs, users, untold, .. } = *swept;
                hold.marker = Marker { jobs, users, untold, ..hold.marker };
                tell(*swept);
            }
            let left = (!is_whole).then(|| lock(&progress).clone());
            let passed = self.clock.monotonic().since(hold.written_at);
            self.clock.sleep(PAUSE.saturating_sub(passed)).await;
            if let Err(error) = self.write(&mut hold, left).await {
                debug!(object = marker::NAME, "the end of a sweep is not noted: {error}");
            }
        }
        *seen = Some(Sighting { generation: hold.generation, at: hold.written_at });
        swept.map(Some)
    }

    /// Writes the marker again while this process sweeps, until `is_over`; cancels `cut` when
    /// another one may sweep.
    async fn keep(
        &self,
        hold: &mut Hold,
        progress: &Mutex<Progress>,
        is_over: &CancellationToken,
        cut: &CancellationToken,
    ) {
        let mut pause = RENEW_AFTER;
        loop {
            tokio::select! {
                biased;
                () = is_over.cancelled() => return,
                () = self.clock.sleep(pause) => {}
            }
            let so_far = lock(progress).clone();
            match self.write(hold, Some(so_far)).await {
                Ok(()) => {
                    pause = RENEW_AFTER;
                    continue;
                }
                Err(BucketError::PreconditionFailed) => hold.is_lost = true,
                Err(error) => {
                    debug!(object = marker::NAME, "a sweep's marker is not written: {error}");
                    pause = KEEP_AGAIN;
                    let age = self.clock.monotonic().since(hold.written_at);
                    hold.is_lost = age >= STOP_AFTER;
                }
            }
            if hold.is_lost {
                cut.cancel();
                return;
            }
        }
    }

    async fn write(&self, hold: &mut Hold, progress: Option<Progress>) -> Result<(), BucketError> {
        let (holder, turn) = (self.store.holder().to_owned(), self.random.id());
        hold.marker = Marker { holder, turn, progress, ..hold.marker.clone() };
        let asked = self.clock.monotonic();
        let content = hold.marker.to_content();
        hold.generation = self.bucket.put(marker::NAME, content, hold.generation).await?;
        hold.written_at = asked;
        Ok(())
    }

    /// Publishes what was not told, then goes through all parked jobs once, several users at a
    /// time, without a look at whose turn it is.
    ///
    /// # Errors
    /// [`ResumeError`] when the names cannot be listed, or the bucket or the topic fails
    /// several users in a row.
    pub async fn sweep(
        &self,
        memory: &mut Memory,
        stop: &CancellationToken,
    ) -> Result<Swept, ResumeError> {
        self.round(memory, &Mutex::default(), stop).await
    }
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
