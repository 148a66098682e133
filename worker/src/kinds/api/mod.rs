//! The kind `api`: one call of a Google API as the user.
//!
//! The answer goes into the outcome, or with `output` into an object of Cloud
//! Storage; with `paginate` it is put together from all pages. The handler makes
//! each request once: a [`Verdict::Retry`] says that making the whole call again does
//! no harm, and is never given for a call that may have taken effect and is not
//! known to be idempotent.
//!
//! # When the answer is lost
//!
//! | what is known | GET, HEAD, PUT, DELETE, or `"idempotent": true` | other calls |
//! |---|---|---|
//! | nothing was sent | `retry` | `retry` |
//! | it was sent, no status came | `retry` | `rejected`: the outcome is unknown |
//! | 2xx, and the body was cut off | `retry` | `done` without a result: the call took effect |
//! | 2xx, and the object cannot be written | `retry` | `rejected`: the call took effect, its answer is lost |
//! | 408, 425, 429, 5xx | `retry` | `retry`: a status is an answer |

mod body;
mod call;
mod feed;
mod limits;
mod output;
mod paging;
mod request;
mod upload;

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use shared::Credentials;
use shared::ports::Clock;
use tracing::warn;
use url::Url;

use crate::handler::Handler;
use crate::job::Job;
use crate::outcome::Verdict;
use crate::session::Session;

use super::hosts::HostRules;
use body::{Body, Broken};
use call::Call;
use feed::{Feed, Stopped, feed};
use limits::{IDLE, INLINE, MAX_OUTPUT_BYTES, MAX_PAGE_BYTES, OUTPUT};
use output::Target;
use paging::{BadPage, Merged, Pages, Paging};
use request::{Requests, broken_answer, content, lost};
use upload::{Found, NotStored, Stored};

pub(super) use limits::MAX_INLINE_BYTES;
pub use output::OutputRules;
pub use upload::OutputStore;

/// Elements of pages, one in each line.
const JSON_LINES: &str = "application/jsonl";
const UNKNOWN_CONTENT: &str = "application/octet-stream";

/// Where the answers of jobs with `output` go.
#[derive(Debug)]
pub struct Outputs {
    /// Which buckets.
    pub rules: OutputRules,
    /// What writes.
    pub store: OutputStore,
}

/// Calls Google's APIs, and the hosts that the operator allowed, as the user.
#[derive(Debug)]
pub struct ApiHandler {
    requests: Requests,
    outputs: Option<Outputs>,
}

impl ApiHandler {
    /// A handler that sends tokens to what `hosts` allows. `http` must follow no
    /// redirects and decode nothing. With `api_root` the requests for Google's APIs
    /// go there instead, after the check. Without `outputs` every `output` is
    /// refused.
    pub fn new(
        http: reqwest::Client,
        hosts: HostRules,
        api_root: Option<Url>,
        outputs: Option<Outputs>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { requests: Requests::new(http, hosts, api_root, clock), outputs }
    }

    fn read(&self, job: &Job) -> Result<Call, String> {
        let none = OutputRules::default();
        let rules = self.outputs.as_ref().map_or(&none, |outputs| &outputs.rules);
        Call::read(&job.params, &self.requests.hosts, rules)
    }

    async fn run(&self, job: &Job, call: &Call, credentials: &Credentials) -> Verdict {
        let (limit, running) = match (&call.output, &call.paging) {
            (Some(target), _) => (OUTPUT, self.store(job, call, target, credentials).boxed()),
            (None, Some(paging)) => (INLINE, self.merge(call, paging, credentials).boxed()),
            (None, None) => (INLINE, self.inline(call, credentials).boxed()),
        };
        let ended = tokio::time::timeout(limit, running).await;
        match ended {
            Ok(Ok(verdict) | Err(verdict)) => verdict,
            Err(_) => reject(format!("the call took longer than {limit:?}"), None),
        }
    }

