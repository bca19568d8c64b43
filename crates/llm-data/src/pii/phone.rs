//! Telephone numbers: international, North American, German and Spanish ways of writing them.
//!
//! `+` and a country code are enough. National forms need the shape of a national number (area codes and lengths of the
//! numbering plans), and stand against words such as "order no."; forms that also are amounts or dates need a word such as
//! "Tel." before them.

use super::context::{Hint, hint, is_amount};
use super::number::{Sequence, goes_on, stands_alone};

/// Country calling codes (ITU E.164), the one- and two-digit ones; the rest have three digits.
const SHORT_CODES: &[u32] = &[
    1, 7, 20, 27, 30, 31, 32, 33, 34, 36, 39, 40, 41, 43, 44, 45, 46, 47, 48, 49, 51, 52, 53, 54, 55, 56, 57, 58, 60, 61, 62, 63, 64, 65, 66, 81, 82,
    84, 86, 90, 91, 92, 93, 94, 95, 98,
];
/// Words that also stand before numbers that are no telephone numbers.
const WEAK: &[&str] =
    &["call", "text", "unter", "cell", "ring", "dial", "reach", "contacto", "signal", "rufen", "ruf", "llama", "wa", "sms", "mobile", "contact"];

/// The telephone number that begins with the sequence (a `+` or `(` before it included).
pub(super) fn at(text: &str, s: &Sequence, lang: Option<&str>, code: bool) -> Option<(usize, usize)> {
    let first = s.groups[0].0;
    let head = &text[..first];
    let plus = head.ends_with('+') || head.ends_with("+(") || head.ends_with("(+");
    let open = head.ends_with('(');
    let start = match (plus, open) {
        (true, _) if head.ends_with('+') && !head.ends_with("(+") => first - 1,
        (true, _) => first - 2,
        (false, true) => first - 1,
        _ => first,
    };
    if s.len > 1 && s.separator(text, 0).contains(')') != (open || head.ends_with("(+") || head.ends_with("+(")) && s.separator(text, 0).contains(')')
    {
        return None;
    }
    for k in (1..=s.len).rev() {
        let end = s.groups[k - 1].1;
        // An opening parenthesis within the number must close in it.
        let body = &text[start..end];
        if body.matches('(').count() != body.matches(')').count() || !stands_alone(text, start, end) {
            continue;
        }
        let digits = s.digits(k);
        if digits.len() < 6 {
            break;
        }
        let whole = k == s.len;
        if plus {
            if international(digits, s.groups[0], k, body) && !is_amount(text, end) {
                return Some((start, end));
            }
            continue;
        }
        if looks_like_date(text, s, k) || is_amount(text, end) {
            continue;
        }
        let (hint, strong) = match hint(text, start) {
            Hint::Phone => (Hint::Phone, !weak(text, start)),
            other => (other, false),
        };
        if matches!(hint, Hint::Other | Hint::Card) {
            return None;
        }
        let named = hint == Hint::Phone;
        if !named && (!whole || goes_on(text, start)) {
            continue;
        }
        let (lengths, n) = s.lengths(k);
        let lengths = &lengths[..n];
        let fits = american(text, s, k, lengths, digits, open, named, code)
            || !code && (german(text, s, k, lengths, digits, open, named, lang) || spanish(text, s, k, lengths, digits, named, lang))
            || named && !code && zeros(digits, k, true)
            || !named && !code && zeros(digits, k, false)
            || strong && plain(digits, k);
        if fits {
            return Some((start, end));
        }
    }
    None
}

/// `+` country code and number.
fn international(digits: &[u8], first: (usize, usize), k: usize, body: &str) -> bool {
    if digits[0] == b'0' || body.contains('/') && k > 4 {
        return false;
    }
    // `+49 (0) 731 ...`: the zero in parentheses is not dialled.
    let number: Vec<u8> = match body.find("(0)") {
        Some(_) => digits[..first.1 - first.0].iter().chain(&digits[first.1 - first.0 + 1..]).copied().collect(),
        None => digits.to_vec(),
    };
    number_fits(&number) && (k > 1 || number.len() >= 10)
}

