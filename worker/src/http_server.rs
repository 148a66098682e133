//! An HTTP server that nobody can fill up: a request has so long to arrive and an answer to be
//! taken, and of too many connections the one goes that has been waiting for its peer longest.
//! Nor does anybody hold up its end: whatever is not being answered by then is soon closed.

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
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service as _;
use tracing::warn;

/// A request's head, and then its body, have so long to arrive, and each part of an answer to be
/// taken.
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

/// Serves `routes` until `stop`, then ends what is under way: handlers are awaited, and peers
/// get [`ARRIVAL`] for the rest. Handlers find the peer's address as [`ConnectInfo`], if it has
/// one.
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
    /// Waiting for its peer to take the answer.
    Leaving,
    /// Waiting for the next request.
    Idle,
}

impl Doing {
    /// How long it may last.
    fn limit(self) -> Duration {
        match self {
            Self::Arriving | Self::Leaving => ARRIVAL,
            Self::Idle => IDLE,
            Self::Busy => Duration::MAX,
        }
    }
}

/// What a connection is doing, and since when.
#[derive(Debug, Clone)]
struct Conduct(watch::Sender<(Doing, Instant)>);

impl Conduct {
    fn new() -> Self {
        Self(watch::Sender::new((Doing::Arriving, Instant::now())))
    }

    fn now(&self) -> (Doing, Instant) {
        *self.0.borrow()
    }

    fn begin(&self, next: Doing) {
        self.0.send_replace((next, Instant::now()));
    }

    /// Begins `next` if it is doing `before`.
    fn go_on(&self, before: Doing, next: Doing) {
        self.0.send_if_modified(|(doing, since)| {
            let goes_on = *doing == before;
            if goes_on {
                (*doing, *since) = (next, Instant::now());
            }
            goes_on
        });
    }
}

/// One open connection.
#[derive(Debug, Clone)]
struct Open {
    id: u64,
    conduct: Conduct,
    close: CancellationToken,
}

/// The open connections.
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
        let (conduct, close) = (Conduct::new(), CancellationToken::new());
        let admitted = Open { id: *next, conduct, close };
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

