//! The kind `api`: one call of a Google API as the user.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use reqwest::{Method, Response};
use serde::Deserialize;
use serde_json::{Map, Value};
use shared::Credentials;
use shared::ports::Clock;
use tracing::Instrument as _;
use url::Url;

use crate::handler::Handler;
use crate::job::Job;
use crate::outcome::Verdict;
use crate::session::Session;
use crate::{metrics, spans};

use super::answer::judge;
use super::hosts::HostRules;

/// The largest answer that goes into an outcome, in bytes.
pub(super) const MAX_INLINE_BYTES: usize = 64 * 1024;
const TIMEOUT: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: u32 = 5;
/// Set by the worker, by HTTP itself or by proxies; a job cannot.
const RESERVED_HEADERS: [&str; 8] = [
    "authorization",
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
    "cookie",
];

/// Calls Google's APIs, and the hosts that the operator allowed, as the user.
#[derive(Debug)]
pub struct ApiHandler {
    http: reqwest::Client,
    hosts: HostRules,
    api_root: Option<Url>,
    clock: Arc<dyn Clock>,
}

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
}

/// A call that may be made.
#[derive(Debug)]
struct Call {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Option<Vec<u8>>,
    /// Making it twice does no harm.
    repeatable: bool,
}

const FIELDS: [&str; 6] = ["method", "url", "query", "headers", "body", "idempotent"];

impl Call {
    /// Reads a job's parameters; the text says what is wrong without quoting a
    /// value.
    fn read(params: &Map<String, Value>, hosts: &HostRules) -> Result<Self, String> {
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
        let method = wire.method.as_deref().unwrap_or("GET").to_ascii_uppercase();
        let method = match method.as_str() {
            "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" => {
                Method::from_bytes(method.as_bytes()).map_err(|_| "`method` is wrong".to_owned())?
            }
            _ => return Err("`method` must be GET, HEAD, POST, PUT, PATCH or DELETE".to_owned()),
        };
        let url = wire.url.ok_or("`url` is missing")?;
        let mut url = hosts.check(&url).map_err(|e| format!("`url`: {e}"))?;
        url.set_fragment(None);
        if !wire.query.is_empty() {
            let mut pairs = url.query_pairs_mut();
            for (name, value) in &wire.query {
                let values = match value {
                    Value::Array(values) => values.as_slice(),
                    single => std::slice::from_ref(single),
                };
                for value in values {
                    match value {
                        Value::String(text) => pairs.append_pair(name, text),
                        Value::Number(_) | Value::Bool(_) => {
                            pairs.append_pair(name, &value.to_string())
                        }
                        _ => return Err("`query` values must be strings or numbers".to_owned()),
                    };
                }
            }
        }
        let mut headers = read_headers(&wire.headers)?;
        let body = match wire.body {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.into_bytes()),
            Some(json) => {
                headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
                Some(json.to_string().into_bytes())
            }
        };
        let repeatable = wire.idempotent || method.is_idempotent();
        Ok(Self { method, url, headers, body, repeatable })
    }
}

fn read_headers(wanted: &Map<String, Value>) -> Result<HeaderMap, String> {
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

impl ApiHandler {
    /// A handler that sends tokens to what `hosts` allows. With `api_root` the
    /// requests for Google's APIs go there instead, after the check.
    pub fn new(
        http: reqwest::Client,
        hosts: HostRules,
        api_root: Option<Url>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { http, hosts, api_root, clock }
    }

    async fn call(&self, call: &Call, credentials: &Credentials) -> Verdict {
        let mut url = call.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self
                .http
                .request(call.method.clone(), self.target(&url))
                .headers(call.headers.clone())
                .bearer_auth(credentials.access_token().expose())
                .timeout(TIMEOUT);
            if let Some(body) = &call.body {
                request = request.body(body.clone());
            }
            let host = url.host_str().unwrap_or_default();
            let span = spans::api(call.method.as_str(), host);
            let sent = self.clock.monotonic();
            let answer = request.send().instrument(span).await;
            let status = answer.as_ref().ok().map(|response| response.status().as_u16());
            metrics::api_request(host, status, self.clock.monotonic().since(sent));
            let response = match answer {
                Ok(response) => response,
                Err(error) => return no_answer(&error, call),
            };
            if !response.status().is_redirection() || !call.method.is_safe() {
                return read(response, call).await;
            }
            url = match self.redirect(&url, &response) {
                Ok(next) => next,
                Err(verdict) => return verdict,
            };
        }
        reject(format!("more than {MAX_REDIRECTS} redirects"), None)
    }

    /// Where a redirect leads, if the token may go there.
    fn redirect(&self, from: &Url, response: &Response) -> Result<Url, Verdict> {
        let status = Some(response.status().as_u16());
        let next = response
            .headers()
            .get(LOCATION)
            .and_then(|location| location.to_str().ok())
            .and_then(|location| from.join(location).ok());
        let Some(next) = next else {
            return Err(reject("the API redirects to nowhere".to_owned(), status));
        };
        self.hosts
            .check(next.as_str())
            .map_err(|why| reject(format!("the API redirects to where it may not: {why}"), status))
    }

    /// The URL itself, or its stand-in with emulators.
    fn target(&self, url: &Url) -> Url {
        let google = url.host_str().is_some_and(|h| h.ends_with(".googleapis.com"));
        match &self.api_root {
            Some(root) if google => {
                let mut target = root.clone();
                target.set_path(url.path());
                target.set_query(url.query());
                target
            }
            _ => url.clone(),
        }
    }
}

