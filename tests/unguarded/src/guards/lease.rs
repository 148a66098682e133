//! A lease whose end is a time of day.

use std::time::Duration;

use super::{Failure, Grant, POLL, Save, Site, TTL, WAIT, fresh_or_later, refresh_if_expired};

pub(super) async fn grant(site: &impl Site, user: &str) -> Result<Grant, Failure> {
    let mut waited = Duration::ZERO;
    let version = loop {
        let lease = site.lease(user).await?;
        if lease.until <= site.now() {
            match site.write_lease(user, site.now() + TTL, lease.version).await {
                Ok(version) => break version,
                Err(Failure::Conflict) => {}
                Err(failure) => return Err(failure),
            }
        }
        if waited >= WAIT {
            return Err(Failure::Unavailable);
        }
        site.sleep(POLL).await;
        waited += POLL;
        if let Ok(grant) = fresh_or_later(site, user).await {
            return Ok(grant);
        }
    };
    let outcome = refresh_if_expired(site, user, Save::IfUnchanged).await;
    // Released only if it is still this one; what becomes of it changes nothing for the job.
    drop(site.write_lease(user, site.now(), version).await);
    outcome
}
