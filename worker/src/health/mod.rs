//! `/healthz`, `/readyz` and `/metrics` for a replica.
//!
//! Liveness asks only whether the loops of this process make progress ([`Pulse`]): a bucket
//! or a provider that is down must never get replicas killed. Readiness
//! ([`Readiness`]) asks whether the replica takes jobs. A process that was suspended
//! notices it by a [`Gap`] in its own clock.

mod gap;
mod pulse;
mod readiness;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::IntoResponse as _;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::http_server;
use crate::metrics::Render;

pub use gap::Gap;
pub(crate) use gap::Gaps;
pub use pulse::{BEAT_EVERY, Beat, Pulse, STUCK_AFTER, Stuck};
pub use readiness::{Lack, Readiness};

/// What is asked about a replica over HTTP.
#[derive(Debug, Clone)]
pub struct Probes {
    /// Whether it takes jobs, and makes progress.
    pub ready: Arc<Readiness>,
    /// What it counts.
    pub metrics: Render,
}

/// Serves until `stop`. Let it outlive the drain: whoever scrapes wants the last
/// jobs too.
///
/// # Errors
/// When `listener` fails.
pub async fn serve(
    listener: TcpListener,
    probes: Probes,
    stop: CancellationToken,
) -> std::io::Result<()> {
    http_server::serve(listener, routes(probes), stop).await
}

fn routes(probes: Probes) -> Router {
    let Probes { ready, metrics } = probes;
    let told = |result: Result<&str, String>| {
        let (status, text) = match result {
            Ok(text) => (StatusCode::OK, format!("{text}\n")),
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        };
        (status, [(CACHE_CONTROL, "no-store")], text)
    };
    let pulse = ready.pulse().clone();
    let healthz = move || async move {
        told(pulse.check().map(|()| "ok").map_err(|stuck| format!("not alive: {stuck}")))
    };
    let readyz = move || async move {
        told(ready.check().map(|()| "ready").map_err(|why| format!("not ready: {why}")))
    };
    let metrics = move || async move {
        ([(CONTENT_TYPE, Render::TYPE), (CACHE_CONTROL, "no-store")], metrics.text())
            .into_response()
    };
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
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

#[cfg(test)]
mod tests {
    use super::pulse::tests::Stopped;
    use super::*;
    use shared::ports::Clock;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    async fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn liveness_does_not_hang_on_readiness() {
        let clock = Arc::new(Stopped::default());
        let pulse = Pulse::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let beat = pulse.watch("the intake");
        let probes = Probes {
            ready: Arc::new(Readiness::new(pulse)),
            metrics: Render::new(|| "fleet_worker_ready 0\n".to_owned()),
        };
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, probes, stop.clone()));
        let ready = get(address, "/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("not ready: "), "{ready}");
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
        clock.pass(STUCK_AFTER * 2);
        let dead = get(address, "/healthz").await;
        assert!(dead.starts_with("HTTP/1.1 503"), "{dead}");
        assert!(dead.contains("the intake has made no progress for 60 s"), "{dead}");
        let metrics = get(address, "/metrics").await;
        assert!(metrics.contains("text/plain; version=0.0.4") && metrics.ends_with("_ready 0\n"));
        drop(beat);
        stop.cancel();
        serving.await.unwrap().unwrap();
    }
}
