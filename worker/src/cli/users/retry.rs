//! `fleet users retry`: revoked users are asked about once more.

use anyhow::Context as _;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use shared::adapters::SystemClock;
use shared::ports::Clock as _;
use shared::record::TokenRecord;
use shared::{Error, TokenStore, UserId};

use super::super::connect::{ProjectArgs, StoreArgs, user_id};
use super::super::environment::Place;
use super::super::events::{EventArgs, tell};
use super::super::output;
use super::super::resume::resume;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fleet users retry 1097 --bucket my-tokens --client client.json
  fleet users retry --revoked-since 2h --bucket my-tokens --client client.json

Some providers say by mistake that a grant has ended. Each revoked refresh token is presented
once, under its lease. If the provider takes it the user is active again, and parked jobs go
on as after a login. Presenting a token that really is spent can end a newer grant of that
person, so do this only after a mistake of the provider.")]
pub(super) struct Args {
    /// The user's ID
    #[arg(value_name = "USER_ID", value_parser = user_id, required_unless_present = "revoked_since")]
    user: Option<UserId>,
    /// Every user who was revoked since this time (2026-01-31T08:00:00Z), or for so long (2h)
    #[arg(long, value_name = "TIME", value_parser = since, conflicts_with = "user")]
    revoked_since: Option<Since>,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    project: ProjectArgs,
    /// Job topic, where these users' parked jobs go on
    #[arg(long, env = "FLEET_TOPIC")]
    topic: Option<String>,
    #[command(flatten)]
    events: EventArgs,
    /// The counts as JSON
    #[arg(long)]
    json: bool,
}

/// A point in the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Since {
    Time(Timestamp),
    Ago(SignedDuration),
}

impl Since {
    /// Whether a record that was revoked has been since then.
    fn covers(self, record: &TokenRecord, now: Timestamp) -> bool {
        let begin = match self {
            Self::Time(time) => time,
            Self::Ago(ago) => now.checked_sub(ago).unwrap_or(Timestamp::MIN),
        };
        !record.is_active() && record.updated_at >= begin
    }
}

fn since(text: &str) -> Result<Since, String> {
    let time = text.parse().map(Since::Time);
    let ago = || text.parse().ok().filter(|ago: &SignedDuration| !ago.is_negative());
    time.or_else(|_| ago().map(Since::Ago).ok_or(()))
        .map_err(|()| "write a time such as 2026-01-31T08:00:00Z, or a duration such as 2h".into())
}

pub(super) async fn run(args: Args, place: &Place) -> anyhow::Result<()> {
    let topic = args.project.optional_topic("--topic", args.topic.as_ref())?;
    let connected = args.store.connect(place).await?;
    let store = &connected.store;
    let bucket = &args.store.bucket;
    let events = args.events.connect(&args.project, place, store, bucket).await?;
    // Of one user who is named, the exit code says what came of it.
    let named = args.user.is_some();
    let users = match (args.user, args.revoked_since) {
        (Some(user), _) => vec![user],
        (None, Some(since)) => revoked(store, since).await?,
        (None, None) => Vec::new(),
    };
    let (mut active, mut rejected, mut failed) = (0_u64, 0_u64, 0_u64);
    for user in &users {
        match store.retry(user).await {
            Ok(_) => {
                active += 1;
                resume(place, topic.clone(), &*connected.bucket, store, user).await;
                tell(events.as_deref(), user).await;
            }
            Err(error) if named => {
                connected.finish().await;
                return Err(error).with_context(|| format!("user {:?}", user.as_str()));
            }
            Err(Error::NeedsConsent(why)) => {
                rejected += 1;
                output::note(format!("user {:?}: {why}", user.as_str()));
            }
            Err(error) => {
                failed += 1;
                output::note(format!("user {:?}: {error}", user.as_str()));
            }
        }
    }
    connected.finish().await;
    if args.json {
        output::json(&json!({"active": active, "rejected": rejected, "failed": failed}))?;
    } else {
        output::line(format!("{active} active again, {rejected} still rejected, {failed} failed"))?;
    }
    anyhow::ensure!(failed == 0, "{failed} user(s) could not be asked about; try again");
    Ok(())
}

/// The users who were revoked since then. A record that cannot be read is told of and left.
async fn revoked(store: &TokenStore, since: Since) -> anyhow::Result<Vec<UserId>> {
    let now = SystemClock::default().wall();
    let mut found = Vec::new();
    let mut page = None;
    loop {
        let (users, next) = store.list_users(page).await?;
        for user in users {
            match store.read_record(&user).await {
                Ok(record) if since.covers(&record, now) => found.push(user),
                // Deleted since it was listed, or not revoked.
                Ok(_) | Err(Error::NeedsConsent(_)) => {}
                Err(error) => output::note(format!("user {:?}: {error}", user.as_str())),
            }
        }
        page = next;
        if page.is_none() {
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_point_or_a_duration_before_now() {
        assert_eq!(since("2h"), Ok(Since::Ago(SignedDuration::from_hours(2))));
        let time = "2026-01-31T08:00:00Z";
        assert_eq!(since(time), Ok(Since::Time(time.parse().unwrap())));
        for bad in ["", "yesterday", "-2h", "08:00"] {
            assert!(since(bad).is_err(), "{bad}");
        }
    }
}