    /// The answer as the outcome's result.
    async fn inline(&self, call: &Call, credentials: &Credentials) -> Result<Verdict, Verdict> {
        let response = self.requests.send(call, &call.url, credentials).await?;
        let http_status = Some(response.status().as_u16());
        let too_large = format!(
            "the answer is larger than {MAX_INLINE_BYTES} bytes, the most that fits into an outcome; use `output`"
        );
        let Some(body) = content(response, call, MAX_INLINE_BYTES, &too_large).await? else {
            warn!(
                "the API's answer was cut off; the call took effect, and the job is done without a result"
            );
            return Ok(Verdict::Done { http_status, result: Value::Null, warning: None });
        };
        let result = if body.is_empty() {
            Value::Null
        } else if let Ok(json) = serde_json::from_slice(&body) {
            json
        } else if let Ok(text) = String::from_utf8(body) {
            Value::String(text)
        } else {
            return Err(reject(
                "the answer is neither JSON nor text; use `output`".to_owned(),
                http_status,
            ));
        };
        Ok(Verdict::Done { http_status, result, warning: None })
    }

    /// All pages as the outcome's result.
    async fn merge(
        &self,
        call: &Call,
        paging: &Paging,
        credentials: &Credentials,
    ) -> Result<Verdict, Verdict> {
        let (mut pages, mut merged) = (Pages::new(paging), Merged::default());
        let mut response = self.requests.send(call, &call.url, credentials).await?;
        let status = response.status();
        loop {
            let body = page(response, call).await?;
            let (page, next) = pages.take(&body).map_err(|bad| bad_page(&bad, status))?;
            merged.add(&page, paging).map_err(|bad| bad_page(&bad, status))?;
            match next {
                Some(token) => response = self.next_page(call, paging, &token, credentials).await?,
                None => break,
            }
        }
        let result = merged.finish().map_err(|bad| bad_page(&bad, status))?;
        Ok(Verdict::Done { http_status: Some(status.as_u16()), result, warning: None })
    }

    async fn next_page(
        &self,
        call: &Call,
        paging: &Paging,
        token: &str,
        credentials: &Credentials,
    ) -> Result<Response, Verdict> {
        let url = paging.url(&call.url, token);
        let url = self.requests.hosts.check(url.as_str());
        let url = url.map_err(|why| reject(format!("the next page's URL: {why}"), None))?;
        self.requests.send(call, &url, credentials).await
    }

    /// The answer, or the elements of all pages, as an object.
    async fn store(
        &self,
        job: &Job,
        call: &Call,
        target: &Target,
        credentials: &Credentials,
    ) -> Result<Verdict, Verdict> {
        let Some(Outputs { store, .. }) = &self.outputs else {
            return Err(reject("no bucket is allowed for `output`".to_owned(), None));
        };
        if !target.overwrite {
            match store.look(target, job).await {
                Ok(Found::Nothing) => {}
                Ok(Found::Ours(stored)) => return Ok(done(target, None, stored, None)),
                // Nothing was asked of the API yet.
                Ok(Found::Other) | Err(NotStored::Exists) => {
                    return Err(exists(call, target, None));
                }
                Err(NotStored::Failed(why)) => {
                    return Err(Verdict::Retry { why, http_status: None, after: None });
                }
            }
        }
        let response = self.requests.send(call, &call.url, credentials).await?;
        let status = response.status();
        let http_status = Some(status.as_u16());
        let content_type = match (&call.paging, response.headers().get(CONTENT_TYPE)) {
            (Some(_), _) => JSON_LINES.to_owned(),
            (None, Some(value)) => value.to_str().unwrap_or(UNKNOWN_CONTENT).to_owned(),
            (None, None) => UNKNOWN_CONTENT.to_owned(),
        };
        let (source, read) = if let Some(paging) = &call.paging {
            let (feed, source) = feed(None);
            let closed = feed.closed();
            let reading = self.feed_pages(response, call, paging, credentials, feed);
            (source, until_closed(closed, reading).boxed())
        } else {
            let body = Body::new(response, IDLE).and_then(Body::must_be_whole);
            let body = body.map_err(|broken| broken_answer(broken, call, http_status))?;
            let (feed, source) = feed(body.length);
            let closed = feed.closed();
            (source, until_closed(closed, feed_body(body, feed)).boxed())
        };
        let writing = store.write(target, job, &content_type, source);
        let (read, written) = tokio::join!(read, writing);
        match (read, written) {
            (Err(Unread::Broken(broken)), _) => Err(broken_answer(broken, call, http_status)),
            (Err(Unread::TooLarge), _) => Err(reject(
                format!("the answer is larger than {MAX_OUTPUT_BYTES} bytes; nothing was stored"),
                http_status,
            )),
            (Err(Unread::Page(verdict)), _) => Err(verdict),
            (_, Err(NotStored::Exists)) => Err(exists(call, target, http_status)),
            (_, Err(NotStored::Failed(why))) => Err(lost(call, &why, http_status)),
            (Err(Unread::Closed), Ok(_)) => {
                Err(lost(call, "the object was closed before its end", http_status))
            }
            (Ok(pages), Ok(stored)) => Ok(done(target, http_status, stored, pages)),
        }
    }

