//! An answer's body, decoded, piece by piece.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use async_compression::tokio::bufread::GzipDecoder;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use reqwest::header::{CONTENT_ENCODING, TRANSFER_ENCODING};
use reqwest::{Response, Version};
use tokio_util::io::{ReaderStream, StreamReader};

use crate::calls::SentCall;

use super::hidden::Hidden;

/// Bytes that the decoder hands on at once: however well an answer is compressed,
/// no more of it is in memory.
const DECODED: usize = 64 * 1024;

/// Why a body cannot be read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    /// The connection ended or failed, or the content is not what it says.
    #[error("the API's answer was cut off")]
    Cut,
    /// Nothing came for too long.
    #[error("the API stopped in the middle of its answer")]
    Idle,
    /// It was not asked for.
    #[error("the answer has a content encoding other than gzip")]
    Encoding,
    /// HTTP/1 without a length: an end cannot be told from a failure.
    #[error("the API does not say how long its answer is, so that it could be cut off unseen")]
    NoLength,
}

/// A body and what is known about it.
pub(super) struct Body {
    pieces: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>,
    /// Its length after decoding, if the answer says so.
    pub(super) length: Option<u64>,
    /// Whether an end that came too early would be noticed.
    framed: bool,
    /// What the answer must not repeat.
    hidden: Hidden,
}

impl Body {
    /// The body of `response`; between two pieces it may take `idle`. The token of the call
    /// that it answers is replaced by as many `*`.
    pub(super) fn new(response: Response, idle: Duration) -> Result<Self, Broken> {
        let encoding = response.headers().get(CONTENT_ENCODING).map(|v| v.as_bytes().trim_ascii());
        let gzip = match encoding {
            None | Some(b"" | b"identity") => false,
            Some(name) => {
                let known = [&b"gzip"[..], b"x-gzip"];
                if !known.iter().any(|known| name.eq_ignore_ascii_case(known)) {
                    return Err(Broken::Encoding);
                }
                true
            }
        };
        let length = response.content_length();
        let framed = gzip
            || length.is_some()
            || response.version() >= Version::HTTP_2
            || response.headers().contains_key(TRANSFER_ENCODING);
        let hidden = SentCall::of(&response).map(|call| Hidden::new(call.token.expose()));
        let hidden = hidden.unwrap_or_default();
        let raw = stream::unfold(Some(response), move |response| async move {
            let mut response = response?;
            match tokio::time::timeout(idle, response.chunk()).await {
                Ok(Ok(Some(piece))) => Some((Ok(piece), Some(response))),
                Ok(Ok(None)) => None,
                Ok(Err(_)) => Some((Err(io::ErrorKind::UnexpectedEof.into()), None)),
                Err(_) => Some((Err(io::ErrorKind::TimedOut.into()), None)),
            }
        });
        // An answer without content (to HEAD, or a 204) is not compressed either.
        if !gzip || length == Some(0) {
            return Ok(Self { pieces: raw.fuse().boxed(), length, framed, hidden });
        }
        let mut decoder = GzipDecoder::new(StreamReader::new(raw.boxed()));
        decoder.multiple_members(true);
        let pieces = ReaderStream::with_capacity(decoder, DECODED).fuse().boxed();
        Ok(Self { pieces, length: None, framed, hidden })
    }

    /// Refuses a body whose end cannot be told from a failure.
    pub(super) fn must_be_whole(self) -> Result<Self, Broken> {
        if self.framed { Ok(self) } else { Err(Broken::NoLength) }
    }

    /// Whether an end that came too early would be noticed.
    pub(super) fn is_framed(&self) -> bool {
        self.framed
    }

    /// The next piece. Dropping the future loses none.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, Broken>> {
        loop {
            let (piece, is_last) = match self.pieces.next().await {
                Some(Ok(piece)) => (self.hidden.clean(piece), false),
                Some(Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
                    return Some(Err(Broken::Idle));
                }
                Some(Err(_)) => return Some(Err(Broken::Cut)),
                None => (self.hidden.rest(), true),
            };
            if !piece.is_empty() {
                return Some(Ok(piece));
            }
            if is_last {
                return None;
            }
        }
    }

    /// As much as there is up to `limit`, and whether there is more.
    pub(super) async fn read(mut self, limit: usize) -> (Vec<u8>, Ended) {
        let mut content = Vec::new();
        loop {
            match self.next().await {
                None => return (content, Ended::Whole),
                Some(Err(broken)) => return (content, Ended::Broken(broken)),
                Some(Ok(piece)) => {
                    let room = limit - content.len();
                    content.extend_from_slice(&piece[..piece.len().min(room)]);
                    if piece.len() > room {
                        return (content, Ended::TooLarge);
                    }
                }
            }
        }
    }
}

/// How the reading of a body ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    Whole,
    TooLarge,
    Broken(Broken),
}

