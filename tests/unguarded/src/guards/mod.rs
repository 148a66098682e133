//! Models of how fleets often guard a refresh, for a comparison in virtual time.
//!
//! Each does what published descriptions of such a guard say, and does it well: it reads the
//! credential again when it has the lock, polls both while it waits, and waits for a slow
//! answer as long as that takes. They are models of kinds of guards, written from words;
//! nobody's code is in them and nobody's product is meant.
//!
//! They run on a [`Site`], which the package `proof` implements with crashes, pauses, clocks
//! that are off, outages, and answers that are late or lost.

mod lease;
mod lock;
mod site;

use std::time::Duration;

pub use site::{Failure, Grant, Site, Stored, WallClockLease};

/// How long a lock or a lease lasts: as long as Fleet's own.
pub const TTL: Duration = Duration::from_secs(30);
/// An access token with less than this left is refreshed.
const EARLY: Duration = Duration::from_secs(60);
/// Between two looks at a lock that somebody else has.
const POLL: Duration = Duration::from_millis(250);
/// How long a job waits for a lock before it fails and is tried again.
const WAIT: Duration = Duration::from_secs(60);
/// How long [`Guard::LockForAWhile`] waits before it goes on without the lock.
const SHORT_WAIT: Duration = Duration::from_secs(10);

/// A kind of guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Nothing: read, refresh, save.
    Nothing,
    /// The save is a compare-and-set; who loses it takes what is stored.
    CompareAndSet,
    /// A key that is set if it is absent, with a time to live, and deleted without asking
    /// whose it is; the save is a plain update.
    Lock,
    /// That lock; who has waited for ten seconds goes on without it.
    LockForAWhile,
    /// That lock; while the lock service is down, refreshes go on without it.
    LockIfThereIsOne,
    /// An entry that says until when it is held, which each machine compares with its own
    /// clock; taken, released and saved under by compare-and-set.
    WallClockLease,
}

impl Guard {
    /// All of them, from the weakest.
    pub const ALL: [Self; 6] = [
        Self::Nothing,
        Self::CompareAndSet,
        Self::LockForAWhile,
        Self::LockIfThereIsOne,
        Self::Lock,
        Self::WallClockLease,
    ];

    /// What it is, in the table's words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Nothing => "none: read, refresh, save",
            Self::CompareAndSet => "compare-and-set without a lease",
            Self::LockForAWhile => "lock; after 10 s of waiting a process refreshes without it",
            Self::LockIfThereIsOne => {
                "lock; while its service is down a process refreshes without it"
            }
            Self::Lock => "lock with a time to live, deleted unconditionally, plain update",
            Self::WallClockLease => "lease that ends by the wall clock, compare-and-set",
        }
    }

    /// A grant of `user` whose access token has not expired. Dropping the future may lose
    /// what the provider has issued meanwhile.
    ///
    /// # Errors
    /// [`Failure::InvalidGrant`] when the user would have to consent again; otherwise the
    /// job is tried again later.
    pub async fn grant<S: Site>(self, site: &S, user: &str) -> Result<Grant, Failure> {
        let stored = site.read(user).await?;
        if is_fresh(site, &stored.grant) {
            return Ok(stored.grant);
        }
        match self {
            Self::Nothing => refresh(site, user, &stored, Save::Over).await,
            Self::CompareAndSet => refresh(site, user, &stored, Save::IfUnchanged).await,
            Self::Lock | Self::LockForAWhile | Self::LockIfThereIsOne => {
                lock::grant(self, site, user).await
            }
            Self::WallClockLease => lease::grant(site, user).await,
        }
    }
}

fn is_fresh(site: &impl Site, grant: &Grant) -> bool {
    grant.expires_at > site.now() + EARLY
}

/// How what a refresh has brought is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Save {
    /// Over whatever is stored.
    Over,
    /// If that is still what was refreshed; otherwise it is thrown away.
    IfUnchanged,
}

/// Refreshes what was read, and saves what comes of it.
async fn refresh(
    site: &impl Site,
    user: &str,
    stored: &Stored,
    save: Save,
) -> Result<Grant, Failure> {
    let grant = site.refresh(&stored.grant.refresh_token).await?;
    let over = (save == Save::IfUnchanged).then_some(stored.version);
    match site.write(user, &grant, over).await {
        Ok(()) => Ok(grant),
        Err(Failure::Conflict) => fresh_or_later(site, user).await,
        Err(failure) => Err(failure),
    }
}

/// What whoever got the lock does: reads again, and refreshes if nobody has done so.
async fn refresh_if_expired(site: &impl Site, user: &str, save: Save) -> Result<Grant, Failure> {
    let stored = site.read(user).await?;
    if is_fresh(site, &stored.grant) {
        return Ok(stored.grant);
    }
    refresh(site, user, &stored, save).await
}

/// What somebody else has stored meanwhile.
async fn fresh_or_later(site: &impl Site, user: &str) -> Result<Grant, Failure> {
    let stored = site.read(user).await?;
    if is_fresh(site, &stored.grant) { Ok(stored.grant) } else { Err(Failure::Unavailable) }
}
