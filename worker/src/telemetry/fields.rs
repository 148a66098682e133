//! What an event and its spans say, each name once.

use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::Value;
use tracing::Subscriber;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::spans::LOGGED;

/// The longest value of a field, in bytes: Cloud Logging takes 256 KiB a line.
pub(super) const MAX_VALUE: usize = 16 * 1024;
/// The name that `tracing` gives to the text of an event.
pub(super) const MESSAGE: &str = "message";

/// Fields in their order.
#[derive(Debug, Default)]
pub(super) struct Fields {
    list: Vec<(Cow<'static, str>, Value)>,
    /// They are those of a delivery's span, which may have Cloud Logging's names.
    of_span: bool,
}

impl Fields {
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.list.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut Value> {
        self.list.iter_mut().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.list.iter().map(|(name, value)| (&**name, value))
    }

    /// Adds a field, unless there is one of that name.
    pub(super) fn add(&mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Value>) {
        let name = name.into();
        if self.get(&name).is_none() {
            self.list.push((name, value.into()));
        }
    }

    /// Adds the fields of a span, but for those whose name the event or an inner span has.
    pub(super) fn add_span(&mut self, span: &Self) {
        for (name, value) in &span.list {
            if self.get(name).is_none() {
                self.list.push((name.clone(), value.clone()));
            }
        }
    }

    /// Adds a field of an event. Where its name is taken, it is shown under another one:
    /// `error!(message = id, "text")` has two fields of the same name.
    fn record(&mut self, field: &Field, value: Value) {
        let name = field.name().trim_start_matches("r#");
        let is_reserved = name.starts_with("logging.googleapis.com/")
            || matches!(name, "@type" | "serviceContext" | "context");
        if (is_reserved && !self.of_span) || self.get(name).is_some() {
            self.add(format!("field.{name}"), value);
        } else {
            self.add(name, value);
        }
    }
}

/// A text as a line may show it. Every text of every event and span passes here.
fn shown(text: &str) -> Value {
    text[..text.floor_char_boundary(MAX_VALUE)].into()
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record(field, shown(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.record(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.record(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.record(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.record(field, value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record(field, shown(&format!("{value:?}")));
    }
}

/// Keeps the fields of the spans that lines show.
pub(super) struct KeepFields;

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for KeepFields {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if attributes.metadata().target() != LOGGED {
            return;
        }
        if let Some(span) = context.span(id) {
            let mut fields = Fields { of_span: true, ..Fields::default() };
            attributes.record(&mut fields);
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, record: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            record.record(fields);
        }
    }
}

/// As an object.
impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.iter())
    }
}
