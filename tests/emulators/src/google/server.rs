//! The listener: which routes there are, what delays them, and how they stop.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::core::Shared;
use super::refusal::Refusal;
use super::{apis, authorize, faults, large, oauth, paged, probe, userinfo};
use crate::connection::{Cut, Cuttable};
use crate::data::answering_when_kept;
use crate::date::dated;

/// How long answers are held back.
#[derive(Debug, Clone, Copy)]
pub(super) struct Latencies {
    /// Of the token endpoint.
    pub(super) refresh: Duration,
    /// Of the APIs, userinfo included.
    pub(super) api: Duration,
}

/// Serves until `stop` is cancelled.
pub(super) fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    latencies: Latencies,
    stop: &CancellationToken,
) {
    let apis = Router::new()
        .merge(userinfo::routes())
        .merge(apis::routes())
        .merge(probe::routes())
        .merge(large::routes())
        .merge(paged::routes())
        .layer(from_fn_with_state(Arc::clone(&shared), faults::at_apis))
        .layer(from_fn_with_state(latencies.api, held_back));
    let tokens = oauth::token_routes().layer(from_fn_with_state(latencies.refresh, held_back));
    let journal = shared.journal.clone();
    let router = Router::new()
        .merge(apis)
        .merge(tokens)
        .merge(oauth::revoke_routes())
        .merge(authorize::routes())
        .fallback(async || Refusal::not_found("Method"))
        .layer(from_fn_with_state(shared.date.clone(), dated))
        .with_state(shared);
    let router = answering_when_kept(router, journal.as_ref());
    let listener = Cuttable::new(listener, stop.clone());
    let server = axum::serve(listener, router.into_make_service_with_connect_info::<Cut>())
        .with_graceful_shutdown(stop.clone().cancelled_owned());
    tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!(%error, "the emulator of Google's identity and APIs ended");
        }
    });
}

/// Decides at once and answers later.
async fn held_back(State(latency): State<Duration>, request: Request, next: Next) -> Response {
    let due = Instant::now() + latency;
    let response = next.run(request).await;
    if !latency.is_zero() {
        sleep_until(due).await;
    }
    response
}
