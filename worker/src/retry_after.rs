//! How long an API asks to wait.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::HeaderMap;
use shared::LONGEST_WAIT;

/// `Retry-After`: seconds, or a date that counts from the answer's own `Date`; without one it
/// is not read.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    shared::retry_after(headers, LONGEST_WAIT, None)
}

/// Whether an answer has a `Retry-After` that means something, be it a date without a `Date`
/// to count from: with one, a 503 says that the request was not handled.
pub(crate) fn asks_to_wait(headers: &HeaderMap) -> bool {
    shared::retry_after(headers, LONGEST_WAIT, Some(Timestamp::UNIX_EPOCH)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::{DATE, HeaderValue, RETRY_AFTER};

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
        assert_eq!(wait("86401", None), Some(LONGEST_WAIT));
        assert_eq!(wait("99999999999999999999999999", None), Some(LONGEST_WAIT));
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
        assert_eq!(wait("Fri, 06 Nov 2093 08:49:37 GMT", now), Some(LONGEST_WAIT));
        assert_eq!(wait("Sun, 06 Nov 1994 08:50:00 GMT", None), None, "no clock of ours");
        assert_eq!(wait("Sun, 06 Nov 1994 08:50:00 GMT", Some("today")), None);
        assert_eq!(wait("Sunday, 06-Nov-94 08:50:00 GMT", now), None);
    }
}
