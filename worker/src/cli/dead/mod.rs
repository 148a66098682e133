//! `fleet dead`: jobs that were parked for want of consent, jobs that were
//! rejected or delivered too often, and ends of jobs that could not be written yet.

mod batch;
mod choice;
mod claims;
mod discard;
mod gather;
mod group;
mod letter;
mod redrive;
mod table;

use clap::Subcommand;
use jiff::Timestamp;
use shared::adapters::SystemClock;
use shared::ports::Clock as _;
use shared::sealing::Sealing;
use shared::{UserId, adapters::RetryingBucket};
use std::time::Duration;

use super::confirm::somebody_can_be_asked;
use super::connect::{ProjectArgs, duration, user_id};
use super::environment::Place;
use super::output::{self, Usage};
use super::sealing::SealingArgs;
use gather::Extent;
use letter::Letter;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

const ABOUT_DEAD: &str = "\
Parked jobs lie in the bucket and go on by themselves when their user consents. Ends of
jobs that a topic did not take (WHERE is `ending`) lie there too; workers write them, but
for those that a topic refuses. EFFECT is what is known of a job's call: `never ended here`
when no worker has told its end, as with letters that Pub/Sub made itself. Dead letters are looked at by pulling them and giving them back, which counts as a delivery
of the dead-letter subscription and changes nothing about the jobs; one pull sees up to
10,000 messages or 100 MiB.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Parked and dead-lettered jobs, and ends of jobs that wait, and why they are there
    #[command(after_help = format!("\
Examples:
  fleet dead list --bucket my-tokens --dead-topic jobs-dead
  fleet dead list --dead --kind api --reason 'HTTP status 404' --json

{ABOUT_DEAD}"))]
    List {
        #[command(flatten)]
        which: WhichArgs,
        /// At most so many
        #[arg(long, default_value_t = 1000)]
        limit: usize,
        /// One JSON object per line
        #[arg(long)]
        json: bool,
    },
    /// Publish them to the job topic again, then remove them
    #[command(after_help = format!("\
Examples:
  fleet dead redrive --topic jobs --dead --reason 'HTTP status 503' --dry-run
  fleet dead redrive --topic jobs --user 109876543210987654321 --yes

Each is removed after it was published, one user's in their order; Ctrl-C stops between
two. A job that is cut off in between runs twice and is never lost. Jobs that have acted, or
may have, and must not be repeated are left where they are: --effect unrecorded takes those
that never ended here, and --effect any does all of them again, as a new run. Jobs that are
no jobs, or were redriven {MAX_REDRIVES} times before, are left unless --force is given. A
parked job whose user has still not consented is parked again.

{ABOUT_DEAD}", MAX_REDRIVES = letter::MAX_REDRIVES))]
    Redrive {
        #[command(flatten)]
        which: WhichArgs,
        #[command(flatten)]
        how: choice::HowArgs,
    },
    /// Remove them for good
    #[command(after_help = format!("\
Examples:
  fleet dead drop --dead --id job-17
  fleet dead drop --parked --user 109876543210987654321 --yes
  fleet dead drop --parked --reason unknown_user --yes

Ends of jobs that wait for a topic are left: workers write them. Those that a topic refuses
are removed.

{ABOUT_DEAD}"))]
    Drop {
        #[command(flatten)]
        which: WhichArgs,
        #[command(flatten)]
        how: discard::HowArgs,
    },
}

/// Which jobs are meant.
#[derive(Debug, clap::Args)]
struct WhichArgs {
    #[command(flatten)]
    project: ProjectArgs,
    /// Bucket of the token store, where parked jobs are
    #[arg(long, env = "FLEET_BUCKET")]
    bucket: Option<String>,
    #[command(flatten)]
    sealing: SealingArgs,
    /// Where rejected jobs go
    #[arg(long, env = "FLEET_DEAD_TOPIC")]
    dead_topic: Option<String>,
    /// The subscription that keeps them [default: the dead topic's name and -review]
    #[arg(long, env = "FLEET_DEAD_SUBSCRIPTION")]
    dead_subscription: Option<String>,
    /// Only parked jobs
    #[arg(long, group = "only")]
    parked: bool,
    /// Only dead letters
    #[arg(long, group = "only")]
    dead: bool,
    /// Only ends of jobs that wait to be written
    #[arg(long, group = "only")]
    ending: bool,
    /// Only the job with this ID
    #[arg(long, value_name = "JOB")]
    id: Option<String>,
    /// Only this user's
    #[arg(long, value_name = "USER_ID", value_parser = user_id)]
    user: Option<UserId>,
    /// Only of this kind
    #[arg(long)]
    kind: Option<String>,
    /// Only with this in their reason, in upper or lower case
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// How long dead letters are waited for, since the last one [default: 12s, after which those
    /// are seen that an earlier look gave back; for list 1s once one has come]
    #[arg(long, value_parser = duration)]
    wait: Option<Duration>,
}

