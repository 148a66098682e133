//! `fleet users revoke` and `fleet users delete`.

use crate::events::Events;
use crate::removal::{Ended, Removed, end, remove_traces};
use anyhow::Context as _;
use serde_json::json;
use shared::adapters::HttpProvider;
use shared::ports::BucketError;
use shared::{Revoked, UserId};

use super::super::confirm::{confirmed, somebody_can_be_asked};
use super::super::connect::{ProjectArgs, StoredUserArgs, revoke_url, userinfo_url};
use super::super::environment::Place;
use super::super::events::EventArgs;
use super::super::output;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    of: StoredUserArgs,
    #[command(flatten)]
    project: ProjectArgs,
    #[command(flatten)]
    events: EventArgs,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// The result as JSON
    #[arg(long)]
    json: bool,
}

/// Asks, unless told not to; whether to go on.
async fn agreed(yes: bool, question: &str) -> anyhow::Result<bool> {
    somebody_can_be_asked(yes, "--yes")?;
    let agreed = confirmed(yes, question).await?;
    if !agreed {
        output::note("nothing was changed");
    }
    Ok(agreed)
}

pub(super) async fn revoke(args: Args, place: &Place) -> anyhow::Result<()> {
    let Args { of: StoredUserArgs { user, store }, project, events, yes, json } = args;
    events.topic(&project)?;
    let question = format!(
        "End the grant of user {:?} at the provider, and remove the record and the parked jobs?",
        user.as_str()
    );
    if !agreed(yes, &question).await? {
        return Ok(());
    }
    let client = store.read_client()?;
    let connected = store.connect(place).await?;
    let (userinfo, revoke) = (userinfo_url()?, revoke_url(&client)?);
    let events = events.connect(&project, place, &connected.store, &store.bucket).await?;
    let provider = HttpProvider::new(&client, connected.http.clone(), userinfo, revoke)?;
    let ended = end(&connected.store, &provider, &user, events.as_deref()).await;
    let Ended { grant: revoked, traces } = ended.with_context(|| {
        format!(
            "user {user:?} is not revoked, and the record stays: try again, or let the person \
             remove the app in their account's settings at the provider and then run \
             `fleet users delete {user}`",
            user = user.as_str()
        )
    })?;
    let parked = told(&user, traces, events.as_deref()).await?;
    if json {
        let result = match revoked {
            Revoked::Revoked => "revoked",
            Revoked::WasInvalid => "was_invalid",
            Revoked::Unknown => "unknown",
        };
        let told = json!({"user": user.as_str(), "result": result, "parked_jobs": parked});
        return output::json(&told);
    }
    let what = match revoked {
        Revoked::Revoked => "revoked and deleted",
        Revoked::WasInvalid => "no longer valid at the provider; deleted",
        Revoked::Unknown => "nothing to revoke:",
    };
    output::line(format!("{what} {}{}", user.token_object(), and_jobs(parked)))
}

pub(super) async fn delete(args: Args, place: &Place) -> anyhow::Result<()> {
    let Args { of: StoredUserArgs { user, store }, project, events, yes, json } = args;
    events.topic(&project)?;
    let question = format!(
        "Remove the record and the parked jobs of user {:?}? The grant stays valid at the provider.",
        user.as_str()
    );
    if !agreed(yes, &question).await? {
        return Ok(());
    }
    let connected = store.connect_to_look(place).await?;
    let events = events.connect(&project, place, &connected.store, &store.bucket).await?;
    let existed = connected
        .store
        .delete(&user)
        .await
        .with_context(|| format!("user {:?} may not be deleted yet", user.as_str()))?;
    let bucket = connected.store.bucket();
    let traces = remove_traces(&*bucket, &user, existed, events.as_deref()).await;
    let parked = told(&user, traces, events.as_deref()).await?;
    if json {
        let told = json!({"user": user.as_str(), "deleted": existed, "parked_jobs": parked});
        return output::json(&told);
    }
    let what = if existed { "deleted" } else { "nothing to delete:" };
    output::line(format!("{what} {}{}", user.token_object(), and_jobs(parked)))
}

/// Tells applications of it, if any are told. How many jobs were parked.
async fn told(
    user: &UserId,
    traces: Result<Removed, BucketError>,
    events: Option<&Events>,
) -> anyhow::Result<u64> {
    let Removed { parked, tell } = traces.with_context(|| {
        format!(
            "the record of user {:?} is gone, and other objects are left; run it again",
            user.as_str()
        )
    })?;
    if let (Some(events), Some(tell)) = (events, tell)
        && let Err(error) = events.publish(tell).await
    {
        output::note(format!("Applications are told of it by a worker's next sweep: {error}"));
    }
    Ok(parked)
}

fn and_jobs(parked: u64) -> String {
    if parked == 0 { String::new() } else { format!(" and {parked} parked job(s)") }
}
