//! A TCP proxy that spoils connections on demand, before any server.
//!
//! ```no_run
//! # async fn run(pubsub: emulators::pubsub::PubSub) -> std::io::Result<()> {
//! use emulators::proxy::{Mode, Proxy};
//!
//! let proxy = Proxy::start(pubsub.address()).await?;
//! // Clients are given `proxy.address()`. The address accepts and closes for a while:
//! proxy.set(Mode::Close);
//! proxy.accepted(proxy.connections() + 3).await; // three more were turned away
//! proxy.set(Mode::Pass);
//! # Ok(()) }
//! ```

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Bytes that are read at a time.
const CHUNK: usize = 64 << 10;

/// What happens to connections, those that are open included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Bytes pass in both directions.
    Pass,
    /// Connections are accepted and closed at once, open ones are closed.
    Close,
    /// Connections stay open, what they send is taken, and neither side hears anything.
    /// A connection of which a byte was swallowed is closed when the mode changes,
    /// because the rest would make no sense to either side.
    Swallow,
}

/// A running proxy. Dropping it closes its connections and its address.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    _stop: DropGuard,
}

#[derive(Debug)]
struct State {
    target: SocketAddr,
    mode: watch::Sender<Mode>,
    accepted: watch::Sender<u64>,
}

impl Proxy {
    /// Listens on a free port of the loopback interface and passes everything to `target`.
    ///
    /// Needs a tokio runtime. Cancelling leaves nothing behind.
    ///
    /// # Errors
    ///
    /// No port can be listened on.
    pub async fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            target,
            mode: watch::Sender::new(Mode::Pass),
            accepted: watch::Sender::new(0),
        });
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept(
            listener,
            Arc::clone(&state),
            stop.clone(),
        )));
        Ok(Self { address, state, _stop: stop.drop_guard() })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what happens to connections, from now on.
    pub fn set(&self, mode: Mode) {
        self.state.mode.send_replace(mode);
    }

    /// How many connections were accepted so far, in whatever mode.
    pub fn connections(&self) -> u64 {
        *self.state.accepted.borrow()
    }

    /// Waits until so many connections were accepted. Cancel safe.
    pub async fn accepted(&self, wanted: u64) {
        let mut accepted = self.state.accepted.subscribe();
        // The sender lives in `self`, so this cannot fail.
        accepted.wait_for(|accepted| *accepted >= wanted).await.map(drop).unwrap_or_default();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>, stop: CancellationToken) {
    loop {
        // What fails here is one client's connection, and it sees that itself.
        let Ok((client, _)) = listener.accept().await else { continue };
        state.accepted.send_modify(|accepted| *accepted += 1);
        if *state.mode.borrow() == Mode::Close {
            continue;
        }
        let carried = carry(client, Arc::clone(&state));
        tokio::spawn(stop.clone().run_until_cancelled_owned(carried));
    }
}

/// Carries one connection until a side or the mode ends it.
async fn carry(mut client: TcpStream, state: Arc<State>) {
    let mut closed = state.mode.subscribe();
    let both = async {
        if *state.mode.borrow() == Mode::Swallow {
            return swallow(&mut client, &state).await;
        }
        let mut server = TcpStream::connect(state.target).await?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        tokio::try_join!(
            pass(&mut from_client, &mut to_server, &state),
            pass(&mut from_server, &mut to_client, &state),
        )?;
        Ok(())
    };
    tokio::select! {
        // Either side sees how it ended: its connection is closed.
        ended = both => ended.unwrap_or_default(),
        _ = closed.wait_for(|mode| *mode == Mode::Close) => {}
    }
}

/// Takes bytes from one side to the other until the first has no more.
async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    state: &State,
) -> io::Result<()> {
    let mut bytes = vec![0; CHUNK];
    loop {
        let read = from.read(&mut bytes).await?;
        if *state.mode.borrow() == Mode::Swallow {
            return swallow(from, state).await;
        }
        if read == 0 {
            return to.shutdown().await;
        }
        to.write_all(&bytes[..read]).await?;
    }
}

/// Reads and drops bytes until the mode changes; then the connection is at its end.
async fn swallow(from: &mut (impl AsyncRead + Unpin), state: &State) -> io::Result<()> {
    let mut mode = state.mode.subscribe();
    let drain = async {
        let mut bytes = vec![0; CHUNK];
        while from.read(&mut bytes).await? > 0 {}
        // A side that has ended its half is not answered either.
        std::future::pending().await
    };
    tokio::select! {
        failed = drain => failed,
        _ = mode.wait_for(|mode| *mode != Mode::Swallow) => {
            Err(io::ErrorKind::ConnectionAborted.into())
        }
    }
}