#[cfg(test)]
mod tests {
    use async_compression::tokio::bufread::GzipEncoder;
    use http::HeaderValue;
    use http::header::CONTENT_LENGTH;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    async fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoded = Vec::new();
        GzipEncoder::new(content).read_to_end(&mut encoded).await.unwrap();
        encoded
    }

    /// An answer over HTTP/1.1 in chunks, with this encoding and these pieces.
    fn answer(encoding: Option<&'static str>, pieces: Vec<io::Result<Bytes>>) -> Response {
        let mut builder = http::Response::builder().header(TRANSFER_ENCODING, "chunked");
        if let Some(encoding) = encoding {
            builder = builder.header(CONTENT_ENCODING, encoding);
        }
        builder.body(reqwest::Body::wrap_stream(stream::iter(pieces))).unwrap().into()
    }

    async fn read(
        encoding: Option<&'static str>,
        content: &[u8],
        limit: usize,
    ) -> (Vec<u8>, Ended) {
        let pieces = content.chunks(7).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        Body::new(answer(encoding, pieces), IDLE).unwrap().read(limit).await
    }

    #[tokio::test]
    async fn encodings() {
        for encoding in [None, Some("identity"), Some("")] {
            assert_eq!(read(encoding, b"abc", 3).await, (b"abc".to_vec(), Ended::Whole));
        }
        let encoded = gzip(b"abc").await;
        for encoding in ["gzip", "GZIP", " x-gzip "] {
            let read = read(Some(encoding), &encoded, 3).await;
            assert_eq!(read, (b"abc".to_vec(), Ended::Whole), "{encoding}");
        }
        let twice = [encoded.clone(), encoded].concat();
        assert_eq!(read(Some("gzip"), &twice, 9).await, (b"abcabc".to_vec(), Ended::Whole));
        for encoding in ["br", "deflate", "gzip, gzip"] {
            let body = Body::new(answer(Some(encoding), vec![]), IDLE);
            assert!(matches!(body, Err(Broken::Encoding)), "{encoding}");
        }
    }

    #[tokio::test]
    async fn what_is_cut_off_is_noticed() {
        let encoded = gzip(&vec![7; 100_000]).await;
        for cut in [1, 5, 10, 20, encoded.len() - 9, encoded.len() - 1] {
            let (_, ended) = read(Some("gzip"), &encoded[..cut], usize::MAX).await;
            assert_eq!(ended, Ended::Broken(Broken::Cut), "{cut} of {}", encoded.len());
        }
        let mut wrong = encoded.clone();
        let checksum = encoded.len() - 8;
        wrong[checksum] ^= 1;
        let (_, ended) = read(Some("gzip"), &wrong, usize::MAX).await;
        assert_eq!(ended, Ended::Broken(Broken::Cut), "its checksum");
        let pieces =
            vec![Ok(Bytes::from_static(b"ab")), Err(io::ErrorKind::ConnectionReset.into())];
        let (content, ended) = Body::new(answer(None, pieces), IDLE).unwrap().read(9).await;
        assert_eq!((&content[..], ended), (&b"ab"[..], Ended::Broken(Broken::Cut)));
    }

    #[tokio::test]
    async fn limits_count_what_is_decoded() {
        let bomb = gzip(&vec![0; 50_000_000]).await;
        assert!(bomb.len() < 60_000);
        let (content, ended) = read(Some("gzip"), &bomb, 1_000).await;
        assert_eq!((content.len(), ended), (1_000, Ended::TooLarge));
        let pieces = vec![Ok(Bytes::from(bomb))];
        let mut body = Body::new(answer(Some("gzip"), pieces), IDLE).unwrap();
        while let Some(piece) = body.next().await {
            assert!(piece.unwrap().len() <= DECODED, "held at once");
        }
        assert_eq!(read(None, b"abcd", 3).await, (b"abc".to_vec(), Ended::TooLarge));
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_that_stops_is_given_up() {
        for encoding in [None, Some("gzip")] {
            let begun = stream::iter([Ok::<_, io::Error>(Bytes::from_static(b""))]);
            let body = reqwest::Body::wrap_stream(begun.chain(stream::pending()));
            let mut builder = http::Response::builder().header(TRANSFER_ENCODING, "chunked");
            if let Some(encoding) = encoding {
                builder = builder.header(CONTENT_ENCODING, encoding);
            }
            let body = Body::new(builder.body(body).unwrap().into(), IDLE).unwrap();
            let since = tokio::time::Instant::now();
            let (_, ended) = body.read(9).await;
            assert_eq!(ended, Ended::Broken(Broken::Idle), "{encoding:?}");
            assert!(since.elapsed() >= IDLE);
        }
    }

    #[test]
    fn an_end_without_a_length_is_no_end() {
        let whole = |change: fn(&mut http::Response<reqwest::Body>)| {
            let pieces: Vec<io::Result<Bytes>> = vec![Ok(Bytes::from_static(b"abc"))];
            let body = reqwest::Body::wrap_stream(stream::iter(pieces));
            let mut response = http::Response::new(body);
            change(&mut response);
            Body::new(response.into(), IDLE).unwrap().must_be_whole().map(|body| body.length)
        };
        assert_eq!(whole(|_| {}), Err(Broken::NoLength));
        assert_eq!(whole(|r| *r.version_mut() = Version::HTTP_10), Err(Broken::NoLength));
        assert_eq!(whole(|r| *r.version_mut() = Version::HTTP_2), Ok(None));
        let chunks = whole(|r| {
            r.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        });
        assert_eq!(chunks, Ok(None));
        let gzip = whole(|r| {
            r.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        });
        assert_eq!(gzip, Ok(None), "it has a checksum at its end");
        let known = http::Response::builder()
            .header(CONTENT_LENGTH, 3)
            .body(reqwest::Body::from("abc"))
            .unwrap();
        let known = Body::new(known.into(), IDLE).unwrap().must_be_whole().unwrap();
        assert_eq!(known.length, Some(3));
    }
}
