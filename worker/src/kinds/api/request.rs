//! One request with the user's token, redirects followed.

use std::sync::Arc;

use reqwest::header::{ACCEPT_ENCODING, HeaderValue, LOCATION};
use reqwest::{Response, StatusCode};
use serde_json::Value;
use shared::Credentials;
use shared::ports::Clock;
use url::Url;

use crate::calls::Observer;
use crate::kinds::answer::judge;
use crate::kinds::hosts::{HostRules, stand_in};
use crate::outcome::Verdict;

use super::body::{Body, Broken, Ended};
use super::call::Call;
use super::limits::{HEADERS, IDLE, MAX_INLINE_BYTES, REDIRECTS};
use super::reject;

/// Makes requests.
#[derive(Debug)]
pub(super) struct Requests {
    http: reqwest::Client,
    pub(super) hosts: HostRules,
    api_root: Option<Url>,
    observer: Observer,
}

impl Requests {
    pub(super) fn new(
        http: reqwest::Client,
        hosts: HostRules,
        api_root: Option<Url>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { http, hosts, api_root, observer: Observer::new(clock) }
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
            .request(call.method.clone(), stand_in(self.api_root.as_ref(), url))
            .headers(call.headers.clone())
            .header(ACCEPT_ENCODING, HeaderValue::from_static("gzip"))
            .bearer_auth(credentials.access_token().expose());
        if let Some(body) = &call.body {
            request = request.body(body.clone());
        }
        let host = url.host_str().unwrap_or_default();
        let send = tokio::time::timeout(HEADERS, request.send());
        let answer = self.observer.observe(&call.method, host, send, |answer| match answer {
            Ok(Ok(response)) => Some(response.status().as_u16()),
            _ => None,
        });
        match answer.await {
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
        return Err(Verdict::Done { http_status, result: Value::Null, warning: None });
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
