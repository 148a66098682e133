//! The spans of a delivery, for its log lines and for its trace.
//!
//! One span (of the target `worker::logged`) has what every line logged during the delivery shows: the
//! message's ID, the job, the user's digest, the kind, and the trace. It stays in the
//! process.
//!
//! In it lie the spans that are exported ([`TARGET`]): receive → token → API →
//! acknowledge, under the trace that the publisher began. Their names and attributes
//! follow OpenTelemetry's semantic conventions for messaging (Google Cloud Pub/Sub) and
//! HTTP clients. What the conventions would have and what is personal here stays out: the
//! ordering key (it is the user), URLs, and every parameter of a job.
//!
//! Spans of libraries are neither shown nor exported: they may hold object names, and so
//! users.

use std::collections::HashMap;
use std::str::FromStr as _;

use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};
use tracing::{Span, field, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::dead_letter::has_room_for;
use crate::job::{Job, Received};
use crate::logged_user::log_user;
use crate::metrics::Had;
use crate::outcome::Status;
use crate::pubsub::Outgoing;

/// The target of the span whose fields log lines show.
pub(crate) const LOGGED: &str = "worker::logged";
/// The target of every span that may be exported.
pub const TARGET: &str = "worker::spans";
/// The field of [`LOGGED`] that has the trace's ID. Cloud Logging's name for it, and so
/// are those of its companions in [`name_trace`].
pub(crate) const TRACE_FIELD: &str = "logging.googleapis.com/trace";
const SYSTEM: &str = "gcp_pubsub";

/// The attributes of W3C Trace Context, which some publishers write under a prefix.
const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";
const PREFIXES: [&str; 2] = ["googclient_", ""];

/// The whole delivery, from receipt to acknowledgement, under the publisher's
/// trace (W3C Trace Context in the message's attributes). `job` is absent where the
/// message is none.
pub(crate) fn delivery(received: &Received, job: Option<&Job>, subscription: &str) -> Span {
    let logged = info_span!(
        target: LOGGED,
        "delivery",
        message_id = received.message_id,
        job = job.map(|job| job.id.as_str()),
        user = job.map(|job| field::display(log_user(&job.user))),
        kind = job.map(|job| job.kind.as_str()),
        "logging.googleapis.com/trace" = field::Empty,
        "logging.googleapis.com/trace_sampled" = field::Empty,
        "logging.googleapis.com/spanId" = field::Empty,
    );
    let publisher = publisher(&received.attributes);
    let exported = exported_delivery(&logged, received, subscription);
    if exported.is_disabled() {
        if let Some(publisher) = &publisher {
            name_trace(&logged, publisher);
        }
        return logged;
    }
    if let Some(publisher) = publisher {
        let context = opentelemetry::Context::new().with_remote_span_context(publisher);
        // Fails where the span has begun already, which it has not.
        drop(exported.set_parent(context));
    }
    let context = exported.context();
    let context = context.span().span_context().clone();
    if context.is_valid() {
        name_trace(&logged, &context);
        logged.record("logging.googleapis.com/spanId", field::display(context.span_id()));
    }
    exported
}

/// Records the trace in which a delivery lies.
fn name_trace(logged: &Span, context: &SpanContext) {
    logged.record(TRACE_FIELD, field::display(context.trace_id()));
    logged.record("logging.googleapis.com/trace_sampled", context.is_sampled());
}

fn exported_delivery(logged: &Span, received: &Received, subscription: &str) -> Span {
    let id = subscription.rsplit('/').next().unwrap_or(subscription);
    info_span!(
        target: TARGET,
        parent: logged,
        "process",
        "otel.name" = format_args!("process {id}"),
        "otel.kind" = "consumer",
        "otel.status_code" = field::Empty,
        "messaging.system" = SYSTEM,
        "messaging.operation.type" = "process",
        "messaging.operation.name" = "process",
        "messaging.destination.subscription.name" = subscription,
        "messaging.message.id" = received.message_id,
        "messaging.message.body.size" = received.data.len(),
        "messaging.gcp_pubsub.message.delivery_attempt" = received.delivery_attempt,
        "fleet.job.kind" = field::Empty,
        "fleet.job.status" = field::Empty,
    )
}

/// Records how the delivery ended. `kind` is one of the registered kinds, or none.
pub(crate) fn delivery_ended(span: &Span, kind: Option<&str>, status: Status) {
    if let Some(kind) = kind {
        span.record("fleet.job.kind", kind);
    }
    span.record("fleet.job.status", status.as_str());
    if matches!(status, Status::Retry | Status::Rejected) {
        span.record("otel.status_code", "ERROR");
    }
}

/// Waiting for a credential.
pub(crate) fn token() -> Span {
    info_span!(
        target: TARGET,
        "token",
        "otel.kind" = "internal",
        "otel.status_code" = field::Empty,
        "fleet.credential.result" = field::Empty,
    )
}

/// Records how the job got its credential.
pub(crate) fn token_had(span: &Span, had: Had) {
    span.record("fleet.credential.result", had.as_str());
    if matches!(had, Had::Error) {
        span.record("otel.status_code", "ERROR");
    }
}

/// The acknowledgement, or the giving back.
pub(crate) fn settle(status: Status) -> Span {
    let operation = if status == Status::Retry { "nack" } else { "ack" };
    info_span!(
        target: TARGET,
        "settle",
        "otel.name" = operation,
        "otel.kind" = "client",
        "messaging.system" = SYSTEM,
        "messaging.operation.type" = "settle",
        "messaging.operation.name" = operation,
    )
}

/// One request of a handler to an API: instrument the request with it, then tell
/// [`api_answered`]. The URL's path and query may hold personal data and stay
/// out.
pub fn api(method: &str, host: &str) -> Span {
    info_span!(
        target: TARGET,
        "api",
        "otel.name" = method,
        "otel.kind" = "client",
        "otel.status_code" = field::Empty,
        "http.request.method" = method,
        "server.address" = host,
        "server.port" = 443,
        "http.response.status_code" = field::Empty,
        "error.type" = field::Empty,
    )
}

/// One job on its way to the HTTP handler of its kind: instrument the request with it, then
/// tell [`api_answered`].
pub(crate) fn forward(kind: &str) -> Span {
    info_span!(
        target: TARGET,
        "forward",
        "otel.name" = format_args!("forward {kind}"),
        "otel.kind" = "client",
        "otel.status_code" = field::Empty,
        "http.request.method" = "POST",
        "fleet.job.kind" = kind,
        "http.response.status_code" = field::Empty,
        "error.type" = field::Empty,
    )
}

/// The trace that a handler continues, as headers: the span's own, or else the publisher's;
/// and the publisher's as the extension of a `CloudEvent`.
pub(crate) fn forwarded(span: &Span, received: &HashMap<String, String>) -> Vec<(String, String)> {
    let publisher = publisher(received);
    let context = span.context();
    let own = context.span().span_context().clone();
    let own = if own.is_valid() { Some(own) } else { publisher.clone() };
    let plain = own.as_ref().into_iter().flat_map(attributes_of);
    let extension = publisher.as_ref().into_iter().flat_map(attributes_of);
    plain.chain(extension.map(|(name, value)| (format!("ce-{name}"), value))).collect()
}

/// Records that the API answered with this HTTP status, or did not answer.
pub fn api_answered(span: &Span, status: Option<u16>) {
    match status {
        None => {
            span.record("error.type", "no_answer");
        }
        Some(status) => {
            span.record("http.response.status_code", status);
            if status >= 400 {
                span.record("error.type", field::display(status));
            }
        }
    }
    if status.is_none_or(|status| status >= 400) {
        span.record("otel.status_code", "ERROR");
    }
}

/// Adds the present span's context to the attributes of a message that is published in
/// it, so that whoever receives the message continues the trace. Attributes that name a
/// trace already stay, and where no traces are exported there is none to name. A message that
/// has no room for it goes without: the service would refuse it for that.
pub(crate) fn propagate(message: &mut Outgoing) {
    let attributes = &message.attributes;
    if PREFIXES.iter().any(|prefix| attributes.contains_key(&format!("{prefix}{PARENT}"))) {
        return;
    }
    let context = Span::current().context();
    let span = context.span();
    if !span.span_context().is_valid() {
        return;
    }
    let trace: HashMap<String, String> = attributes_of(span.span_context()).collect();
    if has_room_for(message, &trace) {
        message.attributes.extend(trace);
    }
}

/// The attributes of a message that continues a trace, given as a program's environment
/// gives it: `TRACEPARENT` and `TRACESTATE`, as in HTTP's headers of these names. `None`
/// if the former is malformed; a malformed latter is left out.
pub fn continuing(parent: &str, state: Option<&str>) -> Option<HashMap<String, String>> {
    let given = [(PARENT, Some(parent)), (STATE, state)];
    let given = given.into_iter().filter_map(|(n, v)| Some((n.to_owned(), v?.to_owned())));
    publisher(&given.collect()).as_ref().map(|context| attributes_of(context).collect())
}

/// A span's context in W3C's form.
fn attributes_of(span: &SpanContext) -> impl Iterator<Item = (String, String)> {
    let (trace, id, flags) = (span.trace_id(), span.span_id(), span.trace_flags());
    let parent = format!("00-{trace}-{id}-{flags:02x}");
    let state = Some(span.trace_state().header()).filter(|state| !state.is_empty());
    std::iter::once((PARENT.to_owned(), parent)).chain(state.map(|state| (STATE.to_owned(), state)))
}

/// The publisher's span, by the attributes of its message. Google's clients write its context under a prefix, others
/// plainly. What is malformed counts as absent.
pub(crate) fn publisher(attributes: &HashMap<String, String>) -> Option<SpanContext> {
    if attributes.is_empty() {
        return None;
    }
    PREFIXES.iter().find_map(|prefix| {
        let (trace_id, span_id, flags) =
            parse_parent(attributes.get(&format!("{prefix}{PARENT}"))?)?;
        let state = attributes.get(&format!("{prefix}{STATE}"));
        let state = state.and_then(|state| TraceState::from_str(state).ok()).unwrap_or_default();
        Some(SpanContext::new(trace_id, span_id, flags, true, state))
    })
}

/// Reads `traceparent` (W3C Trace Context, section 3.2), of later versions what
/// this one knows.
fn parse_parent(text: &str) -> Option<(TraceId, SpanId, TraceFlags)> {
    let mut parts = text.split('-');
    let mut hex = |digits: usize| {
        let part = parts.next()?;
        let lower = |c: u8| c.is_ascii_digit() || matches!(c, b'a'..=b'f');
        (part.len() == digits && part.bytes().all(lower)).then_some(part)
    };
    let (version, trace, span, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    if version == "ff" || version == "00" && parts.next().is_some() {
        return None;
    }
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    (trace != TraceId::INVALID && span != SpanId::INVALID).then_some((trace, span, flags))
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider as _;
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::dead_letter::{Rejection, dead_letter, has_room};
    use crate::effect::{Effect, Knowledge};

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn of(attributes: &[(&str, &str)]) -> Option<String> {
        let attributes =
            attributes.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        publisher(&attributes).map(|p| format!("{}-{}", p.trace_id(), p.span_id()))
    }

    #[test]
    fn continues_googles_and_plain_trace_contexts() {
        let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
        let other = "00-11111111111111111111111111111111-2222222222222222-01";
        let continued = Some(format!("{TRACE}-b7ad6b7169203331"));
        assert_eq!(of(&[("traceparent", &parent)]), continued);
        assert_eq!(of(&[("googclient_traceparent", &parent), ("traceparent", other)]), continued);
        assert_eq!(
            of(&[("googclient_traceparent", "nonsense"), ("traceparent", &parent)]),
            continued
        );
        assert_eq!(of(&[("traceparent", &parent), ("tracestate", "no list\n")]), continued);
        let later = format!("cc-{TRACE}-b7ad6b7169203331-01-what-comes");
        assert_eq!(of(&[("traceparent", &later)]), continued);
    }

    #[test]
    fn what_is_given_is_passed_on() {
        let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
        let on = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let plain = continuing(&parent, None).unwrap();
        assert_eq!(plain, HashMap::from([on("traceparent", &parent)]));
        let both = continuing(&parent, Some("vendor=x")).unwrap();
        assert_eq!(both, HashMap::from([on("traceparent", &parent), on("tracestate", "vendor=x")]));
        assert_eq!(continuing(&parent, Some("no list\n")), Some(plain));
        assert_eq!(continuing("nonsense", Some("vendor=x")), None);
    }

    /// What is added to a message that is published where traces are exported.
    fn published(mut message: Outgoing) -> Outgoing {
        let tracer = SdkTracerProvider::builder().build().tracer("test");
        let exporting =
            tracing_subscriber::registry().with(tracing_opentelemetry::layer().with_tracer(tracer));
        tracing::subscriber::with_default(exporting, || {
            info_span!(target: TARGET, "process").in_scope(|| propagate(&mut message));
        });
        message
    }

    #[test]
    fn a_message_names_its_trace_unless_it_is_full() {
        let data = br#"{"id":"j","user":"ann","kind":"api"}"#;
        let job = Job::decode(data, "m").unwrap();
        let known = Knowledge { effect: Effect::Unknown, repeatable: false };
        let about = Rejection { job: Some(&job), reason: "no", known, only_ours: false };
        for (own, length, has_trace) in
            [(0, data.len(), true), (98, data.len(), false), (0, 9_999_850, false)]
        {
            let attributes = (0..own).map(|n| (format!("own-{n}"), "x".to_owned())).collect();
            let data = vec![b'x'; length].into();
            let received = Received { data, attributes, ..Received::default() };
            let letter = published(dead_letter(&received, &about));
            assert!(has_room(&letter), "{own} {length}: {}", letter.attributes.len());
            assert_eq!(letter.attributes.contains_key(PARENT), has_trace, "{own} {length}");
            assert_eq!(letter.attributes["effect"], "unknown");
        }
    }

    /// Where no traces are exported, a handler continues the publisher's.
    #[test]
    fn a_handler_continues_the_trace_of_its_job() {
        let parent = format!("00-{TRACE}-b7ad6b7169203331-01");
        let received = HashMap::from([("googclient_traceparent".to_owned(), parent.clone())]);
        let headers = forwarded(&Span::none(), &received);
        let named = |name: &str| (name.to_owned(), parent.clone());
        assert_eq!(headers, [named("traceparent"), named("ce-traceparent")]);
        assert!(forwarded(&Span::none(), &HashMap::new()).is_empty());
    }

    #[test]
    fn ignores_what_is_malformed() {
        for bad in [
            "",
            "00",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-zz",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-\u{1F600}af7651916cd43dd8448eb211c8031-b7ad6b7169203331-01",
            "\u{1F600}",
        ] {
            assert_eq!(of(&[("traceparent", bad)]), None, "{bad:?}");
        }
        assert_eq!(of(&[]), None);
    }
}
