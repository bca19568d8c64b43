//! Times as the ledger and the logs write them: UTC, without a calendar library.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds of a day.
pub const DAY: u64 = 86_400;

/// Unix seconds of a time.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Unix milliseconds of a time.
pub fn millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// Unix seconds.
pub fn now() -> u64 {
    seconds(SystemTime::now())
}

/// Days since 1970-01-01.
pub fn day(seconds: u64) -> i64 {
    i64::try_from(seconds / DAY).unwrap_or(i64::MAX)
}

/// Year, month and day of a day since 1970-01-01, in the Gregorian calendar.
///
/// Years are counted from March, so that the day a leap year adds is the last one (H. Hinnant, "chrono-compatible low-level date
/// algorithms").
pub fn date(day: i64) -> (i64, u32, u32) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (year + era * 400 + carry, month as u32, day as u32)
}

/// `2026-11-29`.
pub fn date_text(day: i64) -> String {
    let (year, month, day) = date(day);
    format!("{year:04}-{month:02}-{day:02}")
}

/// The day of `2026-11-29`; `None` if there is no such day.
pub fn parse_date(text: &str) -> Option<i64> {
    let mut parts = text.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    // A day is found by going near it and counting: no second formula to keep in step with the first.
    let near = (year - 1970) * 365 + (year - 1969) / 4 - (year - 1901) / 100 + (year - 1601) / 400 + (month - 1) * 30;
    (near - 3..near + 40).find(|&d| date(d) == (year, month as u32, day as u32))
}

/// `2026-11-29T15:36:16.042Z` (RFC 3339).
pub fn timestamp(time: SystemTime) -> String {
    let millis = millis(time);
    let (seconds, millis) = (millis / 1000, millis % 1000);
    let (hour, minute, second) = (seconds % DAY / 3600, seconds % 3600 / 60, seconds % 60);
    format!("{}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z", date_text(day(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_of_known_days() {
        for (day, text) in
            [(0, "1970-01-01"), (59, "1970-03-01"), (11_016, "2000-02-29"), (11_017, "2000-03-01"), (20_786, "2026-11-29"), (47_540, "2100-02-28")]
        {
            assert_eq!(date_text(day), text);
            assert_eq!(parse_date(text), Some(day));
        }
        for wrong in ["", "2026", "2026-13-01", "2026-02-30", "2100-02-29", "x-1-1", "2026-11-29-1"] {
            assert_eq!(parse_date(wrong), None, "{wrong}");
        }
    }

    /// A gap or a day twice would put usage into the wrong month.
    #[test]
    fn days_follow_one_another() {
        let mut before = date(0);
        for day in 1..80_000 {
            let (year, month, of_month) = date(day);
            let follows = (year, month, of_month) == (before.0, before.1, before.2 + 1)
                || (of_month == 1 && (year, month) == (before.0, before.1 + 1))
                || (of_month == 1 && month == 1 && year == before.0 + 1 && before.1 == 12 && before.2 == 31);
            assert!(follows, "{before:?} then {:?}", (year, month, of_month));
            assert_eq!(parse_date(&date_text(day)), Some(day));
            before = (year, month, of_month);
        }
    }

    #[test]
    fn a_timestamp_has_milliseconds() {
        assert_eq!(timestamp(UNIX_EPOCH + Duration::from_millis(1_709_161_200_042)), "2024-02-28T23:00:00.042Z");
    }
}
