//! An HTTP server that nobody can fill up: a request has so long to arrive, and of too many
//! connections those go that have been waiting longest without a request.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::response::{IntoResponse as _, Response};
use http::{Request, StatusCode};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustix::process::{Resource, getrlimit};
use shared::adapters::SystemClock;
use shared::ports::Clock as _;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service as _;
use tracing::warn;

/// A request's head, and then its body, have so long to arrive.
const ARRIVAL: Duration = Duration::from_secs(10);
/// A connection that has brought a request may be idle for so long: longer than load
/// balancers keep theirs, which must not find them closed.
const IDLE: Duration = Duration::from_secs(620);
/// No request to these servers is larger.
const LARGEST_BODY: usize = 64 * 1024;
/// More connections than this are not needed, and half of the descriptors are for other things.
const MOST: u64 = 1024;
const FEWEST: u64 = 16;
/// Pause after a connection could not be accepted, for want of descriptors mostly.
const PAUSE: Duration = Duration::from_millis(50);

/// Where connections come from.
pub(crate) trait Listener: Send {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection, and the peer's address if it has one. Cancel safe.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Option<SocketAddr>)>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<(TcpStream, Option<SocketAddr>)> {
        self.accept().await.map(|(stream, peer)| (stream, Some(peer)))
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<(UnixStream, Option<SocketAddr>)> {
        self.accept().await.map(|(stream, _)| (stream, None))
    }
}

/// Serves `routes` until `stop`, then ends what is under way. Handlers find the peer's address
/// as [`ConnectInfo`], if it has one.
///
/// # Errors
/// None at present: a failure to accept is waited past.
pub(crate) async fn serve(
    listener: impl Listener,
    routes: Router,
    stop: CancellationToken,
) -> io::Result<()> {
    let connections = Arc::new(Connections::new(most_connections()));
    let tasks = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.next() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(open) = connections.admit() else { continue };
                let serving = connection(stream, peer, routes.clone(), open, stop.clone());
                let connections = Arc::clone(&connections);
                tasks.spawn(async move {
                    let id = serving.await;
                    connections.gone(id);
                });
            }
            Err(error) => {
                warn!(%error, "a connection cannot be accepted");
                connections.make_room();
                SystemClock::default().sleep(PAUSE).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
    Ok(())
}

fn most_connections() -> usize {
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(2 * MOST);
    usize::try_from((descriptors / 2).clamp(FEWEST, MOST)).unwrap_or(usize::MAX)
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// Bringing a request, or about to bring its first one.
    Arriving,
    /// Having a request answered.
    Busy,
    /// Waiting for the next request.
    Idle,
}

/// One open connection.
#[derive(Debug, Clone)]
struct Open {
    id: u64,
    doing: watch::Sender<Doing>,
    close: CancellationToken,
}

/// The open connections, oldest first.
#[derive(Debug)]
struct Connections {
    most: usize,
    open: Mutex<(u64, BTreeMap<u64, Open>)>,
}

impl Connections {
    fn new(most: usize) -> Self {
        Self { most, open: Mutex::default() }
    }

    /// Takes one more, if need be in the place of one that is not being answered; `None` when
    /// there is none such.
    fn admit(&self) -> Option<Open> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (next, all) = &mut *open;
        if all.len() >= self.most && !close_one(all) {
            return None;
        }
        *next += 1;
        let (doing, close) = (watch::Sender::new(Doing::Arriving), CancellationToken::new());
        let admitted = Open { id: *next, doing, close };
        all.insert(admitted.id, admitted.clone());
        Some(admitted)
    }

    fn make_room(&self) {
        close_one(&mut self.open.lock().unwrap_or_else(PoisonError::into_inner).1);
    }

    fn gone(&self, id: u64) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).1.remove(&id);
    }
}

/// Closes the oldest connection that brings no request to an end, or else the oldest idle one.
fn close_one(all: &mut BTreeMap<u64, Open>) -> bool {
    let oldest = |doing: Doing| all.values().find(|open| *open.doing.borrow() == doing);
    let Some(id) = oldest(Doing::Arriving).or_else(|| oldest(Doing::Idle)).map(|open| open.id)
    else {
        return false;
    };
    if let Some(open) = all.remove(&id) {
        open.close.cancel();
    }
    true
}

