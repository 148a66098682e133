//! A list in as many pages as are asked for, and one that never ends.

use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use http::HeaderMap;
use serde::Deserialize;
use serde_json::{Value, json};

use super::core::Shared;
use super::params::Params;
use super::refusal::Refusal;

/// The most elements in a page, and bytes in an element.
const MAX_ELEMENTS: usize = 10_000;
const MAX_PAD: usize = 1 << 20;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/v1/pages", get(pages))
}

#[derive(Debug, Deserialize)]
struct PagesParams {
    /// Pages in the list.
    pages: usize,
    /// Elements in a page.
    #[serde(default = "one")]
    elements: usize,
    /// Bytes that fill up each element.
    #[serde(default)]
    pad: usize,
    /// The last page names the second again, without end.
    #[serde(default)]
    circular: bool,
    #[serde(rename = "pageToken")]
    page_token: Option<String>,
}

fn one() -> usize {
    1
}

/// Elements are numbered throughout: `{"n": 0, "pad": "…"}`.
async fn pages(
    State(shared): State<Arc<Shared>>,
    Params(params): Params<PagesParams>,
    headers: HeaderMap,
) -> Result<Json<Value>, Refusal> {
    shared.authorize(&headers, &[])?;
    let PagesParams { pages, elements, pad, circular, page_token } = params;
    if elements > MAX_ELEMENTS || pad > MAX_PAD {
        return Err(Refusal::invalid("The page would be too large."));
    }
    let page = match page_token {
        None => 0,
        Some(token) => token
            .strip_prefix("~page/")
            .and_then(|page| page.parse().ok())
            .filter(|page| *page < pages)
            .ok_or_else(|| Refusal::invalid("Invalid page token."))?,
    };
    let first = page * elements;
    let list: Vec<Value> =
        (first..first + elements).map(|n| json!({"n": n, "pad": "x".repeat(pad)})).collect();
    let mut body = json!({"kind": "fake#list", "items": list});
    if page + 1 < pages {
        body["nextPageToken"] = format!("~page/{}", page + 1).into();
    } else if circular {
        body["nextPageToken"] = "~page/1".into();
    }
    Ok(Json(body))
}
