//! How a piece of text between white space is cut into words: the rules of spaCy's English tokenizer.
//!
//! A piece loses punctuation at its front and end in turns (`"(so)."` becomes five words), unless what is left is an exception (`Mr.`,
//! `:)`, `do|n't`); the middle is cut at hyphens between letters, full stops between a small and a large letter and the like, unless it
//! looks like an address. Exceptions that the cutting took apart are put together again. The rules are those of spaCy 3.8
//! (`lang/punctuation.py`, `lang/en/punctuation.py`), written by hand because they look behind, which the `regex` crate does not; the
//! exceptions (`data/words_*.txt`: the words of each, blanks between them) are its tables (MIT, ExplosionAI).

use super::classes::{self, ALPHA, BEFORE_STOP, CURRENCY, ICON, LOWER, PREFIX, QUOTE, SUFFIX, UPPER, is};
use super::languages::Language;
use regex::Regex;
use std::collections::HashMap;
use std::sync::LazyLock;

/// Longest exception in bytes.
const MAX_EXCEPTION: usize = 32;
const UNITS: &[&str] = &[
    "km",
    "km²",
    "km³",
    "m",
    "m²",
    "m³",
    "dm",
    "dm²",
    "dm³",
    "cm",
    "cm²",
    "cm³",
    "mm",
    "mm²",
    "mm³",
    "ha",
    "µm",
    "nm",
    "yd",
    "in",
    "ft",
    "kg",
    "g",
    "mg",
    "µg",
    "t",
    "lb",
    "oz",
    "m/s",
    "km/h",
    "kmh",
    "mph",
    "hPa",
    "Pa",
    "mbar",
    "mb",
    "MB",
    "kb",
    "KB",
    "gb",
    "GB",
    "tb",
    "TB",
    "T",
    "G",
    "M",
    "K",
    "%",
    "км",
    "км²",
    "км³",
    "м",
    "м²",
    "м³",
    "дм",
    "дм²",
    "дм³",
    "см",
    "см²",
    "см³",
    "мм",
    "мм²",
    "мм³",
    "нм",
    "кг",
    "г",
    "мг",
    "м/с",
    "км/ч",
    "кПа",
    "Па",
    "мбар",
    "Кб",
    "КБ",
    "кб",
    "Мб",
    "МБ",
    "мб",
    "Гб",
    "ГБ",
    "гб",
    "Тб",
    "ТБ",
    "тбكم",
    "كم²",
    "كم³",
    "م",
    "م²",
    "م³",
    "سم",
    "سم²",
    "سم³",
    "مم",
    "مم²",
    "مم³",
    "كم",
    "غرام",
    "جرام",
    "جم",
    "كغ",
    "ملغ",
    "كوب",
    "اكواب",
];

/// What the rules need besides the piece: exceptions, where each cuts, and how the rules alone would cut it.
#[derive(Debug)]
pub struct Rules {
    /// Exception -> ends of its words in bytes.
    exceptions: HashMap<&'static str, Vec<usize>>,
    /// Exceptions that the rules would cut -> the ends that the rules alone give.
    mendable: HashMap<&'static str, Vec<usize>>,
}

static URL: LazyLock<Option<(Regex, Regex)>> = LazyLock::new(|| {
    let head = r"^(?:(?:[\w+\-.]{2,})://)?(?:\S+(?::\S*)?@)?";
    let tail = r"(?::\d{2,5})?(?:[/?#]\S*)?$";
    let host = format!(
        r"{head}(?:(?:[A-Za-z0-9\x{{a1}}-\x{{ffff}}][A-Za-z0-9\x{{a1}}-\x{{ffff}}_-]{{0,62}})?[A-Za-z0-9\x{{a1}}-\x{{ffff}}]\.)+(?:[{}]{{2,63}}){tail}",
        classes::lower_class()
    );
    let address = format!(
        r"{head}((?:[1-9]\d?|1\d\d|2[01]\d|22[0-3])(?:\.(?:1?\d{{1,2}}|2[0-4]\d|25[0-5])){{2}}(?:\.(?:[1-9]\d?|1\d\d|2[0-4]\d|25[0-4]))){tail}"
    );
    Regex::new(&host).ok().zip(Regex::new(&address).ok())
});

