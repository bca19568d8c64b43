//! The shape of an answer, and when two of one shape say the same.

use super::clean::{clean, without_thousands, without_unit, words};
use super::expr::{self, Expr};
use super::parse::{Dialect, is_function, parse};
use regex::Regex;
use std::sync::LazyLock;

/// Most parts of a set, a tuple or a row.
const MOST_PARTS: usize = 100;
/// Deepest nesting of shapes.
const MOST_DEPTH: usize = 6;

#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// One expression.
    Value {
        expr: Expr,
        percent: bool,
        /// Only units that are told apart from others.
        unit: Option<String>,
        /// In lower case, for an answer that is a choice or a short word; else empty.
        words: String,
    },
    Infinite {
        negative: bool,
    },
    Words(String),
    /// In any order: a set, or several solutions.
    Several {
        items: Vec<Answer>,
        braces: bool,
    },
    /// A tuple or an interval.
    Ordered {
        open: char,
        close: char,
        items: Vec<Answer>,
    },
    Union(Vec<Answer>),
    Matrix(Vec<Vec<Answer>>),
    Equation {
        /// Left less right.
        difference: Expr,
        /// The other side, where one is a single name.
        value: Option<Box<Answer>>,
    },
}

macro_rules! pattern {
    ($name:ident, $text:literal) => {
        static $name: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new($text).ok());
    };
}

pattern!(ALTERNATIVE, r"\\text\s*\{\s*,?\s*(?:or|and)\s*\}|\s(?:or|and)\s");
pattern!(MATRIX, r"^\\begin\s*\{([pb]?matrix|smallmatrix|array)\}\s*(?:\{[^{}]*\})?(.*)\\end\s*\{(?:[pb]?matrix|smallmatrix|array)\}$");
pattern!(BASED, r"^([0-9]+)_\{?\s*(?:\\text\s*\{\s*)?([0-9]{1,2})\s*\}?\}?$");
pattern!(SPACED, r"^-?\d{1,3}(?: \d{3})+(?:\.\d+)?$");
pattern!(MIXED, r"^(-?)(\d+)\s+(\d+)\s*/\s*(\d+)$");
pattern!(RATIO, r"^(\d+(?:\.\d+)?)\s*:\s*(\d+(?:\.\d+)?)$");
pattern!(SCIENTIFIC, r"^(-?\d+(?:\.\d+)?)[eE]([+-]?\d{1,6})$");
pattern!(
    NAME,
    r"^(?:\\?[A-Za-z]{1,3}'?|\\[a-z]+\s*\{?[A-Za-z]*\}?|[A-Za-z]{4,}(?: [A-Za-z]+)*|[A-Za-z]\s*_\s*\{?\w+\}?|[A-Za-z]+'?\s*\(\s*[A-Za-z0-9, ]+\s*\)|\(\s*[A-Za-z](?:\s*,\s*[A-Za-z])*\s*\)|\\text\s*\{[^{}]*\})$"
);
pattern!(TRIGONOMETRIC, r"\\?(?:sin|cos|tan|cot|sec|csc)");

fn captures<'t>(pattern: &LazyLock<Option<Regex>>, text: &'t str) -> Option<regex::Captures<'t>> {
    pattern.as_ref()?.captures(text)
}

impl Answer {
    /// All ways to read an answer: with commas as thousands, and as separators. Empty when it cannot be read.
    pub(super) fn readings(text: &str) -> Vec<Answer> {
        let Some(text) = clean(text) else { return Vec::new() };
        let grouped = without_thousands(&text);
        let mut readings: Vec<Answer> = read(&grouped, 0).into_iter().collect();
        if grouped != text {
            readings.extend(read(&text, 0));
        }
        readings
    }

    /// Is it a number that is written down? `None` for what is no single expression.
    pub(super) fn is_number(&self) -> Option<bool> {
        match self {
            Answer::Value { expr, .. } => Some(expr.is_number()),
            Answer::Equation { value: Some(value), .. } => value.is_number(),
            _ => None,
        }
    }

