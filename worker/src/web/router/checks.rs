//! What machines ask for: probes, metrics and files.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};

use super::Shared;
use crate::metrics::{self, Process, Render};
use crate::web::pages::Onward;

pub(in crate::web) fn file(kind: &'static str, content: impl Into<Body>) -> Response {
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "public, max-age=3600")], content.into())
        .into_response()
}

pub(super) async fn logo(State(app): Shared, headers: HeaderMap) -> Response {
    match &app.site.brand.logo {
        Some(logo) => file(logo.kind(), logo.content()),
        None => not_found(State(app), headers).await,
    }
}

pub(super) async fn ready(State(app): Shared) -> Response {
    // A prober that goes away must not make the next one look again.
    let looking = tokio::spawn({
        let app = Arc::clone(&app);
        async move { app.readiness.check(&*app.site.bucket, &*app.site.clock).await }
    });
    let result = match looking.await {
        _ if app.stop.is_cancelled() => Err("stopping".to_owned()),
        Ok(result) => result,
        Err(_) => Err("the look at the bucket failed".to_owned()),
    };
    metrics::readiness(Process::Web, result.is_ok());
    match result {
        Ok(()) => "ready\n".into_response(),
        Err(why) => {
            let told = Body::from(format!("not ready: {why}\n"));
            (StatusCode::SERVICE_UNAVAILABLE, told).into_response()
        }
    }
}

pub(super) async fn show_metrics(State(app): Shared) -> Response {
    ([(CONTENT_TYPE, Render::TYPE)], app.site.metrics.text()).into_response()
}

pub(super) async fn not_found(State(app): Shared, headers: HeaderMap) -> Response {
    let told = "There is no page at this address.";
    app.message(StatusCode::NOT_FOUND, "Page not found", told, Onward::FirstPage, &headers).await
}
