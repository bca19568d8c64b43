//! Characters as Python's `re` sees them.

use regex::Regex;
use std::sync::LazyLock;

/// A pattern of this program; `None` cannot happen, the tests use every one.
pub(super) type Pattern = LazyLock<Option<Regex>>;

static WORD: Pattern = LazyLock::new(|| Regex::new(r"^[\p{L}\p{N}_]$").ok());

/// `\w`: letters, numbers of all kinds, the underscore. Rust's own class has marks too.
pub(super) fn is_word(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphanumeric() || c == '_';
    }
    let mut buffer = [0; 4];
    WORD.as_ref().is_some_and(|r| r.is_match(c.encode_utf8(&mut buffer)))
}

/// `re.sub`, all matches; the replacement in this crate's notation.
pub(super) fn substitute(pattern: &Pattern, text: &str, with: &str) -> String {
    pattern.as_ref().map_or_else(|| text.to_string(), |r| r.replace_all(text, with).into_owned())
}

/// `float(text)`: digits with single underscores between them, a sign, a fraction, an exponent, `inf`, `nan`, in white space.
pub(super) fn python_float(text: &str) -> Option<f64> {
    static NUMBER: Pattern =
        LazyLock::new(|| Regex::new(r"(?i)^[+-]?(?:(?:\d+(?:_\d+)*)?(?:\.(?:\d+(?:_\d+)*)?)?(?:e[+-]?\d+(?:_\d+)*)?|inf|infinity|nan)$").ok());
    let text = crate::python::strip(text);
    if !NUMBER.as_ref()?.is_match(text) {
        return None;
    }
    let digits: Option<String> = text.chars().filter(|&c| c != '_').map(|c| if c.is_ascii() { Some(c) } else { digit(c) }).collect();
    digits?.parse().ok()
}

/// The ASCII digit of a decimal digit of another script: each script's ten stand in a row.
pub(super) fn digit(c: char) -> Option<char> {
    static DECIMAL: Pattern = LazyLock::new(|| Regex::new(r"^\d$").ok());
    let is = |code: u32| char::from_u32(code).is_some_and(|c| DECIMAL.as_ref().is_some_and(|r| r.is_match(c.encode_utf8(&mut [0; 4]))));
    if !is(c as u32) {
        return None;
    }
    if c as u32 >= 0x1D7CE && c as u32 <= 0x1D7FF {
        return char::from_digit((c as u32 - 0x1D7CE) % 10, 10);
    }
    let mut value = 0;
    while value < 9 && is(c as u32 - value - 1) {
        value += 1;
    }
    char::from_digit(value, 10)
}
