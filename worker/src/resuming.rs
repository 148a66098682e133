//! Parked jobs go on when their user has consented.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use shared::ports::{Bucket, BucketError, Clock, Generation};
use shared::record::TokenRecord;
use shared::{Error, Reason, TokenStore, UserId};
use tracing::{debug, error, warn};

use crate::claim::Sighting;
use crate::events::state::Occasion;
use crate::metrics;
use crate::parking::resumption::{BATCH, Ended, Entry, Event, Resumption, Step};
use crate::parking::{Claim, Claimed, ParkedJob, Renewed, is_claim, prefix_of};
use crate::pubsub::{PublishError, Topic};

/// Why a user's jobs still wait.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// The user's record cannot be read.
    #[error(transparent)]
    Store(#[from] Error),
    /// The bucket does not answer.
    #[error("parked jobs cannot be read: {0}")]
    Bucket(#[from] BucketError),
    /// A job could not be published; it stays parked.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The claim was too old to publish under it.
    #[error("publishing the parked jobs took so long that another process may have gone on")]
    Late,
}

impl ResumeError {
    /// Whether other users' jobs would meet it too. What is stored of one user says nothing about
    /// the next one.
    pub(crate) fn concerns_everybody(&self) -> bool {
        match self {
            Self::Store(error) => matches!(error, Error::Unavailable(_)),
            Self::Publish(error) => !matches!(error, PublishError::Refused { .. }),
            Self::Bucket(_) | Self::Late => true,
        }
    }
}

/// What became of a user's parked jobs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resumed {
    /// How many were published again.
    pub published: u64,
    /// Another process resumes this user at the moment, and looks again when it has ended.
    pub held: bool,
}

/// A login looks this often, after pauses of this length, whether another process has ended.
const HELD_PAUSE: Duration = Duration::from_secs(2);
const HELD_TRIES: u32 = 15;
/// How many parked jobs of a user are gone through at once, at most.
const MOST: usize = 100_000;

