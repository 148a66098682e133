//! Reading a message's data, and saying what it is when it is no job.
//!
//! Whatever is said goes into logs and dead letters, so it names fields and quotes no value.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::value::RawValue;

use crate::json::Members;

use super::{MAX_DATA_BYTES, Malformed};

/// How deep a job's data may be nested.
const MAX_DEPTH: usize = 512;
const BYTE_ORDER_MARK: &str = "\u{feff}";
/// Names longer than this, or of other characters than names have, are not shown.
const MAX_NAME: usize = 64;

/// The fields of a job as they were written.
#[derive(Default)]
pub(super) struct Fields<'a> {
    pub(super) id: Option<&'a RawValue>,
    pub(super) user: Option<&'a RawValue>,
    pub(super) kind: Option<&'a RawValue>,
    pub(super) params: Option<&'a RawValue>,
}

fn wrong<T>(text: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed(text.into()))
}

impl<'a> Fields<'a> {
    /// Takes a message's data apart.
    pub(super) fn read(data: &'a [u8]) -> Result<Self, Malformed> {
        if data.len() > MAX_DATA_BYTES {
            let length = data.len();
            return wrong(format!("{length} bytes of data; the limit is {MAX_DATA_BYTES}"));
        }
        if data.starts_with(&[0xff, 0xfe]) || data.starts_with(&[0xfe, 0xff]) {
            return wrong("the data is UTF-16; encode the job's JSON in UTF-8");
        }
        let Ok(text) = str::from_utf8(data) else { return wrong("the data is not UTF-8") };
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text).trim_ascii();
        if text.is_empty() {
            return wrong("the message has no data; publish the job's JSON as its data");
        }
        if depth(text) > MAX_DEPTH {
            return wrong(format!(
                "the data is nested more than {MAX_DEPTH} deep; pass what is nested so deep as a string"
            ));
        }
        if !text.starts_with('{') {
            return wrong(not_an_object(text));
        }
        let Members(members) = match serde_json::from_str(text) {
            Ok(members) => members,
            Err(error) => return wrong(not_json(&error)),
        };
        if let Some(envelope) = envelope(&members) {
            return wrong(envelope);
        }
        let mut fields = Self::default();
        for (name, value) in members {
            let field = match name.as_str() {
                "id" => &mut fields.id,
                "user" => &mut fields.user,
                "kind" => &mut fields.kind,
                "params" => &mut fields.params,
                other => {
                    let known = "a job has `id`, `user`, `kind` and `params`";
                    return wrong(match shown(other) {
                        Some(other) => format!("unknown field `{other}`; {known}"),
                        None => format!("unknown field; {known}"),
                    });
                }
            };
            if field.replace(value).is_some() {
                return wrong(format!("duplicate field `{name}`"));
            }
        }
        let null = |field: &mut Option<&RawValue>| {
            *field = field.take_if(|value| value.get() != "null");
        };
        [&mut fields.id, &mut fields.user, &mut fields.kind, &mut fields.params]
            .into_iter()
            .for_each(null);
        Ok(fields)
    }
}

/// The string that a field holds.
pub(super) fn string(field: &str, value: Option<&RawValue>) -> Result<Option<String>, Malformed> {
    let Some(value) = value else { return Ok(None) };
    match serde_json::from_str(value.get()) {
        Ok(text) => Ok(Some(text)),
        Err(_) => wrong(format!("`{field}` must be a string")),
    }
}

/// How deep brackets are nested.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in text.bytes() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// Where the JSON is wrong. Of the parser's own text nothing is used: it may quote.
fn not_json(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    if error.is_eof() {
        return format!(
            "the data is JSON that ends too early (line {line}, column {column}); was it cut off?"
        );
    }
    format!("the data is not JSON (line {line}, column {column})")
}

/// What data is that is no object.
fn not_an_object(text: &str) -> String {
    match serde_json::from_str::<&RawValue>(text) {
        Ok(_) if text.starts_with('[') => {
            "the data is a JSON array; publish one message for each job".to_owned()
        }
        Ok(_) if text.starts_with('"') => {
            let inner = serde_json::from_str::<String>(text).unwrap_or_default();
            if inner.trim_ascii_start().starts_with('{') {
                "the data is a JSON string that contains JSON: the job was encoded twice; publish the object itself"
                    .to_owned()
            } else if is_base64_of_json(inner.as_bytes()) {
                base64_hint("is a JSON string that contains")
            } else {
                "the data is a JSON string; a job is a JSON object".to_owned()
            }
        }
        Ok(_) => "the data is a JSON number, boolean or null; a job is a JSON object".to_owned(),
        Err(_) if is_base64_of_json(text.as_bytes()) => base64_hint("is"),
        Err(error) => not_json(&error),
    }
}