/// Where the jobs are that are meant.
struct Sources {
    bucket: Option<RetryingBucket>,
    bucket_name: String,
    sealing: Sealing,
    parked: bool,
    endings: bool,
    /// Full name of the dead-letter subscription.
    dead: Option<String>,
}

impl WhichArgs {
    async fn sources(&self, place: &Place) -> anyhow::Result<Sources> {
        let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
        let bucket = given(&self.bucket).filter(|_| !self.dead);
        let dead = match (given(&self.dead_subscription), given(&self.dead_topic)) {
            _ if self.parked || self.ending => None,
            (Some(name), _) => Some(self.project.subscription_of("--dead-subscription", &name)?),
            (None, Some(topic)) => {
                Some(review_subscription(&self.project.topic("--dead-topic", &topic)?))
            }
            (None, None) => None,
        };
        if bucket.is_none() && dead.is_none() {
            let what = match (self.parked || self.ending, self.dead) {
                (true, _) => "--bucket (FLEET_BUCKET), where parked jobs and ends of jobs are",
                (_, true) => {
                    "--dead-topic (FLEET_DEAD_TOPIC) or --dead-subscription (FLEET_DEAD_SUBSCRIPTION)"
                }
                _ => {
                    "--bucket (FLEET_BUCKET) for parked jobs, --dead-topic (FLEET_DEAD_TOPIC) for dead letters, or both"
                }
            };
            return Err(Usage(format!("nowhere to look: set {what}")).into());
        }
        if dead.is_some() {
            place.reach_pubsub().await?;
        }
        let bucket_name = bucket.clone().unwrap_or_default();
        let bucket = match bucket {
            Some(name) => Some(RetryingBucket::over(place.bucket(&name).await?.shared())),
            None => None,
        };
        let sealing = self.sealing.sealing(place).await?;
        let (parked, endings) = (!self.ending, !self.parked);
        Ok(Sources { bucket, bucket_name, sealing, parked, endings, dead })
    }

    /// Whether a job is meant.
    fn want(&self, letter: &Letter) -> bool {
        let user = |user: &UserId| letter.user.as_deref() == Some(user.as_str());
        let kind = |kind: &String| letter.kind.as_ref() == Some(kind);
        let reason = |part: &String| letter.reason.to_lowercase().contains(&part.to_lowercase());
        self.id.as_ref().is_none_or(|id| letter.job == *id)
            && self.user.as_ref().is_none_or(user)
            && self.kind.as_ref().is_none_or(kind)
            && self.reason.as_ref().is_none_or(reason)
    }
}

/// The subscription that keeps what is published to this dead topic.
pub(crate) fn review_subscription(dead_topic: &str) -> String {
    format!("{}-review", dead_topic.replacen("/topics/", "/subscriptions/", 1))
}

fn now() -> Timestamp {
    SystemClock::default().wall()
}

/// What to add where nobody can be asked.
const UNASKED: &str = "--yes, or look first with --dry-run";

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let place = Place::from_env()?;
    match args.command {
        Command::List { which, limit, json } => {
            let sources = which.sources(&place).await?;
            let found = gather::gather(&place, &which, &sources, limit, Extent::Limit).await?;
            let letters: Vec<&Letter> = found.items.iter().map(|item| &item.letter).collect();
            let result = table::show(&letters, now(), json);
            let notes = found.notes.clone();
            found.give_back().await;
            notes.iter().for_each(output::note);
            result
        }
        Command::Redrive { which, how } => {
            let topic = which.project.topic("--topic", &how.topic)?;
            somebody_can_be_asked(how.dry_run || how.yes, UNASKED)?;
            // Ends of jobs are written by workers.
            let sources = Sources { endings: false, ..which.sources(&place).await? };
            redrive::run(&place, &which, &how, &sources, &topic).await
        }
        Command::Drop { which, how } => {
            somebody_can_be_asked(how.dry_run || how.yes, UNASKED)?;
            let sources = which.sources(&place).await?;
            discard::run(&place, &which, &how, &sources).await
        }
    }
}
