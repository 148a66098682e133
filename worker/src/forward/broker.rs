//! The token endpoint for programs that are no jobs.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;
use shared::ports::Clock;
use shared::{Secret, TokenStore, UserId};
use tokio_util::sync::CancellationToken;

use crate::audit::{HandedOn, Usage};
use crate::http_server;

use super::ForwardError;
use super::clients::Clients;
use super::event::CredentialsObject;
use super::listen::{Listen, Open};
use super::token_endpoint::{Callers, TokenEndpoint};

/// Gives access tokens to whoever has a key.
#[derive(Debug)]
pub struct Broker {
    listener: Open,
    clients: Arc<Clients>,
}

impl Broker {
    /// Opens its address or socket; it answers from [`Broker::serve`] on. A socket is removed
    /// in the end.
    ///
    /// # Errors
    /// [`ForwardError::Listen`], [`ForwardError::Socket`].
    pub async fn open(listen: &Listen, clients: Arc<Clients>) -> Result<Self, ForwardError> {
        Ok(Self { listener: listen.open().await?, clients })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> io::Result<Listen> {
        self.listener.address()
    }

    /// Serves tokens from `store` until `stop`, then ends what is under way. The audit trail is
    /// told once a minute, and in the end, whose tokens were given; cancelling this loses what it
    /// was not told yet.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(
        self,
        store: TokenStore,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let usage = Arc::<Usage>::default();
        let callers = Callers::Clients(self.clients, HandedOn::by_broker(&usage));
        let routes = TokenEndpoint { callers, store, clock: Arc::clone(&clock) }.routes();
        let serving = async {
            match self.listener {
                Open::Tcp(listener) => http_server::serve(listener, routes, stop).await,
                Open::Unix(listener, _file) => http_server::serve(listener, routes, stop).await,
            }
        };
        let served = tokio::select! {
            served = serving => served,
            never = usage.keep_telling(&*clock) => match never {},
        };
        usage.tell();
        served
    }
}

/// The credentials with which Google's libraries act as `user`, by a broker at `address` that
/// has this key.
pub fn credentials(address: SocketAddr, key: &Secret, user: &UserId) -> Value {
    let token_uri = format!("http://{address}/token");
    CredentialsObject::new(&token_uri, key, user.as_str()).json()
}
