//! A Pub/Sub emulator in the process, on the real wire protocol.
//!
//! Official clients use it unchanged: gRPC for messages and administration, and on
//! the same port the administrative REST API, because the official Rust client
//! manages topics and subscriptions over REST. Give clients the endpoint
//! `http://` + [`PubSub::address`] and anonymous credentials.
//!
//! ```no_run
//! # async fn run() -> std::io::Result<()> {
//! use emulators::pubsub::{Config, PubSub};
//!
//! let pubsub = PubSub::start(Config::default()).await?;
//! println!("export PUBSUB_EMULATOR_HOST={}", pubsub.address());
//! pubsub.wait_for(|stats| stats.acknowledged == 10).await;
//! # Ok(()) }
//! ```
//!
//! Cloud Monitoring's `timeSeries.list` answers on that port, too, for the backlog of a
//! subscription and the age of its oldest message.
//!
//! # How it is built
//!
//! `lane`, `queue` and `consumer` are the parts of `subscription`, which decides
//! who gets which message when. `broker` holds all topics and subscriptions. All
//! of these are plain state machines: the time is passed in, and their tests wait
//! for nothing. `engine` drives them: one lock, one clock, one timer, a signal
//! for each consumer. `publisher`, `subscriber`, `stream`, `pull` and `rest`
//! translate between the wire and the broker.
//!
//! # As in production
//!
//! - **Flow control** is enforced for each stream: messages that are delivered and
//!   neither acknowledged, given back nor expired count, in number and bytes.
//!   The message that crosses the byte limit is still sent.
//! - **Deadlines**: a delivery has the deadline of its stream, each extension
//!   counts from when it is asked for, and each delivery has its own ack ID.
//!   When a stream closes, what it delivered stays leased until the deadline.
//! - **Ordering**: messages of a key are delivered in publish order, several at a
//!   time, to one stream while any is outstanding. When one is given back or
//!   expires, it and all later ones of its key that were delivered, acknowledged
//!   or not, are delivered again; their old ack IDs are accepted and ignored.
//! - **Retry policy**: redelivery waits for the minimum backoff, doubled with each
//!   failure up to the maximum, and with ordering so does the rest of the key.
//! - **Dead letters**: `delivery_attempt` is 1 + nacks + expiries of the message,
//!   also of one that is given back because an earlier one of its key was,
//!   and is absent without a policy. When the failures reach the maximum, the
//!   message is forwarded with the `CloudPubSubDeadLetterSource…` attributes.
//! - **Filters** on attributes: what does not match is not delivered.
//! - **Exactly-once delivery**: acknowledgements and new deadlines are answered for each
//!   ack ID, in the error of a unary request and in confirmations on a stream. An ack ID
//!   whose lease has ended fails for good; one whose predecessor of the same key is not
//!   acknowledged fails for now. A repeated acknowledgement is answered like the first.
//! - **Heartbeats**: a stream of protocol version 1 that had nothing to send for 30 s
//!   gets an empty response.
//!
//! # Not as in production
//!
//! - Exact where production is approximate: attempts, backoff, flow control and
//!   deadlines are kept to the letter, and nothing is duplicated without a reason.
//! - Streams are served in turn, message by message. A redelivery alternates with
//!   the backlog. Production promises neither.
//! - What was assigned to a stream but had not left the server when the stream
//!   closed, or when its deadline passed, is available at once and without blame.
//! - Leases of a key that end within a second of the first end with it.
//! - Messages live in memory, or with [`PubSub::start_on`] in a folder too, for ever:
//!   retention, expiration and labels are stored and have no effect, but that a folder's
//!   messages are not taken over when they are older. A `Pull` waits for 3 s.
//! - A message that is given up while its dead-letter topic is missing is
//!   delivered on, and no permissions are needed to forward it.
//! - Push goes to `http://` on loopback, one message at a time, and signs nothing.
//! - What may be sought to is kept from when something can seek to it: a topic's
//!   retention, a subscription that retains acknowledged messages, a snapshot. It is kept
//!   for ever.
//! - No export subscriptions, schemas or transforms. Asking for one of them is refused
//!   (`UNIMPLEMENTED`, 501 over REST) with its name, not ignored.
//! - No authentication: any credentials or none will do. Access policies are stored
//!   and reported, over gRPC and REST, and have no effect.
//! - No quotas except the limits of a request: its size, and of messages their
//!   attributes and ordering keys.

mod administration;
mod broker;
mod consumer;
mod engine;
mod error;
mod fault;
mod filter;
mod iam;
mod lane;
mod message;
mod names;
mod page;
mod publisher;
mod pull;
mod push;
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

use crate::access::Binding;
use crate::connection::Cuttable;
use crate::data::{Data, answering_when_kept};
use crate::faults::Injected;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::service::Routes;
use tonic::transport::Server;

use self::engine::Engine;
use self::iam::IamService;
use self::publisher::PublisherService;
use self::service::i_a_m_policy_server::IAMPolicyServer;
use self::service::publisher_server::PublisherServer;
use self::service::subscriber_server::SubscriberServer;
use self::subscriber::SubscriberService;

