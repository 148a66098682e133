//! The token endpoint for programs that are no jobs.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;
use shared::ports::Clock;
use shared::{Secret, TokenStore, UserId};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::http_server;

use super::ForwardError;
use super::clients::Clients;
use super::event::CredentialsObject;
use super::token_endpoint::{Callers, TokenEndpoint};

/// Gives access tokens to whoever has a key.
#[derive(Debug)]
pub struct Broker {
    listener: TcpListener,
    clients: Arc<Clients>,
}

impl Broker {
    /// Opens its address; it answers from [`Broker::serve`] on.
    ///
    /// # Errors
    /// [`ForwardError::Listen`].
    pub async fn open(address: SocketAddr, clients: Arc<Clients>) -> Result<Self, ForwardError> {
        let failed = |source| ForwardError::Listen { address, flag: "--listen", source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        Ok(Self { listener, clients })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves tokens from `store` until `stop`, then ends what is under way.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(
        self,
        store: TokenStore,
        clock: Arc<dyn Clock>,
        stop: CancellationToken,
    ) -> std::io::Result<()> {
        let callers = Callers::Clients(self.clients);
        let endpoint = TokenEndpoint { callers, store, clock };
        http_server::serve(self.listener, endpoint.routes(), stop).await
    }
}

/// The credentials with which Google's libraries act as `user`, by a broker at `address` that
/// has this key.
pub fn credentials(address: SocketAddr, key: &Secret, user: &UserId) -> Value {
    let token_uri = format!("http://{address}/token");
    CredentialsObject::new(&token_uri, key, user.as_str()).json()
}
