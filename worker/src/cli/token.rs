//! `fleet token`: a fresh access token, for scripts.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::builder::Resettable;
use clap::parser::ValueSource;
use clap::{ArgMatches, FromArgMatches};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use shared::adapters::SystemClock;
use shared::ports::Clock as _;
use shared::{Secret, UserId};

use crate::forward::{self, BrokerError, Target};

use super::broker;
use super::connect::{StoreArgs, user_id};
use super::environment::Place;
use super::output::{self, Usage};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  curl -H \"Authorization: Bearer $(fleet token 109876543210987654321)\" \\
      https://www.googleapis.com/drive/v3/files
  FLEET_BROKER=http://127.0.0.1:9091 FLEET_BROKER_KEY=broker.key \\
      fleet token 109876543210987654321 --min-ttl 10m

The token is a secret: keep it out of logs and shell histories. Where a broker is named it is
asked, and neither bucket nor OAuth client nor keyring is needed.")]
pub(crate) struct Args {
    /// The stored user's ID
    #[arg(value_name = "USER_ID", value_parser = user_id)]
    user: UserId,
    #[command(flatten)]
    from: From,
    /// An object with the token, its expiry and scopes
    #[arg(long)]
    json: bool,
}

/// Where the token comes from, and how long it must be good yet.
#[derive(Debug)]
struct From {
    source: Source,
    min_ttl: Option<Duration>,
}

#[derive(Debug)]
enum Source {
    Broker(BrokerArgs),
    Store(Box<StoreArgs>),
}

#[derive(Debug, clap::Args)]
struct BrokerArgs {
    /// The broker that is asked: `http://127.0.0.1:PORT` or `unix:/PATH` [default: the token
    /// store is opened]
    #[arg(long, env = "FLEET_BROKER", value_name = "URL")]
    broker: Option<Target>,
    /// Path of the broker's key
    #[arg(long, env = "FLEET_BROKER_KEY", value_name = "FILE")]
    key: Option<PathBuf>,
}

impl FromArgMatches for From {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let source = if matches.contains_id("broker") {
            Source::Broker(BrokerArgs::from_arg_matches(matches)?)
        } else {
            Source::Store(Box::new(StoreArgs::from_arg_matches(matches)?))
        };
        let default = matches.value_source("min_ttl") == Some(ValueSource::DefaultValue);
        let min_ttl = matches.get_one("min_ttl").copied().filter(|_| !default);
        Ok(Self { source, min_ttl })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for From {
    fn augment_args(command: clap::Command) -> clap::Command {
        // What is a tunable elsewhere is meant here: the token is renewed for it.
        StoreArgs::augment_args(BrokerArgs::augment_args(command))
            .mut_arg("bucket", |arg| arg.required(false).required_unless_present("broker"))
            .mut_arg("min_ttl", |arg| {
                arg.hide(false).help_heading(Resettable::Reset).hide_default_value(true).help(
                    "The token is good for at least so long yet; one with less left is renewed",
                )
            })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

/// A token, wherever it is from.
struct Token {
    secret: Secret,
    expires_at: Option<Timestamp>,
    scopes: Vec<String>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let Args { user, from: From { source, min_ttl }, json } = args;
    let token = match source {
        Source::Broker(broker) => from_broker(&broker, &user, min_ttl).await?,
        Source::Store(store) => from_store(&store, &user, min_ttl).await?,
    };
    if let (Some(min_ttl), Some(at)) = (min_ttl, token.expires_at) {
        let left = at.duration_since(SystemClock::default().wall());
        // A broker tells whole seconds.
        if left + SignedDuration::from_secs(1) < SignedDuration::try_from(min_ttl)? {
            anyhow::bail!(
                "the token of user {:?} is good for {} s yet, and a new one for hardly longer: ask for less than {} s by --min-ttl",
                user.as_str(),
                left.as_secs(),
                min_ttl.as_secs()
            );
        }
    }
    let secret = token.secret.expose();
    if json {
        return output::json(&json!({
            "access_token": secret,
            "expires_at": token.expires_at,
            "scopes": token.scopes,
        }));
    }
    output::line(secret)
}

fn none_of(user: &UserId) -> String {
    format!("no token of user {:?}", user.as_str())
}

async fn from_store(
    store: &StoreArgs,
    user: &UserId,
    min_ttl: Option<Duration>,
) -> anyhow::Result<Token> {
    let place = Place::from_env()?;
    let connected = store.connect(&place).await?;
    let min_ttl = min_ttl.unwrap_or_default();
    let credentials = connected.store.get_credentials_lasting(user, min_ttl).await;
    connected.finish().await;
    let credentials = credentials.with_context(|| none_of(user))?;
    connected.exports(user);
    Ok(Token {
        secret: credentials.access_token().clone(),
        expires_at: credentials.expires_at(),
        scopes: credentials.scopes().to_vec(),
    })
}

async fn from_broker(
    args: &BrokerArgs,
    user: &UserId,
    min_ttl: Option<Duration>,
) -> anyhow::Result<Token> {
    let BrokerArgs { broker: Some(broker), key: Some(key) } = args else {
        let text = "--broker needs --key (FLEET_BROKER_KEY): the file with the broker's key";
        return Err(Usage(text.to_owned()).into());
    };
    let given = match forward::ask(broker, &broker::keys(key)?, user, min_ttl).await {
        Err(why @ BrokerError::WrongKey(_)) => return Err(Usage(why.to_string()).into()),
        given => given.with_context(|| none_of(user))?,
    };
    let life = SignedDuration::try_from(given.expires_in)?;
    Ok(Token {
        secret: given.token,
        expires_at: SystemClock::default().wall().checked_add(life).ok(),
        scopes: given.scopes,
    })
}