/// Deletes what was published.
///
/// # Errors
/// When the bucket does not delete it.
pub async fn forget(
    bucket: &dyn Bucket,
    name: &str,
    generation: Generation,
) -> Result<(), BucketError> {
    match bucket.delete(name, generation).await {
        Ok(_) | Err(BucketError::PreconditionFailed) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Publishes a user's parked jobs again, in their order, and deletes each after
/// it was published; none while the user's consent is missing. Where another process is
/// doing so, waits up to half a minute for it. The bucket is one that tries again
/// ([`TokenStore::bucket`]): what was parked a moment ago cannot be deleted at once, and what
/// is not deleted could run a second time.
///
/// Cancelling it is a crash: what was published and not deleted yet runs twice.
///
/// # Errors
/// [`ResumeError`]; what was not published stays parked.
pub async fn resume_user(
    bucket: &dyn Bucket,
    store: &TokenStore,
    jobs: &dyn Topic,
    clock: &dyn Clock,
    user: &UserId,
) -> Result<Resumed, ResumeError> {
    let mut resumed = Resumed::default();
    for _ in 0..HELD_TRIES {
        let mut resuming = Resuming::new(bucket, store, jobs, clock, user);
        let ended = resuming.run(None).await;
        resumed.published += resuming.published;
        resumed.held = matches!(ended?, Finish::Held(_));
        if !resumed.held {
            break;
        }
        clock.sleep(HELD_PAUSE).await;
    }
    Ok(resumed)
}

/// Drives one [`Resumption`].
pub(crate) struct Resuming<'a> {
    bucket: &'a dyn Bucket,
    store: &'a TokenStore,
    jobs: &'a dyn Topic,
    clock: &'a dyn Clock,
    user: &'a UserId,
    record: Option<TokenRecord>,
    claim: Option<Claim>,
    /// How many were published, whatever came after that.
    pub(crate) published: u64,
    /// The scopes that jobs which stay parked lack, if any lacks scopes.
    lacked: Option<BTreeSet<String>>,
    error: Option<ResumeError>,
}

/// What is to be done with one parked object.
enum Found {
    Due(Box<ParkedJob>),
    /// It must stay where it is; the scopes that it lacks, if that is why.
    Keep(Option<Vec<String>>),
    Gone,
}

/// How it went.
#[derive(Debug)]
pub(crate) enum Finish {
    /// Nothing that is due is left.
    Done,
    /// Another process has the claim; what to remember of it, if it was seen.
    Held(Option<Sighting>),
}

impl<'a> Resuming<'a> {
    pub(crate) fn new(
        bucket: &'a dyn Bucket,
        store: &'a TokenStore,
        jobs: &'a dyn Topic,
        clock: &'a dyn Clock,
        user: &'a UserId,
    ) -> Self {
        let (record, claim, published, lacked, error) = (None, None, 0, None, None);
        Self { bucket, store, jobs, clock, user, record, claim, published, lacked, error }
    }

    /// Runs to the end. `seen` is what this process remembers of another's claim.
    pub(crate) async fn run(&mut self, seen: Option<Sighting>) -> Result<Finish, ResumeError> {
        let mut resumption = Resumption::default();
        let mut event = Event::Start;
        let mut sighting = None;
        loop {
            event = match resumption.step(event) {
                Step::Look => self.look().await.unwrap_or_else(|error| self.failed(error)),
                Step::FindDue(jobs) => {
                    self.find_due(jobs).await.unwrap_or_else(|error| self.failed(error.into()))
                }
                Step::Claim => {
                    let (bucket, holder) = (self.bucket, self.store.holder());
                    match Claim::take(bucket, self.clock, self.user, holder, seen).await {
                        Ok(Claimed::Mine(claim)) => {
                            let published = claim.published().to_vec();
                            self.claim = Some(claim);
                            Event::Claimed(published)
                        }
                        Ok(Claimed::Held(found)) => {
                            sighting = found;
                            Event::Held
                        }
                        Err(error) => self.failed(error.into()),
                    }
                }
                Step::Renew => self.renew().await,
                Step::Publish(jobs) => self.publish(jobs).await,
                Step::Delete(jobs) => self.delete(jobs).await,
                Step::Note(jobs) => self.note(jobs).await,
                Step::Release => {
                    if let Some(claim) = self.claim.take() {
                        claim.release(self.bucket).await;
                    }
                    Event::Deleted
                }
                Step::End(Ended::Held) => return Ok(Finish::Held(sighting)),
                Step::End(Ended::Done) => return Ok(Finish::Done),
                Step::End(Ended::Failed) => {
                    return Err(self.error.take().unwrap_or(ResumeError::Late));
                }
            };
        }
    }

    /// What its jobs that were looked at and stay parked wait for.
    pub(crate) fn waits(&self) -> Occasion {
        Occasion::Waits(self.lacked.as_ref().map(|scopes| scopes.iter().cloned().collect()))
    }

    fn failed(&mut self, error: ResumeError) -> Event {
        self.error.get_or_insert(error);
        Event::Failed
    }

    async fn look(&mut self) -> Result<Event, ResumeError> {
        self.record = self.read_record().await?;
        if self.record.as_ref().is_some_and(|record| record.is_to_be_tried(self.clock.wall())) {
            // A policy may have been lifted, and nobody logs in because of that. What comes of
            // it is in the record.
            if let Err(error) = self.store.get_credentials(self.user).await {
                debug!(user = %self.user.digest(), "a blocked user was tried: {error}");
            }
            self.record = self.read_record().await?;
        }
        let Some(record) = &self.record else {
            return Ok(Event::Seen { credential: None, jobs: Vec::new() });
        };
        let credential = Some(record.write_id.0.clone());
        let (prefix, mut jobs, mut page) = (prefix_of(self.user), Vec::new(), None);
        loop {
            let listing = self.bucket.list(&prefix, page).await?;
            jobs.extend(listing.objects.into_iter().filter(|(name, _)| !is_claim(name)));
            page = listing.next_page;
            if page.is_none() || jobs.len() >= MOST {
                return Ok(Event::Seen { credential, jobs });
            }
        }
    }

    /// The user's record, if it is active.
    async fn read_record(&self) -> Result<Option<TokenRecord>, Error> {
        match self.store.read_record(self.user).await {
            Ok(record) => Ok(Some(record).filter(TokenRecord::is_active)),
            Err(Error::NeedsConsent(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn find_due(&mut self, jobs: Vec<Entry>) -> Result<Event, BucketError> {
        let mut kept = Vec::new();
        for batch in jobs.chunks(BATCH) {
            let objects = join_all(batch.iter().map(|(name, _)| self.find(name))).await;
            for (job, found) in batch.iter().zip(objects) {
                match found? {
                    Found::Due(_) => return Ok(Event::Due(true, kept)),
                    Found::Keep(lacked) => {
                        self.note_lacked(lacked);
                        kept.push(job.clone());
                    }
                    Found::Gone => {}
                }
            }
        }
        Ok(Event::Due(false, kept))
    }

    /// What is to be done with the object of this name.
    async fn find(&self, name: &str) -> Result<Found, BucketError> {
        let Some(object) = self.bucket.get(name).await? else { return Ok(Found::Gone) };
        Ok(match (ParkedJob::decode(name, &object.content, self.store.sealing()), &self.record) {
            (Ok(parked), Some(record)) if parked.is_due(record) => Found::Due(Box::new(parked)),
            (Ok(parked), _) => {
                let lacks = parked.why() == Some(Reason::ScopesMissing);
                Found::Keep(lacks.then_some(parked.missing_scopes))
            }
            (Err(why), _) => {
                metrics::count(metrics::PARKED_REFUSED);
                warn!(object = name, "a parked job stays where it is: {why}");
                Found::Keep(None)
            }
        })
    }

    fn note_lacked(&mut self, lacked: Option<Vec<String>>) {
        if let Some(scopes) = lacked {
            self.lacked.get_or_insert_default().extend(scopes);
        }
    }

    async fn renew(&mut self) -> Event {
        let Some(claim) = &mut self.claim else { return Event::Held };
        match claim.renew(self.bucket, self.clock, self.store.holder()).await {
            Ok(Renewed::Mine) => Event::Renewed,
            Ok(Renewed::Lost) => Event::Held,
            Err(error) => self.failed(error.into()),
        }
    }

    async fn publish(&mut self, jobs: Vec<Entry>) -> Event {
        let objects = join_all(jobs.iter().map(|(name, _)| self.find(name))).await;
        let (mut sending, mut kept, mut failed) = (Vec::new(), Vec::new(), false);
        for (job, found) in jobs.into_iter().zip(objects) {
            let parked = match found {
                Ok(Found::Due(parked)) => parked,
                Ok(Found::Keep(lacked)) => {
                    self.note_lacked(lacked);
                    kept.push(job);
                    continue;
                }
                Ok(Found::Gone) => continue,
                Err(error) => {
                    // Nothing may overtake it.
                    self.failed(error.into());
                    failed = true;
                    break;
                }
            };
            let message = match parked.into_message() {
                Ok(message) => message,
                Err(why) => {
                    warn!(object = job.0, "a parked job stays where it is: {why}");
                    kept.push(job);
                    continue;
                }
            };
            let now = self.clock.monotonic();
            if !self.claim.as_ref().is_some_and(|claim| claim.holds(now)) {
                self.failed(ResumeError::Late);
                failed = true;
                break;
            }
            sending.push((job, self.jobs.publish(message)));
        }
        let mut sent = Vec::with_capacity(sending.len());
        for (job, publishing) in sending {
            match publishing.await {
                Ok(_) => sent.push(job),
                Err(error) => {
                    self.failed(error.into());
                    failed = true;
                }
            }
        }
        self.published += sent.len() as u64;
        Event::Published { sent, kept, failed }
    }

    async fn delete(&mut self, jobs: Vec<Entry>) -> Event {
        let bucket = self.bucket;
        let deleting = jobs.iter().map(|(name, at)| forget(bucket, name, *at));
        let deleted = join_all(deleting).await;
        let mut undeleted = Vec::new();
        for (job, deleted) in jobs.into_iter().zip(deleted) {
            match deleted {
                Ok(()) => metrics::count(metrics::RESUMED),
                Err(error) => {
                    warn!(object = job.0, "a job went on and is still parked: {error}");
                    self.error.get_or_insert(error.into());
                    undeleted.push(job);
                }
            }
        }
        if undeleted.is_empty() { Event::Deleted } else { Event::Undeleted(undeleted) }
    }

    async fn note(&mut self, jobs: Vec<Entry>) -> Event {
        let (bucket, clock, holder) = (self.bucket, self.clock, self.store.holder());
        let Some(claim) = &mut self.claim else { return Event::Noted };
        let undeleted = jobs.len();
        match claim.note(bucket, clock, holder, jobs).await {
            Ok(()) => Event::Noted,
            Err(error) => {
                error!(
                    user = %self.user.digest(),
                    undeleted,
                    "jobs went on, are still parked, and will go on again: {error}"
                );
                (0..undeleted).for_each(|_| metrics::count(metrics::RESUMED_AGAIN));
                self.failed(error.into())
            }
        }
    }
}