/// The length of the country's numbers.
fn number_fits(number: &[u8]) -> bool {
    let value = |k: usize| number.iter().take(k).fold(0u32, |v, d| v * 10 + u32::from(d - b'0'));
    match () {
        () if value(1) == 1 => number.len() == 11 && number[1] >= b'2',
        () if value(1) == 7 => number.len() == 11,
        () if value(2) == 34 => number.len() == 11 && number[2] >= b'5',
        () if value(2) == 49 => (9..=15).contains(&number.len()),
        () if SHORT_CODES.contains(&value(2)) => (9..=15).contains(&number.len()),
        // 210 to 999 but for those that start with a shorter code.
        () => (10..=15).contains(&number.len()) && !matches!(value(3), 0..=209 | 800..=849 | 999),
    }
}

/// `00` and a country code.
fn zeros(digits: &[u8], k: usize, named: bool) -> bool {
    digits.starts_with(b"00") && digits.get(2).is_some_and(|d| *d != b'0') && number_fits(&digits[2..]) && (named || k >= 3)
}

/// `(555) 123-4567`, `555-123-4567`, `1-800-555-0199`, `555.123.4567`.
#[allow(clippy::too_many_arguments, reason = "facts about one number")]
fn american(text: &str, s: &Sequence, k: usize, lengths: &[usize], digits: &[u8], open: bool, named: bool, code: bool) -> bool {
    let (from, digits) = match lengths {
        [1, 3, 3, 4] if digits[0] == b'1' => (1, &digits[1..]),
        [3, 3, 4] => (0, digits),
        [3, 7] if named && open => (0, digits),
        [3, 4] => return named && matches!(s.separator(text, 0), "-" | "." | " "),
        [10] => return named && digits[0] >= b'2' && digits[3] >= b'2' && !code,
        _ => return false,
    };
    let area = digits[0] >= b'2' && digits[1] != b'9';
    let seps: Vec<&str> = (from..k - 1).map(|i| s.separator(text, i)).collect();
    let parenthesised = seps.first().is_some_and(|s| s.starts_with(')'));
    let exchange = digits[3] >= b'2';
    area && match (seps.first().copied().unwrap_or_default(), seps.get(1).copied().unwrap_or_default()) {
        (_, "-" | " " | "." | "\u{a0}") if parenthesised => true,
        ("-", "-") => true,
        ("/", "-") => true,
        (".", ".") => exchange && (named || !code),
        (" ", " " | "-") | ("\u{a0}", "\u{a0}") => exchange && named,
        _ => named && parenthesised,
    }
}

/// `0731/5022033`, `(0731) 50 22 03`, `030 1234567`, `0171-2345678`.
#[allow(clippy::too_many_arguments, reason = "facts about one number")]
fn german(text: &str, s: &Sequence, k: usize, lengths: &[usize], digits: &[u8], open: bool, named: bool, lang: Option<&str>) -> bool {
    if digits.len() < 2 || digits[0] != b'0' || digits[1] == b'0' {
        return false;
    }
    let n = digits.len();
    if k == 1 {
        let mobile = digits[1] == b'1' && matches!(digits[2], b'5' | b'6' | b'7') && (11..=12).contains(&n);
        return named && (7..=13).contains(&n) || mobile && lang == Some("de");
    }
    let separator = s.separator(text, 0);
    if lengths[1..].iter().any(|l| *l < 2) && !(named || lengths.last() == Some(&1)) {
        return false;
    }
    if named {
        return (7..=13).contains(&n);
    }
    let service = digits.starts_with(b"0800") || digits.starts_with(b"0180") || digits.starts_with(b"0900");
    let mobile = digits[1] == b'1' && matches!(digits[2], b'5' | b'6' | b'7');
    let shaped = match lengths[0] {
        // Berlin, Hamburg, Frankfurt, Munich.
        3 => matches!(&digits[1..3], b"30" | b"40" | b"69" | b"89") && (9..=11).contains(&n),
        4 => (digits[1] >= b'2' || service) && (8..=12).contains(&n) || mobile && (11..=12).contains(&n),
        5 => digits[1] >= b'2' && (9..=12).contains(&n) || mobile && (11..=12).contains(&n),
        6 => digits[1] == b'3' && (9..=12).contains(&n),
        _ => false,
    };
    // "2019/0731" style file numbers have no area code; a slash or parentheses after one are the German habit.
    let habit = open || separator.contains('/');
    let spaced = separator.chars().all(|c| matches!(c, ' ' | '\u{a0}' | '-' | '–'));
    shaped && (habit || spaced && matches!(lang, None | Some("de")))
}

