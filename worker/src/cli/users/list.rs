//! `fleet users list`.

use std::collections::BTreeMap;

use crate::parking::{PREFIX, is_claim, user_of};
use clap::ValueEnum;
use futures_util::StreamExt as _;
use futures_util::stream;
use jiff::Timestamp;
use serde_json::{Value, json};
use shared::record::TokenRecord;
use shared::{Error, UserId};

use super::super::connect::{Connected, StoreArgs};
use super::super::environment::Place;
use super::super::output::{self, plain};
use super::every_user;

/// So many records are read at a time.
const AT_ONCE: usize = 32;

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

/// What is known of a user's grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum State {
    /// Jobs act for the user
    Active,
    /// The provider ended the grant
    Revoked,
    /// The provider refuses the user for now
    Blocked,
    /// The record cannot be read
    Unreadable,
}

impl State {
    fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Revoked => "revoked",
            Self::Blocked => "blocked",
            Self::Unreadable => "unreadable",
        }
    }
}

/// One user's line.
struct Line {
    user: UserId,
    state: State,
    why: Option<&'static str>,
    refreshed: Option<Timestamp>,
    scopes: Vec<String>,
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
    let found: Vec<Option<Line>> = reading.collect().await;
    let wanted = |line: &Line| args.state.is_none_or(|state| state == line.state);
    let lines: Vec<Line> = found.into_iter().flatten().filter(wanted).collect();
    let jobs = |line: &Line| waiting.get(&line.user).copied().unwrap_or_default();
    if args.json {
        let shown: Vec<Value> = lines
            .iter()
            .map(|line| {
                if !args.long {
                    return line.user.as_str().into();
                }
                json!({
                    "user": line.user.as_str(), "state": line.state.name(), "reason": line.why,
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
        let state = line.why.unwrap_or(line.state.name());
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

/// A user's line; `None` for one who was deleted since.
async fn look(connected: &Connected, user: UserId) -> Option<Line> {
    Some(match connected.store.read_record(&user).await {
        Ok(record) => line(user, record),
        Err(Error::NeedsConsent(_)) => return None,
        Err(error) => {
            output::note(format!("user {:?}: {error}", user.as_str()));
            let (state, why, refreshed, scopes) = (State::Unreadable, None, None, Vec::new());
            Line { user, state, why, refreshed, scopes }
        }
    })
}

fn line(user: UserId, record: TokenRecord) -> Line {
    let state = match (record.is_active(), &record.blocked) {
        (false, _) => State::Revoked,
        (true, Some(_)) => State::Blocked,
        (true, None) => State::Active,
    };
    let why = record.trouble().map(|why| why.reason().as_str());
    Line { user, state, why, refreshed: Some(record.updated_at), scopes: record.scopes }
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