/// Serves one connection to its end; its ID.
async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Option<SocketAddr>,
    routes: Router,
    open: Open,
    stop: CancellationToken,
) -> u64 {
    let doing = open.doing.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (routes, doing) = (routes.clone(), doing.clone());
        async move {
            let response = answer(request, peer, routes, &doing).await;
            doing.send_replace(Doing::Idle);
            Ok::<_, Infallible>(response)
        }
    });
    let watched = Watched { stream, doing: open.doing.clone() };
    let connection = http1::Builder::new().serve_connection(TokioIo::new(watched), service);
    let mut connection = std::pin::pin!(connection);
    let mut stopping = false;
    let too_long = too_long(open.doing.subscribe());
    let mut too_long = std::pin::pin!(too_long);
    loop {
        tokio::select! {
            // What went wrong is the peer's business.
            _ended = connection.as_mut() => break,
            () = open.close.cancelled() => break,
            () = too_long.as_mut() => break,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
    open.id
}

async fn answer(
    request: Request<Incoming>,
    peer: Option<SocketAddr>,
    mut routes: Router,
    doing: &watch::Sender<Doing>,
) -> Response {
    let (mut head, body) = request.into_parts();
    let too_large = body.size_hint().lower() > LARGEST_BODY as u64;
    if too_large {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    }
    // While the body arrives, the connection may still be closed for taking too long.
    let Ok(body) = to_bytes(Body::new(body), LARGEST_BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    doing.send_replace(Doing::Busy);
    if let Some(peer) = peer {
        head.extensions.insert(ConnectInfo(peer));
    }
    let Ok(response) = routes.call(Request::from_parts(head, Body::from(body))).await;
    response
}

/// Ends when the connection has been doing one thing for too long.
async fn too_long(mut doing: watch::Receiver<Doing>) {
    loop {
        let limit = match *doing.borrow_and_update() {
            Doing::Arriving => ARRIVAL,
            Doing::Idle => IDLE,
            Doing::Busy => Duration::MAX,
        };
        match tokio::time::timeout(limit, doing.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// A stream whose idle end is noticed: the first byte of the next request.
struct Watched<S> {
    stream: S,
    doing: watch::Sender<Doing>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, into);
        if into.filled().len() > before {
            self.doing.send_if_modified(|doing| {
                let begins = *doing == Doing::Idle;
                if begins {
                    *doing = Doing::Arriving;
                }
                begins
            });
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        content: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, content)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn start() -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let routes = Router::new().route(
            "/",
            get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.ip().to_string())
                .post(async |body: bytes::Bytes| body),
        );
        let serving = tokio::spawn(serve(listener, routes, stop.clone()));
        (address, stop, serving)
    }

    /// The whole answer; the connection closes after it.
    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    const GET: &str = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

    /// More half-sent requests than connections are allowed: the next request is answered at
    /// once, since the oldest of them are closed for it.
    #[tokio::test]
    async fn half_sent_requests_keep_nobody_out() {
        let (address, stop, serving) = start().await;
        let most = most_connections();
        assert!(most >= 16, "{most}");
        let mut half = Vec::new();
        for n in 0..most.min(300) {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let part = if n % 2 == 0 {
                "GET / HTTP/1.1\r\nhost: x\r\n"
            } else {
                "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nx"
            };
            stream.write_all(part.as_bytes()).await.unwrap();
            half.push(stream);
        }
        assert!(ask(address, GET).await.ends_with("127.0.0.1"));
        stop.cancel();
        drop(half);
        serving.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn of_too_many_the_oldest_that_bring_nothing_are_closed() {
        let connections = Connections::new(2);
        let first = connections.admit().unwrap();
        let second = connections.admit().unwrap();
        first.doing.send_replace(Doing::Busy);
        second.doing.send_replace(Doing::Idle);
        let third = connections.admit().unwrap();
        assert!(second.close.is_cancelled() && !first.close.is_cancelled());
        third.doing.send_replace(Doing::Busy);
        assert!(connections.admit().is_none(), "both are being answered");
        connections.gone(third.id);
        assert!(connections.admit().is_some());
    }

    /// With a clock that jumps to the next deadline whenever nothing else is left to do.
    #[tokio::test(start_paused = true)]
    async fn what_arrives_too_slowly_is_closed() {
        for (doing, limit) in [(Doing::Arriving, ARRIVAL), (Doing::Idle, IDLE)] {
            let sender = watch::Sender::new(doing);
            let began = tokio::time::Instant::now();
            too_long(sender.subscribe()).await;
            assert_eq!(began.elapsed(), limit);
        }
        let sender = watch::Sender::new(Doing::Busy);
        let watching = tokio::spawn(too_long(sender.subscribe()));
        tokio::time::advance(IDLE * 10).await;
        assert!(!watching.is_finished(), "a handler has its own limits");
    }

    #[tokio::test]
    async fn bodies_are_small() {
        let (address, _stop, _serving) = start().await;
        let request = format!(
            "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            LARGEST_BODY + 1
        );
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 413");
        let small =
            "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
        assert!(ask(address, small).await.ends_with("ok"));
    }
}
