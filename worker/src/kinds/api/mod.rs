//! The kind `api`: one call of a Google API as the user.
//!
//! The answer goes into the outcome, or with `output` into an object of Cloud
//! Storage; with `paginate` it is put together from all pages. The handler makes
//! each request once: a [`Verdict::Retry`] says that making the whole call again does
//! no harm, and is never given for a call that may have taken effect and is not
//! known to be idempotent. What an answer means stands in [`crate::kinds::response`].
//!
//! A call that must not be repeated and was carried out is done, whatever its answer looks
//! like. Only an object of `output` that Cloud Storage did not take is a failure, since the
//! job asked for it: such a job is `rejected`, with the effect `done`.

mod call;
mod collect;
mod feed;
mod limits;
mod memory;
mod output;
mod page;
mod paging;
mod request;
mod storage_failure;
mod unclosed;
mod upload;
mod verdicts;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use reqwest::Response;
use reqwest::header::{
    CONTENT_TYPE, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE,
};
use url::Url;

use crate::handler::Handler;
use crate::hosts::HostRules;
use crate::job::Job;
use crate::outcome::Verdict;
use crate::session::Session;

use super::body::{Body, Broken};
use super::response::{IDLE, Unusable, by_session_alone, inline, says_whole_json};
use call::Call;
use collect::{Lines, Merged};
use feed::{Feed, Stopped, feed};
use limits::MAX_OUTPUT_BYTES;
use memory::{BodyMemory, Taken};
use output::Target;
use page::{Collect, PageReader};
use paging::{BadPage, Pages, Paging};
use request::send;
use storage_failure::NotStored;
use unclosed::Brackets;
use upload::Found;
use verdicts::{bad_page, done, exists, late, not_stored, reject};

pub use memory::MIN_BODY_MEMORY;
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

/// Whether a worker with these rules would begin a job of kind `api` that says this, as far as
/// that can be known before anything is sent.
///
/// # Errors
/// The reason with which the worker would reject it. It quotes no value.
pub fn check_api(job: &Job, hosts: &HostRules, outputs: &OutputRules) -> Result<(), String> {
    Call::read(&job.params, hosts, outputs).map(drop)
}

/// Calls Google's APIs, and the hosts that the operator allowed, as the user.
#[derive(Debug)]
pub struct ApiHandler {
    outputs: Option<Outputs>,
    memory: BodyMemory,
}

impl ApiHandler {
    /// A handler that writes to `outputs`; without them every `output` is refused. The bodies
    /// of all its jobs take at most `body_memory` bytes, at least [`MIN_BODY_MEMORY`].
    pub fn new(outputs: Option<Outputs>, body_memory: usize) -> Self {
        Self { outputs, memory: BodyMemory::new(body_memory) }
    }

    fn read(&self, job: &Job, session: &Session<'_>) -> Result<Call, String> {
        let none = OutputRules::default();
        let rules = self.outputs.as_ref().map_or(&none, |outputs| &outputs.rules);
        Call::read(&job.params, session.hosts(), rules)
    }

    async fn run(&self, job: &Job, call: &Call, session: &Session<'_>) -> Verdict {
        let mut memory = self.memory.take(call.need()).await;
        let running = match (&call.output, &call.paging) {
            (Some(target), _) => self.store(job, call, target, session, &mut memory).boxed(),
            (None, Some(paging)) => merge(call, paging, session).boxed(),
            (None, None) => {
                let single = async {
                    let response = first(call, session).await?;
                    if !call.repeatable && response.status().is_success() {
                        session.ledger().job_is_carried_out(response.status().as_u16());
                    }
                    Ok(inline(response).await)
                };
                single.boxed()
            }
        };
        match tokio::time::timeout(call.limit(), running).await {
            Ok(Ok(verdict) | Err(verdict)) => verdict,
            Err(_late) => late(call, session),
        }
    }

    /// The answer, or the elements of all pages, as an object.
    async fn store(
        &self,
        job: &Job,
        call: &Call,
        target: &Target,
        session: &Session<'_>,
        memory: &mut Taken<'_>,
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
        let response = first(call, session).await?;
        let status = response.status().as_u16();
        let http_status = Some(status);
        let unusable = |why: Unusable| why.verdict(call.repeatable, http_status);
        let content_type = match (&call.paging, response.headers().get(CONTENT_TYPE)) {
            (Some(_), _) => JSON_LINES.to_owned(),
            (None, Some(value)) => value.to_str().unwrap_or(UNKNOWN_CONTENT).to_owned(),
            (None, None) => UNKNOWN_CONTENT.to_owned(),
        };
        let is_json = says_whole_json(&response);
        let (source, read) = if let Some(paging) = &call.paging {
            let (feed, source) = feed(None);
            let closed = feed.closed();
            let reading = feed_pages(response, call, paging, session, feed).boxed();
            (source, until_closed(closed, reading).boxed())
        } else {
            let body = Body::new(response, IDLE).and_then(Body::must_be_whole);
            let body = body.map_err(|broken| unusable(Unusable::Broken(broken)))?;
            let (feed, source) = feed(body.length);
            let closed = feed.closed();
            (source, until_closed(closed, feed_body(body, feed, is_json)).boxed())
        };
        let writing = store.write(target, job, &content_type, source, memory);
        let (read, written) = tokio::join!(read, writing);
        match (read, written) {
            (Err(Unread::Broken(broken)), _) => Err(unusable(Unusable::Broken(broken))),
            (Err(Unread::TooLarge), _) => Err(unusable(Unusable::LargeObject(MAX_OUTPUT_BYTES))),
            (Err(Unread::Page(verdict)), _) => Err(verdict),
            (Err(Unread::Bad(bad)), _) => Err(bad_page(&bad, http_status)),
            (_, Err(NotStored::Exists)) => Err(exists(call, target, http_status)),
            (_, Err(NotStored::Failed(why))) => Err(not_stored(call, &why, status)),
            (Err(Unread::Closed), Ok(_)) => {
                Err(not_stored(call, "the object was closed before its end", status))
            }
            (Ok(pages), Ok(stored)) => Ok(done(target, http_status, stored, pages)),
        }
    }
}

