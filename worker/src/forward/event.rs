//! The event that a job is sent as: a `CloudEvent` of version 1.0, in HTTP's binary mode.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use shared::{Secret, encode_segment};

use crate::job::{Job, Received};
use crate::json::Json;

/// Names the client in credentials objects; it opens nothing.
pub(super) const CLIENT_ID: &str = "fleet";

/// One attempt of a job, as its handler is told of it.
pub(super) struct Event<'a> {
    pub(super) job: &'a Job,
    pub(super) received: &'a Received,
    pub(super) subscription: &'a str,
    pub(super) attempt: u32,
    /// When the attempt's time is over.
    pub(super) deadline: Timestamp,
    /// Where its handle opens tokens.
    pub(super) token_uri: &'a str,
    pub(super) handle: &'a Secret,
}

#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    user: &'a str,
    kind: &'a str,
    params: &'a Json,
    attempt: u32,
    delivery_attempt: Option<i32>,
    deadline: Timestamp,
    credentials: CredentialsObject<'a>,
}

/// What Google's libraries of all languages load as a user's credentials. The secret stands in
/// `client_secret`, which they redact (all but Java's); `refresh_token`, which they print, names the
/// user.
#[derive(Serialize)]
pub(crate) struct CredentialsObject<'a> {
    r#type: &'static str,
    audience: &'static str,
    token_uri: &'a str,
    token_url: &'a str,
    token_info_url: &'a str,
    client_id: &'static str,
    client_secret: &'a str,
    refresh_token: &'a str,
}

impl<'a> CredentialsObject<'a> {
    /// The object with which `secret` opens the tokens of `user` at `token_uri`.
    pub(crate) fn new(token_uri: &'a str, secret: &'a Secret, user: &'a str) -> Self {
        Self {
            r#type: "external_account_authorized_user",
            audience: CLIENT_ID,
            token_uri,
            token_url: token_uri,
            token_info_url: token_uri,
            client_id: CLIENT_ID,
            client_secret: secret.expose(),
            refresh_token: user,
        }
    }

    /// It as JSON, the secret included.
    pub(crate) fn json(&self) -> Value {
        serde_json::to_value(self).expect("strings are JSON")
    }
}

impl Event<'_> {
    /// The event's attributes. They say less than the body where a value cannot stand in a
    /// header.
    pub(super) fn headers(&self) -> HeaderMap {
        let Self { job, received, subscription, .. } = self;
        let (user, kind) = (job.user.as_str(), &job.kind);
        let source = format!("/fleet/{subscription}/users/{}/kinds/{kind}", encode_segment(user));
        let mut headers = HeaderMap::new();
        let mut add = |name: &'static str, value: &str| {
            headers.insert(HeaderName::from_static(name), header_value(value));
        };
        add("ce-specversion", "1.0");
        add("ce-id", &event_id(job));
        add("ce-source", &source);
        add("ce-type", &format!("fleet.job.{kind}"));
        add("ce-subject", user);
        if let Some(time) = received.publish_time {
            add("ce-time", &time.to_string());
        }
        if !received.ordering_key.is_empty() {
            add("ce-partitionkey", &received.ordering_key);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers
    }

    /// The event's data, in which the handle is.
    pub(super) fn body(&self) -> Vec<u8> {
        let Self { job, received, attempt, deadline, token_uri, handle, .. } = self;
        let user = job.user.as_str();
        let body = Body {
            id: &job.id,
            user,
            kind: &job.kind,
            params: &job.params,
            attempt: *attempt,
            delivery_attempt: received.delivery_attempt,
            deadline: *deadline,
            credentials: CredentialsObject::new(token_uri, handle, user),
        };
        serde_json::to_vec(&body).expect("strings, numbers and JSON are JSON")
    }
}

/// The job's ID, and its run from the second on. A first run whose ID ends like a run is
/// numbered as well, so that no two jobs of a user and kind have one ID.
fn event_id(job: &Job) -> String {
    let Job { id, run, .. } = job;
    let ends_like_a_run = id
        .rsplit_once('~')
        .is_some_and(|(_, end)| !end.is_empty() && end.bytes().all(|digit| digit.is_ascii_digit()));
    if *run > 0 || ends_like_a_run { format!("{id}~{run}") } else { id.clone() }
}

