//! A lock with a time to live in a service of its own.

use std::time::Duration;

use super::{
    Failure, Grant, Guard, POLL, SHORT_WAIT, Save, Site, TTL, WAIT, fresh_or_later,
    refresh_if_expired,
};

pub(super) async fn grant(guard: Guard, site: &impl Site, user: &str) -> Result<Grant, Failure> {
    let limit = if guard == Guard::LockForAWhile { SHORT_WAIT } else { WAIT };
    let mut waited = Duration::ZERO;
    let held = loop {
        match site.lock(user, TTL).await {
            Ok(true) => break true,
            Ok(false) if waited < limit => {
                site.sleep(POLL).await;
                waited += POLL;
                if let Ok(grant) = fresh_or_later(site, user).await {
                    return Ok(grant);
                }
            }
            Ok(false) if guard == Guard::LockForAWhile => break false,
            Ok(false) => return Err(Failure::Unavailable),
            Err(_) if guard == Guard::LockIfThereIsOne => break false,
            Err(failure) => return Err(failure),
        }
    };
    let outcome = refresh_if_expired(site, user, Save::Over).await;
    if held {
        // Cleaning up: what becomes of it changes nothing for the job.
        drop(site.unlock(user).await);
    }
    outcome
}
