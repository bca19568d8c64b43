//! Large numbers for people, and back: `8.03 B` parameters, `1.2e+18` operations, `50M`.

/// Three significant digits.
fn three(x: f64) -> String {
    let decimals = match x {
        x if x >= 99.95 => 0,
        x if x >= 9.995 => 1,
        _ => 2,
    };
    format!("{x:.decimals$}")
}

/// `8.03 B`, as the field counts parameters and tokens.
pub fn count(n: f64) -> String {
    let units = ["", " K", " M", " B", " T", " Q"];
    let (mut x, mut unit) = (n, 0);
    while x >= 999.5 && unit + 1 < units.len() {
        x /= 1000.0;
        unit += 1;
    }
    format!("{}{}", three(x), units[unit])
}

/// `1.2e18`: the usual way to write compute.
pub fn power(x: f64) -> String {
    if x == 0.0 || !x.is_finite() {
        return format!("{x}");
    }
    let text = format!("{x:.2e}");
    match text.split_once('e') {
        Some((digits, exponent)) => format!("{}e{exponent}", digits.trim_end_matches('0').trim_end_matches('.')),
        None => text,
    }
}

/// Four significant digits without an exponent where that is short: `0.001234`, `2.345`, `12.35`.
pub fn short(x: f64) -> String {
    let size = x.abs();
    if !x.is_finite() || x == 0.0 {
        return format!("{x}");
    }
    if !(1e-4..1e6).contains(&size) {
        return format!("{x:.2e}");
    }
    let decimals = (3 - size.log10().floor() as i32).max(0) as usize;
    let text = format!("{x:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
}

/// `x` to so many significant digits, so that a file shows `0.00312` and not sixteen digits.
pub fn rounded(x: f64, digits: usize) -> f64 {
    format!("{x:.*e}", digits.saturating_sub(1)).parse().unwrap_or(x)
}

/// Words in lines of at most `width` letters, the second and later ones after `indent`.
pub fn wrapped(text: &str, width: usize, indent: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let length = lines.last().map_or(0, |line| line.chars().count());
        if length > 0 && length + 1 + word.chars().count() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(if line.is_empty() { "" } else { " " });
            line.push_str(word);
        }
    }
    lines.join(&format!("\n{indent}"))
}

/// Reads `124M`, `1.5B`, `15T`, `300k`, `2e9`, `1,000`.
pub fn parse_count(text: &str) -> Result<f64, String> {
    let plain: String = text.chars().filter(|c| !matches!(c, ',' | '_' | ' ')).collect();
    let unit = plain.chars().last().and_then(|c| match c.to_ascii_uppercase() {
        'K' => Some(1e3),
        'M' => Some(1e6),
        'B' | 'G' => Some(1e9),
        'T' => Some(1e12),
        _ => None,
    });
    let digits = if unit.is_some() { &plain[..plain.len() - 1] } else { plain.as_str() };
    let value = digits.parse::<f64>().ok().map(|x| x * unit.unwrap_or(1.0)).filter(|x| x.is_finite() && *x > 0.0);
    value.ok_or_else(|| format!("`{text}`: expected a positive number such as 124M, 1.5B, 15T or 2e9"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words() {
        assert_eq!(wrapped("one two three", 7, "  "), "one two\n  three");
        assert_eq!(wrapped("a-very-long-word b", 5, ""), "a-very-long-word\nb");
    }

    #[test]
    fn numbers_read_well_and_are_read_back() {
        assert_eq!((count(8_030_261_248.0), count(999_600.0), count(12.0)), ("8.03 B".into(), "1.00 M".into(), "12.0".into()));
        assert_eq!((short(0.0012344), short(2.0), short(123456.7), short(3e-9)), ("0.001234".into(), "2".into(), "123457".into(), "3.00e-9".into()));
        assert_eq!((power(1e18), power(1.5e-7)), ("1e18".into(), "1.5e-7".into()));
        assert_eq!((power(1.234e18), rounded(0.003_123_4, 3)), ("1.23e18".into(), 0.003_12));
        for (text, value) in [("124M", 124e6), ("1.5b", 1.5e9), ("15T", 15e12), ("2e9", 2e9), ("1,000", 1000.0), ("300 k", 300e3)] {
            assert_eq!(parse_count(text), Ok(value), "{text}");
        }
        for text in ["", "M", "-3", "0", "many", "nan", "inf", "1é"] {
            assert!(parse_count(text).is_err(), "{text}");
        }
    }
}
