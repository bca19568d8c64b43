//! Where in a text the final answer stands: named rules, tried in the order of the configuration.

use serde::{Deserialize, Serialize};

/// A way to find the final answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Extract {
    /// The content of the last `\boxed{...}` or `\fbox{...}` (MATH).
    Boxed,
    /// What follows the last `####`, to the end of the line (GSM8K).
    Hash,
    /// The content of the last `<answer>...</answer>`.
    AnswerTag,
    /// What follows the last "the answer is", "answer:", "Antwort ist", "respuesta es" and the like, to the end of the sentence.
    AnswerIs,
    /// The last formula between dollar signs, `\(...\)` or `\[...\]`.
    LastFormula,
    /// The last number.
    LastNumber,
    /// All of it.
    Whole,
}

impl Extract {
    /// Boxed, hash, "the answer is", last number.
    pub fn default_order() -> Vec<Extract> {
        vec![Extract::Boxed, Extract::Hash, Extract::AnswerIs, Extract::LastNumber]
    }
}

/// Phrases before an answer, in lower case.
const PHRASES: [&str; 14] = [
    "the final answer is",
    "final answer:",
    "the answer is",
    "answer is",
    "answer:",
    "answer =",
    "die antwort ist",
    "die antwort lautet",
    "die lösung ist",
    "antwort:",
    "lösung:",
    "la respuesta es",
    "la respuesta final es",
    "respuesta:",
];

/// The answer by the first rule that finds one.
pub(super) fn answer<'a>(text: &'a str, rules: &[Extract]) -> Option<&'a str> {
    let found = rules.iter().find_map(|rule| match rule {
        Extract::Boxed => boxed(text),
        Extract::Hash => hash(text),
        Extract::AnswerTag => tagged(text),
        Extract::AnswerIs => phrase(text),
        Extract::LastFormula => formula(text),
        Extract::LastNumber => number(text),
        Extract::Whole => Some(text.trim()).filter(|t| !t.is_empty()),
    })?;
    Some(found.trim())
}

/// The answer of a reference: a worked solution of MATH or GSM8K, or the bare answer.
pub(super) fn reference(gold: &str) -> &str {
    boxed(gold).or_else(|| hash(gold)).unwrap_or(gold).trim()
}

/// The last box whose braces are balanced; what is unfinished is no answer.
fn boxed(text: &str) -> Option<&str> {
    let mut starts: Vec<(usize, usize)> =
        ["\\boxed", "\\fbox"].iter().flat_map(|name| text.match_indices(name).map(|(at, found)| (at, found.len()))).collect();
    starts.sort_unstable();
    let (at, length) = *starts.last()?;
    let inside = &text[at + length..];
    if let Some(rest) = inside.strip_prefix(' ')
        && !rest.starts_with('{')
    {
        // \boxed 5$
        let end = rest.find(['$', '\n', ' ']).unwrap_or(rest.len());
        return Some(&rest[..end]).filter(|found| !found.is_empty());
    }
    let inside = inside.trim_start().strip_prefix('{')?;
    let (mut open, mut escaped) = (1usize, false);
    for (i, c) in inside.char_indices() {
        match c {
            '\\' => {
                escaped = !escaped;
                continue;
            }
            '{' if !escaped => open += 1,
            '}' if !escaped => {
                open -= 1;
                if open == 0 {
                    return Some(&inside[..i]);
                }
            }
            _ => {}
        }
        escaped = false;
    }
    None
}

fn hash(text: &str) -> Option<&str> {
    let (at, mark) = text.rmatch_indices("####").next()?;
    let rest = text[at + mark.len()..].trim_start_matches([' ', '\t']);
    let line = rest.lines().next().unwrap_or_default().trim();
    Some(line).filter(|l| !l.is_empty())
}

fn tagged(text: &str) -> Option<&str> {
    let end = text.rfind("</answer>")?;
    let start = text[..end].rfind("<answer>")? + "<answer>".len();
    Some(text[start..end].trim()).filter(|t| !t.is_empty())
}

/// Byte-for-byte lower case: the phrases' letters only, so that places stay the same.
fn lower(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii() || "ÄÖÜ".contains(c) { c.to_lowercase().next().unwrap_or(c) } else { c }).collect()
}

fn phrase(text: &str) -> Option<&str> {
    let lowered = lower(text);
    if lowered.len() != text.len() {
        return None;
    }
    let after = |p: &&str| lowered.rfind(*p).map(|at| at + p.len());
    let start = PHRASES.iter().filter_map(after).max()?;
    let rest = text.get(start..)?.trim_start_matches([' ', ':', '*', '\t', '\n']);
    // A formula is the answer, as a whole.
    for (open, close) in [("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")] {
        if let Some(inner) = rest.strip_prefix(open)
            && let Some(end) = inner.find(close)
        {
            return Some(&inner[..end]).filter(|f| !f.trim().is_empty());
        }
    }
    let line = rest.lines().next().unwrap_or_default();
    Some(sentence(line).trim_matches(['*', '`', '"', ' '])).filter(|l| !l.is_empty())
}

