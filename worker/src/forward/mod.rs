//! Kinds whose jobs are done by an HTTP handler on this machine, in whatever language.
//!
//! A job is sent to the handler of its kind as a `CloudEvent`. In it are credentials that the
//! client libraries of all languages load; with them the handler's library asks the token
//! endpoint for its user's access tokens, for as long as the attempt lasts. What the handler
//! answers decides what becomes of the job:
//!
#![doc = include_str!("answers.md")]
//!
//! The handler sees neither a refresh token nor another user's token. An access token that it
//! was given outlives its handle, by up to an hour.

mod answer;
mod asking;
mod broker;
mod clients;
mod event;
mod forwarder;
mod handles;
mod listen;
mod renewals;
mod scopes;
mod target;
mod token_endpoint;
mod token_request;

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use shared::TokenStore;
use shared::ports::{Clock, Randomness};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::handler::Handler;
use crate::http_server;
use crate::kinds::Kinds;
use crate::metrics::ForwardMeters;
use crate::places::Places;

use forwarder::{Common, Forwarder};
use handles::Handles;
use renewals::Renewals;
use token_endpoint::{Callers, TokenEndpoint};

pub(crate) use asking::{BrokerError, ask};
pub use broker::{Broker, credentials};
pub use clients::{Clients, Users, read_keys};
pub use listen::{BadListen, Listen};
pub use target::{BadRoute, Route, Target};

/// Why a request to a server on loopback is not served: a page in a browser may have sent it.
#[cfg(feature = "dev")]
pub(crate) fn not_local(head: &http::request::Parts) -> Option<&'static str> {
    match token_request::is_local(head) {
        Err(token_request::BadRequest::NotLocal(why)) => Some(why),
        _ => None,
    }
}

/// How many jobs of a kind a handler does at once, unless the operator says otherwise.
pub const CONCURRENCY: usize = 8;
/// How long a handler may take, unless the operator says otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(10 * 60);
/// The longest that it may take: a handler that hangs keeps its slot, and its user's later
/// jobs, for so long.
pub const LONGEST_TIMEOUT: Duration = Duration::from_secs(55 * 60);

/// What is forwarded, and how.
#[derive(Debug, Clone)]
pub struct ForwardSettings {
    /// The kinds and their handlers.
    pub routes: Vec<Route>,
    /// Those of which no job may be done twice.
    pub once: Vec<String>,
    /// How many jobs of one kind are done at once.
    pub concurrency: usize,
    /// How long one may take.
    pub timeout: Duration,
    /// Where the token endpoint listens: a loopback address.
    pub token_listen: SocketAddr,
    /// The full name of the subscription that jobs come from.
    pub subscription: String,
}

/// Why nothing can be forwarded.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// Correct the settings.
    #[error("{0}")]
    Settings(String),
    /// Choose another address for the token endpoint.
    #[error(
        "cannot listen on {address}: {source}; is another one running? choose another {flag} (port 0: any)"
    )]
    Listen {
        /// The flag that names it.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// What is wrong with it.
        source: std::io::Error,
    },
    /// Choose another path, or see who else has this one.
    #[error(
        "cannot listen on unix:{}: {source}; its folder must exist and be writable, and no other \
         broker may be there", .path.display()
    )]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// What is wrong with it.
        source: std::io::Error,
    },
    /// No HTTP client can be built.
    #[error("TLS cannot be set up, though none is used")]
    Client(#[source] reqwest::Error),
}

/// The forwarded kinds of a worker, and the token endpoint that is theirs.
pub struct Forwarding {
    handlers: Kinds,
    listener: TcpListener,
    handles: Arc<Handles>,
}

