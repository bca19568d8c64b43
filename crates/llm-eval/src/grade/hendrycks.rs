//! `strip_string` and `is_equiv` of the MATH paper's code (Hendrycks et al. 2021), in lm-evaluation-harness's form.
//!
//! Where the original raises (an unfinished `\frac`, two units, `a/b` of letters), it compares the strings as they are;
//! [`strip_string`] says `None` there.

use super::minerva::{last_boxed, unboxed};
use super::text::digit;
use crate::python::strip;

/// What the model answers: between the first and the last dollar sign, or all of it.
pub fn answer(response: &str) -> &str {
    match (response.find('$'), response.rfind('$')) {
        (Some(first), Some(last)) if first < last => &response[first + 1..last],
        _ => response,
    }
}

/// The reference answer of a worked solution.
pub fn reference(solution: &str) -> Option<&str> {
    unboxed(last_boxed(solution)?)
}

/// Are the two the same after [`strip_string`]?
pub fn is_equiv(a: &str, b: &str) -> bool {
    match (strip_string(a), strip_string(b)) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// The normal form; `None` where the original raises.
pub fn strip_string(text: &str) -> Option<String> {
    let mut s = text.replace('\n', "").replace("\\!", "").replace("\\\\", "\\");
    s = s.replace("tfrac", "frac").replace("dfrac", "frac").replace("\\left", "").replace("\\right", "");
    s = s.replace("^{\\circ}", "").replace("^\\circ", "").replace("\\$", "");
    s = without_units(&s)?;
    s = s.replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.");
    if s.is_empty() {
        return Some(s);
    }
    if s.starts_with('.') {
        s.insert(0, '0');
    }
    if let [left, right] = s.split('=').collect::<Vec<_>>()[..]
        && left.chars().count() <= 2
    {
        s = right.to_string();
    }
    s = with_braced_roots(&s)?.replace(' ', "");
    s = with_braced_fractions(&s)?;
    if s == "0.5" {
        s = "\\frac{1}{2}".to_string();
    }
    as_fraction(s)
}

fn without_units(s: &str) -> Option<String> {
    let parts: Vec<&str> = s.split("\\text{ ").collect();
    (parts.len() <= 2).then(|| parts[0].to_string())
}

fn with_braced_roots(s: &str) -> Option<String> {
    let mut parts = s.split("\\sqrt");
    let mut out = parts.next()?.to_string();
    for part in parts {
        let first = part.chars().next()?;
        if first == '{' {
            out.push_str("\\sqrt");
            out.push_str(part);
        } else {
            out.push_str(&format!("\\sqrt{{{first}}}{}", &part[first.len_utf8()..]));
        }
    }
    Some(out)
}

fn with_braced_fractions(s: &str) -> Option<String> {
    let mut parts = s.split("\\frac");
    let mut out = parts.next()?.to_string();
    for part in parts {
        out.push_str("\\frac");
        let mut chars = part.chars();
        let a = chars.next()?;
        if a == '{' {
            out.push_str(part);
            continue;
        }
        let Some(b) = chars.next() else { return Some(s.to_string()) };
        let rest = chars.as_str();
        if b == '{' {
            out.push_str(&format!("{{{a}}}{b}{rest}"));
        } else {
            out.push_str(&format!("{{{a}}}{{{b}}}{rest}"));
        }
    }
    Some(out)
}

/// `a/b` of two whole numbers becomes a fraction; of anything else, the original raises.
fn as_fraction(s: String) -> Option<String> {
    let [a, b] = s.split('/').collect::<Vec<_>>()[..] else { return Some(s) };
    let plain = is_int(a)? & is_int(b)?;
    Some(if plain { format!("\\frac{{{a}}}{{{b}}}") } else { s })
}

/// Would Python's `int(text)` take it (`None`: no), and does it print the same?
fn is_int(text: &str) -> Option<bool> {
    let stripped = strip(text);
    let digits = stripped.strip_prefix(['+', '-']).unwrap_or(stripped);
    let valid = !digits.is_empty() && digits.split('_').all(|run| !run.is_empty() && run.chars().all(|c| digit(c).is_some()));
    if !valid {
        return None;
    }
    let bare = text.strip_prefix('-').unwrap_or(text);
    let ascii = !bare.is_empty() && bare.bytes().all(|b| b.is_ascii_digit());
    Some(ascii && text != "-0" && (bare == "0" || !bare.starts_with('0')))
}