    /// Does `other` say what this says?
    pub(super) fn same(&self, other: &Answer, tolerance: f64) -> bool {
        use Answer::*;
        let each = |a: &[Answer], b: &[Answer]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.same(b, tolerance));
        match (self, other) {
            (Equation { difference: a, value: x }, Equation { difference: b, value: y }) => {
                let values = matches!((x, y), (Some(x), Some(y)) if x.same(y, tolerance));
                values || expr::proportional(a, b)
            }
            (Equation { value: Some(value), .. }, _) => value.same(other, tolerance),
            (_, Equation { value: Some(value), .. }) => self.same(value, tolerance),
            (Value { expr: a, percent: p, unit: u, words: v }, Value { expr: b, percent: q, unit: w, words: x }) => {
                if matches!((u, w), (Some(u), Some(w)) if u != w) {
                    return false;
                }
                let hundred = |e: &Expr| Expr::Product(vec![e.clone(), Expr::Literal("100".into())]);
                expr::same(a, b, tolerance)
                    || (*p && !q && expr::same(a, &hundred(b), tolerance))
                    || (*q && !p && expr::same(&hundred(a), b, tolerance))
                    || (v == x && !v.is_empty())
            }
            (Infinite { negative: a }, Infinite { negative: b }) => a == b,
            (Words(a), Words(b) | Value { words: b, .. }) | (Value { words: a, .. }, Words(b)) => a == b && !a.is_empty(),
            (Several { items: a, .. }, Several { items: b, .. })
            | (Union(a), Union(b) | Several { items: b, .. })
            | (Several { items: a, .. }, Union(b)) => matched(a, b, tolerance),
            (Ordered { open: o, close: c, items: a }, Ordered { open: p, close: d, items: b }) => o == p && c == d && each(a, b),
            (Ordered { open: '(', close: ')', items: a }, Several { items: b, braces: false }) => each(a, b),
            (Matrix(a), Matrix(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| each(a, b)),
            (Matrix(rows), Ordered { open: '(', close: ')', items }) | (Ordered { open: '(', close: ')', items }, Matrix(rows)) => {
                vector(rows).is_some_and(|cells| cells.len() == items.len() && cells.iter().zip(items).all(|(a, b)| a.same(b, tolerance)))
            }
            (Several { items, .. }, one) if items.len() == 1 => items[0].same(one, tolerance),
            (one, Several { items, .. }) if items.len() == 1 => one.same(&items[0], tolerance),
            _ => false,
        }
    }
}

/// A choice or a short word, in lower case; nothing for what is more than letters.
fn letters(text: &str) -> String {
    let bare = text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | '{' | '}' | '.'));
    if bare.chars().all(char::is_alphabetic) { bare.to_lowercase() } else { String::new() }
}

/// The cells of one row or one column.
fn vector(rows: &[Vec<Answer>]) -> Option<Vec<&Answer>> {
    match rows {
        [row] => Some(row.iter().collect()),
        _ if rows.iter().all(|row| row.len() == 1) => Some(rows.iter().flatten().collect()),
        _ => None,
    }
}

/// Is every item of `a` one of `b`, and none used twice? Sameness being an equivalence, the first free partner will do.
fn matched(a: &[Answer], b: &[Answer], tolerance: f64) -> bool {
    let mut free: Vec<&Answer> = b.iter().collect();
    a.len() == b.len()
        && a.iter().all(|item| {
            let partner = free.iter().position(|other| item.same(other, tolerance));
            partner.map(|at| free.swap_remove(at)).is_some()
        })
}

fn opens(c: char) -> bool {
    matches!(c, '(' | '[' | '{' | '⦃')
}

fn closes(c: char) -> bool {
    matches!(c, ')' | ']' | '}' | '⦄')
}

/// Cut at separators outside all brackets; each piece with the separator after it.
fn split(text: &str, separates: impl Fn(char) -> bool) -> Vec<(&str, Option<char>)> {
    let (mut pieces, mut start, mut depth) = (Vec::new(), 0, 0i32);
    for (i, c) in text.char_indices() {
        if opens(c) {
            depth += 1;
        } else if closes(c) {
            depth -= 1;
        } else if depth == 0 && separates(c) {
            pieces.push((text[start..i].trim(), Some(c)));
            start = i + c.len_utf8();
        }
    }
    pieces.push((text[start..].trim(), None));
    pieces
}

/// Inside the brackets, if the first and the last character are a pair around everything.
fn inside(text: &str) -> Option<(char, &str, char)> {
    let (open, close) = (text.chars().next()?, text.chars().next_back()?);
    if !opens(open) || !closes(close) || text.len() < open.len_utf8() + close.len_utf8() {
        return None;
    }
    let inner = &text[open.len_utf8()..text.len() - close.len_utf8()];
    let mut depth = 0i32;
    for c in inner.chars() {
        depth += i32::from(opens(c)) - i32::from(closes(c));
        if depth < 0 {
            return None;
        }
    }
    (depth == 0).then_some((open, inner, close))
}

