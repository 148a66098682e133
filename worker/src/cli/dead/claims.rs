//! The claims under which parked jobs are taken away: one process at a time does so.
//!
//! This process knows no credentials, so it does not look again after a release, as those do
//! that resume a user: who logs in meanwhile and meets a claim waits for it for a while, and
//! what is left then goes on at a worker's next sweep.

use std::collections::HashMap;

use anyhow::Context as _;
use futures_util::future::join_all;
use shared::adapters::SystemClock;
use shared::ports::Bucket;
use worker::parking::{Claim, Claimed, Renewed, user_of};

use super::Sources;

/// The name of this process in claims.
const HOLDER: &str = "fleet dead";

/// The claims to users' parked jobs that are held now.
#[derive(Default)]
pub(super) struct Claims(HashMap<String, Claim>);

impl Claims {
    /// Claims the jobs of the user whose parked object has this name, or sees that the claim
    /// still is one's own.
    pub(super) async fn take(&mut self, bucket: &dyn Bucket, object: &str) -> anyhow::Result<()> {
        let user = user_of(object).context("this is no parked job's name")?;
        let clock = SystemClock::default();
        if let Some(claim) = self.0.get_mut(user.as_str()) {
            return match claim.renew(bucket, &clock, HOLDER).await? {
                Renewed::Mine => Ok(()),
                Renewed::Lost => {
                    self.0.remove(user.as_str());
                    Err(anyhow::anyhow!("another process resumes this user's parked jobs"))
                }
            };
        }
        match Claim::take(bucket, &clock, &user, HOLDER, None).await? {
            Claimed::Mine(claim) => {
                self.0.insert(user.as_str().to_owned(), claim);
                Ok(())
            }
            Claimed::Held(_) => Err(anyhow::anyhow!(
                "another process resumes this user's parked jobs; what that leaves can be redriven in a moment"
            )),
        }
    }

    /// Releases all but the claim of the user whose jobs come next.
    pub(super) async fn release_but(&mut self, sources: &Sources, next: Option<&str>) {
        let Some(bucket) = &sources.bucket else { return };
        let over = self.0.extract_if(|user, _| Some(user.as_str()) != next);
        join_all(over.map(|(_, claim)| claim.release(bucket))).await;
    }
}