impl ForwardSettings {
    /// # Errors
    /// A text that names the flag and what is wrong.
    pub(crate) fn check(&self) -> Result<(), String> {
        let mut kinds = BTreeSet::new();
        for Route { kind, .. } in &self.routes {
            if !kinds.insert(kind) {
                return Err(format!("--forward names kind {kind} twice; one handler does a kind"));
            }
        }
        if let Some(kind) = self.once.iter().find(|kind| !kinds.contains(kind)) {
            return Err(format!("--forward-once names kind {kind:?}, which --forward does not"));
        }
        if self.concurrency == 0 {
            return Err("--forward-concurrency must be at least 1".to_owned());
        }
        if self.timeout.is_zero() || self.timeout > LONGEST_TIMEOUT {
            let timeout = self.timeout;
            return Err(format!(
                "--forward-timeout is {timeout:?}; the most is {LONGEST_TIMEOUT:?}, since a \
                 handler that hangs keeps its user's later jobs for so long"
            ));
        }
        if !self.token_listen.ip().is_loopback() {
            let address = self.token_listen;
            return Err(format!(
                "--token-listen is {address}, which others than this machine may reach; it must \
                 be a loopback address"
            ));
        }
        Ok(())
    }
}

impl Forwarding {
    /// Makes the handlers, and opens the token endpoint's address; it answers from
    /// [`Forwarding::serve`] on.
    ///
    /// # Errors
    /// [`ForwardError`].
    pub async fn open(settings: ForwardSettings) -> Result<Self, ForwardError> {
        settings.check().map_err(ForwardError::Settings)?;
        let address = settings.token_listen;
        let failed = |source| ForwardError::Listen { flag: "--token-listen", address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let handles = Arc::new(Handles::default());
        let common = Arc::new(Common {
            handles: Arc::clone(&handles),
            random: Randomness::from_system(),
            renewals: Renewals::default(),
            token_uri: format!("http://{address}/token"),
            subscription: settings.subscription,
        });
        let mut handlers = Kinds::new();
        for Route { kind, target } in settings.routes {
            let forwarder = Forwarder {
                common: Arc::clone(&common),
                client: target.client().map_err(ForwardError::Client)?,
                target,
                once: settings.once.contains(&kind),
                limit: settings.timeout,
                places: Places::new(&kind, settings.concurrency),
                meters: ForwardMeters::of(&kind),
                proven: AtomicBool::new(false),
            };
            let handler: Arc<dyn Handler> = Arc::new(forwarder);
            handlers.insert(kind, handler);
        }
        Ok(Self { handlers, listener, handles })
    }

    /// The handlers of the forwarded kinds.
    pub fn handlers(&self) -> Kinds {
        self.handlers.clone()
    }

    /// Serves the token endpoint from `store` until `stop`. It must begin before the first job
    /// and outlive the last.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(
        self,
        store: TokenStore,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
    ) -> std::io::Result<()> {
        let callers = Callers::Attempts(self.handles);
        let endpoint = TokenEndpoint { callers, store, clock };
        http_server::serve(self.listener, endpoint.routes(), stop).await
    }
}

impl fmt::Debug for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forwarding")
            .field("kinds", &self.handlers.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_work_are_named() {
        let good = || ForwardSettings {
            routes: vec!["greet=http://127.0.0.1:1/".parse().unwrap()],
            once: vec!["greet".to_owned()],
            concurrency: CONCURRENCY,
            timeout: TIMEOUT,
            token_listen: "127.0.0.1:0".parse().unwrap(),
            subscription: "projects/p/subscriptions/s".to_owned(),
        };
        assert_eq!(good().check(), Ok(()));
        let says = |change: fn(&mut ForwardSettings), says: &str| {
            let mut settings = good();
            change(&mut settings);
            let why = settings.check().unwrap_err();
            assert!(why.contains(says), "{why}");
        };
        says(|s| s.routes.push(s.routes[0].clone()), "greet twice");
        says(|s| s.once.push("other".to_owned()), "--forward-once names kind \"other\"");
        says(|s| s.concurrency = 0, "--forward-concurrency");
        says(|s| s.timeout = Duration::ZERO, "--forward-timeout is 0ns");
        says(|s| s.timeout = Duration::from_secs(3301), "the most is 3300s");
        says(|s| s.token_listen = "0.0.0.0:0".parse().unwrap(), "--token-listen is 0.0.0.0:0");
    }
}