/// The answer to the call itself, not to one for a later page.
async fn first(call: &Call, session: &Session<'_>) -> Result<Response, Verdict> {
    send(session, call, &call.url, "`url`", &call.headers, &call.expect).await
}

/// The answer to the call for a later page.
async fn later(call: &Call, url: &Url, session: &Session<'_>) -> Result<Response, Verdict> {
    let mut headers = call.headers.clone();
    // They are about what the first page's URL had.
    for condition in [IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE] {
        headers.remove(condition);
    }
    match send(session, call, url, "the next page's URL", &headers, &[]).await {
        // It is the end of a job only where it answers the job's own conditions.
        Err(Verdict::Done { http_status, .. }) => {
            let reason = "the API says of a later page that it has not changed";
            Err(reject(reason.to_owned(), http_status))
        }
        other => other,
    }
}

/// All pages as the outcome's result.
async fn merge(call: &Call, paging: &Paging, session: &Session<'_>) -> Result<Verdict, Verdict> {
    let mut merged = Merged::new(paging);
    let response = first(call, session).await?;
    let http_status = Some(response.status().as_u16());
    let read = read_pages(response, call, paging, session, &mut merged, None).await;
    match read.and_then(|_| Ok(merged.finish()?)) {
        Ok(result) => Ok(Verdict::Done { http_status, result, warning: None }),
        Err(Unread::Page(verdict)) => Err(verdict),
        Err(Unread::Bad(bad)) => Err(bad_page(&bad, http_status)),
        Err(Unread::Broken(broken)) => {
            Err(Unusable::Broken(broken).verdict(call.repeatable, http_status))
        }
        Err(Unread::TooLarge | Unread::Closed) => unreachable!("nothing is fed"),
    }
}

/// Feeds the elements of all pages; how many pages there were.
async fn feed_pages(
    response: Response,
    call: &Call,
    paging: &Paging,
    session: &Session<'_>,
    mut feed: Feed,
) -> Result<Option<u32>, Unread> {
    let mut lines = Lines::new(paging);
    let pages = read_pages(response, call, paging, session, &mut lines, Some(&mut feed)).await?;
    lines.finish()?;
    feed.end().await?;
    Ok(Some(pages))
}

/// Reads the first page, which has begun to come, and all others; how many there were.
async fn read_pages(
    mut response: Response,
    call: &Call,
    paging: &Paging,
    session: &Session<'_>,
    collect: &mut (impl Collect + Send),
    mut feed: Option<&mut Feed>,
) -> Result<u32, Unread> {
    let mut pages = Pages::new(paging);
    loop {
        collect.begin_page();
        let token = read_page(response, paging, collect, feed.as_deref_mut()).await?;
        let Some(token) = pages.take(token)? else { return Ok(pages.count) };
        let url = paging.url(&call.url, &token);
        response = later(call, &url, session).await?;
    }
}

/// Reads one page as it comes: the token of the next.
async fn read_page(
    response: Response,
    paging: &Paging,
    collect: &mut (impl Collect + Send),
    mut feed: Option<&mut Feed>,
) -> Result<Option<Vec<u8>>, Unread> {
    let mut body = Body::new(response, IDLE)?;
    let (is_framed, mut is_empty) = (body.is_framed(), true);
    let mut reader = PageReader::new(paging.token_field());
    while let Some(piece) = body.next().await {
        reader.read(&piece?, collect)?;
        is_empty = false;
        if let Some(feed) = feed.as_deref_mut() {
            feed.push(&collect.take()).await?;
        }
    }
    // An end without a length may be anywhere, but before the first byte it is no page.
    if is_empty && !is_framed {
        return Err(Unread::Broken(Broken::Cut));
    }
    Ok(reader.end()?)
}

/// Why an answer was not read to its end.
enum Unread {
    Broken(Broken),
    TooLarge,
    /// The writer knows why.
    Closed,
    /// A later page was refused.
    Page(Verdict),
    /// What a page is.
    Bad(BadPage),
}

impl From<Broken> for Unread {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

impl From<BadPage> for Unread {
    fn from(bad: BadPage) -> Self {
        Self::Bad(bad)
    }
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

/// Feeds an answer, which must not end in the middle of its JSON.
async fn feed_body(mut body: Body, mut feed: Feed, is_json: bool) -> Result<Option<u32>, Unread> {
    let mut brackets = Brackets::default();
    while let Some(piece) = body.next().await {
        let piece = piece?;
        if is_json {
            brackets.read(&piece);
        }
        feed.push(&piece).await?;
    }
    if brackets.are_open() {
        return Err(Unread::Broken(Broken::Cut));
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

impl Handler for ApiHandler {
    fn handle<'a>(&'a self, job: &'a Job, session: &'a Session<'a>) -> BoxFuture<'a, Verdict> {
        async move {
            let verdict = match self.read(job, session) {
                Ok(call) => self.run(job, &call, session).await,
                Err(reason) => reject(reason, None),
            };
            by_session_alone(verdict)
        }
        .boxed()
    }
}
