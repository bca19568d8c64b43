//! Answers of MATH as the Minerva paper reads them (Lewkowycz et al. 2022, appendix D), in lm-evaluation-harness's form.
//!
//! The answer stands between "Final Answer: The final answer is" and "I hope it is correct."; units and decoration are
//! removed; what is left is compared. The harness hands both sides to SymPy; we compare them as [`llm_verify::math::equal_expressions`] does, hence
//! the metric's own name.

use super::text::{Pattern, is_word, substitute};
use crate::python::strip;
use llm_verify::math::equal_expressions;
use regex::Regex;
use std::sync::LazyLock;

/// When there is no final answer.
pub const INVALID: &str = "[invalidanswer]";

const REPLACED: [(&str, &str); 10] = [
    ("an ", ""),
    ("a ", ""),
    (".$", "$"),
    ("\\$", ""),
    ("\\ ", ""),
    (" ", ""),
    ("mbox", "text"),
    (",\\text{and}", ","),
    ("\\text{and}", ","),
    ("\\text{m}", "\\text{}"),
];

/// In the paper's order, which matters.
const REMOVED: [&str; 42] = [
    "square",
    "ways",
    "integers",
    "dollars",
    "mph",
    "inches",
    "ft",
    "hours",
    "km",
    "units",
    "\\ldots",
    "sue",
    "points",
    "feet",
    "minutes",
    "digits",
    "cents",
    "degrees",
    "cm",
    "gm",
    "pounds",
    "meters",
    "meals",
    "edges",
    "students",
    "childrentickets",
    "multiples",
    "\\text{s}",
    "\\text{.}",
    "\\text{\ns}",
    "\\text{}^2",
    "\\text{}^3",
    "\\text{\n}",
    "\\text{}",
    "\\mathrm{th}",
    "^\\circ",
    "^{\\circ}",
    "\\;",
    ",\\!",
    "{,}",
    "\"",
    "\\dots",
];

static FINAL: Pattern = LazyLock::new(|| Regex::new(r"Final Answer: The final answer is(.*?). I hope it is correct.").ok());
static COMMAND: Pattern = LazyLock::new(|| Regex::new(r"\\[a-zA-Z]+").ok());
static MATH: Pattern = LazyLock::new(|| Regex::new(r"(.*?)(\$)(.*?)(\$)(.*)").ok());
static TEXT: Pattern = LazyLock::new(|| Regex::new(r"(\\text\{)(.*?)(\})").ok());
static BOLD: Pattern = LazyLock::new(|| Regex::new(r"(\\textbf\{)(.*?)(\})").ok());
static OVERLINE: Pattern = LazyLock::new(|| Regex::new(r"(\\overline\{)(.*?)(\})").ok());
static BOXED: Pattern = LazyLock::new(|| Regex::new(r"(\\boxed\{)(.*)(\})").ok());
static FRACTION: Pattern = LazyLock::new(|| Regex::new(r"(frac)([^{])(.)").ok());
static INDEXED_ROOT: Pattern = LazyLock::new(|| Regex::new(r"(sqrt)(\[[^\]]*\])([\p{L}\p{N}_])").ok());
static ROOT: Pattern = LazyLock::new(|| Regex::new(r"(sqrt)([^\[{])").ok());
static THOUSANDS: Pattern = LazyLock::new(|| Regex::new(r"^-?\d{1,3}(,\d{3})+$").ok());

/// What the model gives as its final answer, untouched.
pub fn final_answer(response: &str) -> String {
    let text = format!("{response}I hope it is correct.");
    let found = FINAL.as_ref().and_then(|r| r.captures(&text)).and_then(|c| c.get(1).map(|m| strip(m.as_str()).to_string()));
    found.unwrap_or_else(|| INVALID.to_string())
}

/// Normalise an answer.
pub fn normalise(answer: &str) -> String {
    let mut answer = answer.rsplit('=').next().unwrap_or_default().to_string();
    let is_unit = |expr: &str| expr.chars().all(|c| c.is_ascii_alphabetic());
    for unit in REMOVED.iter().filter(|e| is_unit(e)) {
        answer = without_word(&answer, unit);
    }
    for (before, after) in REPLACED {
        answer = answer.replace(before, after);
    }
    for expr in REMOVED {
        answer = if is_unit(expr) { outside_commands(&answer, expr) } else { answer.replace(expr, "") };
    }
    answer = substitute(&MATH, &answer, "$$${3}$$");
    for wrapped in [&TEXT, &BOLD, &OVERLINE, &BOXED] {
        answer = substitute(wrapped, &answer, "${2}");
    }
    answer = substitute(&FRACTION, &answer, "frac{${2}}{${3}}");
    answer = substitute(&INDEXED_ROOT, &answer, "${1}${2}{${3}}");
    answer = substitute(&ROOT, &answer, "sqrt{${2}}").replace('$', "");
    if THOUSANDS.as_ref().is_some_and(|r| r.is_match(&answer)) {
        answer = answer.replace(',', "");
    }
    answer
}

/// Remove a word where it stands alone, not as a LaTeX command.
fn without_word(text: &str, word: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = 0;
    for (at, _) in text.match_indices(word) {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        if before.is_none_or(|c| c != '\\' && !is_word(c)) && after.is_none_or(|c| !is_word(c)) {
            out.push_str(&text[rest..at]);
            rest = at + word.len();
        }
    }
    out.push_str(&text[rest..]);
    out
}

/// Remove a unit everywhere but in the names of commands.
fn outside_commands(text: &str, unit: &str) -> String {
    let Some(command) = COMMAND.as_ref() else { return text.to_string() };
    let mut out = String::with_capacity(text.len());
    let mut rest = 0;
    for found in command.find_iter(text) {
        out.push_str(&text[rest..found.start()].replace(unit, ""));
        out.push_str(found.as_str());
        rest = found.end();
    }
    out.push_str(&text[rest..].replace(unit, ""));
    out
}

/// The last `\boxed{...}` (or `\fbox{...}`) of a worked solution, with the command.
pub fn last_boxed(text: &str) -> Option<&str> {
    if text.contains("\\boxed ") {
        let after = text.rfind("\\boxed ")?;
        let end = text[after..].find('$').map_or(text.len(), |i| after + i);
        return Some(&text[after..end]);
    }
    let start = text.rfind("\\boxed").or_else(|| text.rfind("\\fbox"))?;
    let mut open = 0i64;
    for (i, c) in text[start..].char_indices() {
        match c {
            '{' => open += 1,
            '}' => {
                open -= 1;
                if open == 0 {
                    return Some(&text[start..=start + i]);
                }
            }
            _ => {}
        }
    }
    None
}

/// What is in the box; `None` where the harness raises.
pub fn unboxed(boxed: &str) -> Option<&str> {
    if boxed.contains("\\boxed ") {
        return boxed.strip_prefix("\\boxed ");
    }
    boxed.strip_prefix("\\boxed{")?.strip_suffix('}')
}

/// The reference answer of a worked solution.
pub fn reference(solution: &str) -> Option<String> {
    Some(normalise(unboxed(last_boxed(solution)?)?))
}

/// Do two normalised answers say the same?
pub fn is_equiv(a: &str, b: &str) -> bool {
    (!a.is_empty() && a == b) || equal_expressions(a, b)
}
