//! This computer's clock against the servers'. Leases do not depend on it; the
//! judgement whether a token is still fresh does.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use shared::adapters::SystemClock;
use shared::ports::Clock as _;

use super::super::environment::Place;
use super::finding::Checks;

const STORAGE: &str = "https://storage.googleapis.com/";
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// A `Date` has whole seconds, and takes its time to arrive.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(5);

pub(super) async fn check(
    place: &Place,
    token_uri: Option<&str>,
    http: &reqwest::Client,
) -> Checks {
    let mut checks = Checks::of("clock");
    let storage = place.emulators.as_ref().map_or(STORAGE, |emulators| &emulators.storage);
    one("against Cloud Storage", storage, http, &mut checks).await;
    match token_uri {
        Some(uri) => one("against the token endpoint", uri, http, &mut checks).await,
        None => checks.skip("against the token endpoint", "no OAuth client is named"),
    }
    checks
}

async fn one(check: &'static str, url: &str, http: &reqwest::Client, checks: &mut Checks) {
    let clock = SystemClock::default();
    let before = clock.wall();
    // Any answer has a date, a refusal too.
    let answer = http.head(url).timeout(TIME_LIMIT).send().await;
    let after = clock.wall();
    let date = match &answer {
        Ok(answer) => answer.headers().get(http::header::DATE),
        Err(error) if error.is_timeout() => return checks.skip(check, "no answer in time"),
        Err(_) => return checks.skip(check, format!("{url} cannot be reached")),
    };
    let Some(date) = date.and_then(|date| date.to_str().ok()).and_then(parse) else {
        return checks.skip(check, format!("{url} does not date its answers"));
    };
    judge(check, off_by(before, after, date), checks);
}

fn parse(date: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok()
}

/// How far this clock is ahead, at least: the server read its own at some moment
/// between `before` and `after`, and cut its fraction off.
fn off_by(before: Timestamp, after: Timestamp, date: Timestamp) -> SignedDuration {
    let latest = date + SignedDuration::from_secs(1);
    if before > latest {
        before.duration_since(latest)
    } else if after < date {
        after.duration_since(date)
    } else {
        SignedDuration::ZERO
    }
}

fn judge(check: &'static str, off: SignedDuration, checks: &mut Checks) {
    let seconds = off.abs().as_secs();
    if off.abs() <= TOLERANCE {
        return checks.ok(check, format!("within {} s", TOLERANCE.as_secs()));
    }
    let way = if off.is_negative() { "behind" } else { "ahead" };
    checks.warn(
        check,
        format!("this computer is {seconds} s {way}: tokens look older or younger than they are"),
        "timedatectl set-ntp true, or what keeps the time on this system",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_answer_is_no_wrong_clock() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let date = parse("Thu, 01 Jan 2026 00:00:10 GMT").unwrap();
        for (before, after, off) in [
            ("2026-01-01T00:00:10.9Z", "2026-01-01T00:00:11Z", 0),
            ("2026-01-01T00:00:01Z", "2026-01-01T00:00:20Z", 0),
            ("2026-01-01T00:01:11Z", "2026-01-01T00:01:12Z", 60),
            ("2025-12-31T23:59:00Z", "2025-12-31T23:59:10Z", -60),
        ] {
            assert_eq!(off_by(at(before), at(after), date).as_secs(), off);
        }
    }
}
