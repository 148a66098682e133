//! What stands for Google's front ends: TLS 1.3 and HTTP/2 with 100 requests at once on a
//! connection, HTTP/1.1 for clients that know no other.
//!
//! It is every API that jobs call, and Cloud Storage: what is no call of a bench goes on to the
//! emulator. Its certificate is of an authority that is made for the run; clients are told of it
//! as of any private one, by a file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use axum::body::Body;
use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use shared::adapters::SystemClock;
use shared::ports::Clock as _;
use tests::tls::Tls;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Pages of a list, and what each of them has.
const PAGES: usize = 3;
const ELEMENTS: usize = 100;
/// The answer that becomes an object.
pub(crate) const UPLOAD: usize = 5_000_000;
/// An answer whose object's upload stalls.
const STALLED: usize = 32 << 20;
/// The bucket that takes nothing.
pub(crate) const STALLED_BUCKET: &str = "stalled";

/// What has no descriptor left has one again when a connection ends.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A running server. Dropping it cuts its connections.
pub(crate) struct Front {
    address: SocketAddr,
    authority: PathBuf,
    seen: Arc<Seen>,
    _stop: DropGuard,
}

/// What was asked of it.
#[derive(Debug, Default)]
struct Seen {
    calls: AtomicU64,
    stalled: AtomicU64,
    more: Notify,
}

struct Backend {
    storage: Authority,
    client: Client<HttpConnector, Incoming>,
    body: Bytes,
    large: Bytes,
    pages: [Bytes; PAGES],
    seen: Arc<Seen>,
}

impl Front {
    /// Starts it before the storage emulator at this origin; the file of its authority's
    /// certificate goes into `folder`.
    pub(crate) async fn start(storage: &str, folder: &Path) -> anyhow::Result<Self> {
        let authority = folder.join("authority.pem");
        let tls = Tls::of_private_authority(&authority)?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let storage: Uri = storage.parse()?;
        let seen = Arc::<Seen>::default();
        // A request's body would wait for the acknowledgement of its head, which is 40 ms late.
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let backend = Arc::new(Backend {
            storage: storage.authority().context("an origin has an authority")?.clone(),
            client: Client::builder(TokioExecutor::new()).build(connector),
            body: vec![b'7'; UPLOAD].into(),
            large: vec![b'7'; STALLED].into(),
            pages: std::array::from_fn(page),
            seen: Arc::clone(&seen),
        });
        let stop = CancellationToken::new();
        let ended = stop.clone();
        tokio::spawn(async move {
            let accepting = async {
                loop {
                    let connection = match listener.accept().await {
                        Ok((connection, _)) => connection,
                        Err(error) => {
                            crate::say(&format!("the front end takes no connection: {error}"));
                            SystemClock::default().sleep(ACCEPT_AGAIN).await;
                            continue;
                        }
                    };
                    let (tls, backend) = (tls.clone(), Arc::clone(&backend));
                    let answer = move |request| {
                        let backend = Arc::clone(&backend);
                        async move { backend.answer(request).await }
                    };
                    let serving = async move { tls.serve(connection, answer).await };
                    tokio::spawn(ended.clone().run_until_cancelled_owned(serving));
                }
            };
            ended.run_until_cancelled(accepting).await;
        });
        Ok(Self { address, authority, seen, _stop: stop.drop_guard() })
    }

    pub(crate) fn origin(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The PEM file by which clients know the authority.
    pub(crate) fn authority(&self) -> &Path {
        &self.authority
    }

    /// Calls of APIs so far; what is asked of storage is none.
    pub(crate) fn calls(&self) -> u64 {
        self.seen.calls.load(Ordering::Acquire)
    }

    /// Waits until so many calls have come.
    pub(crate) async fn await_calls(&self, calls: u64) {
        self.seen.until(|seen| seen.calls.load(Ordering::Acquire) >= calls).await;
    }

    /// Waits until so many uploads have stalled.
    pub(crate) async fn await_stalled(&self, uploads: u64) {
        self.seen.until(|seen| seen.stalled.load(Ordering::Acquire) >= uploads).await;
    }

    /// Uploads that have stalled so far.
    pub(crate) fn stalled(&self) -> u64 {
        self.seen.stalled.load(Ordering::Acquire)
    }
}

impl Seen {
    async fn until(&self, condition: impl Fn(&Self) -> bool) {
        loop {
            let more = self.more.notified();
            let mut more = std::pin::pin!(more);
            more.as_mut().enable();
            if condition(self) {
                return;
            }
            more.await;
        }
    }

