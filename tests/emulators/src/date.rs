//! The `Date` header, by which clients check their own clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::HeaderValue;
use http::header::DATE;
use jiff::Timestamp;

/// What a server's wall clock says: the time, off by so many seconds.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServerDate {
    skew: Arc<AtomicI64>,
}

impl ServerDate {
    /// Answers from now on are dated so many seconds ahead, or behind if negative.
    pub(crate) fn set_skew(&self, seconds: i64) {
        self.skew.store(seconds, Ordering::Relaxed);
    }

    fn header(&self) -> Option<HeaderValue> {
        HeaderValue::try_from(httpdate::fmt_http_date(self.time()?)).ok()
    }

    fn time(&self) -> Option<SystemTime> {
        #[expect(clippy::disallowed_methods, reason = "the adapter: answers carry wall time")]
        let now = SystemTime::now();
        let skew = self.skew.load(Ordering::Relaxed);
        let by = Duration::from_secs(skew.unsigned_abs());
        if skew < 0 { now.checked_sub(by) } else { now.checked_add(by) }
    }

    /// What it says now.
    pub(crate) fn now(&self) -> Timestamp {
        self.time().and_then(|time| Timestamp::try_from(time).ok()).unwrap_or_default()
    }
}

/// Dates an answer; the server underneath leaves a header that is there alone.
pub(crate) async fn dated(
    State(date): State<ServerDate>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = next.run(request).await;
    if let Some(header) = date.header() {
        response.headers_mut().insert(DATE, header);
    }
    response
}