/// spaCy's pattern of addresses: a host name with a small-letter ending, or a public IPv4 address.
fn is_url(piece: &str) -> bool {
    if !piece.contains('.') || piece.len() < 4 {
        return false;
    }
    let Some((host, address)) = &*URL else { return false };
    let private = |ip: &str| {
        let part = |i: usize| ip.split('.').nth(i).and_then(|p| p.parse::<u32>().ok()).unwrap_or(0);
        matches!((part(0), part(1)), (10 | 127, _) | (169, 254) | (192, 168) | (172, 16..=31))
    };
    host.is_match(piece) || address.captures(piece).and_then(|c| c.get(1)).is_some_and(|ip| !private(ip.as_str()))
}

/// A piece as characters with their byte offsets.
pub struct Piece<'a> {
    /// The piece.
    pub text: &'a str,
    /// Its characters.
    pub chars: &'a [(usize, char)],
}

impl Piece<'_> {
    fn offset(&self, i: usize) -> usize {
        self.chars.get(i).map_or(self.text.len(), |c| c.0)
    }
    fn str(&self, lo: usize, hi: usize) -> &str {
        &self.text[self.offset(lo)..self.offset(hi)]
    }
    fn at(&self, i: usize) -> char {
        self.chars[i].1
    }

    /// Characters to split off the front of `lo..hi`.
    fn prefix(&self, lo: usize, hi: usize) -> usize {
        if lo >= hi {
            return 0;
        }
        let dots = (lo..hi).take_while(|i| self.at(*i) == '.').count();
        match self.at(lo) {
            '.' => {
                if dots >= 2 {
                    dots
                } else {
                    0
                }
            }
            '+' => usize::from(!(lo + 1 < hi && self.at(lo + 1).is_ascii_digit())),
            'U' if hi - lo >= 3 && self.at(lo + 1) == 'S' && self.at(lo + 2) == '$' => 3,
            'C' | 'A' if hi - lo >= 2 && self.at(lo + 1) == '$' => 2,
            c => usize::from(is(c, PREFIX)),
        }
    }

    /// Characters to split off the end of `lo..hi`: the longest of the rules that match there.
    fn suffix(&self, lo: usize, hi: usize) -> usize {
        if lo >= hi {
            return 0;
        }
        let last = self.at(hi - 1);
        let before = |n: usize| (hi - lo > n).then(|| self.at(hi - 1 - n));
        let digit_before = |n: usize| before(n).is_some_and(|c| c.is_ascii_digit());
        let mut best = usize::from(is(last, SUFFIX));
        match last {
            '.' => {
                let dots = (lo..hi).rev().take_while(|i| self.at(*i) == '.').count();
                if dots >= 2 {
                    best = dots;
                } else if let Some(c) = before(1) {
                    let twice_upper = is(c, UPPER) && before(2).is_some_and(|b| is(b, UPPER));
                    let degrees = matches!(c, 'F' | 'f' | 'C' | 'c' | 'K' | 'k') && before(2) == Some('°');
                    if is(c, LOWER | BEFORE_STOP) || twice_upper || degrees {
                        best = 1;
                    }
                }
            }
            '…' if before(1) == Some('…') => best = 2,
            's' | 'S' if matches!(before(1), Some('\'' | '’')) => best = 2,
            '+' if digit_before(1) => best = best.max(1),
            _ => {}
        }
        if is(last, CURRENCY) {
            let long = match (before(1), before(2)) {
                (Some('S'), Some('U')) if last == '$' && digit_before(3) => 3,
                (Some('C' | 'A'), _) if last == '$' && digit_before(2) => 2,
                _ => 0,
            };
            best = best.max(long).max(usize::from(digit_before(1)));
        }
        // A unit after a digit; only what ends like a unit and has a digit near is compared.
        if (last.is_alphabetic() || matches!(last, '%' | '²' | '³')) && (1..=7).any(digit_before) {
            let end = self.str(hi.saturating_sub(8).max(lo), hi);
            for unit in UNITS.iter().filter(|u| end.ends_with(**u)) {
                let n = unit.chars().count();
                if n > best && digit_before(n) {
                    best = n;
                }
            }
        }
        best
    }

    /// Length of the cut inside `lo..hi` that starts at `i`.
    fn infix(&self, lo: usize, hi: usize, i: usize) -> usize {
        let c = self.at(i);
        if c.is_ascii_alphanumeric() {
            return 0;
        }
        let previous = (i > lo).then(|| self.at(i - 1));
        let next = |n: usize| (i + n < hi).then(|| self.at(i + n));
        let has = |c: Option<char>, bits: u16| c.is_some_and(|c| is(c, bits));
        if c == '.' {
            let dots = (i..hi).take_while(|j| self.at(*j) == '.').count();
            if dots >= 2 {
                return dots;
            }
        }
        if c == '…' || is(c, ICON) {
            return 1;
        }
        let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
        if matches!(c, '+' | '-' | '*' | '^') && digit(previous) && (digit(next(1)) || next(1) == Some('-')) {
            return 1;
        }
        if c == '.' && has(previous, LOWER | QUOTE) && has(next(1), UPPER | QUOTE) {
            return 1;
        }
        if c == ',' && has(previous, ALPHA) && has(next(1), ALPHA) {
            return 1;
        }
        if matches!(c, '-' | '–' | '—' | '~') && (has(previous, ALPHA) || digit(previous)) {
            if has(next(1), ALPHA) {
                return 1;
            }
            let longest = match c {
                '-' => 3,
                '—' => 2,
                _ => 1,
            };
            for n in 2..=longest {
                if next(n - 1) != Some(c) {
                    break;
                }
                if has(next(n), ALPHA) {
                    return n;
                }
            }
        }
        if matches!(c, ':' | '<' | '>' | '=' | '/') && (has(previous, ALPHA) || digit(previous)) && has(next(1), ALPHA) {
            return 1;
        }
        0
    }
}

