//! What a job of kind `api` asks for, read from its parameters.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use url::Url;

use super::limits::{INLINE, JOB_HEADERS, OUTPUT};
use super::memory::Need;
use super::output::{OutputRules, Target};
use super::paging::Paging;
use crate::hosts::{HostRules, OVERRIDING_HEADERS};
use crate::json::{Json, Members};

/// Set by the worker, by HTTP itself or by proxies; a job cannot. The worker
/// decodes what it asks for, so it also says what it accepts.
const RESERVED_HEADERS: [&str; 12] = [
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The statuses that a job may expect: what it asks for is so already, or no more.
const EXPECTABLE: [u16; 4] = [404, 409, 410, 412];

#[derive(Deserialize)]
struct Wire<'a> {
    method: Option<String>,
    url: Option<String>,
    #[serde(borrow, default)]
    query: Members<'a>,
    #[serde(borrow, default)]
    headers: Members<'a>,
    body: Option<Json>,
    #[serde(default)]
    idempotent: bool,
    paginate: Option<Value>,
    output: Option<String>,
    #[serde(default)]
    overwrite: bool,
    #[serde(default)]
    expect: Vec<u16>,
    timeout_s: Option<u64>,
}

const FIELDS: [&str; 11] = [
    "method",
    "url",
    "query",
    "headers",
    "body",
    "idempotent",
    "paginate",
    "output",
    "overwrite",
    "expect",
    "timeout_s",
];

/// A call that may be made.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Bytes>,
    /// Making it twice does no harm.
    pub(super) repeatable: bool,
    pub(super) paging: Option<Paging>,
    pub(super) output: Option<Target>,
    /// Refusals with which it is done.
    pub(super) expect: Vec<u16>,
    /// The job's own limit on the time that it takes.
    pub(super) timeout: Option<Duration>,
}

impl Call {
    /// Reads a job's parameters; the text says what is wrong without quoting a
    /// value.
    pub(super) fn read(
        params: &Json,
        hosts: &HostRules,
        outputs: &OutputRules,
    ) -> Result<Self, String> {
        let wrong_type = |_| "a parameter of kind `api` has the wrong type".to_owned();
        let Members(members) = params.read().map_err(wrong_type)?;
        if let Some((name, _)) = members.iter().find(|(name, _)| !FIELDS.contains(&name.as_str())) {
            let name: String = name.chars().take(64).collect();
            return Err(format!(
                "unknown parameter {name:?}; kind `api` takes {}",
                FIELDS.join(", ")
            ));
        }
        let wire: Wire<'_> = params.read().map_err(wrong_type)?;
        let method = read_method(wire.method.as_deref())?;
        let url = wire.url.ok_or("`url` is missing")?;
        let mut url = hosts.check(&url).map_err(|e| format!("`url`: {e}"))?;
        add_query(&mut url, &wire.query)?;
        let url = hosts.check(url.as_str()).map_err(|e| format!("`url` with `query`: {e}"))?;
        let mut headers = read_headers(&wire.headers)?;
        let body = match wire.body {
            None => None,
            Some(text) if text.text().starts_with('"') => {
                let text: String = text.read().map_err(wrong_type)?;
                Some(text.into_bytes().into())
            }
            Some(json) => {
                headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
                Some(Bytes::copy_from_slice(json.text().as_bytes()))
            }
        };
        let paging = wire.paginate.map_or(Ok(None), Paging::read)?;
        if let Some(paging) = &paging {
            if method != Method::GET {
                return Err("`paginate` is for GET only".to_owned());
            }
            paging.check_masks(&url, &headers)?;
        }
        let output = match wire.output {
            Some(output) => Some(outputs.target(&output, wire.overwrite)?),
            None if wire.overwrite => return Err("`overwrite` needs `output`".to_owned()),
            None => None,
        };
        if wire.expect.iter().any(|status| !EXPECTABLE.contains(status)) {
            return Err("`expect` may list 404, 409, 410 and 412".to_owned());
        }
        let most = if output.is_some() { OUTPUT } else { INLINE };
        let timeout = match wire.timeout_s.map(Duration::from_secs) {
            Some(timeout) if timeout.is_zero() || timeout > most => {
                return Err(format!("`timeout_s` must be 1 to {}", most.as_secs()));
            }
            timeout => timeout,
        };
        let repeatable = wire.idempotent || method.is_idempotent();
        let expect = wire.expect;
        Ok(Self { method, url, headers, body, repeatable, paging, output, expect, timeout })
    }

