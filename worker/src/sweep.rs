//! Workers sweep `parked/` at start and now and then, so that no job sleeps for
//! good because the process that should have resumed it died.
//!
//! A fleet sweeps about once per interval however many replicas it has: before
//! sweeping a replica writes a marker object, and it leaves its turn out when the
//! marker has changed since it last looked. No clock is compared and nothing needs
//! releasing; a replica that dies in the middle is followed by another one at most
//! two intervals later. Two may still sweep at once, and a job may then be
//! published twice, as at-least-once delivery allows.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::ports::{Bucket, BucketError, Clock, Generation, Object, Randomness};
use shared::record::TokenRecord;
use shared::{Error, TokenStore, UserId};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::metrics;
use crate::parking::{PREFIX, user_of};
use crate::pubsub::Topic;
use crate::resuming::{BATCH, ResumeError, resume_batch};

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
}

/// The user whose names are being gone through.
struct Current {
    user: UserId,
    /// `None` when the jobs stay where they are.
    record: Option<TokenRecord>,
    waiting: u64,
}

impl Sweep {
    /// Sweeps until `stop`: soon after the start, and then at every turn that no
    /// other replica took. It ends after the batch that it is at.
    pub async fn run(self, stop: CancellationToken) {
        let mut seen = self.look().await.ok().map(|marker| generation(marker.as_ref()));
        let mut pause = self.every.mul_f64(self.random.unit()) / START_SHARE;
        let mut told = String::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.clock.sleep(pause) => {}
            }
            match self.turn(&mut seen, &stop).await {
                Ok(None) => told.clear(),
                Ok(Some(swept)) => {
                    told.clear();
                    let Swept { resumed, jobs, users } = swept;
                    if resumed > 0 || jobs > 0 {
                        info!(resumed, parked = jobs, users, "parked jobs swept");
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
            pause = self.every.mul_f64(0.75 + self.random.unit() / 2.0);
        }
    }

    /// One turn; `None` when another replica swept since `seen`, the marker's
    /// generation at the last look.
    ///
    /// # Errors
    /// [`ResumeError`]; what did not go on stays parked.
    pub async fn turn(
        &self,
        seen: &mut Option<Generation>,
        stop: &CancellationToken,
    ) -> Result<Option<Swept>, ResumeError> {
        let marker = self.look().await?;
        let found = generation(marker.as_ref());
        let last: Option<Marker> =
            marker.and_then(|object| serde_json::from_slice(&object.content).ok());
        let (jobs, users) = last.map_or((0, 0), |marker| (marker.jobs, marker.users));
        if seen.replace(found).is_some_and(|before| before != found) {
            tell(jobs, users);
            return Ok(None);
        }
        let claim = match self.mark(jobs, users, found).await {
            Ok(claim) => claim,
            // Another replica was faster; its marker is news at the next look.
            Err(BucketError::PreconditionFailed) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        *seen = Some(claim);
        let swept = self.sweep(stop).await?;
        if stop.is_cancelled() {
            // Perhaps not all of it was seen.
            return Ok(Some(swept));
        }
        tell(swept.jobs, swept.users);
        for _ in 0..TRIES {
            self.clock.sleep(PAUSE).await;
            match self.mark(swept.jobs, swept.users, claim).await {
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

    /// Goes through all parked jobs once, page by page and one user at a time.
    ///
    /// # Errors
    /// [`ResumeError`] when the names cannot be listed, or several users' jobs in a
    /// row do not go on.
    pub async fn sweep(&self, stop: &CancellationToken) -> Result<Swept, ResumeError> {
        let mut swept = Swept::default();
        let mut current: Option<Current> = None;
        let (mut page, mut failures) = (None, 0);
        loop {
            let listing = self.bucket.list(PREFIX, page).await?;
            let one_users = |a: &Name, b: &Name| user_of(&a.0) == user_of(&b.0);
            for names in listing.objects.chunk_by(one_users) {
                if stop.is_cancelled() {
                    return Ok(swept);
                }
                let Some(user) = user_of(&names[0].0) else {
                    warn!(object = names[0].0, "this is no parked job's name; it stays");
                    continue;
                };
                let mut at = match current.take() {
                    Some(at) if at.user == user => at,
                    before => {
                        swept.end(before);
                        self.begin(user, &mut failures).await?
                    }
                };
                let result = self.go_on(&mut at, names, &mut swept).await;
                self.note(result, &mut at, &mut failures)?;
                current = Some(at);
            }
            page = listing.next_page;
            if page.is_none() {
                swept.end(current);
                return Ok(swept);
            }
        }
    }

    /// Looks whether a user's jobs may go on.
    async fn begin(&self, user: UserId, failures: &mut u32) -> Result<Current, ResumeError> {
        let mut at = Current { user, record: None, waiting: 0 };
        match self.store.read_record(&at.user).await {
            Ok(record) => at.record = Some(record).filter(TokenRecord::is_active),
            Err(Error::NeedsConsent(_)) => {}
            Err(error) => self.note(Err(error.into()), &mut at, failures)?,
        }
        Ok(at)
    }

    async fn go_on(
        &self,
        at: &mut Current,
        names: &[Name],
        swept: &mut Swept,
    ) -> Result<(), ResumeError> {
        let mut left = names.len() as u64;
        let mut result = Ok(());
        if let Some(record) = &at.record {
            for batch in names.chunks(BATCH) {
                let resumed;
                (resumed, result) =
                    resume_batch(&*self.bucket, &*self.jobs, &*self.clock, record, batch).await;
                swept.resumed += resumed;
                left -= resumed;
                if result.is_err() {
                    break;
                }
            }
        }
        at.waiting += left;
        result
    }

    /// A failure ends its user's turn, so that order is kept; several in a row
    /// end the sweep.
    fn note(
        &self,
        result: Result<(), ResumeError>,
        at: &mut Current,
        failures: &mut u32,
    ) -> Result<(), ResumeError> {
        let Err(error) = result else {
            if at.record.is_some() {
                *failures = 0;
            }
            return Ok(());
        };
        at.record = None;
        *failures += 1;
        if *failures >= MAX_FAILURES {
            return Err(error);
        }
        warn!(user = %at.user.digest(), replica = self.store.holder(), "parked jobs wait: {error}");
        Ok(())
    }

    async fn look(&self) -> Result<Option<Object>, BucketError> {
        self.bucket.get(MARKER).await
    }

    async fn mark(
        &self,
        jobs: u64,
        users: u64,
        expected: Generation,
    ) -> Result<Generation, BucketError> {
        let marker = Marker {
            version: VERSION,
            holder: self.store.holder().to_owned(),
            turn: self.random.id(),
            jobs,
            users,
        };
        let content = serde_json::to_vec(&marker).expect("strings and numbers are JSON");
        self.bucket.put(MARKER, content.into(), expected).await
    }
}

/// An object's name and generation.
type Name = (String, Generation);

impl Swept {
    /// A user's names are over.
    fn end(&mut self, user: Option<Current>) {
        let waiting = user.map_or(0, |user| user.waiting);
        self.jobs += waiting;
        self.users += u64::from(waiting > 0);
    }
}

fn generation(object: Option<&Object>) -> Generation {
    object.map_or(Generation::ABSENT, |object| object.generation)
}

fn tell(jobs: u64, users: u64) {
    #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
    let level = |count: u64| count as f64;
    metrics::set(metrics::PARKED_JOBS, level(jobs));
    metrics::set(metrics::NEED_CONSENT, level(users));
}

impl fmt::Debug for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sweep").field("every", &self.every).finish_non_exhaustive()
    }
}
