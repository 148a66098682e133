//! What the buttons of a user's page do, by the same rules as the commands.

use shared::{Error, Revoked, UserId};
use tracing::warn;

use super::Admin;
use crate::audit::note_jobs;
use crate::metrics::web_event;
use crate::parking::dropping::{NotDropped, drop_all};
use crate::removal::{self, Ended, Removed};
use crate::resuming::{Resumed, resume_user};
use crate::web::session::Notice;

/// What an operator does about a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Waiting jobs go on that are due, as after a login.
    Resume,
    /// Waiting jobs are removed, as by `fleet dead drop --parked`.
    Drop,
    /// The grant ends, as by `fleet users revoke`.
    Revoke,
}

impl Action {
    /// The metric's word.
    fn event(self) -> &'static str {
        match self {
            Self::Resume => "admin_resume",
            Self::Drop => "admin_drop",
            Self::Revoke => "admin_revoke",
        }
    }

    /// Does it, on behalf of the operator that the audit trail is told.
    ///
    /// Cancelling it leaves some of it undone; doing it again is harmless.
    pub(super) async fn run(self, admin: &Admin, user: &UserId) -> Notice {
        let notice = match self {
            Self::Resume => resume(admin, user).await,
            Self::Drop => drop_jobs(admin, user).await,
            Self::Revoke => revoke(admin, user).await,
        };
        web_event(self.event(), if notice.bad { "failed" } else { "ok" });
        notice
    }
}

async fn resume(admin: &Admin, user: &UserId) -> Notice {
    let Some(jobs) = &admin.jobs else {
        return Notice::bad(
            "These pages know no job topic (--topic). Waiting jobs go on at a worker's next sweep, when they are due.",
        );
    };
    let bucket = admin.store.bucket();
    match resume_user(&*bucket, &admin.store, jobs, &*admin.clock, user).await {
        Ok(Resumed { published: 0, held: true }) => {
            Notice::bad("Another process resumes this user's jobs at the moment.")
        }
        Ok(Resumed { published: 0, held: false }) => still_wait(admin, user).await,
        Ok(Resumed { published, .. }) => {
            note_jobs("resumed", user, published);
            Notice::good(format!("{} on.", they_go(published)))
        }
        Err(error) => {
            warn!(user = %user.digest(), %error, "an operator cannot have jobs resumed");
            Notice::bad(format!("The jobs that did not go on still wait: {error}."))
        }
    }
}

/// Why nothing went on.
async fn still_wait(admin: &Admin, user: &UserId) -> Notice {
    match admin.store.read_record(user).await {
        Ok(record) => match record.trouble() {
            Some(why) => Notice::bad(format!("Nothing goes on: {}.", why.reason().for_operator())),
            None => Notice::bad(
                "No waiting job is due: none waits, or what it waits for has not changed.",
            ),
        },
        Err(Error::NeedsConsent(why)) => {
            Notice::bad(format!("Nothing goes on: {}.", why.reason().for_operator()))
        }
        Err(error) => Notice::bad(format!("Nothing went on: {error}.")),
    }
}

async fn drop_jobs(admin: &Admin, user: &UserId) -> Notice {
    let bucket = admin.store.bucket();
    let dropped = drop_all(&*bucket, &*admin.clock, admin.store.holder(), user).await;
    match dropped {
        Ok(0) => Notice::good("There was no waiting job to drop."),
        Ok(dropped) => {
            note_jobs("dropped", user, dropped);
            Notice::good(format!(
                "{} dropped.",
                if dropped == 1 { "1 job was".to_owned() } else { format!("{dropped} jobs were") }
            ))
        }
        Err(NotDropped::Held) => Notice::bad(
            "Nothing was dropped: another process resumes this user's jobs at the moment.",
        ),
        Err(NotDropped::Bucket(error)) => {
            warn!(user = %user.digest(), %error, "an operator cannot drop jobs");
            Notice::bad(format!("Not all jobs were dropped: {error}. Try again."))
        }
    }
}

async fn revoke(admin: &Admin, user: &UserId) -> Notice {
    let events = admin.events.as_deref();
    let ended = removal::end(&admin.store, &*admin.provider, user, events).await;
    let Ended { grant, traces } = match ended {
        Ok(ended) => ended,
        Err(error) => {
            warn!(user = %user.digest(), %error, "an operator cannot revoke a user");
            return Notice::bad(format!("Not revoked, and the record stays: {error}."));
        }
    };
    let told = match grant {
        Revoked::Revoked => "The grant has ended at the provider, and the record is deleted",
        Revoked::WasInvalid => "The grant had ended already; the record is deleted",
        Revoked::Unknown => "There was no record to revoke",
    };
    match traces {
        Ok(Removed { parked, tell }) => {
            if let (Some(events), Some(tell)) = (&admin.events, tell)
                && let Err(error) = events.publish(tell).await
            {
                warn!(user = %user.digest(), %error, "it is not told yet that a grant was revoked");
            }
            match parked {
                0 => Notice::good(format!("{told}.")),
                1 => Notice::good(format!("{told}, with 1 waiting job.")),
                n => Notice::good(format!("{told}, with {n} waiting jobs.")),
            }
        }
        Err(error) => {
            Notice::bad(format!("{told}. Other objects are left: {error}. Revoke again."))
        }
    }
}

fn they_go(jobs: u64) -> String {
    if jobs == 1 { "1 waiting job goes".to_owned() } else { format!("{jobs} waiting jobs go") }
}
