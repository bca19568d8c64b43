//! One label of an internationalised host name in ASCII: Punycode (RFC 3492) after the checks of IDNA 2008 (RFC 5891, RFC 5892).
//!
//! As Python's `idna.encode` does for a label in small letters. The rule for right-to-left labels and the contexts of joiners and middle
//! dots are left out: joiners and dots are refused wherever they stand.

use super::classes::{LETTER, is};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

/// Longest label in ASCII.
const LONGEST: usize = 63;
/// Letters that RFC 5892 excludes by name.
const EXCLUDED: &[char] = &['\u{640}', '\u{7fa}', '\u{3031}', '\u{3032}', '\u{3033}', '\u{3034}', '\u{3035}', '\u{303b}', '\u{302e}', '\u{302f}'];

/// `label`, in small letters, in ASCII; `None` if it is no label that IDNA allows.
pub fn to_ascii(label: &str) -> Option<String> {
    let letters: Vec<char> = label.chars().take(LONGEST + 1).collect();
    let hyphens = label.starts_with('-') || label.ends_with('-') || letters.get(2..4) == Some(&['-', '-']);
    let first = *letters.first()?;
    if letters.len() > LONGEST || hyphens || is_combining_mark(first) || !label.nfc().eq(label.chars()) || !letters.iter().all(|c| allowed(*c)) {
        return None;
    }
    if label.is_ascii() {
        return Some(label.to_string());
    }
    let ascii = format!("xn--{}", encode(&letters));
    (ascii.len() <= LONGEST).then_some(ascii)
}

/// Letters, marks and digits that stay what they are in compatibility composition and in small letters.
fn allowed(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    }
    let kind = is(c, LETTER) || c.is_numeric() || is_combining_mark(c);
    kind && !EXCLUDED.contains(&c) && std::iter::once(c).nfkc().flat_map(char::to_lowercase).eq(std::iter::once(c))
}

/// Digit of base 36.
fn digit(value: u64) -> char {
    char::from(if value < 26 { b'a' + value as u8 } else { b'0' + (value - 26) as u8 })
}

/// The next bias after a code of `delta`, the `n`-th.
fn adapt(delta: u64, n: u64, first: bool) -> u64 {
    let mut delta = delta / if first { 700 } else { 2 };
    delta += delta / n;
    let mut k = 0;
    while delta > 455 {
        delta /= 35;
        k += 36;
    }
    k + 36 * delta / (delta + 38)
}

/// Punycode of at most [`LONGEST`] characters.
fn encode(label: &[char]) -> String {
    let mut out: String = label.iter().filter(|c| c.is_ascii()).collect();
    let basic = out.len() as u64;
    if basic > 0 {
        out.push('-');
    }
    let (mut next, mut delta, mut bias, mut done) = (128u64, 0u64, 72u64, basic);
    while let Some(least) = label.iter().map(|c| u64::from(u32::from(*c))).filter(|c| *c >= next).min() {
        delta += (least - next) * (done + 1);
        next = least;
        for code in label.iter().map(|c| u64::from(u32::from(*c))) {
            delta += u64::from(code < next);
            if code != next {
                continue;
            }
            let (mut rest, mut k) = (delta, 36);
            loop {
                let threshold = (k.max(bias) - bias).clamp(1, 26);
                if rest < threshold {
                    break;
                }
                out.push(digit(threshold + (rest - threshold) % (36 - threshold)));
                rest = (rest - threshold) / (36 - threshold);
                k += 36;
            }
            out.push(digit(rest));
            bias = adapt(delta, done + 1, done == basic);
            delta = 0;
            done += 1;
        }
        delta += 1;
        next += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, hosts with umlauts or in other scripts are not found in a list that has them in ASCII.
    #[test]
    fn labels_are_those_of_the_registries() {
        for (label, ascii) in [
            ("bücher", Some("xn--bcher-kva")),
            ("straße", Some("xn--strae-oqa")),
            ("münchen-ost", Some("xn--mnchen-ost-9db")),
            ("例え", Some("xn--r8jz45g")),
            ("пример", Some("xn--e1afmkfd")),
            ("παράδειγμα", Some("xn--hxajbheg2az3al")),
            ("उदाहरण", Some("xn--p1b6ci4b4b3a")),
            ("k", Some("k")),
            ("ＡＢＣ", None),
            ("Ü", None),
            ("-ü", None),
            ("ab--ü", None),
            ("u\u{308}", None),
            ("\u{308}u", None),
            ("a。b", None),
            ("i❤", None),
            ("ü_b", None),
            ("", None),
        ] {
            assert_eq!(to_ascii(label).as_deref(), ascii, "{label}");
        }
        assert!(to_ascii(&"ü".repeat(64)).is_none() && to_ascii(&"ü".repeat(40)).is_some());
    }
}
