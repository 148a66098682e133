//! `fleet broker`: access tokens for programs that are no jobs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::forward::{Broker, Clients, Listen, Users, credentials, read_keys};
use crate::replica::Stop;
use anyhow::Context as _;
use clap::{ArgMatches, FromArgMatches, Subcommand};
use shared::adapters::SystemClock;
use shared::ports::Clock;
use shared::{Secret, UserId, file_text};
use tracing::{info, warn};

use super::connect::{StoreArgs, read_secret, read_small, user_id};
use super::environment::Place;
use super::orphan::ParentArgs;
use super::output::{self, Usage};

/// Serving is the command itself, so that it needs no bucket where another is named.
#[derive(Debug)]
pub(crate) enum Args {
    Serve(ServeArgs),
    Other(Command),
}

impl FromArgMatches for Args {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        match matches.subcommand_name() {
            Some(_) => Command::from_arg_matches(matches).map(Self::Other),
            None => ServeArgs::from_arg_matches(matches).map(Self::Serve),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Args {
    fn augment_args(command: clap::Command) -> clap::Command {
        Command::augment_subcommands(ServeArgs::augment_args(command))
            .subcommand_required(false)
            .arg_required_else_help(false)
            .subcommand_negates_reqs(true)
            .args_conflicts_with_subcommands(true)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  (umask 077; openssl rand -hex 32 > broker.key)
  fleet broker --bucket my-tokens --client client.json --key broker.key
  fleet broker credentials 109876543210987654321 --key broker.key > ann.json
  GOOGLE_APPLICATION_CREDENTIALS=ann.json python report.py

Whoever has the key gets access tokens of the users that --users names, and nothing else: no
refresh token. For a new key put it above the old one, give it to all, then remove the old; the file
is read again when it changes.")]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Where programs ask for tokens: a loopback address, or `unix:/PATH` for a socket that only
    /// its owner can open
    #[arg(long, env = "FLEET_BROKER_LISTEN", default_value = LISTEN)]
    listen: Listen,
    /// Path of the key that programs ask with; two in it while they are changed, a line each
    #[arg(long, env = "FLEET_BROKER_KEY", value_name = "FILE")]
    key: PathBuf,
    /// Whose tokens are given: a file of user IDs, one in a line, or 'prefix*' [default: all
    /// users']
    #[arg(long, env = "FLEET_BROKER_USERS", value_name = "FILE|PREFIX*")]
    users: Option<String>,
    #[command(flatten)]
    parent: ParentArgs,
}

pub(super) const LISTEN: &str = "127.0.0.1:9091";
/// How often the file of keys is looked at.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print a credentials file, for `GOOGLE_APPLICATION_CREDENTIALS`, with which any Google
    /// library acts as a stored user
    #[command(after_help = "\
Example:
  fleet broker credentials 109876543210987654321 --key broker.key > ann.json

The file has the key in it: keep it as you keep that.")]
    Credentials {
        /// The stored user's ID
        #[arg(value_name = "USER_ID", value_parser = user_id)]
        user: UserId,
        /// Where the broker listens: no socket, which libraries cannot ask at
        #[arg(long, env = "FLEET_BROKER_LISTEN", default_value = LISTEN)]
        listen: Listen,
        /// Path of the broker's key
        #[arg(long, env = "FLEET_BROKER_KEY", value_name = "FILE")]
        key: PathBuf,
    },
}

/// The keys of a file, the newer first.
pub(super) fn keys(path: &Path) -> Result<Vec<Secret>, Usage> {
    let text = text(path, &read_secret(path)?)?;
    read_keys(&text).map_err(|why| Usage(format!("--key: {} {why}", path.display())))
}

/// Takes up the keys of the file when they change, so that nobody is refused meanwhile. A file
/// that cannot be used changes nothing, and a pipe is read once.
async fn follow_keys(path: &Path, mut known: Vec<Secret>, clients: &Clients, clock: &dyn Clock) {
    if !path.is_file() {
        return std::future::pending().await;
    }
    let (mut told, mut seen) = (None, known.clone());
    loop {
        clock.sleep(LOOK).await;
        match keys(path) {
            Ok(now) => {
                told = None;
                // What was something else at the last look may be half written.
                if now != known && now == seen {
                    clients.change_keys(&now);
                    info!(keys = now.len(), "the keys have changed");
                    known.clone_from(&now);
                }
                seen = now;
            }
            Err(Usage(why)) => {
                if told.as_ref() != Some(&why) {
                    warn!("the keys stay as they were: {why}");
                    told = Some(why);
                }
            }
        }
    }
}

/// The content of the file at `path`, which must be text.
fn text(path: &Path, content: &[u8]) -> Result<String, Usage> {
    let text = file_text(content);
    text.map(Into::into).ok_or_else(|| Usage(format!("{} is not text", path.display())))
}

fn users(named: Option<&str>) -> Result<Users, Usage> {
    let Some(named) = named.filter(|named| !named.is_empty()) else { return Ok(Users::All) };
    if let Some(prefix) = named.strip_suffix('*') {
        return Ok(Users::Prefix(prefix.to_owned()));
    }
    let path = Path::new(named);
    let text = text(path, &read_small(path)?)?;
    let listed = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(Users::Listed(listed.map(str::to_owned).collect()))
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let ServeArgs { store, listen, key, users: named, parent } = match args {
        Args::Serve(args) => args,
        Args::Other(Command::Credentials { user, listen, key }) => {
            let Listen::Address(address) = listen else {
                return Err(Usage(format!(
                    "--listen is {listen}, and client libraries cannot ask at a socket: run a broker that listens on 127.0.0.1, or ask this one by `fleet token`"
                ))
                .into());
            };
            let keys = keys(&key)?;
            let key = keys.first().context("a file without keys was refused")?;
            return output::json(&credentials(address, key, &user));
        }
    };
    let known = keys(&key)?;
    let clients = Arc::new(Clients::new(&known, users(named.as_deref())?));
    let place = Place::from_env()?;
    let connected = store.connect(&place).await?;
    let broker = Broker::open(&listen, Arc::clone(&clients)).await?;
    let address = broker.address()?;
    info!(%address, "giving tokens to programs that have the key");
    let stop = Stop::by_signals().context("signals cannot be watched")?.drain;
    let orphaned = stop.clone();
    parent.when_gone(move || orphaned.cancel());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let serving = broker.serve(connected.store.clone(), Arc::clone(&clock), stop);
    tokio::select! {
        served = serving => served?,
        // What was read from stdin does not change.
        () = follow_keys(&key, known, &clients, &*clock), if key.as_os_str() != "-" => {}
    }
    connected.finish().await;
    Ok(())
}
