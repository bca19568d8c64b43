//! From every run of digits to what it belongs to: addresses, account, card, tax and telephone numbers.

use super::context::{Hint, hint, is_amount};
use super::{Found, Kind, PiiConfig, card, iban, ip, phone, tax};

/// Groups of digits that belong together in writing, at most this many.
pub(super) const MAX_GROUPS: usize = 8;
/// More digits than any number that is looked for.
const MAX_DIGITS: usize = 24;

/// Digits with what separates them: `0731 / 50-22033` is `0731`, `50`, `22033` with ` / ` and `-` between.
#[derive(Debug, Default)]
pub(super) struct Sequence {
    pub(super) groups: [(usize, usize); MAX_GROUPS],
    pub(super) len: usize,
    pub(super) digits: [u8; MAX_DIGITS + 8],
    /// Number of digits up to and including each group.
    pub(super) total: [usize; MAX_GROUPS],
}

impl Sequence {
    /// The separator after group `i`.
    pub(super) fn separator<'a>(&self, text: &'a str, i: usize) -> &'a str {
        &text[self.groups[i].1..self.groups[i + 1].0]
    }

    /// Digits of the first `k` groups.
    pub(super) fn digits(&self, k: usize) -> &[u8] {
        &self.digits[..self.total[k - 1]]
    }

    /// Lengths of the first `k` groups.
    pub(super) fn lengths(&self, k: usize) -> ([usize; MAX_GROUPS], usize) {
        let mut lengths = [0; MAX_GROUPS];
        for (length, group) in lengths.iter_mut().zip(&self.groups[..k]) {
            *length = group.1 - group.0;
        }
        (lengths, k)
    }
}

/// Length of the separator at the head of `bytes`: at most three of space, no-break space, `-`, `.`, `/`, `(`, `)`, and
/// no more than one of the last five kinds but for parentheses.
fn separator(bytes: &[u8]) -> usize {
    let (mut at, mut marks) = (0, 0);
    for _ in 0..4 {
        let Some(&b) = bytes.get(at) else { return 0 };
        let n = match b {
            b'0'..=b'9' => break,
            b' ' | b'(' | b')' => 1,
            b'-' | b'.' | b'/' => {
                marks += 1;
                1
            }
            0xC2 if bytes.get(at + 1) == Some(&0xA0) => 2,
            // Non-breaking hyphen, figure dash, en dash.
            0xE2 if bytes.get(at + 1) == Some(&0x80) && matches!(bytes.get(at + 2), Some(0x91..=0x93)) => {
                marks += 1;
                3
            }
            _ => return 0,
        };
        at += n;
    }
    if bytes.get(at).is_some_and(u8::is_ascii_digit) && marks <= 1 { at } else { 0 }
}

fn sequence(bytes: &[u8], start: usize) -> Option<Sequence> {
    let mut s = Sequence::default();
    let (mut at, mut total) = (start, 0);
    while s.len < MAX_GROUPS {
        let from = at;
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            *s.digits.get_mut(total)? = bytes[at];
            total += 1;
            at += 1;
        }
        if total > MAX_DIGITS {
            return None;
        }
        s.groups[s.len] = (from, at);
        s.total[s.len] = total;
        s.len += 1;
        match separator(&bytes[at..]) {
            0 => break,
            n => at += n,
        }
    }
    Some(s)
}

/// Index of the next digit at or after `at`; whole blocks without one are passed over quickly.
fn next_digit(bytes: &[u8], mut at: usize) -> Option<usize> {
    const BLOCK: usize = 32;
    while let Some(block) = bytes.get(at..at + BLOCK) {
        if block.iter().fold(false, |any, b| any | b.is_ascii_digit()) {
            break;
        }
        at += BLOCK;
    }
    bytes[at..].iter().position(u8::is_ascii_digit).map(|i| at + i)
}

/// True when what stands around `start..end` lets it be a number by itself.
pub(super) fn stands_alone(text: &str, start: usize, end: usize) -> bool {
    let bytes = text.as_bytes();
    let before = text[..start].chars().next_back();
    if before
        .is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '+' | '/' | '#' | '$' | '€' | '£' | '=' | '%' | '\\' | '&' | '@' | '~'))
    {
        return false;
    }
    // `12,345` and `10:30` go on to the left.
    if matches!(before, Some(',' | ':')) && start >= 2 && bytes[start - 2].is_ascii_digit() {
        return false;
    }
    let after = text[end..].chars().next();
    if after.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '%' | '@' | '€' | '$' | '=')) {
        return false;
    }
    let digit_follows = bytes.get(end + 1).is_some_and(u8::is_ascii_digit);
    !(digit_follows && matches!(after, Some('-' | '.' | ',' | ':' | '/')))
}

