//! An OpenTelemetry collector that keeps what it is sent (OTLP 1.x,
//! `http/protobuf`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::Context as _;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{self, HeaderMap};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message as _;
use tests::stage::PATIENCE;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// A span as it was received. IDs are hex.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) name: String,
    pub(crate) kind: &'static str,
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) begin: u64,
    pub(crate) end: u64,
    pub(crate) attributes: BTreeMap<String, String>,
    /// Whether its status is *error*.
    pub(crate) failed: bool,
}

#[derive(Debug)]
pub(crate) struct Collector {
    origin: String,
    requests: mpsc::UnboundedReceiver<ExportTraceServiceRequest>,
    received: Vec<ExportTraceServiceRequest>,
}

type Sender = mpsc::UnboundedSender<ExportTraceServiceRequest>;

async fn receive(
    State(sender): State<Sender>,
    headers: HeaderMap,
    body: Bytes,
) -> http::StatusCode {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        return http::StatusCode::BAD_REQUEST;
    };
    drop(sender.send(request));
    http::StatusCode::OK
}

impl Collector {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let origin = format!("http://{}", listener.local_addr()?);
        let (sender, requests) = mpsc::unbounded_channel();
        let app = Router::new().route("/v1/traces", post(receive)).with_state(sender);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(Self { origin, requests, received: Vec::new() })
    }

    pub(crate) fn origin(&self) -> String {
        self.origin.clone()
    }

    /// Every span up to one that is wanted, and those of a parent that is still
    /// open then: children end first.
    pub(crate) async fn until(
        &mut self,
        wanted: impl Fn(&Seen) -> bool,
    ) -> anyhow::Result<Vec<Seen>> {
        let complete = |spans: &[Seen]| {
            let found = spans.iter().find(|span| wanted(span));
            found.is_some_and(|found| spans.iter().any(|span| span.id == found.parent))
        };
        let waiting = async {
            while !complete(&self.spans()) {
                let request = self.requests.recv().await.context("the collector ended")?;
                self.received.push(request);
            }
            anyhow::Ok(self.spans())
        };
        tokio::time::timeout(PATIENCE, waiting).await.context("the span does not come")?
    }

    fn spans(&self) -> Vec<Seen> {
        let resources = self.received.iter().flat_map(|request| &request.resource_spans);
        let spans = resources.flat_map(|r| &r.scope_spans).flat_map(|scope| &scope.spans);
        spans
            .map(|span| Seen {
                name: span.name.clone(),
                kind: ["?", "internal", "server", "client", "producer", "consumer"]
                    [usize::try_from(span.kind).unwrap()],
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                begin: span.start_time_unix_nano,
                end: span.end_time_unix_nano,
                attributes: attributes(&span.attributes),
                failed: span.status.as_ref().is_some_and(|s| s.code() == StatusCode::Error),
            })
            .collect()
    }

    /// Who sent something, by `service.name`.
    pub(crate) fn services(&self) -> BTreeSet<String> {
        let resources = self.received.iter().flat_map(|request| &request.resource_spans);
        let resources = resources.filter_map(|spans| spans.resource.as_ref());
        resources.filter_map(|r| attributes(&r.attributes).remove("service.name")).collect()
    }

    /// All that was received, as text: attributes, events, links, everything.
    pub(crate) fn everything(&self) -> String {
        format!("{:?}", self.received)
    }
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    pairs.iter().map(|pair| (pair.key.clone(), text(pair.value.as_ref()))).collect()
}

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut out, byte| {
        write!(out, "{byte:02x}").expect("writing to a String cannot fail");
        out
    })
}
