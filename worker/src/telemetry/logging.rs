//! Logs on stderr: for people on a terminal, for Cloud Logging elsewhere.

use std::io::IsTerminal as _;

use opentelemetry_sdk::trace::SdkTracer;
use tracing::{Dispatch, Level, Metadata, error};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::{FilterExt as _, ParseError, Targets, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::debug_fn;
use tracing_subscriber::layer::SubscriberExt as _;

use super::fields::KeepFields;
use super::log_line::{LogLine, Style};
use super::log_thread::{self, LogThread};
use super::traces::Traces;
use crate::audit;
use crate::spans::{LOGGED, TARGET as EXPORTED};

/// The crates whose every line is ours to answer for.
const OURS: [&str; 5] = ["fleet", "worker", "shared", "emulators", audit::TARGET];

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
pub struct Logs(#[expect(dead_code, reason = "it works by being dropped")] LogThread);

/// Starts logging by `FLEET_LOG` (a filter) and `FLEET_LOG_FORMAT` (`gcp` or
/// `text`), and passes the spans of deliveries on to `traces`. A thread writes the
/// lines: what is returned has to be kept until the end of the process, and waits for
/// what is left.
///
/// # Errors
/// A text that names the variable that is wrong.
pub fn start(plan: &Plan<'_>, traces: Option<&Traces>) -> Result<Logs, String> {
    let asked_for = std::env::var("FLEET_LOG").ok().filter(|text| !text.is_empty());
    let from_environment = asked_for.is_some();
    let asked_for = asked_for.unwrap_or_else(|| plan.filter.to_owned());
    let terminal = std::io::stderr().is_terminal();
    let gcp = match std::env::var("FLEET_LOG_FORMAT").as_deref() {
        Ok("gcp") => true,
        Ok("text") => false,
        Ok("") | Err(_) => !terminal,
        Ok(other) => return Err(format!("FLEET_LOG_FORMAT={other:?} must be gcp or text")),
    };
    let filter = if asked_for.contains(audit::TARGET) {
        asked_for.clone()
    } else {
        // In Cloud Logging the audit trail does not depend on how much else is logged; people
        // at a terminal know what they did.
        format!("{asked_for},{}={}", audit::TARGET, if gcp { "info" } else { "off" })
    };
    let style = if gcp {
        Style::Gcp { project: plan.project.map(str::to_owned), service: plan.service }
    } else {
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Style::Text { colour }
    };
    let (writer, thread) = log_thread::start(std::io::stderr());
    let dispatch =
        dispatch(style, &filter, traces.map(Traces::tracer), writer).map_err(|error| {
            if from_environment {
                format!("FLEET_LOG={asked_for:?} is not a filter: {error}")
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
    Ok(Logs(thread))
}

/// Passes lines by `filter` on to `out`, and the spans of deliveries to `tracer`.
///
/// # Errors
/// A text that says what is wrong with the filter.
fn dispatch(
    style: Style,
    filter: &str,
    tracer: Option<SdkTracer>,
    out: impl for<'a> MakeWriter<'a> + Send + Sync + 'static,
) -> Result<Dispatch, String> {
    // A line finds its delivery through the exported spans that it lies in, so where
    // there are any, the lines' filter has to know them.
    let spans: &[&'static str] = if tracer.is_some() { &[LOGGED, EXPORTED] } else { &[LOGGED] };
    let may_be_logged = filter_fn(move |metadata| may_be_logged(metadata, spans));
    let lines = tracing_subscriber::fmt::layer()
        // The fields of spans are kept as values.
        .fmt_fields(debug_fn(|_, _, _| Ok(())))
        .event_format(LogLine::new(style))
        .log_internal_errors(false)
        .with_writer(out);
    let lines =
        KeepFields.and_then(lines).with_filter(asked_for(filter, spans)?.and(may_be_logged));
    let lines = tracing_subscriber::registry().with(lines);
    let Some(tracer) = tracer else {
        // Not an absent layer instead: it would want every span.
        return Ok(lines.into());
    };
    // No attributes but those that the spans name.
    let exporting = tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_context_activation(false)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(filter_fn(is_exported));
    Ok(lines.with(exporting).into())
}

/// What `FLEET_LOG` asks for. The spans of deliveries are there whatever that is, so that
/// every line names its delivery.
fn asked_for(directives: &str, spans: &[&'static str]) -> Result<Targets, String> {
    let filter: Targets = directives.parse().map_err(|error: ParseError| error.to_string())?;
    Ok(filter.with_targets(spans.iter().map(|span| (*span, Level::INFO))))
}

/// Of what `FLEET_LOG` asks for: everything that our crates say, and what others say
/// from INFO up. Below that, HTTP libraries describe requests; what they leave out may
/// change with any release, and no filter may turn an `Authorization` header on.
fn may_be_logged(metadata: &Metadata<'_>, spans: &[&str]) -> bool {
    let target = metadata.target();
    if metadata.is_span() {
        return spans.contains(&target);
    }
    let root = target.split("::").next().unwrap_or(target);
    // Our own client tells the exporter's failures, and once.
    OURS.contains(&root) || *metadata.level() <= Level::INFO && !root.starts_with("opentelemetry")
}

/// Exported are the spans of deliveries. Events stay here, whatever they say, and so do
/// the spans of libraries, which name objects and so users.
fn is_exported(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target() == EXPORTED
}

#[cfg(test)]
mod tests;
