//! How long an API asks to wait.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};

/// A longer wait is as good as this one: Pub/Sub keeps a message for 7 days.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// `Retry-After` (RFC 9110, section 10.2.3): seconds, or a date. A date counts from
/// the answer's own `Date`, so that no two clocks are compared; without one it is
/// not read.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than a number holds are more than the longest wait, too.
        let seconds = value.parse().map_or(LONGEST, Duration::from_secs);
        return Some(seconds.min(LONGEST));
    }
    let until = date(headers, RETRY_AFTER)?;
    let from = date(headers, DATE)?;
    // A date that has passed asks for no wait.
    let wait = Duration::try_from(until.duration_since(from)).unwrap_or_default();
    Some(wait.min(LONGEST))
}

/// Whether an answer has a `Retry-After` that means something, be it a date without a `Date`
/// to count from: with one, a 503 says that the request was not handled.
pub(crate) fn asks_to_wait(headers: &HeaderMap) -> bool {
    retry_after(headers).is_some() || date(headers, RETRY_AFTER).is_some()
}

/// An HTTP date in its current form (RFC 9110, section 5.6.7); the two obsolete
/// forms are not read.
fn date(headers: &HeaderMap, name: HeaderName) -> Option<Timestamp> {
    let value = headers.get(name)?.to_str().ok()?;
    rfc2822::DateTimeParser::new().parse_timestamp(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn wait(value: &str, date: Option<&str>) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_str(value).unwrap());
        if let Some(date) = date {
            headers.insert(DATE, HeaderValue::from_str(date).unwrap());
        }
        retry_after(&headers)
    }

    #[test]
    fn seconds() {
        let seconds = |s| Some(Duration::from_secs(s));
        assert_eq!(wait("0", None), seconds(0));
        assert_eq!(wait(" 120 ", None), seconds(120));
        assert_eq!(wait("86401", None), Some(LONGEST));
        assert_eq!(wait("99999999999999999999999999", None), Some(LONGEST));
        for bad in ["", "-1", "1.5", "soon", "1 s", "0x10", "+5"] {
            assert_eq!(wait(bad, None), None, "{bad:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }

    #[test]
    fn dates_count_from_the_answers_own() {
        let now = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        let seconds = |s| Some(Duration::from_secs(s));
        assert_eq!(wait("Sun, 06 Nov 1994 08:50:00 GMT", now), seconds(23));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT", now), seconds(0));
        assert_eq!(wait("Sun, 06 Nov 1994 08:00:00 GMT", now), seconds(0));
        assert_eq!(wait("Sun, 06 Nov 2094 08:49:37 GMT", now), None, "that is a Saturday");
        assert_eq!(wait("Fri, 06 Nov 2093 08:49:37 GMT", now), Some(LONGEST));
        assert_eq!(wait("Sun, 06 Nov 1994 08:50:00 GMT", None), None, "no clock of ours");
        assert_eq!(wait("Sun, 06 Nov 1994 08:50:00 GMT", Some("today")), None);
        assert_eq!(wait("Sunday, 06-Nov-94 08:50:00 GMT", now), None);
    }
}