/// Up to a full stop that ends a sentence: not the one inside 3.5.
fn sentence(line: &str) -> &str {
    let bytes = line.as_bytes();
    let ends = |i: usize| match bytes.get(i + 1) {
        None => true,
        Some(next) => next.is_ascii_whitespace(),
    };
    let end = (0..bytes.len()).find(|&i| matches!(bytes[i], b'.' | b';' | b'!' | b'?') && ends(i) && !(bytes[i] == b'!' && factorial(bytes, i)));
    end.map_or(line, |i| &line[..i])
}

/// `5!` at the end of a line is a number that is multiplied out, or an excited one; digits before the sign decide.
fn factorial(bytes: &[u8], at: usize) -> bool {
    at > 0 && (bytes[at - 1].is_ascii_digit() || bytes[at - 1] == b')')
}

fn formula(text: &str) -> Option<&str> {
    let between = |open: &str, close: &str| {
        let end = text.rfind(close)?;
        let start = text[..end].rfind(open)? + open.len();
        Some((start, text[start..end].trim()))
    };
    let found = [between("\\(", "\\)"), between("\\[", "\\]"), between("$", "$")];
    found.into_iter().flatten().filter(|(_, f)| !f.is_empty()).max_by_key(|(at, _)| *at).map(|(_, f)| f)
}

/// The last run of digits with what belongs to it: sign, point, thousands, a fraction after a slash, a per cent sign.
fn number(text: &str) -> Option<&str> {
    let bytes = text.as_bytes();
    let last = bytes.iter().rposition(u8::is_ascii_digit)?;
    let inside = |i: usize| {
        let between_digits = i > 0 && bytes[i - 1].is_ascii_digit() && bytes.get(i + 1).is_some_and(u8::is_ascii_digit);
        bytes[i].is_ascii_digit() || (matches!(bytes[i], b'.' | b',' | b'/') && between_digits)
    };
    let mut start = last;
    while start > 0 && inside(start - 1) {
        start -= 1;
    }
    // .5
    if start > 0 && bytes[start - 1] == b'.' && (start == 1 || !bytes[start - 2].is_ascii_alphanumeric()) {
        start -= 1;
    }
    // A minus sign, but not a hyphen or a difference.
    if start > 0 && bytes[start - 1] == b'-' && (start == 1 || !(bytes[start - 2].is_ascii_alphanumeric() || bytes[start - 2] == b')')) {
        start -= 1;
    } else if text[..start].ends_with('\u{2212}') {
        start -= '\u{2212}'.len_utf8();
    }
    let mut end = last + 1;
    if text[end..].starts_with('%') || text[end..].starts_with("\\%") {
        end += if bytes[end] == b'%' { 1 } else { 2 };
    }
    Some(&text[start..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_find_answers() {
        use Extract::*;
        for (rule, text, expected) in [
            (Boxed, "\\boxed{1} no, \\boxed{\\frac{1}{2}}.", Some("\\frac{1}{2}")),
            (Boxed, "\\boxed{\\{1,2\\}}", Some("\\{1,2\\}")),
            (Boxed, "$\\boxed 5$", Some("5")),
            (Boxed, "\\boxed {7}", Some("7")),
            (Boxed, "\\fbox{C}", Some("C")),
            (Boxed, "\\boxed{unfinished", None),
            (Boxed, "none", None),
            (Hash, "a\n#### 72\n", Some("72")),
            (Hash, "#### 1\nthen #### $2,000", Some("$2,000")),
            (Hash, "####", None),
            (AnswerTag, "<answer> 4 </answer>", Some("4")),
            (AnswerIs, "So the answer is 3.5. Really.", Some("3.5")),
            (AnswerIs, "**Final Answer:** $x = 2$", Some("x = 2")),
            (AnswerIs, "The answer is: \\(\\frac12\\), as said", Some("\\frac12")),
            (AnswerIs, "The answer is 1. No, the answer is 2", Some("2")),
            (AnswerIs, "Die Antwort lautet 12 Äpfel.", Some("12 Äpfel")),
            (AnswerIs, "La respuesta es 7!", Some("7!")),
            (AnswerIs, "The answer is", None),
            (LastFormula, "we get $x=1$ and $y = 2$.", Some("y = 2")),
            (LastNumber, "from 3 to 1,234.50.", Some("1,234.50")),
            (LastNumber, "x = -7", Some("-7")),
            (LastNumber, "12-7", Some("7")),
            (LastNumber, "about 3/4 of it", Some("3/4")),
            (LastNumber, "it is 25% now", Some("25%")),
            (LastNumber, "pages 2024.", Some("2024")),
            (LastNumber, "no digits", None),
        ] {
            assert_eq!(answer(text, &[rule]), expected, "{rule:?} of {text}");
        }
        assert_eq!(answer("The answer is 3. \\boxed{4}", &Extract::default_order()), Some("4"));
        assert_eq!(reference("She has <<1+1=2>>2.\n#### 2"), "2");
    }
}
