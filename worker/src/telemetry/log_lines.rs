//! One line per event: JSON as Cloud Logging reads it, or text for a terminal.
//!
//! An event inside a delivery carries the message's ID and the trace. No
//! value can break a line or command a terminal ([`super::escape`]).

use std::fmt::{self, Write as _};
use std::sync::OnceLock;

use crate::in_hand::in_hand;
use crate::job::Received;
use crate::spans::{TARGET as SPANS, publisher};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _};
use serde_json::{Value, json};
use shared::adapters::SystemClock;
use shared::ports::Clock as _;
use tracing::dispatcher::WeakDispatch;
use tracing::field::{Field, Visit};
use tracing::span::Id;
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::escape::{clip, write_escaped};
use super::json_line::{JsonLine, MAX_VALUE, MESSAGE_ID};

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

/// Turns events into lines and passes each to `out`, whole, with its level.
pub(super) struct LogLines<O> {
    style: Style,
    is_exporting: bool,
    out: O,
    clock: SystemClock,
    dispatch: OnceLock<WeakDispatch>,
}

impl<O: Fn(&[u8], Level) + 'static> LogLines<O> {
    /// `is_exporting`: spans leave this process, and lines name them.
    pub(super) fn new(style: Style, is_exporting: bool, out: O) -> Self {
        Self { style, is_exporting, out, clock: SystemClock::default(), dispatch: OnceLock::new() }
    }
}

/// Where in a trace an event belongs.
struct Place {
    trace: String,
    /// Only spans that are exported have one.
    span: Option<String>,
    sampled: bool,
}

impl Place {
    fn of(context: &SpanContext, span: Option<SpanId>) -> Self {
        Self {
            trace: context.trace_id().to_string(),
            span: span.map(|span| span.to_string()),
            sampled: context.is_sampled(),
        }
    }
}

impl<S, O> Layer<S> for LogLines<O>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    O: Fn(&[u8], Level) + 'static,
{
    fn on_register_dispatch(&self, dispatch: &Dispatch) {
        // Registered once; a second time would be the same one.
        drop(self.dispatch.set(dispatch.downgrade()));
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let exported = || {
            let mut spans = context.event_scope(event)?;
            self.exported(&spans.find(|span| span.metadata().target() == SPANS)?.id())
        };
        let mut exported = self.is_exporting.then(exported).flatten();
        // Looked at where it is, not shared: nobody else needs it meanwhile.
        let mut line = |received: Option<&Received>| self.line(event, received, exported.take());
        if in_hand(|received| line(Some(received))).is_none() {
            line(None);
        }
    }
}

impl<O: Fn(&[u8], Level)> LogLines<O> {
    /// Makes the line of an event, about the message that is in hand.
    fn line(&self, event: &Event<'_>, received: Option<&Received>, exported: Option<Place>) {
        let message_id = received.map(|r| clip(&r.message_id, MAX_VALUE));
        let place = exported.or_else(|| {
            let publisher = publisher(&received?.attributes)?;
            Some(Place::of(&publisher, None))
        });
        let level = *event.metadata().level();
        match &self.style {
            Style::Gcp { project, service } => {
                let line = self.gcp(event, message_id, place, project.as_deref(), service);
                line.end(|line| (self.out)(line, level));
            }
            Style::Text { colour } => {
                let mut fields = Fields::default();
                event.record(&mut fields);
                if let Some(id) = message_id
                    && fields.get(MESSAGE_ID).is_none()
                {
                    fields.0.push((MESSAGE_ID, id.into()));
                }
                let mut line = String::with_capacity(256);
                self.text(&mut line, event.metadata(), &fields, *colour);
                line.push('\n');
                (self.out)(line.as_bytes(), level);
            }
        }
    }
}

impl<O> LogLines<O> {
    /// The place of a span that the exporter knows.
    fn exported(&self, id: &Id) -> Option<Place> {
        let dispatch = self.dispatch.get()?.upgrade()?;
        let context = tracing_opentelemetry::get_otel_context(id, &dispatch)?;
        let span = context.span();
        let span = span.span_context();
        span.is_valid().then(|| Place::of(span, Some(span.span_id())))
    }

    fn gcp(
        &self,
        event: &Event<'_>,
        message_id: Option<&str>,
        place: Option<Place>,
        project: Option<&str>,
        service: &str,
    ) -> JsonLine {
        let metadata = event.metadata();
        let level = *metadata.level();
        let severity = match level {
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "INFO",
            Level::DEBUG | Level::TRACE => "DEBUG",
        };
        let mut line = JsonLine::begin(severity);
        line.time("time", self.clock.wall());
        line.literal("target", metadata.target());
        event.record(&mut line);
        if let Some(id) = message_id
            && !line.has_message_id()
        {
            line.text(MESSAGE_ID, id);
        }
        if let Some(Place { trace, span, sampled }) = place {
            let trace = match project {
                Some(project) => format!("projects/{project}/traces/{trace}"),
                None => trace,
            };
            line.text("logging.googleapis.com/trace", &trace);
            line.value("logging.googleapis.com/trace_sampled", &sampled);
            if let Some(span) = span {
                line.text("logging.googleapis.com/spanId", &span);
            }
        }
        if level == Level::ERROR {
            line.text("@type", REPORTED);
            line.value(
                "serviceContext",
                &json!({"service": service, "version": env!("CARGO_PKG_VERSION")}),
            );
            // Error Reporting groups by it where there is no stack.
            let place = json!({
                "filePath": metadata.file(),
                "lineNumber": metadata.line(),
                "functionName": metadata.target(),
            });
            line.value("context", &json!({"reportLocation": place}));
        }
        line
    }

