//! When events are: at instants, or on whole days.

use http::StatusCode;
use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::super::super::refusal::Refusal;
use super::super::call::Resource;

/// From when until when, in the calendar's time zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: Timestamp,
    pub(super) end: Timestamp,
}

impl Span {
    /// That of an event whose times are settled.
    pub(super) fn of(event: &Resource) -> Result<Self, Refusal> {
        let time = |name: &str| {
            let time = event.get(name).unwrap_or(&Value::Null);
            Time::read(time, name).map(|time| time.at)
        };
        Ok(Self { start: time("start")?, end: time("end")? })
    }
}

struct Time {
    at: Timestamp,
    /// As it is shown.
    shown: Value,
    whole_day: bool,
}

impl Time {
    fn read(time: &Value, name: &str) -> Result<Self, Refusal> {
        let invalid = || Refusal::invalid(format!("Invalid {name} time."));
        let text = |name: &str| time.get(name).and_then(Value::as_str);
        let zone = text("timeZone");
        match (text("date"), text("dateTime")) {
            (Some(date), None) => {
                let date: Date = date.parse().map_err(|_| invalid())?;
                let at = date.to_zoned(TimeZone::UTC).map_err(|_| invalid())?.timestamp();
                Ok(Self { at, shown: json!({"date": date.to_string()}), whole_day: true })
            }
            (None, Some(text)) => {
                let at = match (text.parse::<Timestamp>(), zone) {
                    (Ok(at), _) => at,
                    // Without an offset the zone tells what is meant.
                    (Err(_), Some(zone)) => {
                        let time: DateTime = text.parse().map_err(|_| invalid())?;
                        let zone = TimeZone::get(zone).map_err(|_| {
                            Refusal::invalid(format!(
                                "Invalid time zone definition for {name} time."
                            ))
                        })?;
                        time.to_zoned(zone).map_err(|_| invalid())?.timestamp()
                    }
                    (Err(_), None) => {
                        let message = format!("Missing time zone definition for {name} time.");
                        return Err(Refusal::new(StatusCode::BAD_REQUEST, "required", message));
                    }
                };
                let shown = at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
                let shown = json!({"dateTime": shown, "timeZone": zone.unwrap_or("UTC")});
                Ok(Self { at, shown, whole_day: false })
            }
            (None, None) => {
                let message = format!("Missing {name} time.");
                Err(Refusal::new(StatusCode::BAD_REQUEST, "required", message))
            }
            (Some(_), Some(_)) => Err(invalid()),
        }
    }
}

/// Checks the times of an event and writes them as they are shown.
pub(super) fn settle(event: &mut Resource) -> Result<(), Refusal> {
    let time = |name: &str| Time::read(event.get(name).unwrap_or(&Value::Null), name);
    let (start, end) = (time("start")?, time("end")?);
    if start.whole_day != end.whole_day {
        return Err(Refusal::invalid(
            "The start and end times must either both be date or both be dateTime.",
        ));
    }
    if end.at < start.at {
        return Err(empty());
    }
    event.insert("start".to_owned(), start.shown);
    event.insert("end".to_owned(), end.shown);
    Ok(())
}

/// A parameter that is an instant, with the offset that it must have.
pub(super) fn instant(name: &str, time: &str) -> Result<Timestamp, Refusal> {
    time.parse().map_err(|_| {
        let message = format!("Bad Request: {name} must be an RFC 3339 time with an offset.");
        Refusal::invalid(message)
    })
}

pub(super) fn empty() -> Refusal {
    let message = "The specified time range is empty.";
    Refusal::new(StatusCode::BAD_REQUEST, "timeRangeEmpty", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(start: Value, end: Value) -> Result<(Value, Value), String> {
        let mut event = Resource::from_iter([("start".to_owned(), start), ("end".to_owned(), end)]);
        settle(&mut event).map_err(|refusal| format!("{refusal:?}"))?;
        Ok((event["start"].clone(), event["end"].clone()))
    }

    #[test]
    fn times_are_shown_in_the_calendars_zone() {
        let at = |time: &str| json!({"dateTime": time});
        let (start, end) =
            settled(at("2026-05-28T09:00:00-07:00"), at("2026-05-28T17:00:00.5-07:00")).unwrap();
        assert_eq!(start, json!({"dateTime": "2026-05-28T16:00:00Z", "timeZone": "UTC"}));
        assert_eq!(end["dateTime"], "2026-05-29T00:00:00Z");
        let day = |date: &str| json!({"date": date});
        let (start, _) = settled(day("2026-05-28"), day("2026-05-29")).unwrap();
        assert_eq!(start, day("2026-05-28"));
    }

    #[test]
    fn anything_else_is_refused() {
        let at = |time: &str| json!({"dateTime": time});
        let noon = || at("2026-05-28T12:00:00Z");
        for (start, end, why) in [
            (Value::Null, noon(), "Missing start time"),
            (noon(), json!({}), "Missing end time"),
            (noon(), at("2026-05-28T11:59:59Z"), "timeRangeEmpty"),
            (noon(), at("2026-05-28T13:00:00"), "Missing time zone definition for end time"),
            (noon(), json!({"date": "2026-05-29"}), "both"),
            (at("noon"), noon(), "start time"),
            (json!({"date": "2026-13-01"}), noon(), "Invalid start time"),
        ] {
            let refused = settled(start, end).unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