/// `612 345 678`, `91 234 56 78`, `912 34 56 78`.
fn spanish(text: &str, s: &Sequence, k: usize, lengths: &[usize], digits: &[u8], named: bool, lang: Option<&str>) -> bool {
    if digits.len() != 9 || !matches!(digits[0], b'6'..=b'9') || k == 1 {
        return named && digits.len() == 9 && matches!(digits[0], b'6'..=b'9');
    }
    let separator = s.separator(text, 0);
    let uniform = (1..k - 1).all(|i| s.separator(text, i) == separator);
    let shaped = matches!(lengths, [3, 3, 3] | [3, 2, 2, 2] | [2, 3, 2, 2] | [2, 3, 4] | [3, 6]);
    shaped && uniform && (named || lang == Some("es") && matches!(separator, " " | "-" | "\u{a0}") && lengths != [3, 6])
}

/// After "Tel." and its like any number of the usual length.
fn plain(digits: &[u8], k: usize) -> bool {
    let n = digits.len();
    (7..=15).contains(&n) || k > 1 && n == 6
}

fn weak(text: &str, at: usize) -> bool {
    let before = &text[text.floor_char_boundary(at.saturating_sub(24))..at];
    !before.split(|c: char| !c.is_alphanumeric()).any(|w| {
        let w = w.to_lowercase();
        !WEAK.contains(&w.as_str())
            && (w.starts_with("tel")
                || w.starts_with("fax")
                || w.starts_with("fon")
                || w.starts_with("phone")
                || w.starts_with("mobil")
                || w.starts_with("handy")
                || matches!(w.as_str(), "tlf" | "teléfono" | "móvil" | "hotline" | "rufnummer" | "durchwahl" | "whatsapp" | "tfno" | "celular"))
    }) && !before.contains(['☎', '📞', '☏', '📱'])
}

/// Days, months, years, ranges of years: `24.11.2024`, `2024-11-24`, `1914-1918`, `11/24/2024`.
fn looks_like_date(text: &str, s: &Sequence, k: usize) -> bool {
    let number = |i: usize| text[s.groups[i].0..s.groups[i].1].parse::<u32>().unwrap_or(u32::MAX);
    let year = |i: usize| s.groups[i].1 - s.groups[i].0 == 4 && (1000..2100).contains(&number(i));
    let small = |i: usize| s.groups[i].1 - s.groups[i].0 <= 2 && (1..=31).contains(&number(i));
    let (lengths, n) = s.lengths(k);
    match n {
        2 => year(0) && year(1),
        3 => small(0) && small(1) && (year(2) || lengths[2] == 2 && text[s.groups[0].1..].starts_with('.')) || year(0) && small(1) && small(2),
        4.. => year(0) && small(1) && small(2) || small(0) && small(1) && year(2),
        _ => matches!(lengths[0], 8 | 12 | 14) && s.digits(1).starts_with(b"20") || s.digits(1).starts_with(b"19") && lengths[0] == 8,
    }
}
