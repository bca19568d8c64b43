//! One spelling for what LaTeX, Unicode and people write in several ways; and units, which are taken off numbers.
//!
//! Afterwards `\{` is `⦃`, `\\` is `\u{1}`, `\cup` is `∪`, `\in` is `∈`, `\pm` is `±`, `\le` is `≤`, a degree sign is `°`.

use super::parse::MOST_CHARS;
use regex::Regex;
use std::sync::LazyLock;

/// A pattern of this program; `None` cannot happen, the tests use every one.
type Pattern = LazyLock<Option<Regex>>;

macro_rules! pattern {
    ($text:literal) => {
        LazyLock::new(|| Regex::new($text).ok())
    };
}

static SIZES: Pattern = pattern!(r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits)([^a-zA-Z]|$)");
static DIGIT_SPACE: Pattern = pattern!(r"(\d)\\[,;:! ](\d{3})");
static FONTS: Pattern = pattern!(r"\\(?:mbox|textbf|textit|textrm|textsf|textnormal|mathrm|mathsf|operatorname)\s*\{");
static LETTERS: Pattern = pattern!(r"\\(?:mathbf|mathit|boldsymbol|mathbb|mathcal|vec|hat|bm)\s*\{([A-Za-z])\}");
static DEGREES: Pattern = pattern!(r"\^\s*\{\s*\\(?:circ|degree)\s*\}|\^\s*\\(?:circ|degree)|\\degree");
static AT_MOST: Pattern = pattern!(r"\\(?:leqslant|leq|le)([^a-zA-Z]|$)");
static AT_LEAST: Pattern = pattern!(r"\\(?:geqslant|geq|ge)([^a-zA-Z]|$)");
static ELEMENT: Pattern = pattern!(r"\\in([^a-zA-Z]|$)");
static NEW_LINE: Pattern = pattern!(r"\\\\(?:\[[^\]]*\])?");
static LABEL: Pattern = pattern!(r"^\s*(?:\\text\s*\{\s*)?(?:the |an? )?(?:answer|result|value|solution)s?\s*(?::|=|is)\s*");

const REPLACED: &[(&str, &str)] = &[
    ("\n", " "),
    ("\r", " "),
    ("\\$", ""),
    ("$", ""),
    ("\\(", ""),
    ("\\)", ""),
    ("\\[", ""),
    ("\\]", ""),
    ("{,}", ","),
    (",\\! ", ","),
    ("\\!", ""),
    ("\\,", " "),
    ("\\;", " "),
    ("\\:", " "),
    ("\\ ", " "),
    ("~", " "),
    ("\\qquad", " "),
    ("\\quad", " "),
    ("\\dfrac", "\\frac"),
    ("\\tfrac", "\\frac"),
    ("\\cfrac", "\\frac"),
    ("\\%", "%"),
    ("\\lt ", "<"),
    ("\\gt ", ">"),
    ("\\cup", "∪"),
    ("\\pm", "±"),
    ("\\mp", "∓"),
    ("\\{", "⦃"),
    ("\\}", "⦄"),
    ("\\lbrace", "⦃"),
    ("\\rbrace", "⦄"),
    ("∞", "\\infty "),
    ("\u{2212}", "-"),
    ("–", "-"),
    ("÷", "/"),
    ("√", "\\sqrt "),
    ("²", "^2"),
    ("³", "^3"),
    ("½", "\\frac{1}{2}"),
    ("¼", "\\frac{1}{4}"),
    ("¾", "\\frac{3}{4}"),
    ("π", "\\pi "),
    ("θ", "\\theta "),
    ("**", "^"),
    ("€", ""),
    ("£", ""),
    ("¥", ""),
    ("\u{a0}", " "),
    ("\u{202f}", " "),
    ("\\euro", ""),
    ("\\pounds", ""),
    ("\\ldots", "..."),
    ("\\dots", "..."),
    ("\\colon", ":"),
    ("\\mid", "|"),
    ("\\lvert", "|"),
    ("\\rvert", "|"),
    ("\\rightarrow", "→"),
    ("\\to ", "→"),
];

fn substitute(pattern: &Pattern, text: &str, with: &str) -> String {
    pattern.as_ref().map_or_else(|| text.to_string(), |p| p.replace_all(text, with).into_owned())
}