fn read(text: &str, depth: usize) -> Option<Answer> {
    let text = text.trim();
    if text.is_empty() || depth > MOST_DEPTH {
        return None;
    }
    if matches!(text, "\\emptyset" | "\\varnothing" | "∅" | "⦃⦄" | "⦃ ⦄" | "{}") {
        return Some(Answer::Several { items: Vec::new(), braces: true });
    }
    if let Some(inner) = text.strip_prefix("\\text").and_then(|t| inside(t.trim())).filter(|(open, ..)| *open == '{') {
        return read(inner.1, depth + 1).or_else(|| Some(Answer::Words(words(inner.1))).filter(|a| !matches!(a, Answer::Words(w) if w.is_empty())));
    }
    if let Some(found) = captures(&MATRIX, text) {
        return matrix(found.get(2)?.as_str(), depth);
    }
    let pieces = split(text, |c| c == '∪');
    if pieces.len() > 1 {
        return all(&pieces, depth).map(Answer::Union);
    }
    if let Some(alternatives) = ALTERNATIVE.as_ref().filter(|p| p.is_match(text)) {
        let listed = alternatives.replace_all(text, " , ").into_owned();
        return read_list(&listed, depth);
    }
    if let Some((_, set)) = text.split_once('∈') {
        return read(set, depth + 1);
    }
    if split(text, |c| c == ',').len() > 1 {
        return read_list(text, depth);
    }
    if is_words(text) {
        return Some(Answer::Words(words(text)));
    }
    let relations = split(text, |c| matches!(c, '<' | '>' | '≤' | '≥'));
    if relations.len() > 1 {
        return interval(&relations, depth).or_else(|| Some(Answer::Words(text.split_whitespace().collect())));
    }
    let sides = split(text, |c| c == '=');
    if sides.len() > 1 {
        return equation(&sides, depth);
    }
    if let Some((open, inner, close)) = inside(text) {
        let parts = split(inner, |c| c == ',');
        let set = matches!((open, close), ('⦃', '⦄') | ('{', '}'));
        if parts.len() > 1 || open == '⦃' {
            let items = all(&parts, depth)?;
            return Some(if set { Answer::Several { items: flat(items), braces: true } } else { Answer::Ordered { open, close, items } });
        }
        // Brackets around a matrix, a word or a choice.
        if inner.trim_start().starts_with("\\begin") || is_words(inner) || inner.trim().starts_with("\\text") {
            return read(inner, depth + 1);
        }
    }
    if text.contains(['±', '∓']) {
        let upper = read(&text.replace('±', "+").replace('∓', "-"), depth + 1)?;
        let lower = read(&text.replace('±', "-").replace('∓', "+"), depth + 1)?;
        return Some(Answer::Several { items: vec![upper, lower], braces: false });
    }
    value(text)
}

fn all(pieces: &[(&str, Option<char>)], depth: usize) -> Option<Vec<Answer>> {
    if pieces.len() > MOST_PARTS {
        return None;
    }
    pieces.iter().map(|(piece, _)| read(piece, depth + 1)).collect()
}

/// `\pm` inside a list gives two of its items.
fn flat(items: Vec<Answer>) -> Vec<Answer> {
    let of = |item| match item {
        Answer::Several { items, braces: false } => items,
        one => vec![one],
    };
    items.into_iter().flat_map(of).collect()
}

/// Items with commas between them; nothing between two commas is no item.
fn read_list(text: &str, depth: usize) -> Option<Answer> {
    let pieces: Vec<_> = split(text, |c| c == ',').into_iter().filter(|(piece, _)| !piece.is_empty()).collect();
    match pieces.as_slice() {
        [] => None,
        [(one, _)] => read(one, depth + 1),
        _ => Some(Answer::Several { items: flat(all(&pieces, depth)?), braces: false }),
    }
}

fn matrix(body: &str, depth: usize) -> Option<Answer> {
    let rows: Vec<&str> = body.split('\u{1}').map(str::trim).filter(|row| !row.is_empty()).collect();
    if rows.len() > MOST_PARTS {
        return None;
    }
    let cells = |row: &&str| all(&split(row, |c| c == '&'), depth);
    rows.iter().map(cells).collect::<Option<Vec<_>>>().filter(|rows| !rows.is_empty()).map(Answer::Matrix)
}

/// Is it words, and not a product of variables: only letters, and one run of them that is too long for a product and no function?
fn is_words(text: &str) -> bool {
    let plain = text.replace("\\text", "").replace(['{', '}'], " ");
    let of_words = |c: char| c.is_alphabetic() || matches!(c, ' ' | '-' | '\'' | '.' | '(' | ')');
    let runs: Vec<&str> = plain.split(|c: char| !c.is_alphabetic()).filter(|run| !run.is_empty()).collect();
    // Alone, three letters may be `abc`.
    let least = if runs.len() == 1 { 4 } else { 3 };
    plain.chars().all(of_words) && runs.iter().any(|run| run.chars().count() >= least && !is_function(&run.to_lowercase()) && *run != "infinity")
}

