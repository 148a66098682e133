//! The two listeners, and how they stop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::Request;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt as _;
use http::StatusCode;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::store::Store;
use super::{grpc, json_api};

/// Both sockets, bound and not served yet.
#[derive(Debug)]
pub(super) struct Listeners {
    http: TcpListener,
    grpc: TcpListener,
    pub(super) http_address: SocketAddr,
    pub(super) grpc_address: SocketAddr,
}

impl Listeners {
    pub(super) async fn bind(http: SocketAddr, grpc: SocketAddr) -> io::Result<Self> {
        let http = TcpListener::bind(http).await?;
        let grpc = TcpListener::bind(grpc).await?;
        Ok(Self {
            http_address: http.local_addr()?,
            grpc_address: grpc.local_addr()?,
            http,
            grpc,
        })
    }

    /// Serves both until `stop` is cancelled.
    pub(super) fn serve(self, store: &Arc<Store>, stop: &CancellationToken) {
        let router = json_api::router(Arc::clone(store))
            .layer(from_fn_with_state(stop.clone(), until_stopped));
        let listener = self.http.tap_io(|stream| {
            // Answers are small and go out whole; a socket that refuses is only slower.
            stream.set_nodelay(true).unwrap_or_default();
        });
        let json =
            axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
        tokio::spawn(async move {
            if let Err(error) = json.await {
                tracing::error!(%error, "the JSON API of the storage emulator ended");
            }
        });
        let incoming = TcpIncoming::from(self.grpc).with_nodelay(Some(true));
        let grpc = Server::builder()
            .add_service(grpc::server(Arc::clone(store)))
            .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        tokio::spawn(async move {
            if let Err(error) = grpc.await {
                tracing::error!(%error, "the gRPC API of the storage emulator ended");
            }
        });
    }
}

/// Ends requests that wait for their body, so that no connection outlives the emulator.
async fn until_stopped(
    axum::extract::State(stop): axum::extract::State<CancellationToken>,
    request: Request,
    next: Next,
) -> Response {
    tokio::select! {
        biased;
        () = stop.cancelled() => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        response = next.run(request) => response,
    }
}
