//! Drive: the same files for a user every time, and as many bytes as are asked for.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::stream;
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::core::Shared;
use super::params::Params;
use super::refusal::Refusal;

/// Any one of these lets a token read; the first is the one to ask for.
const SCOPES: [&str; 2] =
    ["https://www.googleapis.com/auth/drive.readonly", "https://www.googleapis.com/auth/drive"];

/// How many files every user has.
const FILES: usize = 42;

/// The largest download.
const MAX_SIZE: u64 = 1 << 40;

/// Bytes in one piece of a download.
const PIECE: usize = 64 * 1024;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/drive/v3/files", get(list)).route("/drive/v3/files/{id}", get(file))
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListParams {
    page_size: Option<usize>,
    page_token: Option<String>,
}

async fn list(
    State(shared): State<Arc<Shared>>,
    Params(params): Params<ListParams>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    let caller = shared.authorize(&headers, &SCOPES)?;
    let size = params.page_size.unwrap_or(100);
    if !(1..=1_000).contains(&size) {
        return Err(Refusal::invalid("pageSize must be between 1 and 1000."));
    }
    let start = match params.page_token {
        None => 0,
        Some(token) => page_start(&token).ok_or_else(|| Refusal::invalid("Invalid page token."))?,
    };
    let end = FILES.min(start + size);
    let files: Vec<Value> = (start..end).map(|index| file_json(&caller.sub, index)).collect();
    let mut json = json!({"kind": "drive#fileList", "incompleteSearch": false, "files": files});
    if end < FILES {
        json["nextPageToken"] = format!("~page-{end}").into();
    }
    Ok(Json(json))
}

fn page_start(token: &str) -> Option<usize> {
    let start = token.strip_prefix("~page-")?.parse().ok()?;
    (start < FILES).then_some(start)
}

fn file_json(sub: &str, index: usize) -> Value {
    json!({
        "kind": "drive#file",
        "id": file_id(sub, index),
        "name": format!("File {index}"),
        "mimeType": "application/octet-stream",
    })
}

fn file_id(sub: &str, index: usize) -> String {
    let digest = Sha256::digest(sub.as_bytes());
    let owner = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    format!("1fake-{owner:08x}-{index:02}")
}

#[derive(Debug, Deserialize)]
struct FileParams {
    alt: Option<String>,
    size: Option<u64>,
}

async fn file(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    Params(params): Params<FileParams>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let caller = shared.authorize(&headers, &SCOPES)?;
    let index = (0..FILES)
        .find(|index| file_id(&caller.sub, *index) == id)
        .ok_or_else(|| Refusal::not_found("File"))?;
    if params.alt.as_deref() != Some("media") {
        return Ok(Json(file_json(&caller.sub, index)).into_response());
    }
    let size = params.size.unwrap_or(1_024);
    if size > MAX_SIZE {
        return Err(Refusal::invalid("size is at most 1 TiB."));
    }
    let headers =
        [(CONTENT_TYPE, "application/octet-stream".to_owned()), (CONTENT_LENGTH, size.to_string())];
    Ok((headers, content(&id, size)).into_response())
}

/// `size` bytes that follow from the ID alone, made while they are sent.
fn content(id: &str, size: u64) -> Body {
    let seed = Sha256::digest(id.as_bytes());
    let piece: Bytes = seed.iter().copied().cycle().take(PIECE).collect();
    let pieces = stream::unfold(size, move |left| {
        let next = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        let bytes = (next > 0).then(|| piece.slice(..next));
        std::future::ready(bytes.map(|bytes| (Ok::<_, std::io::Error>(bytes), left - next as u64)))
    });
    Body::from_stream(pieces)
}