    /// What it may need of the memory for bodies.
    pub(super) fn need(&self) -> Need {
        let body = self.body.as_ref().map_or(0, Bytes::len);
        match self.output {
            Some(_) => Need::upload(body),
            None => Need::inline(body),
        }
    }

    /// How long the whole job may take.
    pub(super) fn limit(&self) -> Duration {
        let most = if self.output.is_some() { OUTPUT } else { INLINE };
        self.timeout.unwrap_or(most)
    }
}

fn read_method(name: Option<&str>) -> Result<Method, String> {
    match name.unwrap_or("GET").to_ascii_uppercase().as_str() {
        "GET" => Ok(Method::GET),
        "HEAD" => Ok(Method::HEAD),
        "POST" => Ok(Method::POST),
        "PUT" => Ok(Method::PUT),
        "PATCH" => Ok(Method::PATCH),
        "DELETE" => Ok(Method::DELETE),
        _ => Err("`method` must be GET, HEAD, POST, PUT, PATCH or DELETE".to_owned()),
    }
}

/// Numbers go into the query as they were written.
fn add_query(url: &mut Url, Members(query): &Members<'_>) -> Result<(), String> {
    const WRONG: &str = "`query` values must be strings, numbers or booleans";
    if query.is_empty() {
        return Ok(());
    }
    let mut pairs = url.query_pairs_mut();
    for (name, value) in query {
        let values: Vec<&RawValue> = match value.get().as_bytes() {
            [b'[', ..] => serde_json::from_str(value.get()).map_err(|_| WRONG)?,
            _ => vec![value],
        };
        for value in values {
            match value.get().as_bytes() {
                [b'"', ..] => {
                    let text: String = serde_json::from_str(value.get()).map_err(|_| WRONG)?;
                    pairs.append_pair(name, &text);
                }
                [b'{' | b'[' | b'n', ..] => return Err(WRONG.to_owned()),
                _ => {
                    pairs.append_pair(name, value.get());
                }
            }
        }
    }
    Ok(())
}

