//! `fleet users list`.

use std::collections::BTreeMap;

use crate::parking::{PREFIX, is_claim, user_of};
use crate::stored_users::{AT_ONCE, State, StoredUser};
use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::{Value, json};
use shared::{Reason, UserId};

use super::super::connect::{Connected, StoreArgs};
use super::super::environment::Place;
use super::super::output::{self, plain};
use super::every_user;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fleet users list --bucket my-tokens
  fleet users list --long --state revoked --bucket my-tokens
  fleet users list --state revoked --null | xargs -0 -n 1 fleet users delete --yes --

An ID is whatever somebody put into the bucket: lines for people escape what a terminal would obey.

--long and --state read every user's record.")]
pub(super) struct Args {
    #[command(flatten)]
    store: StoreArgs,
    /// With state, last refresh, waiting jobs and scopes
    #[arg(long)]
    long: bool,
    /// Only users in this state
    #[arg(long, value_enum)]
    state: Option<State>,
    /// One JSON array
    #[arg(long)]
    json: bool,
    /// For programs: each ID as it is, with a NUL behind it
    #[arg(long, conflicts_with_all = ["json", "long"])]
    null: bool,
}

impl Args {
    /// One ID after the other.
    fn print<'a>(&self, mut users: impl Iterator<Item = &'a UserId>) -> anyhow::Result<()> {
        if self.null {
            return output::null_terminated(users.map(UserId::as_str));
        }
        users.try_for_each(|user| output::line(plain(user.as_str())))
    }
}

pub(super) async fn run(args: Args, place: &Place) -> anyhow::Result<()> {
    let connected = args.store.connect_to_look(place).await?;
    let users = every_user(&connected.store).await?;
    if !args.long && args.state.is_none() {
        if args.json {
            let ids: Vec<Value> = users.iter().map(|user| user.as_str().into()).collect();
            return output::json(&ids.into());
        }
        return args.print(users.iter());
    }
    let waiting = if args.long { waiting(&connected).await? } else { BTreeMap::new() };
    let reading = stream::iter(users).map(|user| look(&connected, user)).buffered(AT_ONCE);
    let found: Vec<Option<StoredUser>> = reading.collect().await;
    let wanted = |line: &StoredUser| args.state.is_none_or(|state| state == line.state);
    let lines: Vec<StoredUser> = found.into_iter().flatten().filter(wanted).collect();
    let jobs = |line: &StoredUser| waiting.get(&line.user).copied().unwrap_or_default();
    if args.json {
        let shown: Vec<Value> = lines
            .iter()
            .map(|line| {
                if !args.long {
                    return line.user.as_str().into();
                }
                json!({
                    "user": line.user.as_str(), "state": line.state.name(), "reason": line.why.map(Reason::as_str),
                    "refreshed": line.refreshed.map(|at| at.to_string()),
                    "waiting_jobs": jobs(line), "scopes": line.scopes,
                })
            })
            .collect();
        return output::json(&shown.into());
    }
    if !args.long {
        return args.print(lines.iter().map(|line| &line.user));
    }
    for line in &lines {
        let state = line.word();
        let refreshed = line.refreshed.map_or_else(|| "-".to_owned(), |at| format!("{at:.0}"));
        output::line(format!(
            "{:<24} {state:<19} {refreshed:<20} {:>5} waiting  {}",
            plain(line.user.as_str()),
            jobs(line),
            plain(&line.scopes.join(" "))
        ))?;
    }
    Ok(())
}

/// Reads a user's record, and tells why where that cannot be read.
async fn look(connected: &Connected, user: UserId) -> Option<StoredUser> {
    let found = StoredUser::read(&connected.store, user).await?;
    if let Some(error) = &found.fault {
        output::note(format!("user {:?}: {error}", found.user.as_str()));
    }
    Some(found)
}

/// The number of parked jobs of each user who has any.
async fn waiting(connected: &Connected) -> anyhow::Result<BTreeMap<UserId, usize>> {
    let (mut jobs, mut page) = (BTreeMap::new(), None);
    loop {
        let listing = connected.bucket.list(PREFIX, page).await?;
        for (name, _) in &listing.objects {
            if let Some(user) = user_of(name).filter(|_| !is_claim(name)) {
                *jobs.entry(user).or_default() += 1;
            }
        }
        page = listing.next_page;
        if page.is_none() {
            return Ok(jobs);
        }
    }
}