fn base64_hint(is: &str) -> String {
    format!(
        "the data {is} base64 of JSON; client libraries take the JSON itself and encode it where that is needed"
    )
}

fn is_base64_of_json(text: &[u8]) -> bool {
    STANDARD.decode(text).is_ok_and(|decoded| decoded.trim_ascii_start().starts_with(b"{"))
}

/// What envelope the members are, if they are one and no job.
fn envelope(members: &[(String, &RawValue)]) -> Option<String> {
    let has = |name: &str| members.iter().any(|(member, _)| member == name);
    if has("user") || has("kind") {
        return None;
    }
    if has("specversion") && has("source") && has("type") {
        return Some(
            "the data is a CloudEvents envelope, as Eventarc delivers it; publish the job itself, which the event has in `data` (of Pub/Sub: base64, in `data.message.data`)"
                .to_owned(),
        );
    }
    if has("message") {
        return Some(
            "the data is the envelope of a push subscription or of Eventarc; publish the job itself, which is the base64 of `message.data`"
                .to_owned(),
        );
    }
    if has("messages") {
        return Some(
            "the data is the request of a `publish` call; publish the job itself, which is the base64 of `data` in one of its `messages`"
                .to_owned(),
        );
    }
    if has("data") && (has("messageId") || has("message_id") || has("attributes")) {
        return Some(
            "the data is a Pub/Sub message; publish the job itself, which is the base64 of its `data`"
                .to_owned(),
        );
    }
    None
}

