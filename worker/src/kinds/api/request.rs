//! One request with the user's token, redirects followed.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use reqwest::header::{ACCEPT_ENCODING, HeaderValue, LOCATION};
use reqwest::{Response, StatusCode};
use serde_json::Value;
use shared::Credentials;
use shared::ports::Clock;
use tracing::Instrument as _;
use url::Url;

use crate::kinds::answer::judge;
use crate::kinds::hosts::HostRules;
use crate::outcome::Verdict;
use crate::{metrics, spans};

use super::body::{Body, Broken, Ended};
use super::call::Call;
use super::limits::{HEADERS, IDLE, MAX_INLINE_BYTES, REDIRECTS};
use super::reject;

/// Hosts that metrics name. A publisher may invent names under `googleapis.com`, and
/// every one would stay in memory and in the metrics for ever.
const MAX_HOST_LABELS: usize = 100;
const OTHER_HOSTS: &str = "other";

/// Makes requests.
#[derive(Debug)]
pub(super) struct Requests {
    http: reqwest::Client,
    pub(super) hosts: HostRules,
    api_root: Option<Url>,
    clock: Arc<dyn Clock>,
    labels: Mutex<HashSet<String>>,
}

impl Requests {
    pub(super) fn new(
        http: reqwest::Client,
        hosts: HostRules,
        api_root: Option<Url>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { http, hosts, api_root, clock, labels: Mutex::default() }
    }

    /// The 2xx answer to `call` at `url`; every other answer as its verdict.
    ///
    /// A redirect is followed where it cannot change what is done: any for GET and
    /// HEAD, and 307 and 308, which keep method and body, for all methods. Each hop
    /// is checked again; a host that may have the token may also have the headers
    /// and the body that the job sends with it, so nothing is dropped on the way
    /// from one allowed host to another.
    pub(super) async fn send(
        &self,
        call: &Call,
        url: &Url,
        credentials: &Credentials,
    ) -> Result<Response, Verdict> {
        let mut url = url.clone();
        for _ in 0..=REDIRECTS {
            let response = self.send_once(call, &url, credentials).await?;
            let status = response.status();
            if !follows(call, status) {
                return answer(response, credentials).await;
            }
            url = self.redirect(&url, &response)?;
        }
        Err(reject(format!("more than {REDIRECTS} redirects"), None))
    }

    async fn send_once(
        &self,
        call: &Call,
        url: &Url,
        credentials: &Credentials,
    ) -> Result<Response, Verdict> {
        let mut request = self
            .http
            .request(call.method.clone(), self.target(url))
            .headers(call.headers.clone())
            .header(ACCEPT_ENCODING, HeaderValue::from_static("gzip"))
            .bearer_auth(credentials.access_token().expose());
        if let Some(body) = &call.body {
            request = request.body(body.clone());
        }
        let host = url.host_str().unwrap_or_default();
        let span = spans::api(call.method.as_str(), host);
        let sent = self.clock.monotonic();
        let answer = tokio::time::timeout(HEADERS, request.send()).instrument(span.clone()).await;
        let status = match &answer {
            Ok(Ok(response)) => Some(response.status().as_u16()),
            _ => None,
        };
        spans::api_answered(&span, status);
        metrics::api_request(&self.label(host), status, self.clock.monotonic().since(sent));
        match answer {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_builder() => {
                Err(reject("the request cannot be made: HTTP does not allow it".to_owned(), None))
            }
            // Nothing of it was sent.
            Ok(Err(error)) if error.is_connect() => Err(retry("the API cannot be reached")),
            Ok(Err(_)) => Err(lost(call, "the connection to the API failed", None)),
            Err(_) => Err(lost(call, "the API did not answer in time", None)),
        }
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

    fn label(&self, host: &str) -> String {
        let mut labels = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
        if !labels.contains(host) {
            if labels.len() >= MAX_HOST_LABELS {
                return OTHER_HOSTS.to_owned();
            }
            labels.insert(host.to_owned());
        }
        host.to_owned()
    }
}

fn follows(call: &Call, status: StatusCode) -> bool {
    match status.as_u16() {
        301..=303 => call.method.is_safe(),
        307 | 308 => true,
        _ => false,
    }
}

/// Tells a 2xx from the rest. 304 comes only to a job that asked for it by a
/// conditional header, and means that there is nothing new.
async fn answer(response: Response, credentials: &Credentials) -> Result<Response, Verdict> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    if status == StatusCode::NOT_MODIFIED {
        let http_status = Some(status.as_u16());
        return Err(Verdict::Done { http_status, result: Value::Null });
    }
    let headers = response.headers().clone();
    // A refusal is judged by what can be read of it.
    let body = match Body::new(response, IDLE) {
        Ok(body) => body.read(MAX_INLINE_BYTES).await.0,
        Err(_) => Vec::new(),
    };
    // An API may quote the request.
    let token = credentials.access_token().expose();
    let body = String::from_utf8_lossy(&body).replace(token, "[token]");
    Err(judge(status.as_u16(), &headers, body.as_bytes()))
}

