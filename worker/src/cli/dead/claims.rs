//! The claims under which parked jobs are taken away: one process at a time does so.
//!
//! This process knows no credentials, so it does not look again after a release, as those do
//! that resume a user: who logs in meanwhile and meets a claim waits for it for a while, and
//! what is left then goes on at a worker's next sweep.

use std::collections::{HashMap, HashSet};

use crate::parking::{Claim, Claimed, Renewed};
use futures_util::future::join_all;
use shared::UserId;
use shared::adapters::SystemClock;
use shared::ports::Bucket;

use super::Sources;

/// The name of this process in claims.
pub(super) const HOLDER: &str = "fleet dead";

/// The claims to users' parked jobs that are held now.
#[derive(Default)]
pub(super) struct Claims(HashMap<UserId, Claim>);

impl Claims {
    /// Claims the jobs of these users, or sees that the claims still are one's own; why not, of
    /// those whose jobs must be left.
    pub(super) async fn take(
        &mut self,
        bucket: &dyn Bucket,
        users: impl IntoIterator<Item = UserId>,
    ) -> HashMap<UserId, anyhow::Error> {
        let clock = SystemClock::default();
        let users: HashSet<UserId> = users.into_iter().collect();
        let taking = users.into_iter().map(|user| {
            let held = self.0.remove(&user);
            let clock = &clock;
            async move {
                let taken = take_one(bucket, clock, &user, held).await;
                (user, taken)
            }
        });
        let mut left = HashMap::new();
        for (user, taken) in join_all(taking.collect::<Vec<_>>()).await {
            match taken {
                Ok(claim) => drop(self.0.insert(user, claim)),
                Err(why) => drop(left.insert(user, why)),
            }
        }
        left
    }

    /// Releases all but the claim of the user whose jobs come next.
    pub(super) async fn release_but(&mut self, sources: &Sources, next: Option<&str>) {
        let Some(bucket) = &sources.bucket else { return };
        let over = self.0.extract_if(|user, _| Some(user.as_str()) != next);
        join_all(over.map(|(_, claim)| claim.release(bucket))).await;
    }
}

async fn take_one(
    bucket: &dyn Bucket,
    clock: &SystemClock,
    user: &UserId,
    held: Option<Claim>,
) -> anyhow::Result<Claim> {
    if let Some(mut claim) = held {
        return match claim.renew(bucket, clock, HOLDER).await? {
            Renewed::Mine => Ok(claim),
            Renewed::Lost => {
                Err(anyhow::anyhow!("another process resumes this user's parked jobs"))
            }
        };
    }
    match Claim::take(bucket, clock, user, HOLDER, None).await? {
        Claimed::Mine(claim) => Ok(claim),
        Claimed::Held(_) => Err(anyhow::anyhow!(
            "another process resumes this user's parked jobs; what that leaves can be redriven in a moment"
        )),
    }
}
