//! Dates as sources write them, to ISO 8601.

/// Months of English, German and Spanish, by their first three letters.
const MONTHS: [&[&str]; 12] = [
    &["jan", "ene"],
    &["feb"],
    &["mar", "mär", "mae"],
    &["apr", "abr"],
    &["may", "mai"],
    &["jun"],
    &["jul"],
    &["aug", "ago"],
    &["sep", "set"],
    &["oct", "okt"],
    &["nov"],
    &["dec", "dez", "dic"],
];

/// `2024-05-06`, `2024-05-06T07:08:09Z`, `20240506070809`, `May 6, 2024`, `6. Mai 2024`, `6 de mayo de 2024`, `2024`; `None` for
/// what is no date between the years 1000 and 2999.
pub fn iso(text: &str) -> Option<String> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let bytes = text.as_bytes();
    if digits == 4 && bytes.get(4) == Some(&b'-') && text.is_char_boundary(text.len().min(10)) {
        let (month, day) = (number(text.get(5..7)?)?, text.get(8..10).and_then(number));
        return match day {
            Some(day) if bytes[7] == b'-' => {
                let date = date(number(&text[..4])?, month, day)?;
                let time = text[10..].strip_prefix(['T', ' ']).filter(|t| is_time(t));
                Some(time.map_or_else(|| date.clone(), |t| format!("{date}T{t}")))
            }
            _ if text.len() == 7 => ymd(number(&text[..4])?, month, 1).map(|(y, m, _)| format!("{y:04}-{m:02}")),
            _ => None,
        };
    }
    if digits == 14 || digits == 8 && text.len() == 8 {
        let day = date(number(&text[..4])?, number(&text[4..6])?, number(&text[6..8])?)?;
        return Some(if digits == 14 { format!("{day}T{}:{}:{}Z", &text[8..10], &text[10..12], &text[12..14]) } else { day });
    }
    if digits == 4 && text.len() == 4 {
        return ymd(number(text)?, 1, 1).map(|(y, ..)| format!("{y:04}"));
    }
    words(text)
}

/// Seconds since 1970 as date and time in UTC.
pub fn of_unix(seconds: i64) -> String {
    let (days, time) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Howard Hinnant's civil_from_days: years begin in March, eras have 400 years.
    let z = days.clamp(-1_000_000, 4_000_000) + 719_468;
    let (era, day_of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let m = (5 * day_of_year + 2) / 153;
    let (day, month) = (day_of_year - (153 * m + 2) / 5 + 1, if m < 10 { m + 3 } else { m - 9 });
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", time / 3600, time / 60 % 60, time % 60)
}

fn words(text: &str) -> Option<String> {
    let lower: String = text.to_lowercase();
    let mut numbers = Vec::new();
    let mut month = None;
    for word in lower.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty()).take(12) {
        if word.bytes().all(|b| b.is_ascii_digit()) {
            numbers.push(number(word)?);
        } else if month.is_none() {
            month = MONTHS.iter().position(|names| names.iter().any(|n| word.starts_with(n))).map(|m| m as u32 + 1);
        }
    }
    let year = *numbers.iter().find(|n| **n >= 1000)?;
    let day = numbers.iter().find(|n| (1..=31).contains(*n));
    match (month, day) {
        (Some(month), Some(day)) => date(year, month, *day),
        (Some(month), None) => ymd(year, month, 1).map(|(y, m, _)| format!("{y:04}-{m:02}")),
        _ => None,
    }
}

fn number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn is_time(text: &str) -> bool {
    text.len() >= 5 && text.len() <= 35 && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b':' | b'.' | b'Z' | b'+' | b'-'))
}

fn ymd(year: u32, month: u32, day: u32) -> Option<(u32, u32, u32)> {
    ((1000..3000).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day)).then_some((year, month, day))
}

fn date(year: u32, month: u32, day: u32) -> Option<String> {
    ymd(year, month, day).map(|(y, m, d)| format!("{y:04}-{m:02}-{d:02}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_forms_that_sources_use() {
        for (text, expected) in [
            ("2024-05-06", "2024-05-06"),
            ("2024-05-06T07:08:09Z", "2024-05-06T07:08:09Z"),
            ("2024-05-06 07:08", "2024-05-06T07:08"),
            ("20240506070809", "2024-05-06T07:08:09Z"),
            ("May 6, 2024 [EBook #22367]", "2024-05-06"),
            ("August 21, 2007 [Etext #2]", "2007-08-21"),
            ("6. März 2024", "2024-03-06"),
            ("6 de diciembre de 2024", "2024-12-06"),
            ("June 2004", "2004-06"),
            ("2024", "2024"),
        ] {
            assert_eq!(iso(text).as_deref(), Some(expected), "{text}");
        }
        for no in ["", "yesterday", "2024-13-01", "99999999", "12", "2024-1-1", "0001-01-01"] {
            assert_eq!(iso(no), None, "{no}");
        }
    }

    #[test]
    fn seconds_since_1970() {
        assert_eq!(of_unix(0), "1970-01-01T00:00:00Z");
        assert_eq!(of_unix(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(of_unix(-1), "1969-12-31T23:59:59Z");
        assert!(!of_unix(i64::MAX).is_empty() && !of_unix(i64::MIN).is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_a_date_or_none(text in "[0-9TZ: .äMaijun-]{0,24}") {
            if let Some(date) = iso(&text) {
                prop_assert_eq!(iso(&date), Some(date));
            }
        }
    }
}
