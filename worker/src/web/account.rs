//! What the buttons of the account page do.

use std::sync::Arc;

use serde_json::{Map, Value};
use shared::profile::{ProfileError, get_profile};
use shared::{Error, Revoked, UserId};
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::Site;
use super::session::Notice;
use crate::removal::{Ended, Removed, end};

/// What the provider calls a person.
pub(super) fn name_of(profile: &Map<String, Value>) -> &str {
    let fields = ["name", "email", "sub", "id"];
    fields.into_iter().find_map(|field| profile.get(field)?.as_str()).unwrap_or("no name")
}

/// Fetches the profile through the store, now.
pub(super) async fn test(site: &Site, user: &UserId) -> Notice {
    match get_profile(&site.store, &site.http, &site.userinfo_url, user).await {
        Ok(profile) => {
            Notice::good(format!("It works: the provider says that this is {}.", name_of(&profile)))
        }
        Err(ProfileError::Credentials(Error::NeedsConsent(why))) => {
            Notice::bad(format!("It does not work. {}", why.reason().for_person()))
        }
        Err(error) => {
            warn!(user = %user.digest(), %error, "a person's test failed");
            Notice::bad("It does not work at the moment. Try again in a minute.")
        }
    }
}

/// Ends the grant at the provider and deletes the record, and what waits for it.
pub(super) async fn disconnect(
    site: &Site,
    telling: &TaskTracker,
    user: &UserId,
) -> Result<Notice, Notice> {
    let events = site.events.as_deref();
    let (told, traces) = match end(&site.store, &*site.provider, user, events).await {
        Ok(Ended { grant: Revoked::Unknown, .. }) => {
            return Ok(Notice::good("You were not connected."));
        }
        Ok(Ended { grant: Revoked::Revoked, traces }) => {
            ("You are disconnected. The access has ended", traces)
        }
        Ok(Ended { grant: Revoked::WasInvalid, traces }) => {
            ("You are disconnected. The access had ended already", traces)
        }
        Err(error) => {
            warn!(user = %user.digest(), %error, "a person cannot disconnect");
            let text = if matches!(error, Error::WrongClient { .. }) {
                "Not disconnected, since you connected by another app of this site. Tell whoever runs it."
            } else {
                "Not disconnected yet, and nothing was deleted. Try again, or remove this app in your account's settings at the provider."
            };
            return Err(Notice::bad(text));
        }
    };
    let removed = traces.map(|Removed { parked, tell }| {
        if let (Some(events), Some(tell)) = (site.events.as_ref().map(Arc::clone), tell) {
            // The person does not wait for it.
            let user = user.digest();
            telling.spawn(async move {
                if let Err(error) = events.publish(tell).await {
                    warn!(%user, %error, "it is not told yet that a person has disconnected");
                }
            });
        }
        parked
    });
    match removed {
        Ok(0) => Ok(Notice::good(format!("{told}, and what was kept is deleted."))),
        Ok(1) => {
            Ok(Notice::good(format!("{told}, and what was kept is deleted, with 1 waiting job.")))
        }
        Ok(n) => Ok(Notice::good(format!(
            "{told}, and what was kept is deleted, with {n} waiting jobs."
        ))),
        Err(error) => {
            warn!(user = %user.digest(), %error, "something of a disconnected person is left");
            Ok(Notice::bad(format!(
                "{told} and the credential is deleted. Waiting jobs are still there; tell whoever runs this site."
            )))
        }
    }
}