/// The one spelling; `None` for what is too long to be an answer.
pub(super) fn clean(text: &str) -> Option<String> {
    if text.len() > 4 * MOST_CHARS || text.chars().count() > MOST_CHARS {
        return None;
    }
    let mut s = text.trim().trim_matches(['*', '`', '"', '\'']).to_string();
    s = substitute(&NEW_LINE, &s, "\u{1}");
    s = substitute(&SIZES, &s, "$1");
    s = substitute(&DIGIT_SPACE, &s, "$1$2");
    s = substitute(&DIGIT_SPACE, &s, "$1$2");
    s = substitute(&FONTS, &s, "\\text{");
    s = substitute(&LETTERS, &s, "$1 ");
    s = substitute(&DEGREES, &s, "°");
    s = substitute(&AT_MOST, &s, "≤$1");
    s = substitute(&AT_LEAST, &s, "≥$1");
    s = substitute(&ELEMENT, &s, "∈$1");
    for (before, after) in REPLACED {
        if s.contains(before) {
            s = s.replace(before, after);
        }
    }
    s = substitute(&LABEL, &s, "");
    let trimmed = s.trim_end_matches(|c: char| c.is_whitespace() || matches!(c, '.' | ',' | ';' | ':')).trim_start();
    Some(trimmed.to_string())
}

/// Without the commas that group thousands: `1,234,567` but not `1,23` or `(1,234)`.
pub(super) fn without_thousands(text: &str) -> String {
    if text.starts_with(['(', '[', '⦃']) {
        return text.to_string();
    }
    let chars: Vec<char> = text.chars().collect();
    let digits = |from: usize| chars[from.min(chars.len())..].iter().take_while(|c| c.is_ascii_digit()).count();
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < chars.len() {
        let run = digits(i);
        if run == 0 {
            out.push(chars[i]);
            i += 1;
            continue;
        }
        let mut end = i + run;
        let before = i.checked_sub(1).map(|b| chars[b]);
        if run <= 3 && !matches!(before, Some('.' | ',')) {
            while chars.get(end) == Some(&',') && digits(end + 1) == 3 {
                end += 4;
            }
            // A group that is too short or too long: no thousands at all.
            if chars.get(end) == Some(&',') && digits(end + 1) > 0 {
                end = i + run;
            }
        }
        out.extend(chars[i..end].iter().filter(|c| **c != ','));
        i = end;
    }
    out
}

/// Units that are told apart: all spellings of one in a row.
const UNITS: &[&[&str]] = &[
    &["mm", "millimeter", "millimetre"],
    &["cm", "centimeter", "centimetre"],
    &["m", "meter", "metre"],
    &["km", "kilometer", "kilometre"],
    &["in", "inch", "inche"],
    &["ft", "foot", "feet"],
    &["yd", "yard"],
    &["mi", "mile"],
    &["mg", "milligram"],
    &["g", "gram"],
    &["kg", "kilogram"],
    &["oz", "ounce"],
    &["lb", "pound"],
    &["ml", "milliliter", "millilitre"],
    &["l", "liter", "litre"],
    &["gallon", "gal"],
    &["s", "sec", "second"],
    &["min", "minute"],
    &["h", "hr", "hour"],
    &["day"],
    &["week"],
    &["month"],
    &["year", "yr"],
    &["°", "degree", "deg"],
    &["cent"],
    &["dollar", "usd", "buck"],
    &["mph"],
];
/// Words around units that say nothing of their own.
const BESIDE: &[&str] = &["unit", "square", "sq", "cubic", "cu", "per", "way", "point", "people", "each", "total", "of"];

fn unit_of(word: &str) -> Option<&'static str> {
    let lower = word.to_lowercase();
    let singular = lower.strip_suffix('s').filter(|s| s.len() > 1).unwrap_or(&lower);
    UNITS.iter().find(|names| names.contains(&lower.as_str()) || names.contains(&singular)).map(|names| names[0])
}

static END_TEXT: Pattern = pattern!(r"^(.*)\\text\s*\{([^{}]*)\}\s*(?:\^\s*\{?\s*-?\d\s*\}?)?$");
static END_WORDS: Pattern = pattern!(r"^(.*[\d})⦄\]°!.])(\s*)([A-Za-z][A-Za-z ./]*?)(?:\s*\^\s*\{?\s*[23]\s*\}?)?$");

/// The number without the words after it, and the units among them that are told apart.
pub(super) fn without_unit(text: &str) -> (&str, Option<String>) {
    let mut rest = text.trim_end();
    let mut found = Vec::new();
    for _ in 0..3 {
        let Some((shorter, mut units)) = one_unit(rest) else { break };
        rest = shorter;
        units.append(&mut found);
        found = units;
    }
    (rest, (!found.is_empty()).then(|| found.join(" ")))
}

