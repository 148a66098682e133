//! Reading `Date` headers.

use std::time::SystemTime;

use anyhow::Result;

/// How far a date is ahead of this test's clock, in seconds.
pub(crate) fn seconds_ahead(date: &str) -> Result<i64> {
    #[expect(clippy::disallowed_methods, reason = "the header is compared with wall time")]
    let now = SystemTime::now();
    let dated = httpdate::parse_http_date(date)?;
    Ok(match dated.duration_since(now) {
        Ok(ahead) => i64::try_from(ahead.as_secs())?,
        Err(behind) => -i64::try_from(behind.duration().as_secs())?,
    })
}
