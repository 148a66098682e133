//! A worker by the variables of `fleet worker`, for programs that bring their own parts.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, FromArgMatches as _, Parser};

use crate::Worker;
use crate::replica::Builder;

use super::super::environment::Place;
use super::super::help::without_empty_variables;
use super::super::output::Usage;
use super::parts::{Named, Parts};

/// Why [`Worker::from_env`] connects nothing.
#[derive(Debug, thiserror::Error)]
pub enum FromEnvError {
    /// Correct the variable that it names, by its own name or its flag's.
    #[error("{0}")]
    Settings(String),
    /// What a variable names cannot be reached, or refuses; its source says which and why.
    #[error("the worker cannot be connected")]
    Connect(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// `fleet worker` without a command line.
#[derive(Debug, Parser)]
#[command(name = "worker")]
struct Variables {
    #[command(flatten)]
    args: super::Args,
}

impl Worker {
    /// A worker to which only kinds are to be added: everything else is connected as the
    /// environment says, by the variables that `fleet worker --help` lists
    /// (`GOOGLE_CLOUD_PROJECT`, `FLEET_BUCKET`, `FLEET_SUBSCRIPTION`, `FLEET_OAUTH_CLIENT`,
    /// `FLEET_KEYRING` and so on) and, where they are set, with the emulators of
    /// `PUBSUB_EMULATOR_HOST` and `STORAGE_EMULATOR_HOST`. Each part can be replaced by the
    /// builder's methods.
    ///
    /// Logs, metrics, probes, the sweep of parked jobs, keeping grants alive and forwarding are
    /// not part of it: a program that wants them is [`fleet`](crate::fleet) with kinds of its
    /// own.
    ///
    /// ```no_run
    /// use serde_json::json;
    /// use worker::replica::Stop;
    /// use worker::{Job, Session, Verdict, Worker};
    ///
    /// #[tokio::main]
    /// async fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     let worker = Worker::from_env().await?.handler("greet", async |job: &Job, _: &Session| {
    ///         Verdict::done(json!({ "hello": job.user.as_str() }))
    ///     });
    ///     Ok(worker.build()?.run(Stop::by_signals()?).await?)
    /// }
    /// ```
    ///
    /// Cancelling it leaves nothing behind.
    ///
    /// # Errors
    /// [`FromEnvError`].
    pub async fn from_env() -> Result<Builder, FromEnvError> {
        let read = without_empty_variables(Variables::command())
            .try_get_matches_from(["worker"])
            .and_then(|matches| Variables::from_arg_matches(&matches));
        let args = match read {
            Ok(Variables { args }) => args,
            Err(error) => return Err(FromEnvError::Settings(what_is_wrong(&error))),
        };
        connected(&args).await.map_err(|error| match error.downcast::<Usage>() {
            Ok(Usage(text)) => FromEnvError::Settings(text),
            Err(error) => FromEnvError::Connect(error.into()),
        })
    }
}

async fn connected(args: &super::Args) -> anyhow::Result<Builder> {
    let named = Named::by(args)?;
    if args.forward.is_given() {
        let text = "FLEET_FORWARD or FLEET_FORWARD_ONCE is set, and only `fleet worker` forwards";
        return Err(Usage(text.to_owned()).into());
    }
    let place = Place::from_env()?;
    let connected = args.store.connect(&place).await?;
    let parts = Parts::connect(args, &named, &place, connected).await?;
    parts.builder(args, &named).await
}

/// What clap says of flags, in one line and of variables where it is that some are missing.
fn what_is_wrong(error: &clap::Error) -> String {
    let missing = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::Strings(flags))
            if error.kind() == ErrorKind::MissingRequiredArgument =>
        {
            flags.as_slice()
        }
        _ => &[],
    };
    let mut command = Variables::command();
    // Only then its flags are written as in the error.
    command.build();
    let variables: Vec<_> = command
        .get_arguments()
        .filter(|arg| missing.contains(&arg.to_string()))
        .filter_map(|arg| arg.get_env()?.to_str())
        .collect();
    if !variables.is_empty() {
        return format!("not set: {}", variables.join(", "));
    }
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    first.strip_prefix("error: ").unwrap_or(first).to_owned()
}