/// True when the group of digits at `start` goes on a row of groups to the left: `4563 4249 0257 9188` has no number that starts
/// with its third group.
pub(super) fn goes_on(text: &str, start: usize) -> bool {
    let before = text[..start].trim_end_matches('(');
    let gap = before.strip_suffix([' ', '\u{a0}', '-', '–']).map(|b| b.trim_end_matches(' '));
    gap.is_some_and(|b| b.ends_with(|c: char| c.is_ascii_digit()) && before.len() - b.len() <= 3)
}

/// Add what the digits of `text` belong to.
pub(super) fn find(text: &str, config: &PiiConfig, lang: Option<&str>, code: bool, found: &mut Vec<Found>) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(start) = next_digit(bytes, at) {
        at = match one(text, start, config, lang, code) {
            Some(f) => {
                found.push(f);
                f.end
            }
            None => start + bytes[start..].iter().take_while(|b| b.is_ascii_digit()).count(),
        };
    }
}

fn one(text: &str, start: usize, config: &PiiConfig, lang: Option<&str>, code: bool) -> Option<Found> {
    let bytes = text.as_bytes();
    if config.iban
        && let Some((start, end)) = iban::at(bytes, start)
    {
        return Some(Found { start, end, kind: Kind::Iban });
    }
    if config.ip
        && let Some(end) = ip::at(text, start)
    {
        return Some(Found { start, end, kind: Kind::Ip });
    }
    // Most numbers are short and alone: they end here.
    let run = bytes[start..].iter().take_while(|b| b.is_ascii_digit()).count();
    if run < 6 && separator(&bytes[start + run..]) == 0 {
        return None;
    }
    let s = sequence(bytes, start)?;
    if s.total[s.len - 1] < 6 {
        return None;
    }
    if config.card
        && let Some(end) = card_in(text, &s, code)
    {
        return Some(Found { start, end, kind: Kind::Card });
    }
    if config.tax_id
        && let Some(end) = tax_in(text, &s)
    {
        return Some(Found { start, end, kind: Kind::TaxId });
    }
    if config.phone {
        return phone::at(text, &s, lang, code).map(|(start, end)| Found { start, end, kind: Kind::Phone });
    }
    None
}

/// All separators among the first `k` groups are this one.
fn uniform(text: &str, s: &Sequence, k: usize, allowed: &[&str]) -> bool {
    k == 1 || allowed.contains(&s.separator(text, 0)) && (1..k - 1).all(|i| s.separator(text, i) == s.separator(text, 0))
}

fn card_in(text: &str, s: &Sequence, code: bool) -> Option<usize> {
    let start = s.groups[0].0;
    for k in (1..=s.len).rev() {
        let end = s.groups[k - 1].1;
        let (lengths, n) = s.lengths(k);
        let shaped = card::is_grouped(&lengths[..n]) && uniform(text, s, k, &[" ", "-", "\u{a0}"]);
        if shaped && card::is_card(s.digits(k)) && stands_alone(text, start, end) && !goes_on(text, start) {
            let hint = hint(text, start);
            // Nineteen digits in a row are 64-bit numbers far more often than cards.
            let doubtful = k == 1 && (code || s.total[0] > 16);
            let refused = hint == Hint::Other || doubtful && hint != Hint::Card || k == 1 && is_amount(text, end);
            return (!refused).then_some(end);
        }
    }
    None
}

fn tax_in(text: &str, s: &Sequence) -> Option<usize> {
    let start = s.groups[0].0;
    let k = (1..=s.len).find(|k| s.total[k - 1] == 11)?;
    let (lengths, n) = s.lengths(k);
    let shaped = matches!(lengths[..n], [11] | [2, 3, 3, 3]) && uniform(text, s, k, &[" ", "\u{a0}"]);
    let end = s.groups[k - 1].1;
    // A mobile number (017...) starts with 0, so does no tax number.
    (shaped && tax::is_tax_id(s.digits(k)) && stands_alone(text, start, end) && !goes_on(text, start)).then_some(end)
}
