//! Numbers for people: separators, SI units, GiB; and the other way round.

/// `8,030,261,248`.
pub fn thousands(n: usize) -> String {
    llm_run::progress::thousands(n as u64)
}

/// Three significant digits.
fn three(x: f64) -> String {
    let decimals = match x {
        x if x >= 99.95 => 0,
        x if x >= 9.995 => 1,
        _ => 2,
    };
    format!("{x:.decimals$}")
}

/// `x` over the largest of `units` (each a thousand of the one before) that leaves at least 1.
fn scaled(x: f64, units: &[&str]) -> String {
    let (mut x, mut unit) = (x, 0);
    while x >= 999.5 && unit + 1 < units.len() {
        x /= 1000.0;
        unit += 1;
    }
    if units[unit].is_empty() { three(x) } else { format!("{} {}", three(x), units[unit]) }
}

/// `8.03 B`, as the field counts parameters and tokens.
pub fn count(n: f64) -> String {
    scaled(n, &["", "K", "M", "B", "T", "Q"])
}

/// `16.1 GFLOP`.
pub fn flops(n: f64) -> String {
    scaled(n, &["FLOP", "KFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP", "YFLOP"])
}

/// GiB with as many digits as matter: `29.9`, `0.23`.
pub fn gib(bytes: f64) -> String {
    let x = bytes / (1u64 << 30) as f64;
    if bytes == 0.0 {
        "-".into()
    } else if x < 0.005 {
        "< 0.01".into()
    } else if x >= 99.95 {
        thousands(x.round() as usize)
    } else {
        format!("{x:.decimals$}", decimals = if x >= 9.995 { 1 } else { 2 })
    }
}

/// Bytes in binary units: `144 KiB`.
pub fn bytes(n: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let (mut x, mut unit) = (n, 0);
    while x >= 1023.5 && unit + 1 < units.len() {
        x /= 1024.0;
        unit += 1;
    }
    format!("{} {}", if unit == 0 { format!("{x:.0}") } else { three(x) }, units[unit])
}

/// `3.2 h`, `41 days`, `2.1 years`.
pub fn days(days: f64) -> String {
    match days {
        d if d < 1.0 / 24.0 => format!("{} min", three(d * 1440.0)),
        d if d < 2.0 => format!("{} h", three(d * 24.0)),
        d if d < 1000.0 => format!("{} days", three(d)),
        d => format!("{} years", count(d / 365.25)),
    }
}

/// `$1,234` or `$0.42`.
pub fn money(x: f64) -> String {
    if x < 99.995 {
        format!("${x:.2}")
    } else if x < 9_999_999.5 {
        format!("${}", thousands(x.round() as usize))
    } else {
        format!("${}", count(x))
    }
}

/// Reads `124M`, `1.5B`, `15T`, `300k`, `2e9`, `1,000`.
pub fn parse_count(text: &str) -> Result<f64, String> {
    let bad = || format!("`{text}`: expected a positive number such as 124M, 1.5B, 15T or 2e9");
    let plain: String = text.chars().filter(|c| !matches!(c, ',' | '_' | ' ')).collect();
    let (digits, factor) = match plain.chars().last().map(|c| c.to_ascii_uppercase()) {
        Some('K') => (&plain[..plain.len() - 1], 1e3),
        Some('M') => (&plain[..plain.len() - 1], 1e6),
        Some('B' | 'G') => (&plain[..plain.len() - 1], 1e9),
        Some('T') => (&plain[..plain.len() - 1], 1e12),
        _ => (plain.as_str(), 1.0),
    };
    let value = digits.parse::<f64>().map_err(|_| bad())? * factor;
    if value.is_finite() && value > 0.0 { Ok(value) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(thousands(8_030_261_248), "8,030,261,248");
        assert_eq!(thousands(999), "999");
        assert_eq!((count(8_030_261_248.0), count(999_600.0), count(12.0)), ("8.03 B".into(), "1.00 M".into(), "12.0".into()));
        assert_eq!((flops(16.06e9), flops(2.5e21)), ("16.1 GFLOP".into(), "2.50 ZFLOP".into()));
        assert_eq!((bytes(131_072.0), bytes(512.0)), ("128 KiB".into(), "512 B".into()));
        assert_eq!((gib(0.0), gib(1024.0), gib(32e9), gib(1e13)), ("-".into(), "< 0.01".into(), "29.8".into(), "9,313".into()));
        assert_eq!((days(0.5), days(41.0), days(0.01)), ("12.0 h".into(), "41.0 days".into(), "14.4 min".into()));
        assert_eq!((money(0.421), money(1234.4), money(2.5e8)), ("$0.42".into(), "$1,234".into(), "$250 M".into()));
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, value) in [("124M", 124e6), ("1.5b", 1.5e9), ("15T", 15e12), ("2e9", 2e9), ("1,000", 1000.0), ("300 k", 300e3)] {
            assert_eq!(parse_count(text), Ok(value), "{text}");
        }
        for text in ["", "M", "-3", "0", "many", "nan", "inf", "1é"] {
            assert!(parse_count(text).is_err(), "{text}");
        }
    }
}
