//! Traces over OTLP (`http/protobuf`), by OpenTelemetry's own variables:
//! `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` turns
//! them on; `…_HEADERS` and `…_TIMEOUT`, `OTEL_SERVICE_NAME`,
//! `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER` and `OTEL_BSP_…` do as
//! everywhere. Without an endpoint nothing is started.
//!
//! Spans wait in a queue with an end (2,048 by default; what does not fit is
//! dropped) and leave in batches from a thread of their own. No job waits for the
//! collector.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use super::exporter::Collector;

/// OpenTelemetry's default bound on one export.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the end of the process may wait for the last spans.
const FLUSH: Duration = Duration::from_secs(5);

/// Exports spans until it is finished.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Starts the exporter if the environment names a collector. Its requests run
    /// on `runtime`.
    ///
    /// # Errors
    /// A text that names the variable that is wrong.
    pub fn from_env(runtime: &tokio::runtime::Handle) -> Result<Option<Self>, String> {
        if !is_wanted() {
            return Ok(None);
        }
        check_protocol()?;
        let collector = Collector::new(runtime.clone(), timeout()?)?;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(collector)
            .build()
            .map_err(|e| format!("OTEL_EXPORTER_OTLP_ENDPOINT: {e}"))?;
        let provider = SdkTracerProvider::builder()
            .with_resource(resource())
            .with_batch_exporter(exporter)
            .build();
        Ok(Some(Self(provider)))
    }

    pub(super) fn tracer(&self) -> SdkTracer {
        self.0.tracer(env!("CARGO_PKG_NAME"))
    }

    /// Sends what is left, for a few seconds at most. Blocks: not for a thread of
    /// the runtime.
    pub fn finish(&self) {
        // A collector that does not answer has been told of.
        drop(self.0.shutdown_with_timeout(FLUSH));
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn is_wanted() -> bool {
    let named = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
    let disabled = variable("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"));
    let none = variable("OTEL_TRACES_EXPORTER").is_some_and(|v| v == "none");
    named.into_iter().any(|name| variable(name).is_some()) && !disabled && !none
}

/// Refuses protocols that this program does not speak.
fn check_protocol() -> Result<(), String> {
    for name in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
        match variable(name) {
            Some(protocol) if protocol != "http/protobuf" => {
                return Err(format!(
                    "{name}={protocol:?}: traces are sent as http/protobuf only; unset it and name the collector's HTTP port (usually 4318)"
                ));
            }
            Some(_) => return Ok(()),
            None => {}
        }
    }
    Ok(())
}

/// The bound on one export, in milliseconds where it is given.
fn timeout() -> Result<Duration, String> {
    for name in ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"] {
        if let Some(text) = variable(name) {
            let millis = text
                .parse()
                .map_err(|_| format!("{name}={text:?} is no number of milliseconds"))?;
            return Ok(Duration::from_millis(millis));
        }
    }
    Ok(TIMEOUT)
}

/// Who we are, unless the environment says otherwise.
fn resource() -> Resource {
    let mut ours = vec![KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))];
    let named = variable("OTEL_SERVICE_NAME").is_some()
        || variable("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|v| v.contains("service.name="));
    if !named {
        ours.push(KeyValue::new("service.name", "fleet-worker"));
    }
    Resource::builder().with_attributes(ours).build()
}
