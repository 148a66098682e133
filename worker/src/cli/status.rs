//! `fleet status`: how the fleet stands, on one screen.

mod screen;

use std::io::IsTerminal as _;
use std::time::Duration;

use crate::status::{Gathering, Progress, Status};
use anyhow::Context as _;
use shared::adapters::SystemClock;
use shared::ports::Clock as _;

use super::connect::{Connected, ProjectArgs, StoreArgs, duration};
use super::dead::review_subscription;
use super::environment::Place;
use super::output;

/// When the listings take longer than this, and so often from then on, it is told how far they are.
const TELL_EVERY: Duration = Duration::from_secs(2);
/// On a terminal: to its upper left corner, and all of it cleared.
const CLEARED: &str = "\u{1b}[H\u{1b}[2J";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fleet status --bucket my-tokens --subscription jobs-workers --dead-topic jobs-dead
  fleet status --json | jq .users.revoked
  fleet status --watch 30s

Users, waiting jobs, ends to be written and replicas are counted by listing the bucket, a
request for each thousand objects; records of which the listing tells no state are read, 2,000
at most, and so are the 500 newest leases. Backlogs are Cloud Monitoring's, two or three minutes
late (roles/monitoring.viewer), or those of `fleet dev`'s emulator; where nobody tells them it
says why.

Exit codes: 0 the screen was shown, even where a backlog is not known; 1 the bucket did not
answer; 2 usage, or a bucket that does not exist.")]
pub(crate) struct Args {
    #[command(flatten)]
    project: ProjectArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    queues: QueueArgs,
    /// Show it again and again, so long apart
    #[arg(long, value_name = "TIME", value_parser = duration, num_args = 0..=1, default_missing_value = "10s")]
    watch: Option<Duration>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// The subscriptions whose backlogs are told.
#[derive(Debug, clap::Args)]
pub(crate) struct QueueArgs {
    /// Job subscription, of which the backlog is told
    #[arg(long, env = "FLEET_SUBSCRIPTION")]
    subscription: Option<String>,
    /// Where rejected jobs go
    #[arg(long, env = "FLEET_DEAD_TOPIC")]
    dead_topic: Option<String>,
    /// The subscription that keeps them [default: the dead topic's name and -review]
    #[arg(long, env = "FLEET_DEAD_SUBSCRIPTION")]
    dead_subscription: Option<String>,
}

impl QueueArgs {
    /// What there is to gather of this bucket and these subscriptions.
    pub(crate) fn gathering(
        &self,
        project: &ProjectArgs,
        place: &Place,
        connected: &Connected,
        bucket: &str,
    ) -> anyhow::Result<Gathering> {
        let subscription = |flag: &str, name: &Option<String>| {
            let name = name.as_ref().filter(|name| !name.is_empty());
            name.map(|name| project.subscription_of(flag, name)).transpose()
        };
        let dead_topic = project.optional_topic("--dead-topic", self.dead_topic.as_ref())?;
        let kept = subscription("--dead-subscription", &self.dead_subscription)?;
        Ok(Gathering {
            store: connected.store.clone(),
            bucket_name: bucket.to_owned(),
            subscription: subscription("--subscription", &self.subscription)?,
            dead_subscription: kept.or(dead_topic.as_deref().map(review_subscription)),
            backlogs: place.backlogs(connected.http.clone()),
        })
    }
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let place = Place::from_env()?;
    let connected = args.store.connect_to_look(&place).await?;
    let gathering = args.queues.gathering(&args.project, &place, &connected, &args.store.bucket)?;
    let redraws = std::io::stdout().is_terminal() && !args.json;
    loop {
        let status = gather(&gathering).await?;
        let shown = if args.json {
            serde_json::to_string_pretty(&status)?
        } else {
            screen::lines(&status).join("\n")
        };
        match args.watch {
            None => return output::line(shown),
            Some(pause) => {
                let cleared = if redraws { CLEARED } else { "" };
                output::line(format!("{cleared}{shown}"))?;
                if !redraws && !args.json {
                    // Tells one screen from the next in a file.
                    output::line("")?;
                }
                SystemClock::default().sleep(pause).await;
            }
        }
    }
}

/// Tells on stderr how far it is, where that takes long.
async fn gather(gathering: &Gathering) -> anyhow::Result<Status> {
    let (progress, clock) = (Progress::default(), SystemClock::default());
    let telling = async {
        loop {
            clock.sleep(TELL_EVERY).await;
            let (listed, read) = (progress.listed(), progress.read());
            output::note(format!("{listed} objects listed, {read} read"));
        }
    };
    let gathered = tokio::select! {
        biased;
        gathered = gathering.run(clock.wall(), &progress) => gathered,
        () = telling => unreachable!("it goes on for ever"),
    };
    gathered.with_context(|| format!("the fleet of bucket {}", gathering.bucket_name))
}
