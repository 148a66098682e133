//! `/healthz` and `/readyz` for a replica.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::replica::Readiness;

/// Serves until `stop`. `/healthz` answers while the process turns; `/readyz`
/// says whether it takes jobs, and if not, why.
///
/// # Errors
/// When `listener` fails.
pub async fn serve(
    listener: TcpListener,
    ready: Arc<Readiness>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let readyz = move || async move {
        match ready.check() {
            Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
        }
    };
    let app =
        Router::new().route("/healthz", get(|| async { "ok\n" })).route("/readyz", get(readyz));
    axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await
}

/// Binds the address that `--listen` names.
///
/// # Errors
/// A text that says what to do.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|e| {
        format!("cannot listen on {address}: {e}; is another replica running? choose another --listen (port 0: any)")
    })
}