/// `a < x \le b` and `x > a` as intervals.
fn interval(pieces: &[(&str, Option<char>)], depth: usize) -> Option<Answer> {
    let lone = |text: &str| matches!(parse(text, Dialect::Answer), Some(Expr::Variable(_)));
    let sides: Vec<&str> = pieces.iter().map(|(piece, _)| *piece).collect();
    let signs: Vec<char> = pieces.iter().filter_map(|(_, sign)| *sign).collect();
    let less = |sign: char| matches!(sign, '<' | '≤');
    let end = |sign: char, upper: bool| match (matches!(sign, '<' | '>'), upper) {
        (true, true) => ')',
        (true, false) => '(',
        (false, true) => ']',
        (false, false) => '[',
    };
    let infinite = |negative| Answer::Infinite { negative };
    let (low, high, open, close) = match (sides.as_slice(), signs.as_slice()) {
        ([a, b], [sign]) if lone(a) != lone(b) => {
            let bound = read(if lone(a) { b } else { a }, depth + 1)?;
            // The variable is below its bound.
            if less(*sign) == lone(a) { (infinite(true), bound, '(', end(*sign, true)) } else { (bound, infinite(false), end(*sign, false), ')') }
        }
        ([a, x, b], [first, second]) if lone(x) && less(*first) == less(*second) => {
            let (a, b) = (read(a, depth + 1)?, read(b, depth + 1)?);
            if less(*first) { (a, b, end(*first, false), end(*second, true)) } else { (b, a, end(*second, false), end(*first, true)) }
        }
        _ => return None,
    };
    Some(Answer::Ordered { open, close, items: vec![low, high] })
}

fn equation(sides: &[(&str, Option<char>)], depth: usize) -> Option<Answer> {
    let (first, last) = (sides.first()?.0, sides.last()?.0);
    let named = |text: &str| captures(&NAME, text).is_some();
    let other = match (named(first), named(last)) {
        (true, _) => Some(last),
        (false, true) => Some(first),
        // A calculation: what it comes to.
        _ if sides.len() > 2 => Some(last),
        _ => None,
    };
    let value = other.and_then(|text| read(text, depth + 1));
    match (parse(first, Dialect::Answer), parse(last, Dialect::Answer)) {
        (Some(left), Some(right)) if sides.len() == 2 => {
            let difference = Expr::Sum(vec![left, Expr::Negative(Box::new(right))]);
            Some(Answer::Equation { difference, value: value.map(Box::new) })
        }
        _ => value,
    }
}

fn value(text: &str) -> Option<Answer> {
    let mut text = text.trim();
    let shown = letters(text);
    let mut percent = false;
    for sign in ["%", "percent", "per cent", "\\text{ percent}", "\\text{percent}"] {
        if let Some(rest) = text.strip_suffix(sign) {
            (text, percent) = (rest.trim_end(), true);
        }
    }
    let (rest, mut unit) = without_unit(text);
    text = rest;
    let trigonometric = TRIGONOMETRIC.as_ref().is_some_and(|p| p.is_match(text));
    if let Some(rest) = text.strip_suffix('°').filter(|_| !trigonometric) {
        (text, unit) = (rest.trim_end(), Some("°".to_string()));
    }
    match text.trim_start_matches('+').replace(' ', "").as_str() {
        "\\infty" | "infinity" => return Some(Answer::Infinite { negative: false }),
        "-\\infty" | "-infinity" => return Some(Answer::Infinite { negative: true }),
        _ => {}
    }
    let mut plain = text.to_string();
    if let Some(found) = captures(&BASED, text) {
        unit = Some(format!("base {}", &found[2]));
        plain = found[1].to_string();
    } else if captures(&SPACED, text).is_some() {
        plain = text.replace(' ', "");
    } else if let Some(found) = captures(&MIXED, text) {
        plain = format!("{}({}+{}/{})", &found[1], &found[2], &found[3], &found[4]);
    } else if let Some(found) = captures(&RATIO, text) {
        plain = format!("{}/{}", &found[1], &found[2]);
    } else if let Some(found) = captures(&SCIENTIFIC, text) {
        plain = format!("{}*10^{{{}}}", &found[1], found[2].trim_start_matches('+'));
    }
    Some(Answer::Value { expr: parse(&plain, Dialect::Answer)?, percent, unit, words: shown })
}
