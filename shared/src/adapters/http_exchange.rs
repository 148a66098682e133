//! One HTTP exchange with a token or revocation endpoint.
//!
//! Two questions decide what may be done after a failure, and `reqwest` alone answers
//! neither: whether any of the request was sent, and whether an answer has arrived.
//!
//! - The request's body says when it is first asked for. That is after the connection is
//!   made, so a request whose body was never asked for spent no refresh token.
//! - The limits are ours. A process that was frozen finds an answer in its socket and its
//!   timer run out, both: the exchange is looked at first, and once more for a second
//!   after the timer, so that whoever reads the socket gets its turn.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::io::Read as _;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http_body::{Body, Frame, SizeHint};
use oauth2::{HttpRequest, HttpResponse};

use super::system::SystemClock;
use crate::endpoint_answer::{LONGEST_RETRY_AFTER, MAX_ANSWER_BYTES, Reply, retry_after};
use crate::ports::{Clock as _, EndpointError, Limits, Resend};

/// How long an exchange is looked at after its timer has run out.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// The HTTP client for token endpoints and APIs: identifies itself as `user_agent` and
/// follows no redirect (a redirect must not carry a secret elsewhere).
///
/// A pooled connection that a server or a middlebox has forgotten would lose an answer:
/// idle ones are kept for 10 s, and one that the other side does not acknowledge is given
/// up after 10 s. No HTTP/2 ping ends a connection on which an answer is late.
///
/// Answers that are not read fill no connection for others: of each 512 KiB may be under way,
/// and 100 of them, as many as Google's front ends send at once, fit into a connection's 64 MiB.
///
/// # Errors
/// When the TLS configuration of the system cannot be loaded.
pub fn http_client(user_agent: &str) -> Result<reqwest::Client, reqwest::Error> {
    http_client_builder(user_agent).build()
}

/// The same, for settings of the caller's own, such as a certificate authority.
pub fn http_client_builder(user_agent: &str) -> reqwest::ClientBuilder {
    let builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(5))
        .pool_idle_timeout(Duration::from_secs(10))
        .tcp_keepalive(Duration::from_secs(10))
        .tcp_keepalive_interval(Duration::from_secs(5))
        .http2_initial_stream_window_size(512 * 1024)
        .http2_initial_connection_window_size(64 * 1024 * 1024)
        .user_agent(user_agent);
    #[cfg(target_os = "linux")]
    let builder = builder.tcp_user_timeout(Duration::from_secs(10));
    builder
}

/// What came of an exchange. It is an error to `oauth2`, which builds requests here and
/// never sees an answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    #[error("an answer came")]
    Answered(Answered),
    #[error("not reached: {0}")]
    NotReached(String),
    #[error("the answer was lost: {0}")]
    Lost(String),
}

/// An answer, decompressed.
#[derive(Debug)]
pub(super) struct Answered {
    status: u16,
    retry_after: Option<Duration>,
    body: Vec<u8>,
    incomplete: bool,
}

impl Ended {
    /// The answer of the endpoint at `from`.
    pub(super) fn reply<'a>(&'a self, from: &'a str) -> Result<Reply<'a>, EndpointError> {
        match self {
            Self::Answered(answered) => Ok(Reply {
                from,
                status: answered.status,
                retry_after: answered.retry_after,
                body: &answered.body,
                incomplete: answered.incomplete,
            }),
            Self::NotReached(why) => {
                Err(EndpointError::NotReached(format!("{from}: {why}").into()))
            }
            Self::Lost(why) => Err(EndpointError::Ambiguous {
                why: format!("{from}: {why}").into(),
                resend_after: Resend::Soon,
            }),
        }
    }
}

/// [`exchange`] as `oauth2` wants to send its requests.
pub(super) async fn exchange_for_oauth2(
    http: reqwest::Client,
    request: HttpRequest,
    limits: Limits,
) -> Result<HttpResponse, Ended> {
    Err(exchange(http, request, limits).await)
}