pub use self::fault::{Fault, Operation};
pub use self::stats::Stats;
/// A message as it is published and delivered, for [`Fault::matching`].
pub use googleapis_tonic_google_pubsub_v1::google::pubsub::v1::PubsubMessage;

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
        Self { listen: (Ipv4Addr::LOCALHOST, 0).into() }
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
        Self::begin(config, None).await
    }

    /// Starts with what a folder keeps, and keeps there topics, subscriptions, snapshots and
    /// messages from now on. Leases end with the process, without blame; what was
    /// acknowledged stays so, failed deliveries count on, and what is older than its
    /// subscription retains is gone. Backoffs and the counts of
    /// [`PubSub::stats`] begin anew.
    ///
    /// # Errors
    ///
    /// As [`PubSub::start`], and when the folder cannot be read.
    pub async fn start_on(config: Config, data: &Data) -> io::Result<Self> {
        Self::begin(config, Some(data)).await
    }

    async fn begin(config: Config, data: Option<&Data>) -> io::Result<Self> {
        let listener = TcpListener::bind(config.listen).await?;
        let address = listener.local_addr()?;
        let engine = Arc::new(match data {
            Some(data) => Engine::resume(data)?,
            None => Engine::new(),
        });
        let publisher = PublisherService { engine: Arc::clone(&engine) };
        let subscriber = SubscriberService { engine: Arc::clone(&engine) };
        let publisher =
            PublisherServer::new(publisher).max_decoding_message_size(MAX_REQUEST_BYTES);
        let subscriber =
            SubscriberServer::new(subscriber).max_decoding_message_size(MAX_REQUEST_BYTES);
        let routes = Routes::from(rest::routes(Arc::clone(&engine)))
            .add_service(publisher)
            .add_service(subscriber)
            .add_service(IAMPolicyServer::new(IamService { engine: Arc::clone(&engine) }));
        let journal = engine.journal.as_ref();
        let routes = Routes::from(answering_when_kept(routes.into_axum_router(), journal));
        // HTTP/1 is for the REST API.
        let http = Server::builder().accept_http1(true).add_routes(routes);
        // Streams are to end with a status when the server stops: no connection is cut then.
        let incoming = Cuttable::new(listener, CancellationToken::new()).into_stream();
        let driver = Arc::clone(&engine);
        let server = tokio::spawn(async move {
            let serve = http.serve_with_incoming_shutdown(incoming, driver.stop.cancelled());
            let pushes = push::serve(Arc::clone(&driver));
            let (served, (), ()) = tokio::join!(serve, driver.keep_time(), pushes);
            if let Err(error) = served {
                tracing::error!(%error, "the Pub/Sub emulator failed");
            }
        });
        Ok(Self { address, engine, server })
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

    /// Replaces the access policy of a topic or subscription, given by its full name.
    /// It is what IAM reads show and keeps nobody from anything.
    ///
    /// # Errors
    ///
    /// There is no such resource.
    pub fn set_iam_bindings(
        &self,
        resource: &str,
        bindings: impl IntoIterator<Item = Binding>,
    ) -> Result<(), NoSuchResource> {
        let set = self.engine.run(|broker, _| broker.bind(resource, bindings));
        set.map_err(|_| NoSuchResource(resource.to_owned()))
    }

    /// Leaves these permissions out of what `TestIamPermissions` reports for a topic or
    /// subscription, and no others; without this, everything asked for is reported.
    ///
    /// # Errors
    ///
    /// There is no such resource.
    pub fn deny_permissions(
        &self,
        resource: &str,
        permissions: &[&str],
    ) -> Result<(), NoSuchResource> {
        let denied = self.engine.run(|broker, _| broker.deny(resource, permissions));
        denied.map_err(|_| NoSuchResource(resource.to_owned()))
    }

    /// Has something go wrong from now on; see [`crate::faults`].
    pub fn inject(&self, fault: Fault) -> Injected {
        self.engine.faults.inject(fault)
    }

    /// Ends every stream and waiting `Pull` that a subscription has now with this code,
    /// as the service does now and then with `UNAVAILABLE`. What they delivered stays
    /// leased.
    ///
    /// # Errors
    ///
    /// There is no such subscription.
    pub fn end_streams(&self, subscription: &str, code: Code) -> Result<(), Refused> {
        Ok(self.engine.end(subscription, code)?)
    }

    /// Ends the lease of everything that a subscription has delivered, as if the ack
    /// deadlines had passed now.
    ///
    /// # Errors
    ///
    /// There is no such subscription.
    pub fn expire_leases(&self, subscription: &str) -> Result<(), NoSuchResource> {
        let expired = self.engine.run(|broker, now| broker.expire(subscription, now));
        expired.map_err(|_| NoSuchResource(subscription.to_owned()))
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

/// What a test asks of a topic or subscription is refused, as its client would be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct Refused(#[from] error::Error);

/// No topic or subscription of that full name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no topic or subscription {0:?}")]
pub struct NoSuchResource(pub String);
