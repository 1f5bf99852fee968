//! Times as sidecars write them.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use serde_json::Value;

/// RFC 3339 in UTC, with or without milliseconds.
///
/// # Panics
/// When it is none.
#[must_use]
#[track_caller]
pub fn time(value: &Value) -> SystemTime {
    let text = value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no time"));
    assert!(text.len() >= 20 && text.ends_with('Z'), "{text} is no time");
    let number = |range: Range<usize>| text[range].parse::<u64>().unwrap();
    // Years from March to February, so that the day in a leap year is the last one.
    let (year, month) = match (number(0..4), number(5..7)) {
        (year, month @ 3..) => (year, month - 3),
        (year, month) => (year - 1, month + 9),
    };
    let days =
        year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + number(8..10) - 1;
    // Days from 0000-03-01 to 1970-01-01.
    let seconds =
        (((days - 719_468) * 24 + number(11..13)) * 60 + number(14..16)) * 60 + number(17..19);
    let milliseconds = text
        .get(20..23)
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(milliseconds)
}

/// When the request or connection of a record was over.
#[must_use]
#[track_caller]
pub fn end(record: &Value) -> SystemTime {
    time(&record["time"])
        + Duration::from_secs_f64(record["duration_ms"].as_f64().unwrap() / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        for (text, milliseconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59.001Z", 951_868_799_001),
            ("2026-11-23T13:54:21.926Z", 1_795_442_061_926),
        ] {
            assert_eq!(
                time(&text.into()),
                SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds),
                "{text}"
            );
        }
    }
}
