//! The command line.

mod broker;
mod confirm;
mod connect;
mod days;
mod dead;
#[cfg(feature = "dev")]
mod dev;
mod doctor;
mod emulated;
mod environment;
mod events;
mod forward;
mod google_access;
mod help;
mod keyring;
mod login;
mod optional_path;
mod orphan;
mod outcomes;
mod output;
mod own_kinds;
mod profile;
mod publish;
mod reach;
mod resume;
mod sealing;
mod setup;
mod status;
mod token;
mod users;
mod web;
mod web_admin;
mod web_brand;
mod web_pages;
mod worker;

use std::process::ExitCode;
use std::sync::OnceLock;

use clap::{ArgMatches, FromArgMatches as _, Parser, Subcommand};
use tokio::runtime::Handle;

use crate::audit::AuditLog;
use crate::telemetry::logging::{self, Logs, Plan};
use crate::telemetry::traces::Traces;
use output::Usage;

pub use own_kinds::OwnKinds;
pub use worker::FromEnvError;

/// One Google OAuth credential per user, shared safely by a fleet of Pub/Sub
/// workers.
#[derive(Debug, Parser)]
#[command(name = "fleet", version, arg_required_else_help = true, after_help = AFTER)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const AFTER: &str = "\
Try it with nothing installed:
  fleet demo

Every flag that names a variable can be given by it. Emulators are used when
PUBSUB_EMULATOR_HOST and STORAGE_EMULATOR_HOST are set; `fleet dev` starts some and
prints the lines to export. FLEET_LOG filters the log (info, debug, …) and
FLEET_LOG_FORMAT is gcp or text. OTEL_EXPORTER_OTLP_ENDPOINT sends the worker's traces
to a collector (http/protobuf). Exit codes: 0 done, 1 failed, 2 usage, 3 the user
must consent.";

#[derive(Debug, Subcommand)]
enum Command {
    /// One replica: pull jobs, act as their users, acknowledge
    Worker(Box<worker::Args>),
    /// The consent pages: where people sign in and grant access
    Web(Box<web::Args>),
    /// Access tokens for programs that are no jobs, by a token endpoint on this machine
    Broker(Box<broker::Args>),
    /// Obtain a user credential on this computer and print its profile
    Login(login::Args),
    /// Publish jobs: one by flags, many from a JSON Lines file or stdin
    Publish(publish::Args),
    /// What becomes of jobs, as it is told
    Outcomes(outcomes::Args),
    /// The profile of a stored user, as JSON
    Profile(profile::Args),
    /// A fresh access token of a stored user, alone on stdout
    Token(token::Args),
    /// The stored users
    Users(users::Args),
    /// Parked and dead-lettered jobs
    Dead(dead::Args),
    /// The keys that seal stored secrets
    Keyring(keyring::Args),
    /// Create what is missing: for emulators and first tries
    Setup(setup::Args),
    /// How the fleet stands, on one screen: users, waiting jobs, backlog, dead letters, replicas
    Status(status::Args),
    /// Look at everything that a fleet stands on, and say what to do
    Doctor(Box<doctor::Args>),
    /// A local stack that stays up: emulators and replicas
    #[cfg(feature = "dev")]
    Dev(dev::serve::Args),
    /// Jobs of many users on a local stack, a replica killed amid them, and a report
    #[cfg(feature = "dev")]
    Demo(dev::demo::Args),
    /// A replica of `fleet demo --compare` that shares credentials without a guard
    #[cfg(feature = "dev")]
    #[command(hide = true)]
    UnguardedWorker(dev::unguarded_worker::Args),
    /// Shell completions, for stdout
    #[command(after_help = "Example:\n  fleet completions bash > /etc/bash_completion.d/fleet")]
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
}

