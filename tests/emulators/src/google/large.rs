//! Answers of any size, and such as break off.

use std::io;
use std::sync::Arc;

use async_compression::tokio::bufread::GzipEncoder;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use serde::Deserialize;
use tokio_util::io::{ReaderStream, StreamReader};

use super::core::Shared;
use super::params::Params;
use super::refusal::Refusal;

/// The largest answer.
const MAX_SIZE: u64 = 1 << 40;
/// Bytes that are made at once.
const PIECE: usize = 256 * 1024;

pub(super) fn routes() -> Router<Arc<Shared>> {
    Router::new().route("/v1/bytes", any(bytes))
}

#[derive(Debug, Deserialize)]
struct BytesParams {
    /// Bytes of content, before any encoding.
    size: u64,
    /// The content type.
    content_type: Option<String>,
    /// `gzip`, or any other name, with which the content is sent as it is.
    encoding: Option<String>,
    /// The connection breaks off when so many bytes were sent.
    cut: Option<u64>,
    /// The length is not announced: chunks are sent until the last.
    #[serde(default)]
    chunked: bool,
}

/// Answers with the letters of the alphabet, again and again.
async fn bytes(
    State(shared): State<Arc<Shared>>,
    Params(params): Params<BytesParams>,
    request: HeaderMap,
) -> Result<Response, Refusal> {
    shared.authorize(&request, &[])?;
    if params.size > MAX_SIZE {
        return Err(Refusal::invalid("size is at most 1 TiB."));
    }
    let mut headers = HeaderMap::new();
    let content_type = params.content_type.as_deref().unwrap_or("text/plain");
    let header = |text: &str| {
        HeaderValue::try_from(text).map_err(|_| Refusal::invalid("Not a header's value."))
    };
    headers.insert(CONTENT_TYPE, header(content_type)?);
    let gzip = params.encoding.as_deref() == Some("gzip");
    if let Some(encoding) = &params.encoding {
        headers.insert(CONTENT_ENCODING, header(encoding)?);
    }
    if !gzip && !params.chunked {
        headers.insert(CONTENT_LENGTH, params.size.into());
    }
    let content = letters(params.size);
    let sent = if gzip {
        ReaderStream::new(GzipEncoder::new(StreamReader::new(content))).left_stream()
    } else {
        content.right_stream()
    };
    let sent = match params.cut {
        Some(cut) => cut_off(sent, cut).left_stream(),
        None => sent.right_stream(),
    };
    Ok((headers, Body::from_stream(sent)).into_response())
}

/// `abc…xyz` over and over, made while it is sent.
fn letters(size: u64) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static {
    let piece: Bytes = (b'a'..=b'z').cycle().take(PIECE / 26 * 26).collect();
    let pieces = stream::unfold(size, move |left| {
        let next = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
        let bytes = (next > 0).then(|| piece.slice(..next));
        std::future::ready(bytes.map(|bytes| (Ok(bytes), left - next as u64)))
    });
    pieces.boxed()
}

/// The first `length` bytes, then a failure.
fn cut_off(
    content: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
    length: u64,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let kept = content.scan(length, |left, piece| {
        std::future::ready(match piece {
            Ok(piece) if *left > 0 => {
                let next = usize::try_from(*left).unwrap_or(usize::MAX).min(piece.len());
                *left -= next as u64;
                Some(Ok(piece.slice(..next)))
            }
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        })
    });
    let failure = stream::once(async {
        // What came before is sent first: the server flushes when it has to wait.
        tokio::task::yield_now().await;
        Err(io::ErrorKind::ConnectionAborted.into())
    });
    kept.chain(failure)
}
