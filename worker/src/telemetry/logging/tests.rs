//! Lines as the real subscriber writes them, read back.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use bytes::Bytes;
use opentelemetry::trace::{TraceId, TracerProvider as _};
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use shared::is_active;
use tracing::subscriber::NoSubscriber;
use tracing::{error, error_span, info, info_span, warn};

use super::*;
use crate::job::{Job, Received};
use crate::logged_user::log_user;
use crate::spans::{delivery, token};
use crate::telemetry::fields::MAX_VALUE;

const GCP: Style = Style::Gcp { project: None, service: "fleet-worker" };
const TEXT: Style = Style::Text { colour: false };
/// What a publisher would write to forge a line, a field, or a colour.
const HOSTILE: &str =
    "j\" status=done\n2026-11-23T00:00:00Z ERROR forged\r\u{1b}[2J\u{9b}31m\u{202e}\u{e0041}";
const REPORTED: &str =
    "type.googleapis.com/google.devtools.clouderrorreporting.v1beta1.ReportedErrorEvent";

#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// With a single dispatcher alive, `tracing` asks the thread that comes by a span or event
/// first whether anybody wants it, and believes that for all threads: another test's thread,
/// which has none, would say no.
static SECOND: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(NoSubscriber::new()));
/// A dispatcher that comes or goes has everything asked anew, in the middle of whatever another
/// thread logs: one test logs at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What `work` logs, through the filters of the real thing.
fn logged_by(style: Style, directives: &str, traced: bool, work: impl FnOnce()) -> Vec<String> {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    LazyLock::force(&SECOND);
    let written = Written::default();
    let out = written.clone();
    let provider = SdkTracerProvider::builder().build();
    let tracer = traced.then(|| provider.tracer("test"));
    let dispatch = dispatch(style, directives, tracer, move || out.clone()).unwrap();
    tracing::dispatcher::with_default(&dispatch, work);
    let written = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
    assert!(written.is_empty() || written.ends_with('\n'));
    written.lines().map(str::to_owned).collect()
}

/// An object no name of which comes twice: `serde_json` alone keeps the last one.
struct Strict(Map<String, Value>);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Strict;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Strict, A::Error> {
                let mut read = Map::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    let again = read.insert(name.clone(), value).is_some();
                    assert!(!again, "{name} comes twice");
                }
                Ok(Strict(read))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// Every line as JSON, none with an active character.
fn all_json(lines: &[String]) -> Vec<Value> {
    let read = |line: &String| {
        assert!(!line.contains(is_active), "{line}");
        let Strict(line) = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        line.into()
    };
    lines.iter().map(read).collect()
}

fn json_of(lines: &[String]) -> Value {
    let mut all = all_json(lines);
    assert_eq!(all.len(), 1, "one line: {lines:?}");
    all.remove(0)
}

fn received(attributes: &[(&str, &str)]) -> Received {
    let attributes = attributes.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
    Received {
        data: Bytes::new(),
        attributes: attributes.collect(),
        ordering_key: String::new(),
        message_id: "m-7".to_owned(),
        publish_time: None,
        delivery_attempt: None,
    }
}