    fn text(&self, line: &mut String, metadata: &Metadata<'_>, fields: &Fields, colour: bool) {
        let (name, paint) = match *metadata.level() {
            Level::ERROR => ("ERROR", "31"),
            Level::WARN => (" WARN", "33"),
            Level::INFO => (" INFO", "32"),
            Level::DEBUG => ("DEBUG", "34"),
            Level::TRACE => ("TRACE", "35"),
        };
        let time = self.clock.wall();
        let result = if colour {
            write!(line, "\u{1b}[2m{time:.6}\u{1b}[0m \u{1b}[{paint}m{name}\u{1b}[0m")
        } else {
            write!(line, "{time:.6} {name}")
        };
        result.expect("writing to a String cannot fail");
        if let Some(message) = fields.get("message").and_then(Value::as_str) {
            line.push(' ');
            write_escaped(line, message).expect("writing to a String cannot fail");
        }
        for (name, value) in &fields.0 {
            if *name == "message" {
                continue;
            }
            write!(line, " {name}=").expect("writing to a String cannot fail");
            let shown = match value {
                Value::String(text) if is_plain(text) => text.clone(),
                // Quoted as JSON, so that a value cannot pass for further fields.
                other => other.to_string(),
            };
            write_escaped(line, &shown).expect("writing to a String cannot fail");
        }
    }
}

/// Whether a value needs no quotes to be told from what follows.
fn is_plain(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | '.' | ':' | '/' | '@'))
}