/// Runs the command that the process was started with: all of the program `fleet`, with the
/// kinds of one's own that `kinds` names. They are done by its workers, by those of `dev` too.
///
/// ```no_run
/// use serde_json::json;
/// use worker::{Job, Session, Verdict};
///
/// fn main() -> std::process::ExitCode {
///     worker::fleet(|kinds| {
///         kinds.handle("greet", async |job: &Job, session: &Session| {
///             Verdict::done(json!({ "hello": session.user().as_str(), "job": job.id }))
///         });
///     })
/// }
/// ```
///
/// `kinds` is called in a tokio runtime and once at the start of every command, of those too
/// that do no jobs: it should name handlers and connect nothing. A name that cannot be a
/// kind's, is taken or is built in ends the program with exit code 2, and so does one that
/// `--forward` names.
pub fn fleet(kinds: impl FnOnce(&mut OwnKinds)) -> ExitCode {
    let mut command = help::command();
    let matches = command.get_matches_mut();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let Command::Completions { shell } = cli.command {
        clap_complete::generate(shell, &mut command, "fleet", &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    drop(COMMAND.set(command_of(&matches)));
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return output::fail(&error.into()),
    };
    let (logs, traces) = match start_telemetry(&cli.command, runtime.handle()) {
        Ok(started) => started,
        Err(error) => return output::fail(&Usage(error).into()),
    };
    let result = runtime.block_on(async {
        let mut own = OwnKinds::default();
        kinds(&mut own);
        let own = own.checked()?;
        match cli.command {
            Command::Worker(args) => Box::pin(worker::run(*args, own)).await,
            Command::Web(args) => Box::pin(web::run(*args)).await,
            Command::Broker(args) => broker::run(*args).await,
            Command::Login(args) => login::run(args).await,
            Command::Publish(args) => publish::run(args).await,
            Command::Outcomes(args) => outcomes::run(args).await,
            Command::Profile(args) => profile::run(args).await,
            Command::Token(args) => token::run(args).await,
            Command::Users(args) => users::run(args).await,
            Command::Dead(args) => dead::run(args).await,
            Command::Keyring(args) => keyring::run(&args).await,
            Command::Setup(args) => setup::run(args).await,
            Command::Status(args) => status::run(args).await,
            Command::Doctor(args) => doctor::run(*args).await,
            #[cfg(feature = "dev")]
            Command::Dev(args) => dev::serve::run(args).await,
            #[cfg(feature = "dev")]
            Command::Demo(args) => dev::demo::run(args).await,
            #[cfg(feature = "dev")]
            Command::UnguardedWorker(args) => dev::unguarded_worker::run(args).await,
            Command::Completions { .. } => Ok(()),
        }
    });
    if let Some(traces) = traces {
        traces.finish();
    }
    // A blocking read of stdin must not keep the process.
    runtime.shutdown_background();
    // What was logged stands before the error.
    drop(logs);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => output::fail(&error),
    }
}

/// The command that runs, as the audit trail names it.
static COMMAND: OnceLock<String> = OnceLock::new();

/// The names of commands alone, as in `users export`: arguments name people.
fn command_of(matches: &ArgMatches) -> String {
    let first = matches.subcommand();
    let chain = std::iter::successors(first, |(_, matches)| matches.subcommand());
    chain.map(|(name, _)| name).collect::<Vec<_>>().join(" ")
}

/// Takes the audit trail of this process, `instance` where it is a replica of many.
fn audit_log(instance: &str) -> AuditLog {
    let command = COMMAND.get().map_or("", String::as_str);
    let by = match command {
        "worker" | "web" => instance.to_owned(),
        _ => person(),
    };
    AuditLog::new(command, by)
}

/// Who started this process, as far as it knows: `ann@workstation`.
fn person() -> String {
    let user = ["USER", "LOGNAME", "USERNAME"].map(std::env::var);
    let user = user.into_iter().flatten().find(|name| !name.is_empty());
    let host = rustix::system::uname();
    format!("{}@{}", user.as_deref().unwrap_or("?"), host.nodename().to_string_lossy())
}

/// Starts the logs, and the traces of the one command that has any.
fn start_telemetry(command: &Command, runtime: &Handle) -> Result<(Logs, Option<Traces>), String> {
    let (filter, service, project) = match command {
        Command::Worker(args) => ("info", "fleet-worker", args.project()),
        Command::Web(_) => ("info", "fleet-web", None),
        Command::Broker(_) => ("info", "fleet-broker", None),
        _ => ("warn", "fleet", None),
    };
    let traces = match command {
        Command::Worker(_) => Traces::from_env(runtime)?,
        _ => None,
    };
    let logs = logging::start(&Plan { filter, project, service }, traces.as_ref())?;
    Ok((logs, traces))
}

#[cfg(test)]
mod tests {
    use super::help;

    #[test]
    fn the_command_line_is_consistent() {
        help::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        fn check(command: &clap::Command) {
            let mut inner = command.get_subcommands().filter(|c| c.get_name() != "help").peekable();
            if inner.peek().is_some() {
                inner.for_each(check);
            } else {
                let help = command.clone().render_long_help().to_string();
                assert!(help.contains("Example"), "fleet … {}", command.get_name());
            }
        }
        help::command().get_subcommands().for_each(check);
    }
}