/// Closes the connection that has been waiting for its peer longest. A visitor who has just come
/// is the last to go, so that neither idle connections nor half-sent requests keep anybody out.
fn close_one(all: &mut BTreeMap<u64, Open>) -> bool {
    let waiting = all.values().filter(|open| open.conduct.now().0 != Doing::Busy);
    let Some(id) = waiting.min_by_key(|open| open.conduct.now().1).map(|open| open.id) else {
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
    let conduct = open.conduct.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let (routes, conduct) = (routes.clone(), conduct.clone());
        async move {
            let response = answer(request, peer, routes, &conduct).await;
            conduct.begin(Doing::Idle);
            Ok::<_, Infallible>(response)
        }
    });
    let watched = Watched { stream, conduct: open.conduct.clone() };
    let connection = http1::Builder::new().serve_connection(TokioIo::new(watched), service);
    let mut connection = std::pin::pin!(connection);
    let mut stopping = false;
    let mut too_long = std::pin::pin!(too_long(open.conduct.0.subscribe()));
    let mut too_late = std::pin::pin!(too_late(open.conduct.0.subscribe(), &stop));
    loop {
        tokio::select! {
            // What went wrong is the peer's business.
            _ended = connection.as_mut() => break,
            () = open.close.cancelled() => break,
            () = too_long.as_mut() => break,
            () = too_late.as_mut() => break,
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
    conduct: &Conduct,
) -> Response {
    // A head that came along with the request before it was read from a buffer, and not noticed.
    conduct.begin(Doing::Arriving);
    let (mut head, body) = request.into_parts();
    let too_large = body.size_hint().lower() > LARGEST_BODY as u64;
    if too_large {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    }
    // While the body arrives, the connection may still be closed for taking too long.
    let Ok(body) = to_bytes(Body::new(body), LARGEST_BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    conduct.begin(Doing::Busy);
    if let Some(peer) = peer {
        head.extensions.insert(ConnectInfo(peer));
    }
    let Ok(response) = routes.call(Request::from_parts(head, Body::from(body))).await;
    response
}

/// Ends when the connection has been doing one thing for too long.
async fn too_long(mut conduct: watch::Receiver<(Doing, Instant)>) {
    loop {
        let limit = conduct.borrow_and_update().0.limit();
        match tokio::time::timeout(limit, conduct.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// Ends once `stop` is long past and the connection has no request answered: a peer that brings
/// or takes a little now and then would otherwise hold up the end of the server.
async fn too_late(mut conduct: watch::Receiver<(Doing, Instant)>, stop: &CancellationToken) {
    stop.cancelled().await;
    loop {
        let begins = conduct.wait_for(|(doing, _)| *doing == Doing::Busy);
        if tokio::time::timeout(ARRIVAL, begins).await.is_err() {
            return;
        }
        if conduct.wait_for(|(doing, _)| *doing != Doing::Busy).await.is_err() {
            return;
        }
    }
}

/// A stream that notices the first byte of the next request, and a peer that does not take its
/// answer.
struct Watched<S> {
    stream: S,
    conduct: Conduct,
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
            self.conduct.go_on(Doing::Idle, Doing::Arriving);
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
        let polled = Pin::new(&mut self.stream).poll_write(context, content);
        match polled {
            Poll::Pending => self.conduct.go_on(Doing::Idle, Doing::Leaving),
            Poll::Ready(_) => self.conduct.go_on(Doing::Leaving, Doing::Idle),
        }
        polled
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
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::task::JoinHandle;

    use super::*;

    fn routes() -> Router {
        Router::new().route(
            "/",
            get(async |ConnectInfo(peer): ConnectInfo<SocketAddr>| peer.ip().to_string())
                .post(async |body: bytes::Bytes| body),
        )
    }

    async fn start() -> (SocketAddr, CancellationToken, JoinHandle<io::Result<()>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, routes(), stop.clone()));
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

    #[tokio::test(start_paused = true)]
    async fn of_too_many_the_one_that_has_waited_longest_is_closed() {
        let connections = Connections::new(3);
        let [first, second, third] = [(); 3].map(|()| connections.admit().unwrap());
        second.conduct.begin(Doing::Busy);
        tokio::time::advance(Duration::from_secs(1)).await;
        third.conduct.begin(Doing::Leaving);
        tokio::time::advance(Duration::from_secs(1)).await;
        first.conduct.begin(Doing::Idle);
        tokio::time::advance(Duration::from_secs(1)).await;
        let visitor = connections.admit().unwrap();
        assert!(third.close.is_cancelled() && !first.close.is_cancelled());
        connections.admit().unwrap();
        assert!(first.close.is_cancelled(), "the idle one goes");
        assert!(!visitor.close.is_cancelled(), "and not whoever has just come");
    }

    #[tokio::test]
    async fn what_is_being_answered_is_not_closed_for_another() {
        let connections = Connections::new(1);
        let first = connections.admit().unwrap();
        first.conduct.begin(Doing::Busy);
        assert!(connections.admit().is_none());
        connections.gone(first.id);
        assert!(connections.admit().is_some());
    }

    /// A connection through which so many bytes fit at once.
    fn connect(room: usize, stop: &CancellationToken) -> (DuplexStream, JoinHandle<u64>) {
        let (ours, theirs) = tokio::io::duplex(room);
        let open = Connections::new(1).admit().unwrap();
        let peer = Some(SocketAddr::from(([127, 0, 0, 1], 9)));
        (ours, tokio::spawn(connection(theirs, peer, routes(), open, stop.clone())))
    }

    const ANOTHER: &str = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";

    /// Its head comes along with a whole request, so that nothing is read when it begins.
    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_arrive_is_noticed_behind_another_request() {
        for stops in [false, true] {
            let stop = CancellationToken::new();
            let (mut peer, serving) = connect(4096, &stop);
            let half = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nx";
            peer.write_all(format!("{ANOTHER}{half}").as_bytes()).await.unwrap();
            let mut answer = [0; 12];
            peer.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"HTTP/1.1 200");
            let began = Instant::now();
            if stops {
                stop.cancel();
            }
            serving.await.unwrap();
            assert_eq!(began.elapsed(), ARRIVAL, "{stops}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_is_not_waited_with() {
        let (mut peer, serving) = connect(64, &CancellationToken::new());
        peer.write_all(ANOTHER.as_bytes()).await.unwrap();
        let began = Instant::now();
        serving.await.unwrap();
        assert_eq!(began.elapsed(), ARRIVAL);
    }

    /// It takes a byte now and then, which is progress and no reason to stay.
    #[tokio::test(start_paused = true)]
    async fn a_peer_that_is_slow_does_not_hold_up_the_end() {
        let stop = CancellationToken::new();
        let (mut peer, serving) = connect(64, &stop);
        peer.write_all(ANOTHER.as_bytes()).await.unwrap();
        peer.read_u8().await.unwrap();
        stop.cancel();
        let began = Instant::now();
        let taking = async {
            loop {
                peer.read_u8().await.unwrap();
                tokio::time::advance(ARRIVAL / 2).await;
            }
        };
        tokio::select! {
            biased;
            ended = serving => drop(ended.unwrap()),
            () = taking => {}
        }
        assert!(began.elapsed() <= ARRIVAL * 2, "{:?}", began.elapsed());
    }

    /// With a clock that jumps to the next deadline whenever nothing else is left to do.
    #[tokio::test(start_paused = true)]
    async fn what_arrives_too_slowly_is_closed() {
        let conduct = Conduct::new();
        for (doing, limit) in
            [(Doing::Arriving, ARRIVAL), (Doing::Leaving, ARRIVAL), (Doing::Idle, IDLE)]
        {
            conduct.begin(doing);
            let began = Instant::now();
            too_long(conduct.0.subscribe()).await;
            assert_eq!(began.elapsed(), limit);
        }
        conduct.begin(Doing::Busy);
        let watching = tokio::spawn(too_long(conduct.0.subscribe()));
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
