//! Carries spans to the collector, over the HTTP and TLS stack of everything else.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use tokio::runtime::Handle;
use tracing::{info, warn};

/// The most of a collector's answer that is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// The collector. The exporter's thread waits here; requests run on the runtime.
#[derive(Clone)]
pub(super) struct Collector(Arc<Inner>);

struct Inner {
    http: reqwest::Client,
    runtime: Handle,
    failing: AtomicBool,
}

impl Collector {
    /// `timeout` bounds one export.
    pub(super) fn new(runtime: Handle, timeout: Duration) -> Result<Self, String> {
        let http = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(timeout)
            .user_agent(concat!("fleet/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| format!("TLS cannot be set up: {e}"))?;
        Ok(Self(Arc::new(Inner { http, runtime, failing: AtomicBool::new(false) })))
    }
}

impl Inner {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // The address only: a URL may have a password in it.
        let host = request.uri().authority().map(|a| a.host().to_owned()).unwrap_or_default();
        let answer = self.exchange(request).await;
        let trouble = match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answers with HTTP status {}", answer.status().as_u16())),
            Err(error) if error.is_timeout() => Some("it did not answer in time".to_owned()),
            Err(error) if error.is_connect() => Some("it cannot be reached".to_owned()),
            Err(_) => Some("the connection broke".to_owned()),
        };
        // Told when it changes, not every few seconds.
        match trouble {
            Some(why) if !self.failing.swap(true, Ordering::Relaxed) => warn!(
                "traces are dropped: the collector {host} takes none, {why}. Check OTEL_EXPORTER_OTLP_ENDPOINT; jobs go on"
            ),
            None if self.failing.swap(false, Ordering::Relaxed) => {
                info!("the collector {host} takes traces again");
            }
            _ => {}
        }
        Ok(answer?)
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, reqwest::Error> {
        let (parts, body) = request.into_parts();
        let mut answer = self
            .http
            .request(parts.method, parts.uri.to_string())
            .headers(parts.headers)
            .body(body)
            .send()
            .await?;
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = answer.status();
        *response.headers_mut() = std::mem::take(answer.headers_mut());
        let mut read = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            read.extend_from_slice(&chunk);
            if read.len() > MAX_ANSWER {
                // Only its beginning could be of interest.
                read.clear();
                break;
            }
        }
        *response.body_mut() = read.into();
        Ok(response)
    }
}

impl HttpClient for Collector {
    fn send_bytes<'life, 'sent>(
        &'life self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'sent>>
    where
        'life: 'sent,
        Self: 'sent,
    {
        let inner = Arc::clone(&self.0);
        let sending = self.0.runtime.spawn(async move { inner.send(request).await });
        Box::pin(async move { sending.await? })
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Collector")
    }
}
