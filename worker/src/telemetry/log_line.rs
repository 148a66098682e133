//! One line per event: JSON as Cloud Logging reads it, or text for a terminal.
//!
//! An event inside a delivery carries what [`crate::spans`] says of it: the message's ID,
//! the job, the user, the kind and the trace. No value can break a line or command a
//! terminal ([`super::escape`]).

use std::fmt;

use serde_json::{Value, json};
use shared::adapters::SystemClock;
use shared::ports::Clock as _;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::escape::{Escaped, json as escaped_json};
use super::fields::{Fields, MESSAGE};
use crate::spans::TRACE_FIELD;

/// Makes a line with severity ERROR count in Error Reporting without a stack.
const REPORTED: &str =
    "type.googleapis.com/google.devtools.clouderrorreporting.v1beta1.ReportedErrorEvent";

/// How a line looks.
#[derive(Debug)]
pub(super) enum Style {
    /// JSON with the fields that Cloud Logging and Error Reporting know.
    Gcp {
        /// The project that traces are in, if known.
        project: Option<String>,
        /// What errors are grouped by.
        service: &'static str,
    },
    /// For people.
    Text {
        /// With ANSI colours.
        colour: bool,
    },
}

/// Turns events into lines.
#[derive(Debug)]
pub(super) struct LogLine {
    style: Style,
    clock: SystemClock,
}

impl LogLine {
    pub(super) fn new(style: Style) -> Self {
        Self { style, clock: SystemClock::default() }
    }
}

impl<S, N> FormatEvent<S, N> for LogLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        if let Style::Gcp { .. } = self.style {
            fields.add("severity", severity(*metadata.level()));
            fields.add("time", self.clock.wall().to_string());
            fields.add("target", metadata.target());
        }
        event.record(&mut fields);
        // From the innermost.
        for span in context.event_scope().into_iter().flatten() {
            if let Some(kept) = span.extensions().get::<Fields>() {
                fields.add_span(kept);
            }
        }
        match &self.style {
            Style::Gcp { project, service } => {
                for_cloud_logging(&mut fields, metadata, project.as_deref(), service);
                writeln!(out, "{}", escaped_json(&fields))
            }
            Style::Text { colour } => self.text(&mut out, metadata, &fields, *colour),
        }
    }
}

fn severity(level: Level) -> &'static str {
    match level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        Level::DEBUG | Level::TRACE => "DEBUG",
    }
}

/// Names the trace as Cloud Logging does, and adds what Error Reporting reads.
fn for_cloud_logging(
    fields: &mut Fields,
    metadata: &Metadata<'_>,
    project: Option<&str>,
    service: &str,
) {
    if let (Some(project), Some(Value::String(trace))) = (project, fields.get_mut(TRACE_FIELD)) {
        *trace = format!("projects/{project}/traces/{trace}");
    }
    if *metadata.level() == Level::ERROR {
        fields.add("@type", REPORTED);
        let version = env!("CARGO_PKG_VERSION");
        fields.add("serviceContext", json!({"service": service, "version": version}));
        // Error Reporting groups by it where there is no stack.
        let place = json!({
            "filePath": metadata.file(),
            "lineNumber": metadata.line(),
            "functionName": metadata.target(),
        });
        fields.add("context", json!({"reportLocation": place}));
    }
}

impl LogLine {
    fn text(
        &self,
        out: &mut Writer<'_>,
        metadata: &Metadata<'_>,
        fields: &Fields,
        colour: bool,
    ) -> fmt::Result {
        let (name, paint) = match *metadata.level() {
            Level::ERROR => ("ERROR", "31"),
            Level::WARN => (" WARN", "33"),
            Level::INFO => (" INFO", "32"),
            Level::DEBUG => ("DEBUG", "34"),
            Level::TRACE => ("TRACE", "35"),
        };
        let time = self.clock.wall();
        if colour {
            write!(out, "\u{1b}[2m{time:.6}\u{1b}[0m \u{1b}[{paint}m{name}\u{1b}[0m")?;
        } else {
            write!(out, "{time:.6} {name}")?;
        }
        if let Some(Value::String(message)) = fields.get(MESSAGE) {
            write!(out, " {}", Escaped(message))?;
        }
        let told = |name: &str| name == MESSAGE || name.starts_with("logging.googleapis.com/");
        for (name, value) in fields.iter().filter(|(name, _)| !told(name)) {
            let name = Escaped(name);
            match value {
                Value::String(text) if is_plain(text) => write!(out, " {name}={text}")?,
                // Quoted as JSON, so that a value cannot pass for further fields.
                other => write!(out, " {name}={}", escaped_json(other))?,
            }
        }
        writeln!(out)
    }
}

/// Whether a value needs no quotes to be told from what follows.
fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '/' | '@'))
}