fn reject(reason: String, http_status: Option<u16>) -> Verdict {
    Verdict::Reject { reason, detail: None, http_status }
}

/// The request was made and no whole answer came.
fn no_answer(error: &reqwest::Error, call: &Call) -> Verdict {
    let not_sent = error.is_connect() || error.is_builder();
    if not_sent || call.repeatable {
        let what = if error.is_timeout() { "did not answer in time" } else { "cannot be reached" };
        return Verdict::Retry { why: format!("the API {what}"), http_status: None, after: None };
    }
    reject(
        format!(
            "the outcome of this {} is unknown (the API's answer was lost) and the job does not say that it is idempotent",
            call.method
        ),
        None,
    )
}

async fn read(mut response: Response, call: &Call) -> Verdict {
    let status = response.status();
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            // A failure is judged by what was read of it.
            Err(_) if !status.is_success() => break,
            Err(error) => return no_answer(&error, call),
        }
        if body.len() > MAX_INLINE_BYTES {
            if status.is_success() {
                return reject(
                    format!(
                        "the answer is larger than {MAX_INLINE_BYTES} bytes, the most that fits into an outcome"
                    ),
                    Some(status.as_u16()),
                );
            }
            break;
        }
    }
    if !status.is_success() {
        return judge(status.as_u16(), response.headers(), &body);
    }
    let result = if body.is_empty() {
        Value::Null
    } else if let Ok(json) = serde_json::from_slice(&body) {
        json
    } else if let Ok(text) = String::from_utf8(body) {
        Value::String(text)
    } else {
        return reject("the answer is neither JSON nor text".to_owned(), Some(status.as_u16()));
    };
    Verdict::Done { http_status: Some(status.as_u16()), result }
}

impl Handler for ApiHandler {
    fn handle<'a>(&'a self, job: &'a Job, session: &'a Session<'a>) -> BoxFuture<'a, Verdict> {
        async move {
            match Call::read(&job.params, &self.hosts) {
                Ok(call) => self.call(&call, session.credentials()).await,
                Err(reason) => reject(reason, None),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use shared::adapters::SystemClock;

    fn call(params: Value) -> Result<Call, String> {
        let Value::Object(params) = params else {
            panic!("an object");
        };
        Call::read(&params, &HostRules::default())
    }

    #[test]
    fn reads_a_call() {
        let call = call(json!({
            "method": "post", "url": "https://tasks.googleapis.com/tasks/v1/lists?a=1#frag",
            "query": {"b": 2, "c": ["x", "y z"], "d": true}, "headers": {"X-Goog-User-Project": "p"},
            "body": {"title": "t"},
        }))
        .unwrap();
        assert_eq!(
            call.url.as_str(),
            "https://tasks.googleapis.com/tasks/v1/lists?a=1&b=2&c=x&c=y+z&d=true"
        );
        assert_eq!(call.headers["content-type"], "application/json");
        assert!(!call.repeatable, "a POST is not");
    }

    #[test]
    fn says_what_is_wrong() {
        let url = "https://www.googleapis.com/";
        for (params, says) in [
            (json!({}), "`url` is missing"),
            (json!({"url": 7}), "wrong type"),
            (json!({"url": url, "method": "BREW"}), "`method` must be"),
            (json!({"url": "https://evil.example/"}), "--allow-host"),
            (json!({"url": url, "colour": "red"}), "unknown parameter \"colour\""),
            (json!({"url": url, "query": {"a": {}}}), "`query` values"),
            (json!({"url": url, "headers": {"Authorization": "x"}}), "authorization"),
            (json!({"url": url, "headers": {"HOST": "x"}}), "host"),
            (json!({"url": url, "headers": {"Proxy-Authorization": "x"}}), "proxy-authorization"),
            (json!({"url": url, "headers": {"a b": "x"}}), "name that HTTP does not allow"),
            (json!({"url": url, "headers": {"x": "a\r\nb: c"}}), "value that HTTP does not allow"),
        ] {
            let error = call(params).unwrap_err();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn the_api_root_stands_in_for_google_only() {
        let hosts = HostRules::new(["partner.example"]).unwrap();
        let root = Url::parse("http://127.0.0.1:9/").unwrap();
        let handler = ApiHandler::new(
            reqwest::Client::new(),
            hosts.clone(),
            Some(root),
            Arc::new(SystemClock::default()),
        );
        let google = hosts.check("https://www.googleapis.com/drive/v3/files?x=1").unwrap();
        assert_eq!(handler.target(&google).as_str(), "http://127.0.0.1:9/drive/v3/files?x=1");
        let partner = hosts.check("https://partner.example/x").unwrap();
        assert_eq!(handler.target(&partner), partner);
    }
}
