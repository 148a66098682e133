//! `fleet demo`: jobs of many users on a local stack, a replica killed amid them, and a report.

use anyhow::Context as _;

use super::super::output;
use super::compare;
use super::jobs::Arrival;
use super::no_proxy;
use super::play::{Scale, play};
use super::progress::Progress;
use super::signals::Signals;
use super::stack::Stack;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fleet demo
  fleet demo --users 100 --jobs 5000 --replicas 5
  fleet demo --kill 0 --json
  fleet demo --compare

Emulators run in this process, replicas as processes of the same binary. A replica
is killed with SIGKILL in the middle and another one started. Exit code 0 only if
nothing was lost and nobody was refreshed twice without need: a replica that is killed
between the provider's answer and its storing takes that user's grant with it, which no
client can prevent. Each call of the token endpoint is judged for itself.

With --compare the same users, jobs and kills then meet the way that credentials are often
shared without Fleet: every replica loads them from a bucket, refreshes them when they have
expired and saves them, without any guard. Each side has emulators of its own. The jobs
carry no ordering key and arrive ten of a user at once, each time after the user's token
has expired. The exit code is Fleet's.")]
pub(crate) struct Args {
    #[command(flatten)]
    scale: Scale,
    /// The same beside it with credentials that are shared without a guard
    #[arg(long)]
    compare: bool,
    /// One JSON object instead of the table
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    args.scale.check()?;
    no_proxy::begin_anew_without()?;
    let mut signals = Signals::watch().context("signals cannot be watched")?;
    let (scale, json) = (&args.scale, args.json);
    tokio::select! {
        ended = async {
            if args.compare { compare::run(scale, json).await } else { alone(scale, json).await }
        } => ended,
        () = signals.come() => anyhow::bail!("interrupted; nothing is left behind"),
    }
}

async fn alone(scale: &Scale, json: bool) -> anyhow::Result<()> {
    let progress = Progress::new(scale.jobs as u64);
    progress.say("starting emulators");
    let stack = Stack::start(scale.plan()).await?;
    let report = play(scale, &stack, &progress, Arrival::AtOnce).await?;
    progress.clear();
    if json {
        output::json(&report.to_json())?;
    } else {
        output::line(report.to_text())?;
    }
    match report.failure() {
        None => Ok(()),
        Some(why) => anyhow::bail!("{why}"),
    }
}