/// A field's name, if it can be one.
fn shown(name: &str) -> Option<&str> {
    let is_name = (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    is_name.then_some(name)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::super::Job;
    use super::*;

    const SECRET: &str = "fake-secret";

    fn said(data: impl AsRef<[u8]>) -> String {
        let data = data.as_ref();
        let Malformed(said) = Job::decode(data, "m").unwrap_err();
        assert!(!said.contains("fake"), "{said} quotes {}", String::from_utf8_lossy(data));
        assert!(said.len() < 300 && !said.contains(char::is_control), "{said}");
        said
    }

    fn job(params: &str) -> String {
        format!(r#"{{"user":"ann","kind":"k","params":{params}}}"#)
    }

    #[test]
    fn what_is_no_job_is_told_by_what_it_is() {
        let twice = serde_json::to_string(&job("{}")).unwrap();
        let in_base64 = STANDARD.encode(job("{}"));
        let push = r#"{"message": {"data": "e30=", "messageId": "fake"}, "subscription": "s"}"#;
        let event = r#"{"specversion": "1.0", "type": "t", "source": "fake", "id": "1", "data": {"user": "fake"}}"#;
        for (data, says) in [
            ("", "has no data"),
            ("  \n", "has no data"),
            ("\u{feff}", "has no data"),
            (
                &*format!("[{}]", job(r#"{"a":"fake"}"#)),
                "a JSON array; publish one message for each",
            ),
            ("[]", "a JSON array"),
            (r#"["fake","ann","k",{}]"#, "a JSON array"),
            (&*twice, "encoded twice"),
            (&*format!("\u{feff}{twice}"), "encoded twice"),
            (r#""fake""#, "a JSON string;"),
            (&*in_base64, "is base64 of JSON"),
            (&*format!("\"{in_base64}\""), "contains base64 of JSON"),
            ("7", "number, boolean or null"),
            ("null", "number, boolean or null"),
            ("fake", "not JSON (line 1"),
            ("{'user': 'fake'}", "not JSON (line 1, column 2)"),
            (r#"{"user": "fake", "#, "ends too early"),
            (r#"{"user": "fake"} x"#, "not JSON (line 1, column 18)"),
            (&*format!("\u{feff}\u{feff}{}", job("{}")), "not JSON"),
            (push, "envelope of a push subscription"),
            (r#"{"message": {"data": "fake"}}"#, "envelope of a push subscription"),
            (event, "CloudEvents"),
            (r#"{"messages": [{"data": "fake"}]}"#, "request of a `publish` call"),
            (r#"{"data": "fake", "attributes": {}}"#, "a Pub/Sub message"),
            (r#"{"user": {"fake": 1}, "kind": "k"}"#, "`user` must be a string"),
            (r#"{"user": "\ud800", "kind": "k"}"#, "`user` must be a string"),
            (r#"{"user": "ann", "kind": "k", "params": ["fake"]}"#, "`params` must be an object"),
            (
                r#"{"user": "ann", "kind": "k", "params": "{\"a\":\"fake\"}"}"#,
                "`params` must be an object",
            ),
            (r#"{"user": "ann", "kind": "k", "message": "fake"}"#, "unknown field `message`"),
            (r#"{"user": "ann", "kind": "k", "fake secret!": 1}"#, "unknown field; a job has"),
            (r#"{"user": "ann", "user": "fake", "kind": "k"}"#, "duplicate field `user`"),
        ] {
            let said = said(data);
            assert!(said.contains(says), "{data}: {said}");
        }
        assert!(said(b"\xff\xfe{\0}\0").contains("UTF-16"));
        assert!(said(b"{\"user\":\"fake\xff\"}").contains("not UTF-8"));
        let name = format!(r#"{{"{}": 1}}"#, SECRET.repeat(100));
        assert!(said(name).contains("unknown field;"));
    }

    #[test]
    fn one_byte_order_mark_is_ignored() {
        let data = format!("\u{feff}{}", job("{}"));
        assert_eq!(Job::decode(data.as_bytes(), "m").unwrap().kind, "k");
    }

    #[test]
    fn parameters_are_kept_as_they_were_written() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
        for params in [
            r#"{"n": [117.63331139400017, 9007199254740991.0, 1e400, -0,  123456789012345678901234567890]}"#,
            r#"{"b" : "\u00fc", "a":"\/", "b":1}"#,
            &deep,
        ] {
            let job = Job::decode(job(params).as_bytes(), "m").unwrap();
            assert_eq!(job.params.text(), params);
        }
        for none in ["null", "{}"] {
            assert_eq!(Job::decode(job(none).as_bytes(), "m").unwrap().params.text(), "{}");
        }
    }

    #[test]
    fn a_job_is_nested_so_deep_and_no_deeper() {
        let nested = |depth: usize| {
            // The job and its parameters are two levels.
            let lists = depth - 2;
            job(&format!("{{\"a\":{}{}}}", "[".repeat(lists), "]".repeat(lists)))
        };
        let deepest = Job::decode(nested(MAX_DEPTH).as_bytes(), "m").unwrap();
        assert_eq!(deepest.params_digest().len(), 32);
        assert!(said(nested(MAX_DEPTH + 1)).contains("more than 512 deep"));
        assert!(said("[".repeat(100_000)).contains("more than 512 deep"));
        assert!(said(format!("{{\"a\":{}", "{\"a\":".repeat(100_000))).contains("deep"));
        let brackets_in_a_string = job(&format!("{{\"a\":\"\\\"{}\"}}", "[".repeat(1000)));
        assert!(Job::decode(brackets_in_a_string.as_bytes(), "m").is_ok());
    }

    /// Pieces that jobs and what is taken for one are made of.
    fn message() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            "\"",
            ":",
            ",",
            "\\",
            " ",
            "\n",
            "null",
            "true",
            "-1.0e400",
            "\\ud800",
            "\"user\"",
            "\"kind\"",
            "\"params\"",
            "\"id\"",
            "\"message\"",
            "\"data\"",
            "\"ann\"",
            "\u{feff}",
            "\"fake secret!\"",
            "\"user\":\"ann\"",
            "\"kind\":\"k\"",
            "\"params\":{\"a\":1.0}",
            "e30=",
        ]);
        let pieces = prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat());
        let pieces = (pieces, any::<bool>()).prop_map(|(inner, whole)| {
            if whole { format!("{{{inner}}}") } else { inner }.into_bytes()
        });
        let changed = (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| {
            let mut job = job(r#"{"a":"fake secret!"}"#).into_bytes();
            let at = at.index(job.len());
            job[at] = byte;
            job
        });
        prop_oneof![pieces, changed, prop::collection::vec(any::<u8>(), 0..40)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100_000))]

        /// Whatever a message holds, it is read as a parser reads it or refused without a
        /// word of it.
        #[test]
        fn any_message_is_a_job_or_is_told_without_its_values(data in message()) {
            match Job::decode(&data, "m") {
                Err(Malformed(said)) => {
                    prop_assert!(!said.contains("fake secret!"), "{said}");
                    prop_assert!(said.len() < 300 && !said.contains(char::is_control), "{said}");
                }
                Ok(job) => {
                    let data = data.strip_prefix("\u{feff}".as_bytes()).unwrap_or(&data);
                    let members: HashMap<String, &RawValue> = serde_json::from_slice(data).unwrap();
                    let string = |name: &str| serde_json::from_str::<String>(members[name].get());
                    prop_assert_eq!(string("user").unwrap(), job.user.as_str());
                    prop_assert_eq!(string("kind").unwrap(), job.kind);
                    match members.get("id").map(|id| id.get()) {
                        None | Some("null") => prop_assert_eq!(job.id, "m"),
                        Some(_) => prop_assert_eq!(string("id").unwrap(), job.id),
                    }
                    match members.get("params").map(|params| params.get()) {
                        None | Some("null") => prop_assert_eq!(job.params.text(), "{}"),
                        Some(params) => prop_assert_eq!(job.params.text(), params),
                    }
                }
            }
        }
    }
}
