//! What a job of kind `api` asks for, read from its parameters.

use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

use super::limits::JOB_HEADERS;
use super::output::{OutputRules, Target};
use super::paging::Paging;
use crate::hosts::HostRules;

/// Set by the worker, by HTTP itself or by proxies; a job cannot. The worker
/// decodes what it asks for, so it also says what it accepts.
const RESERVED_HEADERS: [&str; 15] = [
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
    // With one of these the call is another one than `method` says.
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
];

#[derive(Deserialize)]
struct Wire {
    method: Option<String>,
    url: Option<String>,
    #[serde(default)]
    query: Map<String, Value>,
    #[serde(default)]
    headers: Map<String, Value>,
    body: Option<Value>,
    #[serde(default)]
    idempotent: bool,
    paginate: Option<Value>,
    output: Option<String>,
    #[serde(default)]
    overwrite: bool,
}

const FIELDS: [&str; 9] =
    ["method", "url", "query", "headers", "body", "idempotent", "paginate", "output", "overwrite"];

/// A call that may be made.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Option<Vec<u8>>,
    /// Making it twice does no harm.
    pub(super) repeatable: bool,
    pub(super) paging: Option<Paging>,
    pub(super) output: Option<Target>,
}

impl Call {
    /// Reads a job's parameters; the text says what is wrong without quoting a
    /// value.
    pub(super) fn read(
        params: &Map<String, Value>,
        hosts: &HostRules,
        outputs: &OutputRules,
    ) -> Result<Self, String> {
        for name in params.keys() {
            if !FIELDS.contains(&name.as_str()) {
                let name: String = name.chars().take(64).collect();
                return Err(format!(
                    "unknown parameter {name:?}; kind `api` takes {}",
                    FIELDS.join(", ")
                ));
            }
        }
        let wire: Wire = serde_json::from_value(Value::Object(params.clone()))
            .map_err(|_| "a parameter of kind `api` has the wrong type".to_owned())?;
        let method = read_method(wire.method.as_deref())?;
        let url = wire.url.ok_or("`url` is missing")?;
        let mut url = hosts.check(&url).map_err(|e| format!("`url`: {e}"))?;
        add_query(&mut url, &wire.query)?;
        let url = hosts.check(url.as_str()).map_err(|e| format!("`url` with `query`: {e}"))?;
        let mut headers = read_headers(&wire.headers)?;
        let body = match wire.body {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.into_bytes()),
            Some(json) => {
                headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
                Some(json.to_string().into_bytes())
            }
        };
        let paging = wire.paginate.map_or(Ok(None), Paging::read)?;
        if paging.is_some() && method != Method::GET {
            return Err("`paginate` is for GET only".to_owned());
        }
        let output = match wire.output {
            Some(output) => Some(outputs.target(&output, wire.overwrite)?),
            None if wire.overwrite => return Err("`overwrite` needs `output`".to_owned()),
            None => None,
        };
        let repeatable = wire.idempotent || method.is_idempotent();
        Ok(Self { method, url, headers, body, repeatable, paging, output })
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

fn add_query(url: &mut Url, query: &Map<String, Value>) -> Result<(), String> {
    if query.is_empty() {
        return Ok(());
    }
    let mut pairs = url.query_pairs_mut();
    for (name, value) in query {
        let values = match value {
            Value::Array(values) => values.as_slice(),
            single => std::slice::from_ref(single),
        };
        for value in values {
            match value {
                Value::String(text) => pairs.append_pair(name, text),
                Value::Number(_) | Value::Bool(_) => pairs.append_pair(name, &value.to_string()),
                _ => return Err("`query` values must be strings, numbers or booleans".to_owned()),
            };
        }
    }
    Ok(())
}

fn read_headers(wanted: &Map<String, Value>) -> Result<HeaderMap, String> {
    if wanted.len() > JOB_HEADERS {
        return Err(format!("`headers` has more than {JOB_HEADERS} entries"));
    }
    let mut headers = HeaderMap::new();
    for (name, value) in wanted {
        let name = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| "`headers` has a name that HTTP does not allow".to_owned())?;
        if RESERVED_HEADERS.contains(&name.as_str()) || name.as_str().starts_with("proxy-") {
            return Err(format!("a job cannot set the header {name}"));
        }
        let value = value
            .as_str()
            .and_then(|v| HeaderValue::from_str(v).ok())
            .ok_or_else(|| format!("the header {name} has a value that HTTP does not allow"))?;
        headers.insert(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn call(params: Value) -> Result<Call, String> {
        let Value::Object(params) = params else {
            panic!("an object");
        };
        let outputs = OutputRules::new(["exports"], "tokens").unwrap();
        Call::read(&params, &HostRules::default(), &outputs)
    }

    #[test]
    fn reads_a_call() {
        let call = call(json!({
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
        let many: Map<String, Value> = (0..65).map(|i| (format!("x-{i}"), json!("v"))).collect();
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
            (json!({"url": url, "headers": {"a b": "x"}}), "does not allow"),
            (json!({"url": url, "headers": {"a": "x\r\nb: c"}}), "does not allow"),
            (json!({"url": url, "headers": {"a": 7}}), "does not allow"),
            (json!({"url": url, "headers": many}), "more than 64"),
            (json!({"url": url, "paginate": true, "method": "POST"}), "GET only"),
            (json!({"url": url, "paginate": 7}), "`paginate`"),
            (json!({"url": url, "output": "gs://others/x"}), "--allow-bucket"),
            (json!({"url": url, "output": "gs://tokens/x"}), "token bucket"),
            (json!({"url": url, "overwrite": true}), "needs `output`"),
        ] {
            let error = call(params.clone()).unwrap_err();
            assert!(error.contains(says), "{params}: {error}");
        }
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
            assert_eq!(call(json!({"url": url, "method": method})).unwrap().repeatable, repeatable);
            let said = call(json!({"url": url, "method": method, "idempotent": true}));
            assert!(said.unwrap().repeatable);
        }
    }
}
