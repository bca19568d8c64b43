//! The harness's filters and its `exact_match`.
//!
//! A filter takes the first or last match of a pattern (`re.findall`: the group, or the first group that is not empty),
//! strips it, and answers `[invalid]` where nothing matches. `exact_match` removes things from answer and reference alike
//! and compares what is left.

use super::text::{Pattern, substitute};
use crate::python::strip;
use regex::Regex;
use std::sync::LazyLock;

/// What a filter says when nothing matches.
pub const INVALID: &str = "[invalid]";

/// Which match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Select {
    /// `group_select: 0`.
    First,
    /// `group_select: -1`.
    Last,
}

/// `function: regex`.
#[derive(Debug)]
pub struct RegexFilter {
    regex: Option<Regex>,
    select: Select,
}

impl RegexFilter {
    /// A pattern without look-around, at least one character long where it matches.
    pub fn new(pattern: &str, select: Select) -> Self {
        Self { regex: Regex::new(pattern).ok(), select }
    }

    /// The match, or [`INVALID`].
    pub fn apply(&self, text: &str) -> String {
        let Some(regex) = &self.regex else { return INVALID.to_string() };
        let mut all = regex.captures_iter(text);
        let captures = match self.select {
            Select::First => all.next(),
            Select::Last => all.last(),
        };
        let Some(captures) = captures else { return INVALID.to_string() };
        let groups = captures.len() - 1;
        let found = match groups {
            0 => captures.get(0).map(|m| m.as_str()),
            1 => Some(captures.get(1).map_or("", |m| m.as_str())),
            _ => captures.iter().skip(1).flatten().map(|m| m.as_str()).find(|m| !m.is_empty()),
        };
        strip(found.unwrap_or(INVALID)).to_string()
    }
}

/// GSM8K, `strict-match`: what follows `#### `.
pub static GSM8K_STRICT: LazyLock<RegexFilter> = LazyLock::new(|| RegexFilter::new(r"#### (\-?[0-9\.\,]+)", Select::First));
/// `flexible-extract`: the last thing that looks like a number.
pub static FLEXIBLE: LazyLock<RegexFilter> = LazyLock::new(|| RegexFilter::new(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", Select::Last));

/// MGSM with a chain of thought, `strict-match`, for `en`, `de`, `es`.
pub fn mgsm_strict(lang: &str) -> RegexFilter {
    let phrase = match lang {
        "de" => "Die Antwort lautet",
        "es" => "La respuesta es",
        _ => "The answer is",
    };
    RegexFilter::new(&format!(r"{phrase} (\-?[0-9\.\,]+)"), Select::First)
}

/// What `exact_match` overlooks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overlook {
    /// Upper and lower case.
    pub case: bool,
    /// ASCII punctuation, wherever it stands: `1.5` equals `15`.
    pub punctuation: bool,
    /// The four patterns of GSM8K: `,`, `\$`, `(?s).*#### ` and `\.$`, one after the other.
    pub gsm8k: bool,
}

impl Overlook {
    /// GSM8K.
    pub const GSM8K: Self = Self { case: true, punctuation: false, gsm8k: true };
    /// MGSM.
    pub const MGSM: Self = Self { case: true, punctuation: true, gsm8k: false };

    fn apply(self, text: &str) -> String {
        static FULL_STOP: Pattern = LazyLock::new(|| Regex::new(r"\.(\n?)\z").ok());
        // The harness keeps texts in numpy arrays, which lose zeros at the end.
        let end = |text: String| text.trim_end_matches('\0').to_string();
        let mut text = end(text.to_string());
        if self.gsm8k {
            text = end(text.replace(',', ""));
            text = end(text.replace('$', ""));
            if let Some(place) = text.rfind("#### ") {
                text = text.split_off(place + 5);
            }
            text = end(substitute(&FULL_STOP, &end(text), "$1"));
        }
        if self.case {
            text = text.to_lowercase();
        }
        if self.punctuation {
            text.retain(|c| !c.is_ascii_punctuation());
        }
        end(text)
    }
}

/// Is `answer` the `reference`, but for what is overlooked?
pub fn exact_match(answer: &str, reference: &str, overlook: Overlook) -> bool {
    overlook.apply(answer) == overlook.apply(reference)
}
