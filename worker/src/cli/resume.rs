//! Parked jobs go on as soon as their user's grant is stored.

use crate::parking::{is_claim, prefix_of};
use crate::resuming::{Resumed, resume_user};
use shared::adapters::SystemClock;
use shared::ports::Bucket;
use shared::{TokenStore, UserId};

use super::environment::Place;
use super::output;

/// The user's parked jobs go on. A failure does not undo what was stored: they stay
/// parked for a worker's sweep.
pub(crate) async fn resume(
    place: &Place,
    topic: Option<String>,
    bucket: &dyn Bucket,
    store: &TokenStore,
    user: &UserId,
) {
    let Some(topic) = topic else {
        let listed = bucket.list(&prefix_of(user), None).await;
        if listed.is_ok_and(|listed| listed.objects.iter().any(|(name, _)| !is_claim(name))) {
            output::note(
                "Jobs of this user are parked. The workers resume them at their next sweep; with --topic (FLEET_TOPIC) this command does it at once.",
            );
        }
        return;
    };
    let resumed = async {
        let jobs = place.publisher(&topic).await?;
        let bucket = store.bucket();
        anyhow::Ok(resume_user(&*bucket, store, &jobs, &SystemClock::default(), user).await?)
    };
    match resumed.await {
        Ok(Resumed { published, held }) => {
            if published > 0 {
                output::note(format!("{published} parked job(s) of this user go on."));
            }
            if held {
                output::note("Another process resumes this user's parked jobs at the moment.");
            }
        }
        Err(error) => output::note(format!(
            "Parked jobs of this user, if any, still wait for a worker's sweep: {error:#}"
        )),
    }
}
