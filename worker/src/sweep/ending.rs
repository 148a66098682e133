//! The end of parked jobs whose user is unknown: whoever may publish can make users up, and
//! what waits for nobody must not lie in the bucket for ever.
//!
//! A listing chooses, and decides nothing: a job is rejected by its own object, which must say
//! that its user was unknown, after a fresh look that finds no record, and under the claim on
//! the user's jobs. Its age is that of the object as storage tells it, so no clear member and
//! no clock of a replica counts. It is told as other ends are: dead letter, then outcome, and
//! then the object is deleted. What a topic does not take stays parked until the next sweep.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use shared::ports::Generation;
use shared::{Error, Reason, UserId};
use tracing::warn;

use crate::claim::Sighting;
use crate::dead_letter::{Rejection, dead_letter};
use crate::effect::Knowledge;
use crate::job::Job;
use crate::json::Json;
use crate::metrics;
use crate::outcome::{Outcome, Status};
use crate::parking::hints::may_be_unknown;
use crate::parking::resumption::BATCH;
use crate::parking::{Claim, Claimed, ParkedJob, Renewed, is_claim, prefix_of};
use crate::pubsub::{PublishError, Topic};
use crate::resuming::{Finish, ResumeError, forget};

use super::Sweep;
use super::users::is_older;

/// When parked jobs of unknown users are rejected, and where that is published.
#[derive(Debug, Clone)]
pub struct UnknownUsers {
    /// How long a job is parked.
    pub after: Duration,
    /// Where rejected jobs go.
    pub dead: Arc<dyn Topic>,
    /// Where outcomes are published.
    pub outcomes: Option<Arc<dyn Topic>>,
}

impl Sweep {
    /// Rejects the jobs of `user` that are parked for too long, unless the user has a record.
    /// How many were, and whether another process had the claim.
    pub(super) async fn end_unknown(
        &self,
        unknown: &UnknownUsers,
        user: &UserId,
        seen: Option<Sighting>,
    ) -> Result<(u64, Finish), ResumeError> {
        let bucket = &*self.bucket;
        let claimed = Claim::take(bucket, &*self.clock, user, self.store.holder(), seen).await?;
        let mut claim = match claimed {
            Claimed::Mine(claim) => claim,
            Claimed::Held(sighting) => return Ok((0, Finish::Held(sighting))),
        };
        // These went on. While they cannot be deleted the claim stays, since it says so.
        for (name, at) in claim.published().to_vec() {
            forget(bucket, &name, at).await?;
        }
        let mut ended = 0;
        let result = self.end_old(unknown, user, &mut claim, &mut ended).await;
        claim.release(bucket).await;
        if ended > 0 {
            warn!(user = %user.digest(), jobs = ended, "parked jobs are rejected: unknown user");
        }
        result.map(|()| (ended, Finish::Done))
    }

    async fn end_old(
        &self,
        unknown: &UnknownUsers,
        user: &UserId,
        claim: &mut Claim,
        ended: &mut u64,
    ) -> Result<(), ResumeError> {
        let old = self.list_old(unknown, user).await?;
        for batch in old.chunks(BATCH) {
            match claim.renew(&*self.bucket, &*self.clock, self.store.holder()).await? {
                Renewed::Mine => {}
                Renewed::Lost => return Ok(()),
            }
            match self.store.read_record(user).await {
                Err(Error::NeedsConsent(_)) => {}
                // Somebody has consented: whoever looks after the release resumes them.
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            if !claim.holds(self.clock.monotonic()) {
                return Err(ResumeError::Late);
            }
            let ending = batch.iter().map(|(name, at)| self.end_one(unknown, name, *at));
            let mut failed = None;
            for one in join_all(ending).await {
                match one {
                    Ok(has_ended) => *ended += u64::from(has_ended),
                    Err(error) => failed = Some(error),
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
        }
        Ok(())
    }

    /// The user's objects that may have to end.
    async fn list_old(
        &self,
        unknown: &UnknownUsers,
        user: &UserId,
    ) -> Result<Vec<(String, Generation)>, ResumeError> {
        let (prefix, now) = (prefix_of(user), self.clock.wall());
        let (mut old, mut page) = (Vec::new(), None);
        loop {
            let listing = self.bucket.list(&prefix, page).await?;
            let is_old = |name: &String| {
                !is_claim(name)
                    && may_be_unknown(listing.hints.get(name))
                    && is_older(listing.created.get(name), unknown.after, now)
            };
            old.extend(listing.objects.iter().filter(|(name, _)| is_old(name)).cloned());
            page = listing.next_page;
            if page.is_none() {
                return Ok(old);
            }
        }
    }

    /// Ends the job in this version of this object; whether it was an unknown user's.
    async fn end_one(
        &self,
        unknown: &UnknownUsers,
        name: &str,
        listed_at: Generation,
    ) -> Result<bool, ResumeError> {
        let found = self.bucket.get(name).await?;
        let Some(object) = found.filter(|object| object.generation == listed_at) else {
            return Ok(false);
        };
        let parked = match ParkedJob::decode(name, &object.content, self.store.sealing()) {
            Ok(parked) => parked,
            Err(why) => {
                metrics::count(metrics::PARKED_REFUSED);
                warn!(object = name, "a parked job stays where it is: {why}");
                return Ok(false);
            }
        };
        if parked.why() != Some(Reason::UnknownUser) {
            return Ok(false);
        }
        match self.tell_end(unknown, &parked).await {
            Ok(()) => {}
            Err(why @ PublishError::Refused { .. }) => {
                warn!(object = name, "a parked job stays where it is: {why}");
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
        forget(&*self.bucket, name, listed_at).await?;
        metrics::count(metrics::PARKED_ENDED);
        Ok(true)
    }

    async fn tell_end(
        &self,
        unknown: &UnknownUsers,
        parked: &ParkedJob,
    ) -> Result<(), PublishError> {
        let received = parked.received();
        let job = Job::of(&received).ok();
        let after = unknown.after;
        let reason =
            format!("{}: nobody consented within {after:?} (--park-unknown)", Reason::UnknownUser);
        let known = Knowledge::NOTHING;
        let letter = |only_ours| {
            let about = Rejection { job: job.as_ref(), reason: &reason, known, only_ours };
            unknown.dead.publish_alone(dead_letter(&received, &about))
        };
        match letter(false).await {
            Ok(_) => {}
            Err(PublishError::Refused { .. }) => drop(letter(true).await?),
            Err(error) => return Err(error),
        }
        let Some(outcomes) = &unknown.outcomes else { return Ok(()) };
        let parked_for = Duration::try_from(self.clock.wall().duration_since(parked.parked_at));
        let outcome = Outcome {
            job: &parked.job,
            user: &parked.user,
            kind: &parked.kind,
            status: Status::Rejected,
            attempt: 0,
            delivery_attempt: None,
            run: parked.run,
            duration_ms: u64::try_from(parked_for.unwrap_or_default().as_millis())
                .unwrap_or(u64::MAX),
            http_status: None,
            effect: known.effect,
            repeatable: known.repeatable,
            result: &Json::null(),
            warning: None,
            error: Some(Cow::Borrowed(&reason)),
        };
        let data = serde_json::to_vec(&outcome).expect("an outcome is JSON");
        outcomes.publish_alone(outcome.message_of(data)).await.map(drop)
    }
}
