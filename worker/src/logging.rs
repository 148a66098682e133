//! Logs on stderr: for people on a terminal, for Cloud Logging elsewhere.

use std::fmt;
use std::io::IsTerminal as _;

use serde_json::{Map, Value};
use shared::adapters::SystemClock;
use shared::ports::Clock as _;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Starts logging by `FLEET_LOG` (a filter; default `default_filter`) and
/// `FLEET_LOG_FORMAT` (`gcp` or `text`).
///
/// # Errors
/// A text that names the variable that is wrong.
pub(crate) fn start(default_filter: &str) -> Result<(), String> {
    let filter = match std::env::var("FLEET_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::try_new(&text)
            .map_err(|e| format!("FLEET_LOG={text:?} is not a filter: {e}"))?,
        _ => EnvFilter::new(default_filter),
    };
    let terminal = std::io::stderr().is_terminal();
    let gcp = match std::env::var("FLEET_LOG_FORMAT").as_deref() {
        Ok("gcp") => true,
        Ok("text") => false,
        Ok("") | Err(_) => !terminal,
        Ok(other) => return Err(format!("FLEET_LOG_FORMAT={other:?} must be gcp or text")),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if gcp {
        builder.event_format(CloudLogging).init();
    } else {
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        builder.with_ansi(colour).with_target(false).compact().init();
    }
    Ok(())
}

/// One JSON object per line, with the fields that Cloud Logging knows.
struct CloudLogging;

impl<S, N> FormatEvent<S, N> for CloudLogging
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let mut line = fields.0;
        let severity = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "INFO",
            Level::DEBUG | Level::TRACE => "DEBUG",
        };
        line.insert("severity".into(), severity.into());
        line.insert("time".into(), SystemClock::default().wall().to_string().into());
        line.insert("target".into(), event.metadata().target().into());
        writeln!(writer, "{}", Value::Object(line))
    }
}

/// An event's fields as JSON.
struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().into(), format!("{value:?}").into());
    }
}