/// An attribute's value as it stands in a header: spaces, quotes, `%` and everything but
/// printable ASCII are percent-encoded, as the HTTP binding says.
fn header_value(value: &str) -> HeaderValue {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if matches!(byte, b'!'..=b'~') && byte != b'"' && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a string takes everything");
        }
    }
    HeaderValue::from_str(&encoded).expect("it is printable ASCII")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(text: &str, run: u32) -> Job {
        Job { run, ..Job::decode(text.as_bytes(), "m").unwrap() }
    }

    fn sent(job: &Job, received: &Received) -> (HeaderMap, Vec<u8>) {
        let event = Event {
            job,
            received,
            subscription: "projects/p/subscriptions/s",
            attempt: 2,
            deadline: "2026-01-02T03:04:05Z".parse().unwrap(),
            token_uri: "http://127.0.0.1:9091/token",
            handle: &Secret::new("fake-handle"),
        };
        (event.headers(), event.body())
    }

    #[test]
    fn a_job_as_an_event() {
        let job = job(
            r#"{"id":"j 1","user":"a/ü","kind":"greet","params":{"n": 9007199254740991.0}}"#,
            1,
        );
        let received = Received {
            ordering_key: "a/ü".into(),
            delivery_attempt: Some(3),
            publish_time: Some("2026-01-02T03:00:00Z".parse().unwrap()),
            ..Received::default()
        };
        let (headers, body) = sent(&job, &received);
        for (name, value) in [
            ("ce-specversion", "1.0"),
            ("ce-id", "j%201~1"),
            ("ce-source", "/fleet/projects/p/subscriptions/s/users/a%252F%25C3%25BC/kinds/greet"),
            ("ce-type", "fleet.job.greet"),
            ("ce-subject", "a/%C3%BC"),
            ("ce-time", "2026-01-02T03:00:00Z"),
            ("ce-partitionkey", "a/%C3%BC"),
            ("content-type", "application/json"),
        ] {
            assert_eq!(headers[name], value, "{name}");
        }
        assert_eq!(headers.len(), 8);
        let text = String::from_utf8(body).unwrap();
        assert!(text.contains(r#""params":{"n": 9007199254740991.0}"#), "as written: {text}");
        let body: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&body["id"], &body["user"], &body["kind"]),
            (&json!("j 1"), &json!("a/ü"), &json!("greet"))
        );
        assert_eq!((&body["attempt"], &body["delivery_attempt"]), (&json!(2), &json!(3)));
        assert_eq!(body["deadline"], "2026-01-02T03:04:05Z");
        let url = "http://127.0.0.1:9091/token";
        let credentials = json!({
            "type": "external_account_authorized_user", "audience": "fleet",
            "token_uri": url, "token_url": url, "token_info_url": url,
            "client_id": "fleet", "client_secret": "fake-handle", "refresh_token": "a/ü",
        });
        assert_eq!(body["credentials"], credentials);
        let (plain, _) = sent(&job, &Received::default());
        assert!(!plain.contains_key("ce-time") && !plain.contains_key("ce-partitionkey"));
        assert!(headers.values().all(|value| !value.to_str().unwrap().contains("handle")));
    }

    #[test]
    fn no_two_jobs_of_a_user_and_kind_have_one_id() {
        let id = |id: &str, run| {
            event_id(&job(&json!({"id": id, "user": "u", "kind": "k"}).to_string(), run))
        };
        assert_eq!((id("a", 0), id("a", 1), id("a~", 0)), ("a".into(), "a~1".into(), "a~".into()));
        let all = [id("a", 0), id("a", 1), id("a~1", 0), id("a~1", 1), id("a~1~0", 0)];
        assert_eq!(
            all.iter().collect::<std::collections::BTreeSet<_>>().len(),
            all.len(),
            "{all:?}"
        );
    }
}
