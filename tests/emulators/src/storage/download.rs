//! Reading an object: its content, a range of it, or its metadata.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::State as Shared;
use axum::response::{IntoResponse, Response};
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LANGUAGE,
    CONTENT_RANGE, CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;

use super::conditions::Conditions;
use super::extract::{Params, Segments};
use super::object::{StoredObject, hashes};
use super::operation::Operation;
use super::refusal::Refusal;
use super::store::Store;
use crate::connection::Cut;

#[derive(Debug, Deserialize)]
pub(super) struct GetParams {
    generation: Option<i64>,
    alt: Option<String>,
}

/// `GET …/o/{object}`: the content with `alt=media`, the object resource without.
pub(super) async fn get_object(
    Shared(store): Shared<Arc<Store>>,
    Segments((bucket, name)): Segments<(String, String)>,
    Params(params): Params<GetParams>,
    Params(conditions): Params<Conditions>,
    headers: HeaderMap,
    cut: Cut,
) -> Result<Response, Refusal> {
    let read = || {
        let object = store.lock().read(&bucket, &name, params.generation, conditions)?;
        check_etags(&headers, &object)?;
        Ok(object)
    };
    let object = store.pass(cut, Operation::Read, &name, read).await?;
    if params.alt.as_deref() != Some("media") {
        return Ok(Json(object.to_json(&store.origin, &bucket, &name)).into_response());
    }
    content(&object, &headers)
}

/// The content, or the range of it that was asked for, with the headers of the object.
pub(super) fn content(object: &StoredObject, asked: &HeaderMap) -> Result<Response, Refusal> {
    let size = object.size;
    if object.content.len() != size {
        return Err(Refusal::invalid(format!("The {size} bytes of this object were not kept.")));
    }
    let asked = asked.get(RANGE).and_then(|range| range.to_str().ok());
    match asked.and_then(|range| parse_range(range, size)) {
        None => Ok((object_headers(object), object.content.clone()).into_response()),
        Some(Err(refusal)) => Err(refusal),
        Some(Ok(range)) => {
            let content_range = format!("bytes {}-{}/{size}", range.start, range.end - 1);
            let part = object.content.slice(range);
            let headers = object_headers(object);
            let range = [(CONTENT_RANGE, content_range)];
            Ok((StatusCode::PARTIAL_CONTENT, headers, range, part).into_response())
        }
    }
}

/// `If-Match` and `If-None-Match`, each a list of tags.
pub(super) fn check_etags(headers: &HeaderMap, object: &StoredObject) -> Result<(), Refusal> {
    let etag = object.etag();
    let names = |name| {
        let listed = headers.get(name)?.to_str().ok()?;
        let mut tags = listed.split(',').map(|tag| tag.trim().trim_matches('"'));
        Some(tags.any(|tag| tag == "*" || tag == etag))
    };
    if names(IF_MATCH) == Some(false) {
        return Err(Refusal::Precondition);
    }
    if names(IF_NONE_MATCH) == Some(true) {
        return Err(Refusal::NotModified);
    }
    Ok(())
}

/// The bytes that a `Range` header asks for; `None` when it is to be ignored (another
/// unit, several ranges, malformed), an error when none of it is there.
fn parse_range(header: &str, size: usize) -> Option<Result<Range<usize>, Refusal>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first, last) {
        ("", last) => size.saturating_sub(last.parse().ok()?)..size,
        (first, "") => first.parse().ok()?..size,
        (first, last) => {
            let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
            if first > last {
                return None;
            }
            first..last.saturating_add(1).min(size)
        }
    };
    if range.is_empty() {
        return Some(Err(Refusal::Range { size }));
    }
    Some(Ok(range))
}

/// What the headers of an answer say of the object.
pub(super) fn object_headers(object: &StoredObject) -> HeaderMap {
    let said = &object.attributes;
    let known = [
        (CONTENT_TYPE, object.content_type.clone()),
        (ETAG, format!("\"{}\"", object.etag())),
        (LAST_MODIFIED, http_date(object.updated)),
        (ACCEPT_RANGES, "bytes".to_owned()),
        (HeaderName::from_static("x-goog-generation"), object.generation.to_string()),
        (HeaderName::from_static("x-goog-metageneration"), object.metageneration.to_string()),
        (HeaderName::from_static("x-goog-hash"), hashes(object.crc32c, object.md5)),
        (HeaderName::from_static("x-goog-storage-class"), object.storage_class.clone()),
        (HeaderName::from_static("x-goog-stored-content-length"), object.size.to_string()),
        (
            HeaderName::from_static("x-goog-stored-content-encoding"),
            said.content_encoding.clone().unwrap_or_else(|| "identity".to_owned()),
        ),
    ];
    let optional = [
        (CONTENT_ENCODING, &said.content_encoding),
        (CONTENT_DISPOSITION, &said.content_disposition),
        (CONTENT_LANGUAGE, &said.content_language),
        (CACHE_CONTROL, &said.cache_control),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value.clone()?)));
    let metadata = said.metadata.iter().filter_map(|(key, value)| {
        let name = HeaderName::try_from(format!("x-goog-meta-{key}")).ok()?;
        Some((name, value.clone()))
    });
    known
        .into_iter()
        .chain(optional)
        .chain(metadata)
        // What a header cannot carry is left to the metadata request.
        .filter_map(|(name, value)| Some((name, HeaderValue::try_from(value).ok()?)))
        .collect()
}

/// A time as HTTP headers show it: `Mon, 23 Nov 2026 12:20:05 GMT`.
fn http_date(time: SystemTime) -> String {
    const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let days = seconds / 86_400;
    let weekday = WEEKDAYS[usize::try_from(days % 7).unwrap_or(0)];
    // Counted from 1 March of the year 0, so that leap days end years: 400 years have
    // 146,097 days, and each span of five months 153.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = (from_march + 2) % 12;
    let year = era * 400 + year_of_era + u64::from(month < 2);
    let month = MONTHS[usize::try_from(month).unwrap_or(0)];
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert_eq!(parse_range("bytes=2-4", 10), Some(Ok(2..5)));
        assert_eq!(parse_range("bytes=2-", 10), Some(Ok(2..10)));
        assert_eq!(parse_range("bytes=-3", 10), Some(Ok(7..10)));
        assert_eq!(parse_range("bytes=-30", 10), Some(Ok(0..10)));
        assert_eq!(parse_range("bytes=8-99", 10), Some(Ok(8..10)));
        let refused = Some(Err(Refusal::Range { size: 10 }));
        assert_eq!(parse_range("bytes=10-", 10), refused);
        assert_eq!(parse_range("bytes=10-12", 10), refused);
        assert_eq!(parse_range("bytes=-0", 10), refused);
        for ignored in ["bytes=4-2", "bytes=1-2,4-5", "items=1-2", "bytes=a-b", "bytes=-"] {
            assert_eq!(parse_range(ignored, 10), None, "{ignored}");
        }
    }

    #[test]
    fn dates() {
        let date = |seconds| http_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(date(0), "Thu, 01 Jan 1970 00:00:00 GMT");
        // The example of RFC 9110.
        assert_eq!(date(784_111_777), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(date(951_782_399), "Mon, 28 Feb 2000 23:59:59 GMT");
        assert_eq!(date(951_782_400), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(date(4_107_542_400), "Mon, 01 Mar 2100 00:00:00 GMT");
    }
}
