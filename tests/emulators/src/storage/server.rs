//! The two listeners, and how they stop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;

use super::store::Store;
use super::{grpc, grpc_iam, json_api};
use crate::connection::{Cut, Cuttable};
use crate::data::answering_when_kept;

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
        Ok(Self { http_address: http.local_addr()?, grpc_address: grpc.local_addr()?, http, grpc })
    }

    /// Serves both until `stop` is cancelled.
    pub(super) fn serve(self, store: &Arc<Store>, stop: &CancellationToken) {
        let listener = Cuttable::new(self.http, stop.clone());
        let journal = store.journal.as_ref();
        let json = answering_when_kept(json_api::router(store), journal);
        let json = axum::serve(listener, json.into_make_service_with_connect_info::<Cut>())
            .with_graceful_shutdown(stop.clone().cancelled_owned());
        tokio::spawn(async move {
            if let Err(error) = json.await {
                tracing::error!(%error, "the JSON API of the storage emulator ended");
            }
        });
        let incoming = Cuttable::new(self.grpc, stop.clone()).into_stream();
        let services = Routes::new(grpc::server(Arc::clone(store)))
            .add_service(grpc_iam::server(Arc::clone(store)));
        let routes = answering_when_kept(services.into_axum_router(), journal);
        let grpc = Server::builder()
            .add_routes(Routes::from(routes))
            .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        tokio::spawn(async move {
            if let Err(error) = grpc.await {
                tracing::error!(%error, "the gRPC API of the storage emulator ended");
            }
        });
    }
}