fn read_headers(Members(wanted): &Members<'_>) -> Result<HeaderMap, String> {
    if wanted.len() > JOB_HEADERS {
        return Err(format!("`headers` has more than {JOB_HEADERS} entries"));
    }
    let mut headers = HeaderMap::new();
    for (name, value) in wanted {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| "`headers` has a name that HTTP does not allow".to_owned())?;
        let mut reserved = RESERVED_HEADERS.iter().chain(&OVERRIDING_HEADERS);
        if reserved.any(|reserved| name == *reserved) || name.as_str().starts_with("proxy-") {
            return Err(format!("a job cannot set the header {name}"));
        }
        if headers.contains_key(&name) {
            return Err(format!("`headers` has {name} twice"));
        }
        let value = serde_json::from_str::<String>(value.get()).ok();
        let value = value
            .and_then(|value| HeaderValue::from_str(&value).ok())
            .ok_or_else(|| format!("the header {name} has a value that HTTP does not allow"))?;
        headers.insert(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn call(params: &Value) -> Result<Call, String> {
        read(&params.to_string())
    }

    fn read(params: &str) -> Result<Call, String> {
        let outputs = OutputRules::new(["exports"], "tokens").unwrap();
        Call::read(&Json::parse(params.as_bytes()).unwrap(), &HostRules::default(), &outputs)
    }

    #[test]
    fn reads_a_call() {
        let call = call(&json!({
            "method": "post", "url": "https://tasks.googleapis.com/tasks/v1/lists?a=1",
            "query": {"b": 2, "c": ["x", "y z"], "d": true}, "headers": {"X-Goog-User-Project": "p"},
            "body": {"title": "t"}, "output": "gs://exports/a/b.json",
        }))
        .unwrap();
        assert_eq!(
            call.url.as_str(),
            "https://tasks.googleapis.com/tasks/v1/lists?a=1&b=2&c=x&c=y+z&d=true"
        );
        assert_eq!(call.headers["content-type"], "application/json");
        assert!(!call.repeatable, "a POST is not");
        assert_eq!(call.output.unwrap().to_string(), "gs://exports/a/b.json");
        assert!(call.paging.is_none());
    }

    #[test]
    fn says_what_is_wrong() {
        let url = "https://www.googleapis.com/";
        let many: serde_json::Map<String, Value> =
            (0..65).map(|i| (format!("x-{i}"), json!("v"))).collect();
        for (params, says) in [
            (json!({}), "`url` is missing"),
            (json!({"url": 7}), "wrong type"),
            (json!({"url": "https://evil.example/"}), "not a Google API"),
            (json!({"url": "https://www.googleapis.com/team#holiday"}), "write %23"),
            (
                json!({"url": "https://www.googleapis.com/v4?q=C#&a=1", "query": {"b": 1}}),
                "write %23",
            ),
            (json!({"url": "https://www.googleapis.com/f/.."}), "folded away"),
            (json!({"url": url, "method": "TRACE"}), "`method` must be"),
            (json!({"url": url, "method": "GET "}), "`method` must be"),
            (json!({"url": url, "colour": 1}), "unknown parameter \"colour\""),
            (json!({"url": url, "query": {"a": {}}}), "`query` values"),
            (json!({"url": url, "query": {"a": "x".repeat(17_000)}}), "longer than"),
            (json!({"url": url, "headers": {"Authorization": "x"}}), "cannot set"),
            (json!({"url": url, "headers": {"HOST": "x"}}), "cannot set"),
            (json!({"url": url, "headers": {"Accept-Encoding": "br"}}), "cannot set"),
            (json!({"url": url, "headers": {"Proxy-Authorization": "x"}}), "cannot set"),
            (json!({"url": url, "headers": {"Proxy-X": "x"}}), "cannot set"),
            (json!({"url": url, "headers": {"X-HTTP-Method-Override": "DELETE"}}), "cannot set"),
            (json!({"url": url, "headers": {"X-HTTP-Method": "DELETE"}}), "cannot set"),
            (json!({"url": url, "headers": {"x-method-override": "DELETE"}}), "cannot set"),
            (json!({"url": url, "headers": {"X-Goog-Copy-Source": "/b/x"}}), "cannot set"),
            (json!({"url": url, "headers": {"x-amz-copy-source": "/b/x"}}), "cannot set"),
            (json!({"url": url, "headers": {"If-Match": "1", "if-match": "2"}}), "if-match twice"),
            (json!({"url": format!("{url}?$httpMethod=DELETE")}), "`$httpMethod`"),
            (json!({"url": format!("{url}?a=1&%24HttpMethod=DELETE")}), "`$httpMethod`"),
            (json!({"url": url, "query": {"$httpHeaders": "a:b"}}), "`$httpMethod`"),
            (json!({"url": url, "query": {"X-HTTP-Method-Override": "PUT"}}), "`$httpMethod`"),
            (json!({"url": url, "query": {"x-goog-copy-source": "/b/x"}}), "`$httpMethod`"),
            (json!({"url": url, "headers": {"a b": "x"}}), "does not allow"),
            (json!({"url": url, "headers": {"a": "x\r\nb: c"}}), "does not allow"),
            (json!({"url": url, "headers": {"a": 7}}), "does not allow"),
            (json!({"url": url, "headers": many}), "more than 64"),
            (json!({"url": url, "paginate": true, "method": "POST"}), "GET only"),
            (json!({"url": url, "paginate": 7}), "`paginate`"),
            (json!({"url": url, "output": "gs://others/x"}), "--allow-bucket"),
            (json!({"url": url, "output": "gs://tokens/x"}), "token bucket"),
            (json!({"url": url, "overwrite": true}), "needs `output`"),
            (json!({"url": url, "paginate": true, "query": {"fields": "files(id)"}}), "leaves out"),
            (json!({"url": url, "expect": [200]}), "`expect` may list"),
            (json!({"url": url, "expect": [404, 403]}), "`expect` may list"),
            (json!({"url": url, "expect": 404}), "wrong type"),
            (json!({"url": url, "timeout_s": 0}), "1 to 300"),
            (json!({"url": url, "timeout_s": 301}), "1 to 300"),
            (json!({"url": url, "timeout_s": 1801, "output": "gs://exports/x"}), "1 to 1800"),
            (json!({"url": url, "timeout_s": 1.5}), "wrong type"),
        ] {
            let error = call(&params).unwrap_err();
            assert!(error.contains(says), "{params}: {error}");
        }
    }

    #[test]
    fn bytes_stay_as_they_were_written() {
        let call = read(
            r#"{"url": "https://www.googleapis.com/?n=1.0", "query": {"z": 1e400, "a": [9007199254740991.0, "1"]},
                "body": {"b" : [117.63331139400017, -0, "\u00fc"], "a": 123456789012345678901234567890}}"#,
        )
        .unwrap();
        assert_eq!(call.url.query(), Some("n=1.0&z=1e400&a=9007199254740991.0&a=1"));
        let body =
            r#"{"b" : [117.63331139400017, -0, "\u00fc"], "a": 123456789012345678901234567890}"#;
        assert_eq!(call.body.as_deref(), Some(body.as_bytes()));
        let text =
            read(r#"{"url": "https://www.googleapis.com/", "body": "{\"a\": 1.0}"}"#).unwrap();
        assert_eq!(text.body.as_deref(), Some(&b"{\"a\": 1.0}"[..]));
        assert!(!text.headers.contains_key(CONTENT_TYPE), "a text is the publisher's own");
        let none = read(r#"{"url": "https://www.googleapis.com/", "body": null}"#).unwrap();
        assert!(none.body.is_none());
    }

    #[test]
    fn what_is_asked_besides() {
        let url = "https://www.googleapis.com/";
        let headers = json!({"If-Match": "\"1\"", "If-None-Match": "*", "Range": "bytes=0-9"});
        let asked =
            call(&json!({"url": url, "expect": [404, 412], "timeout_s": 7, "headers": headers}));
        let asked = asked.unwrap();
        assert_eq!((asked.expect.as_slice(), asked.limit().as_secs()), (&[404, 412][..], 7));
        assert_eq!(asked.headers["if-match"], "\"1\"");
        // These belong to a key, and name nothing.
        let key = json!({"X-Goog-Copy-Source-Encryption-Algorithm": "AES256"});
        assert_eq!(call(&json!({"url": url, "headers": key})).unwrap().headers.len(), 1);
        let plain = call(&json!({"url": url})).unwrap();
        assert_eq!((plain.limit(), plain.timeout), (INLINE, None));
    }

    #[test]
    fn what_may_be_repeated() {
        let url = "https://www.googleapis.com/";
        for (method, repeatable) in [
            ("GET", true),
            ("HEAD", true),
            ("PUT", true),
            ("DELETE", true),
            ("POST", false),
            ("PATCH", false),
        ] {
            assert_eq!(
                call(&json!({"url": url, "method": method})).unwrap().repeatable,
                repeatable
            );
            let said = call(&json!({"url": url, "method": method, "idempotent": true}));
            assert!(said.unwrap().repeatable);
        }
    }
}
