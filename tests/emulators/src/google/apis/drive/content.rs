//! What files consist of, and how it is sent.

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use http::{HeaderMap, StatusCode};
use sha2::{Digest as _, Sha256};

use super::super::super::core::text;
use super::super::super::refusal::Refusal;

/// Bytes in one piece of a download.
const PIECE: usize = 64 * 1024;

#[derive(Clone, Debug)]
pub(super) enum Content {
    /// A folder has none.
    None,
    /// As many bytes as are asked for, that follow from the file's ID alone.
    Made,
    Kept(Bytes),
}

impl Content {
    /// All of it, or the range that the request names. `size` is how much there is of what
    /// is made.
    pub(super) fn response(
        &self,
        id: &str,
        kind: &str,
        size: u64,
        request: &HeaderMap,
    ) -> Result<Response, Refusal> {
        let size = match self {
            Self::None => {
                let message = "Only files with binary content can be downloaded. Use Export with Docs Editors files.";
                return Err(Refusal::new(StatusCode::FORBIDDEN, "fileNotDownloadable", message));
            }
            Self::Made => size,
            Self::Kept(bytes) => bytes.len() as u64,
        };
        let range = text(request, RANGE.as_str()).and_then(|range| asked(range, size));
        let (from, to) = match range {
            None => (0, size),
            Some(Some(range)) => range,
            Some(None) => {
                let message = "Request range not satisfiable";
                let status = StatusCode::RANGE_NOT_SATISFIABLE;
                return Err(Refusal::new(status, "requestedRangeNotSatisfiable", message));
            }
        };
        let body = match self {
            Self::Kept(bytes) => {
                let at = |place: u64| usize::try_from(place).unwrap_or(bytes.len());
                Body::from(bytes.slice(at(from)..at(to)))
            }
            _ => made(id, from, to),
        };
        let headers = [
            (CONTENT_TYPE, kind.to_owned()),
            (CONTENT_LENGTH, (to - from).to_string()),
            (ACCEPT_RANGES, "bytes".to_owned()),
        ];
        if range.is_none() {
            return Ok((headers, body).into_response());
        }
        let told = [(CONTENT_RANGE, format!("bytes {from}-{}/{size}", to - 1))];
        Ok((StatusCode::PARTIAL_CONTENT, headers, told, body).into_response())
    }
}

/// The range of a header that names one, the end not included; inside it `None` if it lies
/// beyond the end. What is no single range is not heeded.
#[expect(clippy::option_option, reason = "no range, one that cannot be had, and one")]
fn asked(range: &str, size: u64) -> Option<Option<(u64, u64)>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    if first.is_empty() {
        let length: u64 = last.parse().ok()?;
        return Some((length > 0 && size > 0).then(|| (size.saturating_sub(length), size)));
    }
    let first: u64 = first.parse().ok()?;
    let last: u64 = if last.is_empty() { u64::MAX } else { last.parse().ok()? };
    Some((first < size && first <= last).then(|| (first, last.saturating_add(1).min(size))))
}

/// The bytes between two places, made while they are sent.
fn made(id: &str, from: u64, to: u64) -> Body {
    let seed = Sha256::digest(id.as_bytes());
    let length = seed.len();
    let piece: Bytes = seed.iter().copied().cycle().take(PIECE + length).collect();
    let pieces = stream::unfold(from, move |at| {
        let next = usize::try_from(to - at).unwrap_or(PIECE).min(PIECE);
        let skip = usize::try_from(at % length as u64).unwrap_or_default();
        let bytes = (next > 0).then(|| piece.slice(skip..skip + next));
        std::future::ready(bytes.map(|bytes| (Ok::<_, std::io::Error>(bytes), at + next as u64)))
    });
    Body::from_stream(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(asked("bytes=0-9", 100), Some(Some((0, 10))));
        assert_eq!(asked("bytes=90-", 100), Some(Some((90, 100))));
        assert_eq!(asked("bytes=-10", 100), Some(Some((90, 100))));
        assert_eq!(asked("bytes=0-999", 100), Some(Some((0, 100))));
        assert_eq!(asked("bytes=100-", 100), Some(None));
        assert_eq!(asked("bytes=0-", 0), Some(None));
        assert_eq!(asked("items=0-9", 100), None);
        assert_eq!(asked("bytes=x", 100), None);
    }
}
