//! A number of days, as `--keep-alive` takes it.

use std::time::Duration;

use crate::keep_alive::Period;

use super::connect::duration;

/// So many days; `None` for an empty variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Days(pub(crate) Option<Period>);

/// Reads `30d`, or a duration of hours.
pub(crate) fn days(text: &str) -> Result<Days, String> {
    if text.is_empty() {
        return Ok(Days(None));
    }
    let written = text.strip_suffix('d').and_then(|days| days.trim().parse::<u32>().ok());
    let time = match written {
        Some(days) => Duration::from_secs(u64::from(days) * 24 * 60 * 60),
        None => duration(text).map_err(|_| "write a number of days such as 30d".to_owned())?,
    };
    match Period::new(time) {
        Some(period) => Ok(Days(Some(period))),
        None => Err("the least is 2d".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_read_as_people_write_them() {
        let period = |days: u64| Period::new(Duration::from_secs(days * 86_400));
        for (text, expected) in [("30d", 30), ("2d", 2), ("10 d", 10), ("72h", 3), ("720h", 30)] {
            assert_eq!(days(text), Ok(Days(period(expected))), "{text}");
        }
        assert_eq!(days(""), Ok(Days(None)), "an empty variable is unset");
        for bad in ["30", "d", "-1d", "0d", "1d", "47h", "month", "4294967296d"] {
            assert!(days(bad).is_err(), "{bad}");
        }
    }
}
