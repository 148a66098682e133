//! What a running stack tells about itself and lets be switched, and the commands that ask it.

use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;
use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use clap::ValueEnum;
use emulators::switches::Switches;
use http::StatusCode;
use serde_json::{Map, Value};
use shared::adapters::http_client_builder;
use tokio_util::task::AbortOnDropHandle;

use super::super::output;
use super::no_proxy;
use super::ports::{Ports, port_base};
use crate::forward::not_local;

const PATH: &str = "/environment";

/// The variables of a stack, by name.
pub(super) type Environment = Map<String, Value>;

/// Tells them, and takes faults, until it is dropped.
pub(super) fn tell(
    environment: Environment,
    switches: Switches,
    listener: TcpListener,
) -> anyhow::Result<AbortOnDropHandle<()>> {
    listener.set_nonblocking(true).context("the stack's control")?;
    let listener = tokio::net::TcpListener::from_std(listener).context("the stack's control")?;
    let routes = Router::new()
        .route(PATH, get(async move || Json(environment)))
        .merge(switches.routes())
        .layer(from_fn(local_only));
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        // Serving ends with the process.
        drop(axum::serve(listener, routes).await);
    })))
}

/// Any page in a browser can send a request to loopback.
async fn local_only(request: Request, next: Next) -> Response {
    let (head, body) = request.into_parts();
    match not_local(&head) {
        Some(why) => (StatusCode::FORBIDDEN, why).into_response(),
        None => next.run(Request::from_parts(head, body)).await,
    }
}

/// The variables of the stack that has these ports, for programs in this environment.
async fn ask(ports: Ports) -> anyhow::Result<Environment> {
    let address = ports.control();
    let asked = async {
        let http = http_client_builder(concat!("fleet/", env!("CARGO_PKG_VERSION"))).no_proxy();
        let answer = http.build()?.get(format!("http://{address}{PATH}")).send().await?;
        answer.error_for_status()?.json().await
    };
    let asked: Result<Environment, reqwest::Error> = asked.await;
    let mut environment = asked.with_context(|| {
        format!("no stack answers at {address}; start `fleet dev`, or name its --port-base, which it prints")
    })?;
    // The stack has said what its own environment says.
    let here = no_proxy::variables().map(|(name, value)| (name.to_owned(), Value::from(value)));
    environment.extend(here);
    Ok(environment)
}

/// How the variables are written.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Format {
    /// For `eval` in sh, bash and zsh
    Sh,
    /// For `| source` in fish
    Fish,
    /// A file of names and values, as many tools read them
    Dotenv,
    Json,
}

/// Prints them.
pub(super) fn print(environment: &Environment, format: Format) -> anyhow::Result<()> {
    if let Format::Json = format {
        return output::json(&Value::Object(environment.clone()));
    }
    for (name, value) in environment {
        let value = value.as_str().unwrap_or_default();
        output::line(match format {
            Format::Sh => format!("export {name}={}", quoted(value, r"'\''")),
            Format::Fish => format!("set -gx {name} {}", quoted(value, r"\'")),
            Format::Dotenv | Format::Json => format!("{name}={}", quoted(value, r"'\''")),
        })?;
    }
    Ok(())
}

/// In single quotes, in which `quote` stands for one, where it needs them.
fn quoted(value: &str, quote: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@%+=,".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', quote))
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  eval \"$(fleet dev env)\"
  fleet dev env --format fish | source
  fleet dev env --format dotenv > .env")]
pub(crate) struct EnvArgs {
    #[command(flatten)]
    stack: StackArgs,
    /// How they are written
    #[arg(long, value_enum, default_value_t = Format::Sh)]
    format: Format,
}

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fleet dev exec -- pytest
  fleet dev exec -- sh -c 'fleet publish --user user-1 --kind profile --wait'")]
pub(crate) struct ExecArgs {
    #[command(flatten)]
    stack: StackArgs,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Which running stack.
#[derive(Debug, clap::Args)]
struct StackArgs {
    /// Where the ports of the stack begin
    #[arg(long, env = "FLEET_DEV_PORT_BASE", value_parser = port_base, default_value_t)]
    port_base: Ports,
}

pub(super) async fn env(args: EnvArgs) -> anyhow::Result<()> {
    print(&ask(args.stack.port_base).await?, args.format)
}

/// Becomes the command, so that its signals and its exit code are its own.
pub(super) async fn exec(args: ExecArgs) -> anyhow::Result<()> {
    let environment = ask(args.stack.port_base).await?;
    let values = environment.iter().filter_map(|(name, value)| Some((name, value.as_str()?)));
    let (program, arguments) = args.command.split_first().context("no command")?;
    let error = Command::new(program).args(arguments).envs(values).exec();
    Err(error).with_context(|| format!("{program} cannot be started"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_where_shells_need_it() {
        assert_eq!(quoted("http://127.0.0.1:8401", r"'\''"), "http://127.0.0.1:8401");
        assert_eq!(quoted("/tmp/my files/a", r"'\''"), "'/tmp/my files/a'");
        assert_eq!(quoted("it's", r"'\''"), r"'it'\''s'");
        assert_eq!(quoted("it's", r"\'"), r"'it\'s'");
        assert_eq!(quoted("", r"\'"), "''");
    }
}