impl Rules {
    /// The rules for a language, made once.
    pub fn of(language: Language) -> &'static Self {
        if language == Language::English { &ENGLISH } else { &OTHER }
    }

    fn new(language: Language) -> Self {
        let tables = [include_str!("data/words_base.txt"), if language == Language::English { include_str!("data/words_en.txt") } else { "" }];
        let mut rules = Self { exceptions: HashMap::new(), mendable: HashMap::new() };
        for line in tables.iter().flat_map(|t| t.lines()).filter(|l| !l.is_empty()) {
            let whole: &'static str = Box::leak(line.replace(' ', "").into_boxed_str());
            let ends = line.split(' ').scan(0, |end, w| {
                *end += w.len();
                Some(*end)
            });
            rules.exceptions.insert(whole, ends.collect());
        }
        let mut buffer = Vec::new();
        let mendable: Vec<(&'static str, Vec<usize>)> = rules
            .exceptions
            .keys()
            .filter_map(|whole| {
                buffer.clear();
                buffer.extend(whole.char_indices());
                let piece = Piece { text: whole, chars: &buffer };
                let n = buffer.len();
                let cut = piece.prefix(0, n) > 0 || piece.suffix(0, n) > 0 || (0..n).any(|i| piece.infix(0, n, i) > 0);
                cut.then(|| (*whole, rules.cut(&piece, false)))
            })
            .collect();
        rules.mendable = mendable.into_iter().collect();
        rules
    }

    /// Ends of the words of an exception.
    pub fn exception(&self, piece: &str) -> Option<&Vec<usize>> {
        if piece.len() > MAX_EXCEPTION { None } else { self.exceptions.get(piece) }
    }

    /// Ends of the words of a piece in bytes, before exceptions are mended.
    pub fn cut(&self, piece: &Piece, exceptions: bool) -> Vec<usize> {
        let is_exception = |lo: usize, hi: usize| exceptions && lo < hi && self.exception(piece.str(lo, hi)).is_some();
        let (mut lo, mut hi) = (0, piece.chars.len());
        let mut ends = Vec::new();
        let mut suffixes = Vec::new();
        let mut last = usize::MAX;
        while lo < hi && hi - lo != last {
            if is_exception(lo, hi) {
                break;
            }
            last = hi - lo;
            let front = piece.prefix(lo, hi);
            if front > 0 && is_exception(lo + front, hi) {
                lo += front;
                ends.push(piece.offset(lo));
                break;
            }
            let back = piece.suffix(lo + front, hi);
            if back > 0 && is_exception(lo, hi - back) {
                suffixes.push(piece.offset(hi));
                hi -= back;
                break;
            }
            if front > 0 {
                lo += front;
                ends.push(piece.offset(lo));
            }
            if back > 0 {
                suffixes.push(piece.offset(hi));
                hi -= back;
            }
        }
        if lo < hi {
            let (middle, base) = (piece.str(lo, hi), piece.offset(lo));
            let exception = if exceptions { self.exception(middle) } else { None };
            if let Some(inner) = exception {
                ends.extend(inner.iter().map(|e| base + e));
            } else {
                if !is_url(middle) {
                    self.cut_inside(piece, lo, hi, &mut ends);
                }
                if ends.last() != Some(&piece.offset(hi)) {
                    ends.push(piece.offset(hi));
                }
            }
        }
        ends.extend(suffixes.iter().rev());
        ends
    }

    fn cut_inside(&self, piece: &Piece, lo: usize, hi: usize, ends: &mut Vec<usize>) {
        let (mut start, mut i) = (lo, lo);
        while i < hi {
            let n = piece.infix(lo, hi, i);
            if n == 0 {
                i += 1;
                continue;
            }
            // A cut at the very beginning stays with what follows.
            if i > lo {
                if i > start {
                    ends.push(piece.offset(i));
                }
                ends.push(piece.offset(i + n));
                start = i + n;
            }
            i += n;
        }
    }

    /// Put exceptions together that the cutting took apart, the longest first.
    pub fn mend(&self, text: &str, ends: Vec<usize>) -> Vec<usize> {
        let n = ends.len();
        let starts: Vec<usize> = std::iter::once(0).chain(ends.iter().copied()).take(n).collect();
        let mut found: Vec<(usize, usize)> = Vec::new();
        for i in 0..n {
            for j in i..n {
                if ends[j] - starts[i] > MAX_EXCEPTION {
                    break;
                }
                let span = &text[starts[i]..ends[j]];
                let same = |cut: &Vec<usize>| cut.len() == j + 1 - i && cut.iter().zip(&ends[i..=j]).all(|(a, b)| a + starts[i] == *b);
                if self.mendable.get(span).is_some_and(same) {
                    found.push((i, j + 1));
                }
            }
        }
        if found.is_empty() {
            return ends;
        }
        found.sort_by_key(|&(i, j)| (std::cmp::Reverse(j - i), i));
        let mut taken = vec![false; n];
        let mut replace = vec![0usize; n];
        for (i, j) in found {
            if !taken[i] && !taken[j - 1] {
                replace[i] = j;
            }
            taken[i..j].fill(true);
        }
        let mut out = Vec::new();
        let mut i = 0;
        while i < n {
            if replace[i] > i {
                let whole = &text[starts[i]..ends[replace[i] - 1]];
                if let Some(inner) = self.exceptions.get(whole) {
                    out.extend(inner.iter().map(|e| starts[i] + e));
                }
                i = replace[i];
            } else {
                out.push(ends[i]);
                i += 1;
            }
        }
        out
    }
}

static ENGLISH: LazyLock<Rules> = LazyLock::new(|| Rules::new(Language::English));
static OTHER: LazyLock<Rules> = LazyLock::new(|| Rules::new(Language::German));
