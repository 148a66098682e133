//! `fleet outcomes`: what becomes of jobs, as it is told.

mod table;
mod waiting;

use std::time::Duration;

use crate::replica::Stop;
use crate::told::{Outcomes, Told};
use anyhow::Context as _;
use shared::UserId;
use shared::adapters::SystemClock;
use shared::ports::Clock as _;

use super::connect::{ProjectArgs, duration, user_id};
use super::environment::Place;
use super::output;

pub(super) use waiting::{Awaited, WaitArgs};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fleet outcomes --outcomes-topic jobs-outcomes --follow
  fleet outcomes --outcomes-topic jobs-outcomes --follow --user 1097 --json | jq .status

Outcomes are not kept: those are shown that are published from now on, by a subscription that
is made for it and removed at the end. Without --follow that is when none has come for --wait.")]
pub(crate) struct Args {
    #[command(flatten)]
    project: ProjectArgs,
    /// Where outcomes are published
    #[arg(long, env = "FLEET_OUTCOMES_TOPIC")]
    outcomes_topic: String,
    /// Go on until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// How long the next outcome is waited for [default: 10s]
    #[arg(long, value_parser = duration, conflicts_with = "follow")]
    wait: Option<Duration>,
    /// Only of this user's jobs
    #[arg(long, value_name = "USER_ID", value_parser = user_id)]
    user: Option<UserId>,
    /// Only of the job with this ID
    #[arg(long, value_name = "JOB")]
    job: Option<String>,
    /// The outcomes as they were published, one JSON object per line
    #[arg(long)]
    json: bool,
}

const WAIT: Duration = Duration::from_secs(10);

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let place = Place::from_env()?;
    let topic = args.project.topic("--outcomes-topic", &args.outcomes_topic)?;
    let stop = Stop::by_signals().context("signals cannot be watched")?.drain;
    let mut outcomes = open(&place, &topic, &args.user).await?;
    let shown = tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        shown = show(&mut outcomes, &args) => shown,
    };
    close(outcomes).await;
    shown
}

async fn show(outcomes: &mut Outcomes, args: &Args) -> anyhow::Result<()> {
    let clock = SystemClock::default();
    let wait = args.wait.unwrap_or(WAIT);
    let mut late = clock.sleep(wait);
    loop {
        let told = tokio::select! {
            told = outcomes.next() => told?,
            () = &mut late, if !args.follow => return Ok(()),
        };
        if args.want(&told) {
            late = clock.sleep(wait);
            output::line(if args.json { told.line } else { table::line(&told) })?;
        }
    }
}

impl Args {
    fn want(&self, told: &Told) -> bool {
        let is_user = |user: &UserId| told.outcome.user == user.as_str();
        self.user.as_ref().is_none_or(is_user)
            && self.job.as_ref().is_none_or(|job| told.outcome.job == *job)
    }
}

/// Reads the outcomes of these users' jobs from now on, and says so.
async fn open<'a>(
    place: &Place,
    topic: &str,
    users: impl IntoIterator<Item = &'a UserId>,
) -> anyhow::Result<Outcomes> {
    place.reach_pubsub().await?;
    let outcomes = Outcomes::open(&place.connection(), topic, users).await?;
    output::note(format!("reading {topic} by {}", outcomes.subscription()));
    Ok(outcomes)
}

/// Removes the subscription; what is left of it is not worth the command's failure.
async fn close(outcomes: Outcomes) {
    if let Err(left) = outcomes.close().await {
        output::note(left);
    }
}
