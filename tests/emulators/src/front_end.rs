//! What Google's front end does to a request before its service sees it: a compressed body is
//! decoded, and a POST becomes the method that it stands for.
//!
//! The clients for Java and .NET compress what they send. Java's HTTP client has no PATCH, so
//! its requests are POST with `X-HTTP-Method-Override`. A GET whose URL would be too long comes
//! as a POST, too, with its query as the body.

use async_compression::tokio::bufread::GzipDecoder;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http::request::Parts;
use http::{HeaderMap, Method, Uri};
use tokio::io::AsyncReadExt as _;

/// A request that is not what its headers say.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Garbled {
    #[error("The request body exceeds what this emulator holds in memory.")]
    TooLarge,
    #[error("The request body is not gzip, as its Content-Encoding says.")]
    NotGzip,
    #[error("The method that X-HTTP-Method-Override names cannot have this body.")]
    Override,
}

/// The request as its service is to see it. A body that is compressed or a query has at most
/// `largest` bytes, compressed or not.
pub(crate) async fn pass(request: Request, largest: usize) -> Result<Request, Garbled> {
    let (mut parts, body) = request.into_parts();
    let body = decode(&mut parts.headers, body, largest).await?;
    let body = override_method(&mut parts, body, largest).await?;
    Ok(Request::from_parts(parts, body))
}

async fn decode(headers: &mut HeaderMap, body: Body, largest: usize) -> Result<Body, Garbled> {
    let encoding = headers.get(CONTENT_ENCODING);
    if !encoding.is_some_and(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"gzip")) {
        return Ok(body);
    }
    let sent = to_bytes(body, largest).await.map_err(|_| Garbled::TooLarge)?;
    let mut decoder = GzipDecoder::new(&sent[..]);
    decoder.multiple_members(true);
    let enough = u64::try_from(largest).unwrap_or(u64::MAX).saturating_add(1);
    let mut decoded = Vec::new();
    decoder.take(enough).read_to_end(&mut decoded).await.map_err(|_| Garbled::NotGzip)?;
    if decoded.len() > largest {
        return Err(Garbled::TooLarge);
    }
    headers.remove(CONTENT_ENCODING);
    headers.remove(CONTENT_LENGTH);
    Ok(decoded.into())
}

async fn override_method(parts: &mut Parts, body: Body, largest: usize) -> Result<Body, Garbled> {
    if parts.method != Method::POST {
        return Ok(body);
    }
    let Some(method) = parts.headers.remove("x-http-method-override") else {
        return Ok(body);
    };
    parts.method = Method::from_bytes(method.as_bytes()).map_err(|_| Garbled::Override)?;
    if parts.method != Method::GET {
        return Ok(body);
    }
    let query = to_bytes(body, largest).await.map_err(|_| Garbled::TooLarge)?;
    if !query.is_empty() {
        parts.uri = with_query(&parts.uri, &query).ok_or(Garbled::Override)?;
    }
    Ok(Body::empty())
}

fn with_query(uri: &Uri, query: &[u8]) -> Option<Uri> {
    let query = std::str::from_utf8(query).ok()?;
    let before = uri.query().map(|before| format!("{before}&")).unwrap_or_default();
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(format!("{}?{before}{query}", uri.path()).parse().ok()?);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use async_compression::tokio::bufread::GzipEncoder;

    use super::*;

    async fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoded = Vec::new();
        GzipEncoder::new(content).read_to_end(&mut encoded).await.expect("in memory");
        encoded
    }

    fn post(header: (&'static str, &'static str), body: Vec<u8>) -> Request {
        let request = http::Request::post("http://localhost/a?x=1").header(header.0, header.1);
        request.body(body.into()).expect("valid")
    }

    async fn text(request: Request) -> String {
        let body = to_bytes(request.into_body(), usize::MAX).await.expect("in memory");
        String::from_utf8(body.to_vec()).expect("text")
    }

    #[tokio::test]
    async fn bodies_are_decoded_up_to_their_limit() {
        let sent = async || post(("content-encoding", "gzip"), gzip(&[b'a'; 1_000]).await);
        let passed = pass(sent().await, 1_000).await.expect("as large as may be");
        assert!(!passed.headers().contains_key("content-encoding"));
        assert_eq!(text(passed).await, "a".repeat(1_000));
        assert_eq!(pass(sent().await, 999).await.err(), Some(Garbled::TooLarge));
        let plain = post(("content-encoding", "gzip"), b"plain".to_vec());
        assert_eq!(pass(plain, 1_000).await.err(), Some(Garbled::NotGzip));
    }

    #[tokio::test]
    async fn a_post_becomes_what_it_stands_for() {
        let sent = post(("x-http-method-override", "PATCH"), b"{}".to_vec());
        let passed = pass(sent, 1_000).await.expect("valid");
        assert_eq!((passed.method(), passed.uri().query()), (&Method::PATCH, Some("x=1")));
        assert_eq!(text(passed).await, "{}");
        let sent = post(("x-http-method-override", "GET"), b"q=long".to_vec());
        let passed = pass(sent, 1_000).await.expect("valid");
        assert_eq!((passed.method(), passed.uri().query()), (&Method::GET, Some("x=1&q=long")));
        assert_eq!(text(passed).await, "");
        let sent = post(("x-http-method-override", "GET"), b"\xff".to_vec());
        assert_eq!(pass(sent, 1_000).await.err(), Some(Garbled::Override));
    }
}
