//! The JSON API: routes, listing and deleting.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request, State as Shared};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{any, get, post, put};
use axum::{Json, Router};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::StatusCode;
use http::uri::PathAndQuery;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use tonic::codegen::Service as _;

use super::conditions::Conditions;
use super::extract::{Params, Segments};
use super::glob::Glob;
use super::listing::ListQuery;
use super::metadata::{GenerationParam, update_object};
use super::operation::Operation;
use super::refusal::Refusal;
use super::store::Store;
use super::{batch, buckets, download, fields, rewrite, unimplemented, upload};
use crate::connection::Cut;
use crate::date::dated;
use crate::front_end;

/// The largest request body; everything is kept in memory.
const MAX_BODY: usize = 1 << 30;

/// Names and prefixes in one page, at most and by default, as in production.
pub(super) const MAX_RESULTS: usize = 1_000;

pub(super) fn router(store: &Arc<Store>) -> Router {
    let object = "/storage/v1/b/{bucket}/o/{object}";
    let api = Router::new()
        .route("/storage/v1/b", get(buckets::list).post(buckets::create))
        .route(
            "/storage/v1/b/{bucket}",
            get(buckets::get).patch(buckets::update).put(buckets::update).delete(buckets::delete),
        )
        .route("/storage/v1/b/{bucket}/storageLayout", get(buckets::layout))
        .route("/storage/v1/b/{bucket}/managedFolders", get(buckets::managed_folders))
        .route("/storage/v1/b/{bucket}/iam", get(buckets::policy).put(buckets::set_policy))
        .route("/storage/v1/b/{bucket}/iam/testPermissions", get(buckets::test_permissions))
        .route("/storage/v1/projects/{project}/serviceAccount", get(buckets::service_account))
        .route("/storage/v1/b/{bucket}/o", get(list_objects))
        .route(
            object,
            get(download::get_object).patch(update_object).put(update_object).delete(delete_object),
        )
        .route(&format!("{object}/compose"), post(rewrite::compose))
        .route(&format!("{object}/copyTo/b/{{to}}/o/{{name}}"), post(rewrite::copy))
        .route(&format!("{object}/rewriteTo/b/{{to}}/o/{{name}}"), post(rewrite::rewrite_object))
        .route(&format!("{object}/moveTo/o/{{name}}"), post(rewrite::move_object))
        .route("/download/storage/v1/b/{bucket}/o/{object}", get(download::get_object))
        .route("/upload/storage/v1/b/{bucket}/o", uploads())
        // Where gcloud and gsutil send theirs.
        .route("/resumable/upload/storage/v1/b/{bucket}/o", uploads())
        .method_not_allowed_fallback(unimplemented::call)
        .fallback(unimplemented::other)
        .layer(from_fn(fields::partial))
        .layer(from_fn(unimplemented::refuse))
        .with_state(Arc::clone(store));
    // Around the routes, which are chosen by what it makes of a request.
    let api = Router::new().fallback_service(api).layer(from_fn(through_front_end));
    Router::new()
        .route("/batch", post(batch::run).with_state(api.clone()))
        .route("/batch/storage/v1", post(batch::run).with_state(api.clone()))
        .fallback_service(any(shortened).with_state(api))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(store.date.clone(), dated))
}

/// The client for Node leaves `/storage/v1` out when `STORAGE_EMULATOR_HOST` names the
/// server. No bucket of the XML API is named like this: names have three letters or more.
async fn shortened(Shared(mut api): Shared<Router>, mut request: Request) -> Response {
    let path = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
    if (path == "/b" || ["/b/", "/b?"].iter().any(|prefix| path.starts_with(prefix)))
        && let Ok(whole) = format!("/storage/v1{path}").parse()
    {
        *request.uri_mut() = whole;
    }
    let Ok(response) = api.call(request).await;
    response
}

/// Lets requests to the JSON API through the front end. To the XML API, and where the client says
/// that the object is to have its encoding, `Content-Encoding` tells of the content.
async fn through_front_end(request: Request, next: Next) -> Response {
    let query = request.uri().query().unwrap_or_default();
    let of_content = query.split('&').any(|pair| pair == "contentEncoding=gzip");
    if of_content || !unimplemented::is_json(request.uri().path()) {
        return next.run(request).await;
    }
    match front_end::pass(request, MAX_BODY).await {
        Ok(request) => next.run(request).await,
        Err(garbled) => Refusal::from(garbled).into_response(),
    }
}

fn uploads() -> axum::routing::MethodRouter<Arc<Store>> {
    put(upload::advance).post(upload::start).delete(upload::cancel)
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
    #[serde(default, deserialize_with = "flag")]
    include_trailing_delimiter: bool,
    #[serde(default)]
    match_glob: String,
    #[serde(default, deserialize_with = "flag")]
    versions: bool,
}

/// A switch in either case: gcloud writes `True`.
fn flag<'de, D: Deserializer<'de>>(text: D) -> Result<bool, D::Error> {
    let text = String::deserialize(text)?;
    Ok(text.eq_ignore_ascii_case("true"))
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
        include_trailing: params.include_trailing_delimiter,
        glob: Glob::parse(&params.match_glob),
        versions: params.versions,
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