fn one_unit(text: &str) -> Option<(&str, Vec<&'static str>)> {
    if let Some(captures) = END_TEXT.as_ref().and_then(|p| p.captures(text)) {
        let (rest, words) = (captures.get(1)?.as_str().trim_end(), captures.get(2)?.as_str());
        if !rest.is_empty() && !rest.ends_with(['=', '+', '-', '*', '/', '^', '_']) {
            return Some((rest, words.split([' ', '/', '.']).filter_map(unit_of).collect()));
        }
    }
    let captures = END_WORDS.as_ref().and_then(|p| p.captures(text))?;
    let (rest, space, words) = (captures.get(1)?.as_str().trim_end(), captures.get(2)?.as_str(), captures.get(3)?.as_str());
    // `2 m` but not `\pi r^2 h`.
    let numeric = !outside_commands(rest).contains(|c: char| c.is_ascii_alphabetic());
    let mut units = Vec::new();
    for word in words.split([' ', '/', '.']).filter(|w| !w.is_empty()) {
        let lower = word.to_lowercase();
        let function = super::parse::is_function(&lower);
        match unit_of(word) {
            Some(unit) if word.len() > 1 || (numeric && !space.is_empty()) => units.push(unit),
            // `5 apples` but not `5 theta` and not `5abcd`.
            _ if word.len() >= 4 && !space.is_empty() && !function => {}
            _ if BESIDE.contains(&lower.as_str()) || BESIDE.contains(&lower.trim_end_matches('s')) => {}
            _ => return None,
        }
    }
    Some((rest, units))
}

/// What is left without the names of commands.
fn outside_commands(text: &str) -> String {
    static COMMAND: Pattern = pattern!(r"\\[a-zA-Z]+");
    substitute(&COMMAND, text, " ")
}

/// Words in lower case, without what is around them.
pub(super) fn words(text: &str) -> String {
    let plain = text.replace("\\text", " ").to_lowercase();
    let runs = plain.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty());
    runs.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_spelling() {
        for (text, expected) in [
            ("$\\left(\\dfrac{1}{2}\\right)$", "(\\frac{1}{2})"),
            ("\\$18.", "18"),
            ("10\\,000\\,000", "10000000"),
            ("1{,}234", "1,234"),
            ("90^\\circ", "90°"),
            ("90^{\\circ}", "90°"),
            ("x \\leq 5", "x ≤ 5"),
            ("x\\le5", "x≤5"),
            ("x\\in[0,1]", "x∈[0,1]"),
            ("\\leftarrow", "\\leftarrow"),
            ("\\mathbf{v}", "v"),
            ("5\\mathrm{ cm}", "5\\text{ cm}"),
            ("answer: 5", "5"),
        ] {
            assert_eq!(clean(text).as_deref(), Some(expected), "{text}");
        }
        assert_eq!(clean(&"1".repeat(MOST_CHARS + 1)), None);
    }

    #[test]
    fn thousands_and_units() {
        for (text, expected) in [
            ("1,234", "1234"),
            ("1,234,567.8", "1234567.8"),
            ("12,34", "12,34"),
            ("1,2,3", "1,2,3"),
            ("1234,567", "1234,567"),
            ("(1,234)", "(1,234)"),
            ("0.1,234", "0.1,234"),
            ("\\frac{1,000}{3}", "\\frac{1000}{3}"),
        ] {
            assert_eq!(without_thousands(text), expected, "{text}");
        }
        for (text, rest, unit) in [
            ("5 cm", "5", Some("cm")),
            ("5cm", "5", Some("cm")),
            ("12\\text{ square meters}", "12", Some("m")),
            ("3\\text{cm}^2", "3", Some("cm")),
            ("60 miles per hour", "60", Some("mi h")),
            ("18 dollars", "18", Some("dollar")),
            ("7 apples", "7", None),
            ("5x", "5x", None),
            ("2 m", "2", Some("m")),
            ("\\pi r^2 h", "\\pi r^2 h", None),
            ("5 theta", "5 theta", None),
            ("\\text{Yes}", "\\text{Yes}", None),
            ("2\\sqrt{3} units", "2\\sqrt{3}", None),
        ] {
            assert_eq!(without_unit(text), (rest, unit.map(str::to_string)), "{text}");
        }
    }
}
