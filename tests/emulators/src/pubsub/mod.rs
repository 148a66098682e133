//! The Pub/Sub emulator.

mod broker;
mod consumer;
mod engine;
mod error;
mod lane;
mod message;
mod names;
mod page;
mod publisher;
mod pull;
mod queue;
mod rest;
mod service;
mod settings;
mod stats;
mod stream;
mod subscriber;
mod subscription;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use self::engine::Engine;
use self::publisher::PublisherService;
use self::service::publisher_server::PublisherServer;
use self::service::subscriber_server::SubscriberServer;
use self::subscriber::SubscriberService;

pub use self::stats::Stats;

/// Above what a valid request can have, so that the emulator's own checks answer.
const MAX_REQUEST_BYTES: usize = 32 << 20;

/// How to run the emulator.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
}

impl Default for Config {
    /// A free port of the loopback interface.
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
        }
    }
}

/// A running emulator. Dropping it stops the server.
#[derive(Debug)]
pub struct PubSub {
    address: SocketAddr,
    engine: Arc<Engine>,
    server: JoinHandle<()>,
}

impl PubSub {
    /// Starts the emulator. It serves when this returns.
    ///
    /// Needs a tokio runtime. Cancelling leaves nothing behind.
    ///
    /// # Errors
    ///
    /// The address cannot be listened on.
    pub async fn start(config: Config) -> io::Result<Self> {
        let listener = TcpListener::bind(config.listen).await?;
        let address = listener.local_addr()?;
        let engine = Arc::new(Engine::new());
        let publisher = PublisherService {
            engine: Arc::clone(&engine),
        };
        let subscriber = SubscriberService {
            engine: Arc::clone(&engine),
        };
        let publisher =
            PublisherServer::new(publisher).max_decoding_message_size(MAX_REQUEST_BYTES);
        let subscriber =
            SubscriberServer::new(subscriber).max_decoding_message_size(MAX_REQUEST_BYTES);
        let routes = Routes::from(rest::routes(Arc::clone(&engine)))
            .add_service(publisher)
            .add_service(subscriber);
        // HTTP/1 is for the REST API.
        let router = Server::builder().accept_http1(true).add_routes(routes);
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let driver = Arc::clone(&engine);
        let server = tokio::spawn(async move {
            let serve = router.serve_with_incoming_shutdown(incoming, driver.stop.cancelled());
            let (served, ()) = tokio::join!(serve, driver.keep_time());
            if let Err(error) = served {
                tracing::error!(%error, "the Pub/Sub emulator failed");
            }
        });
        Ok(Self {
            address,
            engine,
            server,
        })
    }

    /// Where clients connect, without TLS.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The counts of all subscriptions together, deleted ones included.
    pub fn stats(&self) -> Stats {
        self.engine.read(broker::Broker::stats)
    }

    /// The counts of one subscription, by its full name; `None` if there is none.
    pub fn subscription_stats(&self, name: &str) -> Option<Stats> {
        self.engine.read(|broker| broker.subscription_stats(name))
    }

    /// Waits until the total counts satisfy the predicate, and returns them.
    ///
    /// It looks after each change and does not poll, but changes in quick
    /// succession may be seen as one. Cancel safe.
    pub async fn wait_for(&self, mut predicate: impl FnMut(&Stats) -> bool) -> Stats {
        let mut changes = self.engine.changes();
        loop {
            let stats = self.stats();
            if predicate(&stats) {
                return stats;
            }
            if changes.changed().await.is_err() {
                // Unreachable: the sender lives in the engine, which `self` holds.
                return stats;
            }
        }
    }

    /// Like [`wait_for`](Self::wait_for) for one subscription; all counts are
    /// zero while it does not exist.
    pub async fn wait_for_subscription(
        &self,
        name: &str,
        mut predicate: impl FnMut(&Stats) -> bool,
    ) -> Stats {
        let mut subscription = Stats::default();
        self.wait_for(|_| {
            subscription = self.subscription_stats(name).unwrap_or_default();
            predicate(&subscription)
        })
        .await;
        subscription
    }

    /// Stops the server and waits until its connections are closed. Open streams
    /// end with `UNAVAILABLE`, as in production.
    ///
    /// Cancelling stops the waiting, not the stopping.
    pub async fn stop(mut self) {
        self.engine.stop.cancel();
        if let Err(error) = (&mut self.server).await {
            tracing::error!(%error, "the Pub/Sub emulator panicked");
        }
    }
}

impl Drop for PubSub {
    fn drop(&mut self) {
        self.engine.stop.cancel();
    }
}
