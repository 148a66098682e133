//! The JSON API: routes, and everything but uploads and downloads.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, State as Shared};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::conditions::Conditions;
use super::extract::{Content, Params, Segments};
use super::listing::ListQuery;
use super::operation::Operation;
use super::refusal::Refusal;
use super::settings::BucketSettings;
use super::store::Store;
use super::{download, upload};
use crate::connection::Cut;
use crate::date::dated;

/// The largest request body; everything is kept in memory.
const MAX_BODY: usize = 1 << 30;

/// Names and prefixes in one page, at most and by default, as in production.
pub(super) const MAX_RESULTS: usize = 1_000;

pub(super) fn router(store: Arc<Store>) -> Router {
    let api = Router::new()
        .route("/b", get(list_buckets).post(create_bucket))
        .route("/b/{bucket}", get(get_bucket).delete(delete_bucket))
        .route("/b/{bucket}/o", get(list_objects))
        .route("/b/{bucket}/o/{object}", get(download::get_object).delete(delete_object));
    Router::new()
        .nest("/storage/v1", api.clone())
        // Node's client leaves that out where `STORAGE_EMULATOR_HOST` is set.
        .merge(api)
        .route("/download/storage/v1/b/{bucket}/o/{object}", get(download::get_object))
        .route(
            "/upload/storage/v1/b/{bucket}/o",
            post(upload::start).put(upload::advance).delete(upload::cancel),
        )
        .fallback(no_route)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(store.date.clone(), dated))
        .with_state(store)
}

async fn no_route() -> Response {
    let error = json!({"code": 404, "message": "Not Found", "errors": [
        {"domain": "global", "reason": "notFound", "message": "Not Found"},
    ]});
    (StatusCode::NOT_FOUND, Json(json!({"error": error}))).into_response()
}

async fn create_bucket(
    Shared(store): Shared<Arc<Store>>,
    cut: Cut,
    Content(body): Content,
) -> Result<Json<Value>, Refusal> {
    #[derive(Deserialize)]
    struct NewBucket {
        name: String,
    }
    let NewBucket { name } = serde_json::from_slice(&body)
        .map_err(|error| Refusal::invalid(format!("Malformed bucket: {error}")))?;
    let create = || {
        store.create_bucket(&name, BucketSettings::default())?;
        bucket_json(&store, &name)
    };
    store.pass(cut, Operation::Bucket, &name, create).await
}

async fn get_bucket(
    Shared(store): Shared<Arc<Store>>,
    Segments(name): Segments<String>,
    cut: Cut,
) -> Result<Json<Value>, Refusal> {
    store.pass(cut, Operation::Bucket, &name, || bucket_json(&store, &name)).await
}

fn bucket_json(store: &Store, name: &str) -> Result<Json<Value>, Refusal> {
    let state = store.lock();
    let (created, settings) = state.bucket(name)?;
    Ok(Json(settings.to_json(&store.origin, name, created)))
}

async fn list_buckets(Shared(store): Shared<Arc<Store>>) -> Json<Value> {
    let items: Vec<Value> = store
        .lock()
        .buckets()
        .map(|(name, created, settings)| settings.to_json(&store.origin, name, created))
        .collect();
    Json(json!({"kind": "storage#buckets", "items": items}))
}

async fn delete_bucket(
    Shared(store): Shared<Arc<Store>>,
    Segments(name): Segments<String>,
    cut: Cut,
) -> Result<StatusCode, Refusal> {
    let delete = || store.lock().delete_bucket(&name);
    store.pass(cut, Operation::Bucket, &name, delete).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListParams {
    #[serde(default)]
    prefix: String,
    #[serde(default)]
    delimiter: String,
    #[serde(default)]
    start_offset: String,
    #[serde(default)]
    end_offset: String,
    #[serde(default)]
    page_token: String,
    max_results: Option<usize>,
}

async fn list_objects(
    Shared(store): Shared<Arc<Store>>,
    Segments(bucket): Segments<String>,
    Params(params): Params<ListParams>,
    cut: Cut,
) -> Result<Json<Value>, Refusal> {
    let query = ListQuery {
        prefix: params.prefix,
        delimiter: params.delimiter,
        start: params.start_offset,
        end: params.end_offset,
        after: decode_page_token(&params.page_token)?,
        limit: page_size(params.max_results),
    };
    let list = || store.lock().list(&bucket, &query);
    let page = store.pass(cut, Operation::List, &query.prefix, list).await?;
    let mut json = json!({"kind": "storage#objects"});
    if !page.objects.is_empty() {
        let items = page.objects.iter();
        json["items"] =
            items.map(|(name, object)| object.to_json(&store.origin, &bucket, name)).collect();
    }
    if !page.prefixes.is_empty() {
        json["prefixes"] = json!(page.prefixes);
    }
    if let Some(next) = page.next {
        json["nextPageToken"] = encode_page_token(&next).into();
    }
    Ok(Json(json))
}

/// `None` and zero ask for the default.
pub(super) fn page_size(asked: Option<usize>) -> usize {
    match asked {
        None | Some(0) => MAX_RESULTS,
        Some(asked) => asked.min(MAX_RESULTS),
    }
}

pub(super) fn encode_page_token(after: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(after)
}

/// The empty token asks for the first page.
pub(super) fn decode_page_token(token: &str) -> Result<Option<String>, Refusal> {
    if token.is_empty() {
        return Ok(None);
    }
    BASE64_URL_SAFE_NO_PAD
        .decode(token)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .map(Some)
        .ok_or_else(|| Refusal::invalid("Invalid page token."))
}

#[derive(Debug, Deserialize)]
struct GenerationParam {
    generation: Option<i64>,
}

async fn delete_object(
    Shared(store): Shared<Arc<Store>>,
    Segments((bucket, name)): Segments<(String, String)>,
    Params(conditions): Params<Conditions>,
    Params(GenerationParam { generation }): Params<GenerationParam>,
    cut: Cut,
) -> Result<StatusCode, Refusal> {
    let delete = || store.delete(&bucket, &name, generation, conditions);
    store.pass(cut, Operation::Delete, &name, delete).await?;
    Ok(StatusCode::NO_CONTENT)
}
