//! Connections that end with their server.
//!
//! A graceful shutdown waits for answers under way, and so for as long as a client
//! likes. An emulator is dropped when its test or demo ends: its connections are cut
//! then, with whatever request they carry, and no task outlives it. A single one is cut
//! by whoever answers a request on it and is to lose the reply.

use std::convert::Infallible;
use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::extract::FromRequestParts;
use axum::extract::connect_info::{self, ConnectInfo};
use axum::serve::{IncomingStream, Listener};
use futures_util::{Stream, stream};
use http::Extensions;
use http::request::Parts;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// A listener whose connections end when `stop` is cancelled.
#[derive(Debug)]
pub(crate) struct Cuttable {
    listener: TcpListener,
    stop: CancellationToken,
}

impl Cuttable {
    pub(crate) fn new(listener: TcpListener, stop: CancellationToken) -> Self {
        Self { listener, stop }
    }

    /// The connections as they come, for a server that takes a stream.
    pub(crate) fn into_stream(self) -> impl Stream<Item = io::Result<Connection>> {
        stream::unfold(self, async |mut listener| {
            let (connection, _) = listener.accept().await;
            Some((Ok(connection), listener))
        })
    }
}

impl Listener for Cuttable {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // Answers are small and go out whole; a socket that refuses is only slower.
        stream.set_nodelay(true).unwrap_or_default();
        let cut = self.stop.child_token();
        let stopped = Box::pin(cut.clone().cancelled_owned());
        (Connection { stream, stopped, cut: Cut(cut) }, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Ends one connection. A request finds the one that it came on in its extensions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cut(CancellationToken);

impl Cut {
    /// The connection fails from now on; its client sees it closed.
    pub(crate) fn now(&self) {
        self.0.cancel();
    }

    /// The connection of a request, as either server noted it.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        let http = extensions.get::<ConnectInfo<Self>>().map(|ConnectInfo(cut)| cut);
        http.or_else(|| extensions.get::<Self>()).cloned().unwrap_or_default()
    }
}

impl connect_info::Connected<IncomingStream<'_, Cuttable>> for Cut {
    fn connect_info(stream: IncomingStream<'_, Cuttable>) -> Self {
        stream.io().cut.clone()
    }
}

impl<S: Sync> FromRequestParts<S> for Cut {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.extensions))
    }
}

/// A connection that fails from the moment its server is stopped or it is cut.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    cut: Cut,
}

impl Connection {
    /// Fails when stopped, and has the task woken for that. One task reads and writes,
    /// so one waker is enough.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<Pin<&mut TcpStream>> {
        match self.stopped.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(Pin::new(&mut self.stream)),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?.poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?.poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?.poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connected for Connection {
    type ConnectInfo = Cut;

    fn connect_info(&self) -> Cut {
        self.cut.clone()
    }
}