/// The whole content of a successful answer, up to `limit`.
///
/// When it is cut off, a call that may be made again is; what another call has done
/// cannot be undone, so `Ok(None)` says that it is done and its answer lost.
pub(super) async fn content(
    response: Response,
    call: &Call,
    limit: usize,
    too_large: &str,
) -> Result<Option<Vec<u8>>, Verdict> {
    let status = Some(response.status().as_u16());
    let body = Body::new(response, IDLE).map_err(|broken| reject(broken.to_string(), status))?;
    match body.read(limit).await {
        (content, Ended::Whole) => Ok(Some(content)),
        (_, Ended::TooLarge) => Err(reject(too_large.to_owned(), status)),
        (_, Ended::Broken(_)) if !call.repeatable => Ok(None),
        (_, Ended::Broken(broken)) => Err(broken_answer(broken, call, status)),
    }
}

/// The verdict on a successful answer that cannot be read to its end.
pub(super) fn broken_answer(broken: Broken, call: &Call, status: Option<u16>) -> Verdict {
    match broken {
        Broken::Cut | Broken::Idle => lost(call, &broken.to_string(), status),
        Broken::Encoding | Broken::NoLength => reject(broken.to_string(), status),
    }
}

/// The verdict when it is not known, or cannot be told, what came of a request: again
/// if that does no harm.
pub(super) fn lost(call: &Call, what: &str, http_status: Option<u16>) -> Verdict {
    if call.repeatable {
        return Verdict::Retry { why: what.to_owned(), http_status, after: None };
    }
    let known = match http_status {
        Some(status) => format!("it took effect (HTTP status {status})"),
        None => "its outcome is unknown".to_owned(),
    };
    reject(
        format!(
            "{what}; {known}, and a {} is not repeated unless the job says \"idempotent\": true",
            call.method
        ),
        http_status,
    )
}

fn retry(why: &str) -> Verdict {
    Verdict::Retry { why: why.to_owned(), http_status: None, after: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shared::adapters::SystemClock;

    fn requests(hosts: HostRules, root: Option<Url>) -> Requests {
        Requests::new(reqwest::Client::new(), hosts, root, Arc::new(SystemClock::default()))
    }

    /// The rules apply to the URL before it is replaced.
    #[test]
    fn emulators_stand_in_for_google_only() {
        let hosts = HostRules::new(["partner.example"]).unwrap();
        let root = Url::parse("http://127.0.0.1:9/").unwrap();
        let requests = requests(hosts.clone(), Some(root));
        let google = hosts.check("https://www.googleapis.com/drive/v3/files?x=1").unwrap();
        assert_eq!(requests.target(&google).as_str(), "http://127.0.0.1:9/drive/v3/files?x=1");
        let partner = hosts.check("https://partner.example/x").unwrap();
        assert_eq!(requests.target(&partner), partner);
    }

    #[test]
    fn invented_hosts_do_not_fill_the_metrics() {
        let requests = requests(HostRules::default(), None);
        for i in 0..MAX_HOST_LABELS {
            let host = format!("x{i}.googleapis.com");
            assert_eq!(requests.label(&host), host);
        }
        assert_eq!(requests.label("one-more.googleapis.com"), OTHER_HOSTS);
        assert_eq!(requests.label("x7.googleapis.com"), "x7.googleapis.com");
        assert_eq!(requests.labels.lock().unwrap().len(), MAX_HOST_LABELS);
    }
}