fn job() -> Job {
    Job::decode(br#"{"id": "j-1", "user": "ann", "kind": "profile"}"#, "m-7").unwrap()
}

/// What `work` does during the delivery of a message with these attributes.
fn delivering(attributes: &[(&str, &str)], work: impl FnOnce()) {
    let subscription = "projects/p/subscriptions/s";
    delivery(&received(attributes), Some(&job()), subscription).in_scope(work);
}

#[test]
fn a_job_cannot_forge_a_line_on_a_terminal() {
    let log = || info!(job = HOSTILE, user = %HOSTILE, status = "rejected", "job {HOSTILE}");
    for colour in [false, true] {
        let lines = logged_by(Style::Text { colour }, "info", false, log);
        let [line] = lines.as_slice() else { panic!("one line: {lines:?}") };
        let plain = ["\u{1b}[2m", "\u{1b}[0m", "\u{1b}[32m"]
            .into_iter()
            .fold(line.clone(), |line, paint| line.replace(paint, ""));
        assert!(!plain.contains(is_active), "{plain:?}");
        assert!(plain.contains(r#" job="j\" status=done\n"#), "quoted as a whole: {plain}");
        assert!(plain.contains(r#" user="j\" status=done\n"#), "quoted as a whole: {plain}");
        assert!(plain.ends_with(" status=rejected"), "{plain}");
    }
}

#[test]
fn a_job_cannot_break_json() {
    let log = || error!(job = HOSTILE, severity = "INFO", "{HOSTILE}");
    let line = json_of(&logged_by(GCP, "info", false, log));
    assert_eq!((&line["job"], &line["message"]), (&HOSTILE.into(), &HOSTILE.into()));
    assert_eq!(line["severity"], "ERROR", "a field cannot pass for ours");
    assert_eq!(line["field.severity"], "INFO");

    let hostile = Received { message_id: HOSTILE.to_owned(), ..received(&[]) };
    let job = Job { id: HOSTILE.to_owned(), kind: HOSTILE.to_owned(), ..job() };
    let log = || delivery(&hostile, Some(&job), HOSTILE).in_scope(|| warn!(HOSTILE));
    let line = json_of(&logged_by(GCP, "info", true, log));
    for name in ["message_id", "job", "kind"] {
        assert_eq!(line[name], HOSTILE, "{name}");
    }
    let lines = logged_by(TEXT, "info", true, log);
    assert!(lines.len() == 1 && !lines[0].contains(is_active), "{lines:?}");
}

#[test]
fn no_name_comes_twice() {
    let log = || {
        delivering(
            &[("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")],
            || {
                error!(
                    message = "m-1",
                    time = 1,
                    target = "t",
                    context = "c",
                    serviceContext = "s",
                    "@type" = "y",
                    job = "other",
                    user = "u",
                    kind = "k",
                    message_id = "m-2",
                    "logging.googleapis.com/trace" = "forged",
                    r#type = "raw",
                    "a\"b\n" = 1,
                    "the text"
                );
                // The text of an event without one is the field.
                info!(message = "done", job = "j");
            },
        );
    };
    for traced in [false, true] {
        let [told, plain] = &all_json(&logged_by(GCP, "info", traced, log))[..] else {
            panic!("two lines")
        };
        assert_eq!(told["message"], "the text");
        assert_eq!(told["field.message"], "m-1", "both are there");
        assert_eq!((&told["job"], &told["message_id"]), (&"other".into(), &"m-2".into()));
        assert_eq!((&told["user"], &told["kind"]), (&"u".into(), &"k".into()));
        assert_eq!((&told["type"], &told["@type"]), (&"raw".into(), &REPORTED.into()));
        assert_eq!(told["a\"b\n"], 1);
        let trace = told["logging.googleapis.com/trace"].as_str().unwrap();
        assert_eq!(trace, "0af7651916cd43dd8448eb211c80319c");
        assert_eq!((&plain["message"], &plain["job"]), (&"done".into(), &"j".into()));
        assert_eq!(plain["message_id"], "m-7");
    }
    for line in logged_by(TEXT, "info", true, log) {
        assert_eq!(line.matches(" job=").count(), 1, "{line}");
    }
}

#[test]
fn says_what_cloud_logging_and_error_reporting_know() {
    let log = || {
        warn!(job = "j", http_status = 503, ratio = 0.5, nan = f64::NAN, again = true, "job retry");
    };
    let line = json_of(&logged_by(GCP, "info", false, log));
    assert_eq!(line["severity"], "WARNING");
    assert_eq!(line["message"], "job retry");
    assert_eq!((&line["http_status"], &line["again"]), (&503.into(), &true.into()));
    assert_eq!((&line["ratio"], &line["nan"]), (&0.5.into(), &Value::Null));
    let time = line["time"].as_str().unwrap();
    assert!(time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok(), "{time}");
    assert!(line.get("@type").is_none() && line.get("logging.googleapis.com/trace").is_none());

    let line = json_of(&logged_by(GCP, "info", false, || error!("it broke")));
    assert_eq!((&line["@type"], &line["message"]), (&REPORTED.into(), &"it broke".into()));
    assert_eq!(line["serviceContext"]["service"], "fleet-worker");
    assert!(line["context"]["reportLocation"]["lineNumber"].is_u64());
}

#[test]
fn a_line_in_a_delivery_names_it() {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let parent = format!("00-{trace}-b7ad6b7169203331-01");
    let log = || delivering(&[("traceparent", &parent)], || warn!("x"));
    // Also where informational lines, or those of other modules, are not wanted.
    for directives in ["warn", "worker::telemetry=warn"] {
        let style = Style::Gcp { project: Some("p".to_owned()), service: "s" };
        let line = json_of(&logged_by(style, directives, false, log));
        assert_eq!((&line["message_id"], &line["job"]), (&"m-7".into(), &"j-1".into()));
        assert_eq!(
            (&line["user"], &line["kind"]),
            (&log_user(&job().user).to_string().into(), &"profile".into())
        );
        assert!(!line.to_string().contains("ann"), "{line}");
        assert_eq!(line["logging.googleapis.com/trace"], format!("projects/p/traces/{trace}"));
        assert_eq!(line["logging.googleapis.com/trace_sampled"], true);
        assert!(line.get("logging.googleapis.com/spanId").is_none(), "no span is exported");
    }
    let [line] = &logged_by(TEXT, "warn", false, log)[..] else { panic!("one line") };
    assert!(line.contains(" WARN x message_id=m-7 ") || line.contains(" job=j-1"), "{line}");
    assert!(!line.contains("googleapis"), "{line}");

    let log = || delivery(&received(&[]), None, "s").in_scope(|| warn!("no job"));
    let line = json_of(&logged_by(GCP, "warn", false, log));
    assert_eq!(line["message_id"], "m-7");
    for absent in ["job", "user", "kind", "logging.googleapis.com/trace"] {
        assert!(line.get(absent).is_none(), "{line}");
    }
    let line = json_of(&logged_by(GCP, "warn", false, || warn!("outside")));
    assert!(line.get("message_id").is_none(), "{line}");
}

#[test]
fn a_line_in_an_exported_span_names_it() {
    let log = || delivering(&[], || token().in_scope(|| warn!("x")));
    let line = json_of(&logged_by(GCP, "warn", true, log));
    let trace = line["logging.googleapis.com/trace"].as_str().unwrap();
    assert!(trace.len() == 32 && TraceId::from_hex(trace).unwrap() != TraceId::INVALID);
    assert_eq!(line["logging.googleapis.com/spanId"].as_str().unwrap().len(), 16);
    assert_eq!((&line["message_id"], &line["job"]), (&"m-7".into(), &"j-1".into()));
    let names: BTreeSet<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
    assert!(!names.iter().any(|name| name.starts_with("otel.") || name.contains("messaging")));
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
fn libraries_do_not_say_what_they_send() {
    let log = || {
        tracing::trace!(target: "hyper::proto::h1", "authorization: Bearer fake");
        tracing::debug!(target: "h2::codec", "authorization: Bearer fake");
        tracing::debug!(target: "reqwest::connect", "fake");
        warn!(target: "opentelemetry_sdk", "again and again");
        tracing::trace!(target: "worker::delivery", "ours");
        let theirs = error_span!(target: "google_cloud_storage", "get", object = "tokens/ann");
        theirs.in_scope(|| {
            info_span!(target: "worker::web", "page", user = "ann").in_scope(|| {
                warn!(target: "hyper", "theirs");
            });
        });
    };
    for directives in ["trace", "hyper=trace,h2::codec=trace,reqwest=debug,worker=trace"] {
        let lines = logged_by(TEXT, directives, true, log);
        assert!(lines[0].ends_with("ours") && lines[1].ends_with("theirs"), "{lines:?}");
        assert_eq!(lines.len(), 2);
    }
    assert!(logged_by(TEXT, "off", true, log).is_empty());
    assert!(asked_for("a=b=c", &[]).is_err());
}

#[test]
fn long_values_are_cut() {
    let long = "ö".repeat(10 * MAX_VALUE);
    let line = json_of(&logged_by(GCP, "info", false, || info!(job = long, "{long}")));
    assert_eq!(line["job"].as_str().unwrap().len(), MAX_VALUE);
    assert_eq!(line["message"].as_str().unwrap().len(), MAX_VALUE);
    let long = Received { message_id: long, ..received(&[]) };
    let log = || delivery(&long, None, "s").in_scope(|| warn!("x"));
    let line = json_of(&logged_by(GCP, "info", false, log));
    assert_eq!(line["message_id"].as_str().unwrap().len(), MAX_VALUE);
}

#[test]
fn a_value_that_logs_while_it_is_printed_leaves_two_whole_lines() {
    struct Talkative;
    impl fmt::Display for Talkative {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            warn!("from within");
            f.write_str("shown")
        }
    }
    let lines = all_json(&logged_by(GCP, "info", false, || info!(value = %Talkative, "x")));
    assert!(lines.iter().any(|line| line["value"] == "shown"), "{lines:?}");
}