/// An event's fields, in their order.
#[derive(Debug, Default)]
struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    fn set(&mut self, field: &Field, value: Value) {
        match self.0.iter_mut().find(|(known, _)| *known == field.name()) {
            Some((_, known)) => *known = value,
            None => self.0.push((field.name(), value)),
        }
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, clip(value, MAX_VALUE).into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, clip(&format!("{value:?}"), MAX_VALUE).into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use opentelemetry::trace::{TraceId, TracerProvider as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use std::sync::{Arc, Mutex};
    use tracing::{error, info, warn};

    use crate::in_hand::with_in_hand;
    use crate::spans::{delivery, token};
    use crate::telemetry::escape::is_active;
    use crate::telemetry::filter::logged;
    use crate::telemetry::logging::dispatch;

    const GCP: Style = Style::Gcp { project: None, service: "fleet-worker" };
    /// What a publisher would write to forge a line, a field, or a colour.
    const HOSTILE: &str =
        "j\" status=done\n2026-11-23T00:00:00Z ERROR forged\r\u{1b}[2J\u{9b}31m\u{202e}";

    /// What `work` logs, through the filters of the real thing.
    fn logged_by(style: Style, directives: &str, traced: bool, work: impl FnOnce()) -> Vec<String> {
        let written = Arc::new(Mutex::new(String::new()));
        let out = Arc::clone(&written);
        let provider = SdkTracerProvider::builder().build();
        let tracer = traced.then(|| provider.tracer("test"));
        let lines = move |line: &[u8], _| {
            out.lock().unwrap().push_str(str::from_utf8(line).unwrap());
        };
        let dispatch = dispatch(style, directives, tracer, lines).unwrap();
        tracing::dispatcher::with_default(&dispatch, work);
        let written = written.lock().unwrap();
        assert!(written.is_empty() || written.ends_with('\n'));
        written.lines().map(str::to_owned).collect()
    }

    fn json_of(lines: &[String]) -> Value {
        let [line] = lines else { panic!("one line: {lines:?}") };
        assert!(!line.contains(is_active), "{line}");
        serde_json::from_str(line).unwrap()
    }

    /// What `work` does while a message with these attributes is in hand.
    fn delivering(attributes: &[(&str, &str)], work: impl FnOnce()) {
        let received = Received {
            data: Bytes::new(),
            attributes: attributes
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            ordering_key: String::new(),
            message_id: "m-7".to_owned(),
            publish_time: None,
            delivery_attempt: None,
        };
        let span = delivery(&received, "projects/p/subscriptions/s");
        with_in_hand(received, || span.in_scope(work));
    }

    #[test]
    fn a_job_cannot_forge_a_line_on_a_terminal() {
        let log = || info!(job = HOSTILE, status = "rejected", "job {HOSTILE}");
        for colour in [false, true] {
            let lines = logged_by(Style::Text { colour }, "info", false, log);
            let [line] = lines.as_slice() else { panic!("one line: {lines:?}") };
            let plain = ["\u{1b}[2m", "\u{1b}[0m", "\u{1b}[32m"]
                .into_iter()
                .fold(line.clone(), |line, paint| line.replace(paint, ""));
            assert!(!plain.contains(is_active), "{plain:?}");
            assert!(plain.contains(r#" job="j\" status=done\n"#), "quoted as a whole: {plain}");
            assert!(plain.ends_with(" status=rejected"), "{plain}");
        }
    }

    #[test]
    fn a_job_cannot_break_json() {
        let log = || error!(job = HOSTILE, severity = "INFO", "{HOSTILE}");
        let line = json_of(&logged_by(GCP, "info", false, log));
        assert_eq!((&line["job"], &line["message"]), (&HOSTILE.into(), &HOSTILE.into()));
        assert_eq!(line["severity"], "ERROR", "a field cannot pass for ours");
    }

    #[test]
    fn says_what_cloud_logging_and_error_reporting_know() {
        let log = || warn!(job = "j", http_status = 503, ratio = 0.5, again = true, "job retry");
        let line = json_of(&logged_by(GCP, "info", false, log));
        assert_eq!(line["severity"], "WARNING");
        assert_eq!(line["message"], "job retry");
        assert_eq!((&line["http_status"], &line["again"]), (&503.into(), &true.into()));
        assert!(line["time"].as_str().unwrap().ends_with('Z'));
        assert!(line.get("@type").is_none() && line.get("logging.googleapis.com/trace").is_none());

        let line = json_of(&logged_by(GCP, "info", false, || error!("it broke")));
        assert_eq!((&line["@type"], &line["message"]), (&REPORTED.into(), &"it broke".into()));
        assert_eq!(line["serviceContext"]["service"], "fleet-worker");
        assert!(line["context"]["reportLocation"]["lineNumber"].is_u64());
    }

    #[test]
    fn a_line_in_a_delivery_names_its_message_and_the_publishers_trace() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let parent = format!("00-{trace}-b7ad6b7169203331-01");
        let log = || delivering(&[("traceparent", &parent)], || warn!("job retry"));
        let style = Style::Gcp { project: Some("p".to_owned()), service: "s" };
        // Also where informational lines are not wanted.
        let line = json_of(&logged_by(style, "warn", false, log));
        assert_eq!(line["message_id"], "m-7");
        assert_eq!(line["logging.googleapis.com/trace"], format!("projects/p/traces/{trace}"));
        assert_eq!(line["logging.googleapis.com/trace_sampled"], true);
        assert!(line.get("logging.googleapis.com/spanId").is_none(), "no span of ours is exported");
        assert!(line.get("messaging.message.id").is_none());
    }

    #[test]
    fn a_span_that_nobody_exports_is_not_made() {
        for (traced, made) in [(false, false), (true, true)] {
            let lines = logged_by(GCP, "info", traced, || {
                assert_eq!(!token().is_disabled(), made);
                delivering(&[], || warn!("x"));
            });
            assert_eq!(json_of(&lines)["message_id"], "m-7");
        }
    }

    #[test]
    fn a_line_in_an_exported_span_names_it() {
        let log = || delivering(&[], || token().in_scope(|| warn!("x")));
        let line = json_of(&logged_by(GCP, "warn", true, log));
        let trace = line["logging.googleapis.com/trace"].as_str().unwrap();
        assert!(trace.len() == 32 && TraceId::from_hex(trace).unwrap() != TraceId::INVALID);
        assert_eq!(line["logging.googleapis.com/spanId"].as_str().unwrap().len(), 16);
        assert_eq!(line["message_id"], "m-7", "also from an outer span");
    }

    #[test]
    fn libraries_do_not_say_what_they_send() {
        let log = || {
            tracing::trace!(target: "hyper::proto::h1", "authorization: Bearer fake");
            tracing::debug!(target: "h2::codec", "authorization: Bearer fake");
            tracing::debug!(target: "reqwest::connect", "fake");
            warn!(target: "opentelemetry_sdk", "again and again");
            tracing::trace!(target: "worker::delivery", "ours");
            warn!(target: "hyper", "theirs");
        };
        for directives in ["trace", "hyper=trace,h2::codec=trace,reqwest=debug,worker=trace"] {
            let lines = logged_by(Style::Text { colour: false }, directives, true, log);
            assert!(lines[0].ends_with("ours") && lines[1].ends_with("theirs"), "{lines:?}");
            assert_eq!(lines.len(), 2);
        }
        assert!(logged_by(Style::Text { colour: false }, "off", true, log).is_empty());
        assert!(logged("=,=", false).is_err());
    }

    #[test]
    fn long_values_are_cut() {
        let long = "x".repeat(10 * MAX_VALUE);
        let line = json_of(&logged_by(GCP, "info", false, || info!(job = long, "{long}")));
        assert_eq!(line["job"].as_str().unwrap().len(), MAX_VALUE);
        assert_eq!(line["message"].as_str().unwrap().len(), MAX_VALUE);
    }
}
