//! What the buttons of the account page do.

use serde_json::json;
use shared::profile::{ProfileError, get_profile};
use shared::{Error, Revoked, UserId};

use super::Site;
use super::session::Notice;
use crate::pubsub::Outgoing;

fn good(text: impl Into<String>) -> Notice {
    Notice { text: text.into(), bad: false }
}

fn bad(text: impl Into<String>) -> Notice {
    Notice { text: text.into(), bad: true }
}

/// Fetches the profile through the store, now.
pub(super) async fn test(site: &Site, user: &UserId) -> Notice {
    match get_profile(&site.store, &site.http, &site.userinfo_url, user).await {
        Ok(profile) => {
            let who = ["name", "email", "sub", "id"]
                .into_iter()
                .find_map(|field| profile.get(field)?.as_str())
                .unwrap_or("no name");
            good(format!("It works: the provider says that this is {who}."))
        }
        Err(ProfileError::Credentials(Error::NeedsConsent(why))) => {
            bad(format!("It does not work. {}", why.reason().for_person()))
        }
        Err(error) => bad(format!("It does not work: {error}.")),
    }
}

/// Publishes a `profile` job for this person.
pub(super) async fn queue(site: &Site, user: &UserId) -> Notice {
    let Some(jobs) = &site.jobs else {
        return bad("This site has no job topic. Tell the operator: set --topic.");
    };
    let job = json!({"user": user.as_str(), "kind": "profile"});
    let published = jobs.publish(Outgoing {
        data: job.to_string().into(),
        ordering_key: user.as_str().to_owned(),
        ..Outgoing::default()
    });
    match published.await {
        Ok(id) => good(format!("A test job is queued. Its message ID is {id}.")),
        Err(error) => bad(format!("The job was not queued: {error}.")),
    }
}

/// Ends the grant at the provider and deletes the record.
pub(super) async fn disconnect(site: &Site, user: &UserId) -> Result<Notice, Notice> {
    match site.store.revoke(user, &*site.provider).await {
        Ok(Revoked::Revoked) => {
            Ok(good("You are disconnected. The access has ended and the credential is deleted."))
        }
        Ok(Revoked::WasInvalid) => Ok(good(
            "You are disconnected. The access had ended already; the credential is deleted.",
        )),
        Ok(Revoked::Unknown) => Ok(good("You were not connected.")),
        Err(error @ Error::WrongClient { .. }) => {
            Err(bad(format!("Not disconnected: {error}. Tell the operator.")))
        }
        Err(error) => Err(bad(format!(
            "Not disconnected yet, and nothing was deleted: {error}. Try again, or remove this app in your account's settings at the provider."
        ))),
    }
}
