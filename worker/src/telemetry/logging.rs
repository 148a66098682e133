//! Logs on stderr: for people on a terminal, for Cloud Logging elsewhere.

use std::io::{IsTerminal as _, Write as _};

use tracing::error;
use tracing_subscriber::Layer as _;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::filter::{exported, logged};
use super::log_lines::{LogLines, Style};
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

/// Starts logging by `FLEET_LOG` (a filter) and `FLEET_LOG_FORMAT` (`gcp` or
/// `text`), and passes the spans of deliveries on to `traces`.
///
/// # Errors
/// A text that names the variable that is wrong.
pub fn start(plan: &Plan<'_>, traces: Option<&Traces>) -> Result<(), String> {
    let filter = match std::env::var("FLEET_LOG") {
        Ok(text) if !text.is_empty() => logged(&text, traces.is_some())
            .map_err(|e| format!("FLEET_LOG={text:?} is not a filter: {e}"))?,
        _ => logged(plan.filter, traces.is_some())?,
    };
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
    let exporting = traces.map(|traces| {
        // No attributes but those that the spans name.
        tracing_opentelemetry::layer()
            .with_tracer(traces.tracer())
            .with_context_activation(false)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(exported())
    });
    tracing_subscriber::registry()
        .with(exporting)
        .with(LogLines::new(style, traces.is_some(), to_stderr).with_filter(filter))
        .init();
    std::panic::set_hook(Box::new(|panic| {
        // The standard hook writes lines of its own, with whatever the text holds.
        let at = panic.location().map(ToString::to_string).unwrap_or_default();
        let what = panic.payload_as_str().unwrap_or("no text");
        error!(at, "a task panicked: {what}");
    }));
    Ok(())
}

fn to_stderr(line: &str) {
    // A closed stderr is not worth an error, and there is nowhere to tell it.
    drop(std::io::stderr().lock().write_all(line.as_bytes()));
}