/// Sends `request` and waits for its whole answer within `limits`.
///
/// Dropping it loses the answer.
pub(super) async fn exchange(http: reqwest::Client, request: HttpRequest, limits: Limits) -> Ended {
    let sent = Arc::new(AtomicBool::new(false));
    let (parts, content) = request.into_parts();
    let body = Watched { content: Some(content.into()), sent: Arc::clone(&sent) };
    let sending = http
        .request(parts.method, parts.uri.to_string())
        .headers(parts.headers)
        .body(reqwest::Body::wrap(body));
    let was_sent = || sent.load(Ordering::Relaxed);
    let failed = |error| failure(error, was_sent());
    let work = async {
        let response = sending.send().await.map_err(failed)?;
        Ok(read(response).await)
    };
    match within(work, was_sent, limits).await {
        Some(Ok(answered)) => Ended::Answered(answered),
        Some(Err(ended)) => ended,
        None if was_sent() => Ended::Lost(format!("no answer within {:?}", limits.answer)),
        None => Ended::NotReached(format!("no connection within {:?}", limits.connect)),
    }
}

/// Waits for `work`: for a connection as long as the limits say, and once the request was
/// sent for the answer.
async fn within<T>(
    work: impl Future<Output = T>,
    was_sent: impl Fn() -> bool,
    limits: Limits,
) -> Option<T> {
    let mut work = pin!(work);
    if let Some(done) = look(work.as_mut(), limits.connect).await {
        return Some(done);
    }
    if !was_sent() {
        let done = look(work.as_mut(), LAST_LOOK).await;
        if done.is_some() || !was_sent() {
            return done;
        }
    }
    let left = limits.answer.saturating_sub(limits.connect);
    if let Some(done) = look(work.as_mut(), left).await {
        return Some(done);
    }
    look(work, LAST_LOOK).await
}

/// The result of `work` if it comes within `limit`. Whatever woke this task, the work is
/// looked at before the timer.
async fn look<T>(work: Pin<&mut impl Future<Output = T>>, limit: Duration) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = SystemClock::default().sleep(limit) => None,
    }
}

async fn read(mut response: reqwest::Response) -> Answered {
    let status = response.status().as_u16();
    let now = SystemClock::default().wall();
    let retry_after = retry_after(response.headers(), LONGEST_RETRY_AFTER, Some(now));
    let mut body = Vec::new();
    let mut incomplete = false;
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() <= MAX_ANSWER_BYTES => {
                body.extend_from_slice(&chunk);
            }
            Ok(None) => break,
            Ok(Some(_)) | Err(_) => {
                incomplete = true;
                break;
            }
        }
    }
    if body.starts_with(&[0x1f, 0x8b]) {
        (body, incomplete) = unzipped(&body, incomplete);
    }
    Answered { status, retry_after, body, incomplete }
}

/// Some servers compress unasked, with or without saying so.
fn unzipped(body: &[u8], mut incomplete: bool) -> (Vec<u8>, bool) {
    let mut plain = Vec::new();
    let longest = MAX_ANSWER_BYTES as u64 + 1;
    if MultiGzDecoder::new(body).take(longest).read_to_end(&mut plain).is_err() {
        incomplete = true;
    }
    if plain.len() > MAX_ANSWER_BYTES {
        plain.truncate(MAX_ANSWER_BYTES);
        incomplete = true;
    }
    (plain, incomplete)
}

/// Why there is no answer. The URL is left out since the caller names it.
fn failure(error: reqwest::Error, sent: bool) -> Ended {
    let error = error.without_url();
    let mut cause: &(dyn StdError + 'static) = &error;
    let mut refused = false;
    while let Some(inner) = cause.source() {
        cause = inner;
        refused |= cause.downcast_ref::<h2::Error>().is_some_and(was_refused);
    }
    let text = cause.to_string();
    if !sent || refused || error.is_connect() || error.is_builder() {
        Ended::NotReached(text)
    } else {
        Ended::Lost(text)
    }
}

/// The server says that it has not processed the request (RFC 9113, section 8.7): it
/// refused the stream, or went away before it came to it.
fn was_refused(error: &h2::Error) -> bool {
    let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (error.is_go_away() || refused)
}

/// A request's body that says when it was first asked for.
struct Watched {
    content: Option<Bytes>,
    sent: Arc<AtomicBool>,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.sent.store(true, Ordering::Relaxed);
        Poll::Ready(self.content.take().map(|content| Ok(Frame::data(content))))
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.content.as_ref().map_or(0, Bytes::len) as u64)
    }
}

#[cfg(test)]
mod tests;
