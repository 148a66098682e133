//! Logs on stderr: for people on a terminal, for Cloud Logging elsewhere.

use std::io::IsTerminal as _;

use opentelemetry_sdk::trace::SdkTracer;
use tracing::{Dispatch, Level, error};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::FilterExt as _;
use tracing_subscriber::layer::SubscriberExt as _;

use super::filter::{exported, logged};
use super::log_lines::{LogLines, Style};
use super::log_writer::LogWriter;
use super::traces::Traces;

/// What a command says about its logs.
#[derive(Debug)]
pub struct Plan<'a> {
    /// What is logged unless `FLEET_LOG` says otherwise.
    pub filter: &'static str,
    /// The project that traces are in, if known.
    pub project: Option<&'a str>,
    /// What errors are grouped by.
    pub service: &'static str,
}

/// The logs of this process.
#[derive(Debug)]
#[must_use = "the last lines are written when it is dropped"]
pub struct Logs(LogWriter);

impl Drop for Logs {
    fn drop(&mut self) {
        self.0.flush();
    }
}

/// Starts logging by `FLEET_LOG` (a filter) and `FLEET_LOG_FORMAT` (`gcp` or
/// `text`), and passes the spans of deliveries on to `traces`. Lines that come in
/// bursts leave in bursts, a millisecond later: what is returned has to be kept until
/// the end of the process, and writes what is left. Warnings and errors leave at once.
///
/// # Errors
/// A text that names the variable that is wrong.
pub fn start(plan: &Plan<'_>, traces: Option<&Traces>) -> Result<Logs, String> {
    let asked_for = std::env::var("FLEET_LOG").ok().filter(|text| !text.is_empty());
    let from_environment = asked_for.is_some();
    let filter = asked_for.unwrap_or_else(|| plan.filter.to_owned());
    let terminal = std::io::stderr().is_terminal();
    let gcp = match std::env::var("FLEET_LOG_FORMAT").as_deref() {
        Ok("gcp") => true,
        Ok("text") => false,
        Ok("") | Err(_) => !terminal,
        Ok(other) => return Err(format!("FLEET_LOG_FORMAT={other:?} must be gcp or text")),
    };
    let style = if gcp {
        Style::Gcp { project: plan.project.map(str::to_owned), service: plan.service }
    } else {
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Style::Text { colour }
    };
    let writer = LogWriter::new(std::io::stderr());
    let logs = Logs(writer.clone());
    let dispatch = dispatch(style, &filter, traces.map(Traces::tracer), move |line, level| {
        writer.write(line, level <= Level::WARN);
    });
    let dispatch = dispatch.map_err(|error| {
        if from_environment {
            format!("FLEET_LOG={filter:?} is not a filter: {error}")
        } else {
            error
        }
    })?;
    tracing::dispatcher::set_global_default(dispatch).map_err(|e| e.to_string())?;
    std::panic::set_hook(Box::new(|panic| {
        // The standard hook writes lines of its own, with whatever the text holds.
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        let what = panic.payload_as_str().unwrap_or("no text");
        error!(at, "a task panicked: {what}");
    }));
    Ok(logs)
}

/// What passes lines by `filter` on to `out`, and spans on to `tracer`.
///
/// # Errors
/// A text that says what is wrong with the filter.
pub(super) fn dispatch(
    style: Style,
    filter: &str,
    tracer: Option<SdkTracer>,
    out: impl Fn(&[u8], Level) + Send + Sync + 'static,
) -> Result<Dispatch, String> {
    let (asked_for, may_be_logged) = logged(filter, tracer.is_some())?;
    let lines = LogLines::new(style, tracer.is_some(), out);
    let Some(tracer) = tracer else {
        // Not an absent layer instead: with one, spans are made that nobody wants.
        // And filters for all: one for a single layer keeps books for every line.
        let lines = tracing_subscriber::registry().with(lines);
        return Ok(lines.with(asked_for).with(may_be_logged).into());
    };
    let lines = lines.with_filter(asked_for.and(may_be_logged));
    // No attributes but those that the spans name.
    let exporting = tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_context_activation(false)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(exported());
    Ok(tracing_subscriber::registry().with(exporting).with(lines).into())
}