    fn count(&self, what: &AtomicU64) {
        what.fetch_add(1, Ordering::AcqRel);
        self.more.notify_waiters();
    }
}

impl Backend {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path();
        let Some(call) = path.strip_prefix("/bench/") else {
            if path.starts_with(&format!("/upload/storage/v1/b/{STALLED_BUCKET}/")) {
                self.seen.count(&self.seen.stalled);
                // The request is kept, and with it all that it holds on to.
                std::future::pending::<()>().await;
            }
            return self.storage(request).await;
        };
        let bearer = request.headers().get("authorization").map(http::HeaderValue::as_bytes);
        if !bearer.is_some_and(|value| value.starts_with(b"Bearer ") && value.len() > 7) {
            return plain(StatusCode::UNAUTHORIZED, Bytes::new());
        }
        let query = request.uri().query().unwrap_or_default();
        let value = |name: &str| {
            let pairs = url::form_urlencoded::parse(query.as_bytes());
            pairs.into_iter().find(|(key, _)| key == name).and_then(|(_, value)| value.parse().ok())
        };
        self.seen.count(&self.seen.calls);
        match call {
            "call" => {
                let wait = value("ms").unwrap_or(0);
                if wait > 0 {
                    SystemClock::default().sleep(Duration::from_millis(wait as u64)).await;
                }
                plain(StatusCode::OK, Bytes::from_static(ANSWER))
            }
            "pages" => {
                let page = value("pageToken").unwrap_or(0);
                self.pages.get(page).map_or_else(
                    || plain(StatusCode::BAD_REQUEST, Bytes::new()),
                    |page| plain(StatusCode::OK, page.clone()),
                )
            }
            "bytes" => plain(StatusCode::OK, self.body.clone()),
            "large" => plain(StatusCode::OK, self.large.clone()),
            _ => plain(StatusCode::NOT_FOUND, Bytes::new()),
        }
    }

    /// Hands a request on to the emulator, bodies as they come.
    async fn storage(&self, request: Request<Incoming>) -> Response<Body> {
        let (mut head, body) = request.into_parts();
        let mut uri = std::mem::take(&mut head.uri).into_parts();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(self.storage.clone());
        head.uri = Uri::from_parts(uri).unwrap_or_default();
        head.version = http::Version::HTTP_11;
        head.headers.remove("host");
        match self.client.request(Request::from_parts(head, body)).await {
            Ok(answer) => {
                let (mut head, body) = answer.into_parts();
                // Of one connection alone; HTTP/2 knows none of them.
                for name in ["connection", "keep-alive", "transfer-encoding"] {
                    head.headers.remove(name);
                }
                head.version = http::Version::default();
                Response::from_parts(head, Body::new(body))
            }
            Err(_) => plain(StatusCode::BAD_GATEWAY, Bytes::new()),
        }
    }
}

/// About as long as a small answer of Google's APIs.
const ANSWER: &[u8] = br#"{"kind":"bench#resource","id":"7f3c2a91-5f0e-4b7e-9d2c-1f6a8e3b4c5d","etag":"\"3-x1Yz\"","name":"a resource","status":"ready","updated":"2026-11-29T12:00:00Z"}"#;

fn plain(status: StatusCode, body: Bytes) -> Response<Body> {
    let mut answer = Response::new(Body::from(body));
    *answer.status_mut() = status;
    let json = http::HeaderValue::from_static("application/json");
    answer.headers_mut().insert("content-type", json);
    answer
}

fn page(number: usize) -> Bytes {
    let element = |at| {
        serde_json::json!({
            "id": format!("item-{number}-{at}"), "name": "an element of a list of some length",
            "updated": "2026-11-29T12:00:00Z", "size": 4096 + at,
        })
    };
    let items: Vec<_> = (0..ELEMENTS).map(element).collect();
    let mut page = serde_json::json!({"kind": "bench#list", "items": items});
    if number + 1 < PAGES {
        page["nextPageToken"] = (number + 1).to_string().into();
    }
    page.to_string().into()
}
