//! `fleet unguarded-worker`: a replica for the other side of `fleet demo --compare`.

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::super::orphan::ParentArgs;
use super::super::output::Usage;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  fleet demo --compare     # starts these by itself")]
pub(crate) struct Args {
    #[command(flatten)]
    parent: ParentArgs,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let config = unguarded::Config::from_env().map_err(|e| Usage(e.to_string()))?;
    let orphaned = CancellationToken::new();
    let gone = orphaned.clone();
    args.parent.when_gone(move || gone.cancel());
    tokio::select! {
        ended = unguarded::run(&config, CancellationToken::new()) => {
            ended.context("the unguarded worker failed")
        }
        // At once: its storage client would wait for servers that are gone.
        () = orphaned.cancelled() => Ok(()),
    }
}
