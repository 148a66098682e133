//! Many calls of the JSON API in one request: `multipart/mixed` of `application/http`.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, StatusCode, Uri};
use tonic::codegen::Service as _;

use super::extract::Content;
use super::multipart::{self, Part};
use super::refusal::Refusal;
use crate::connection::Cut;

/// Calls in one batch, at most, as in production.
const MAX_CALLS: usize = 100;

const BOUNDARY: &str = "batch_of_answers";

/// Runs the calls one after the other; each has an answer of its own.
pub(super) async fn run(
    State(api): State<Router>,
    cut: Cut,
    headers: HeaderMap,
    Content(body): Content,
) -> Result<Response, Refusal> {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let parts = multipart::parts(content_type.unwrap_or_default(), &body)?;
    if parts.len() > MAX_CALLS {
        return Err(Refusal::invalid(format!(
            "The batch has {} calls, the maximum is {MAX_CALLS}.",
            parts.len()
        )));
    }
    let mut answer = Vec::new();
    for part in parts {
        let id = part.header("content-id").unwrap_or_default().trim_matches(['<', '>']).to_owned();
        let mut request = call(&part)
            .ok_or_else(|| Refusal::invalid("A part of the batch is no HTTP request."))?;
        request.extensions_mut().insert(cut.clone());
        let Ok(response) = api.clone().call(request).await;
        let head = format!(
            "--{BOUNDARY}\r\nContent-Type: application/http\r\nContent-ID: <response-{id}>\r\n\r\n"
        );
        answer.extend_from_slice(head.as_bytes());
        write(response, &mut answer).await;
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());
    let kind = [(CONTENT_TYPE, format!("multipart/mixed; boundary={BOUNDARY}"))];
    Ok((StatusCode::OK, kind, answer).into_response())
}

/// The request that a part carries.
fn call(part: &Part) -> Option<Request<Body>> {
    let text = &part.body;
    // Whichever blank line comes first ends the headers.
    let blank = |line: &[u8]| text.windows(line.len()).position(|window| window == line);
    let (end, start) = match (blank(b"\r\n\r\n"), blank(b"\n\n")) {
        (Some(crlf), None) => (crlf, crlf + 4),
        (Some(crlf), Some(lf)) if crlf < lf => (crlf, crlf + 4),
        (_, Some(lf)) => (lf, lf + 2),
        (None, None) => (text.len(), text.len()),
    };
    let head = std::str::from_utf8(&text[..end]).ok()?;
    let mut lines = head.lines();
    let mut first = lines.next()?.split_whitespace();
    let (method, target) = (first.next()?, first.next()?);
    let target: Uri = target.parse().ok()?;
    let path = target.path_and_query()?.as_str();
    let mut request = Request::builder().method(method).uri(path);
    for line in lines {
        let (name, value) = line.split_once(':')?;
        request = request.header(name.trim(), value.trim());
    }
    let body: Bytes = part.body.slice(start..);
    request.body(Body::from(body)).ok()
}

async fn write(response: Response, answer: &mut Vec<u8>) {
    let (parts, body) = response.into_parts();
    let reason = parts.status.canonical_reason().unwrap_or_default();
    let status = format!("HTTP/1.1 {} {reason}\r\n", parts.status.as_u16());
    answer.extend_from_slice(status.as_bytes());
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    for (name, value) in &parts.headers {
        answer.extend_from_slice(name.as_str().as_bytes());
        answer.extend_from_slice(b": ");
        answer.extend_from_slice(value.as_bytes());
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(b"\r\n");
    answer.extend_from_slice(&body);
}