    /// Feeds the elements of all pages; how many pages there were.
    async fn feed_pages(
        &self,
        mut response: Response,
        call: &Call,
        paging: &Paging,
        credentials: &Credentials,
        mut feed: Feed,
    ) -> Result<Option<u32>, Unread> {
        let mut pages = Pages::new(paging);
        let status = response.status();
        loop {
            let body = page(response, call).await?;
            let (page, next) = pages.take(&body).map_err(|bad| bad_page(&bad, status))?;
            feed.push(&page.lines(paging).map_err(|bad| bad_page(&bad, status))?).await?;
            match next {
                Some(token) => response = self.next_page(call, paging, &token, credentials).await?,
                None => break,
            }
        }
        feed.end().await?;
        Ok(Some(pages.count))
    }
}

/// Why an answer was not read to its end.
enum Unread {
    Broken(Broken),
    TooLarge,
    /// The writer knows why.
    Closed,
    /// A later page.
    Page(Verdict),
}

impl From<Stopped> for Unread {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Closed => Self::Closed,
            Stopped::TooLarge => Self::TooLarge,
        }
    }
}

impl From<Verdict> for Unread {
    fn from(verdict: Verdict) -> Self {
        Self::Page(verdict)
    }
}

async fn feed_body(mut body: Body, mut feed: Feed) -> Result<Option<u32>, Unread> {
    while let Some(piece) = body.next().await {
        feed.push(&piece.map_err(Unread::Broken)?).await?;
    }
    feed.end().await?;
    Ok(None)
}

/// Stops reading as soon as nobody writes any more.
async fn until_closed<T>(
    closed: impl Future<Output = ()>,
    reading: impl Future<Output = Result<T, Unread>>,
) -> Result<T, Unread> {
    tokio::select! {
        biased;
        read = reading => read,
        () = closed => Err(Unread::Closed),
    }
}

/// One page, which is held whole.
async fn page(response: Response, call: &Call) -> Result<Vec<u8>, Verdict> {
    let too_large = format!("a page is larger than {MAX_PAGE_BYTES} bytes; ask for smaller ones");
    // GET is repeatable, so that a page which is cut off is a `retry`.
    Ok(content(response, call, MAX_PAGE_BYTES, &too_large).await?.unwrap_or_default())
}

fn bad_page(bad: &BadPage, status: StatusCode) -> Verdict {
    let detail = match bad {
        BadPage::Several(names) => Some(names.join(", ")),
        _ => None,
    };
    Verdict::Reject { reason: bad.to_string(), detail, http_status: Some(status.as_u16()) }
}

fn done(target: &Target, http_status: Option<u16>, stored: Stored, pages: Option<u32>) -> Verdict {
    let mut result = json!({
        "output": target.to_string(),
        "bytes": stored.bytes,
        "generation": stored.generation,
    });
    if let Some(pages) = pages {
        result["pages"] = pages.into();
    }
    Verdict::Done { http_status, result, warning: None }
}

fn exists(call: &Call, target: &Target, http_status: Option<u16>) -> Verdict {
    let made = match http_status {
        Some(status) if !call.repeatable => {
            format!("; the call took effect (HTTP status {status}), and its answer was not stored")
        }
        _ => String::new(),
    };
    Verdict::Reject {
        reason: format!(
            "the object of `output` exists and was not written by this job; choose another name, or say \"overwrite\": true{made}"
        ),
        detail: Some(target.to_string()),
        http_status,
    }
}

fn reject(reason: String, http_status: Option<u16>) -> Verdict {
    Verdict::Reject { reason, detail: None, http_status }
}

impl Handler for ApiHandler {
    fn handle<'a>(&'a self, job: &'a Job, session: &'a Session<'a>) -> BoxFuture<'a, Verdict> {
        async move {
            match self.read(job) {
                Ok(call) => self.run(job, &call, session.credentials()).await,
                Err(reason) => reject(reason, None),
            }
        }
        .boxed()
    }
}
