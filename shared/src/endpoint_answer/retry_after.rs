//! How long an answer asks to wait.

use std::time::Duration;

use http::HeaderMap;
use http::header::{DATE, RETRY_AFTER};
use jiff::Timestamp;
use jiff::fmt::rfc2822;

/// The longest wait that an API may ask for: more is as good as this, since Pub/Sub keeps a
/// message for 7 days.
pub const LONGEST_WAIT: Duration = Duration::from_hours(24);

/// `Retry-After` (RFC 9110, section 10.2.3), at most `longest`: seconds, or a date. A date
/// counts from the answer's own `Date`, so that no two clocks are compared; without one from
/// `now`, and without either it is not read. A date that has passed asks for no wait. `None`
/// when the header is absent or neither.
pub fn retry_after(
    headers: &HeaderMap,
    longest: Duration,
    now: Option<Timestamp>,
) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than a number holds are more than the longest wait, too.
        let seconds = value.parse().map_or(longest, Duration::from_secs);
        return Some(seconds.min(longest));
    }
    let until = date(value)?;
    let sent = headers.get(DATE).and_then(|value| date(value.to_str().ok()?));
    let wait = Duration::try_from(until.duration_since(sent.or(now)?));
    Some(wait.unwrap_or_default().min(longest))
}

/// An HTTP date in its current form (RFC 9110, section 5.6.7); the two obsolete forms are
/// not read.
fn date(value: &str) -> Option<Timestamp> {
    rfc2822::DateTimeParser::new().parse_timestamp(value.trim()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(600);

    fn wait(value: &str, sent: Option<&str>) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, value.parse().unwrap());
        if let Some(sent) = sent {
            headers.insert(DATE, sent.parse().unwrap());
        }
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        retry_after(&headers, LONGEST, Some(now)).map(|wait| wait.as_secs())
    }

    #[test]
    fn seconds_are_taken_up_to_the_longest_wait() {
        assert_eq!(wait("60", None), Some(60));
        assert_eq!(wait(" 0 ", None), Some(0));
        assert_eq!(wait("601", None), Some(600));
        assert_eq!(wait("99999999999999999999999", None), Some(600));
        for odd in ["", "-1", "1.5", "soon", "1e3"] {
            assert_eq!(wait(odd, None), None, "{odd}");
        }
    }

    #[test]
    fn a_date_counts_from_the_answers_own() {
        let until = "Thu, 01 Jan 2026 00:01:30 GMT";
        assert_eq!(wait(until, None), Some(90));
        assert_eq!(wait(until, Some("Thu, 01 Jan 2026 00:01:00 GMT")), Some(30));
        assert_eq!(wait(until, Some("not a date")), Some(90));
        assert_eq!(wait("Wed, 31 Dec 2025 00:00:00 GMT", None), Some(0));
        assert_eq!(wait("Fri, 01 Jan 2027 00:00:00 GMT", None), Some(600));
        assert_eq!(wait("Thursday, 01-Jan-26 00:01:30 GMT", None), None);
    }
}
