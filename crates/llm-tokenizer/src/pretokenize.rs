//! Pre-tokenisation: text is cut into words, and merges never cross a word.
//!
//! The regular expressions in wide use are written out by hand here, because a regex engine costs more than the rest of encoding: those
//! of GPT-2, Llama 3 (`\p{N}{1,3}`), Qwen 2 (Llama 3's with single digits), GPT-4 (cl100k) and GPT-4o (o200k).
//! `tests/pretokenize.rs` proves equality with the regular expressions. Unicode general categories are as `regex-syntax` tabulates them.
//!
//! The surprising parts: `\s+(?!\S)` leaves the last blank of a run to the following word; case-insensitive `'s` matches the long s
//! (U+017F) too; GPT-4 takes all blanks at the very end as one word, line ends included, and Llama 3 does not; GPT-4o counts combining
//! marks as letters and as what may stand before letters.

use std::sync::OnceLock;

/// GPT-2's pattern, also what the `ByteLevel` pre-tokenizer applies by itself.
pub const GPT2_REGEX: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3's pattern: up to three digits are one word.
pub const LLAMA3_REGEX: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2's pattern: each digit is a word.
pub const QWEN2_REGEX: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-4's pattern, `cl100k_base` of tiktoken 0.8 and later.
pub const CL100K_REGEX: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s";
/// GPT-4o's pattern, `o200k_base`.
pub const O200K_REGEX: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-2's pattern as tiktoken writes it.
const R50K_REGEX: &str = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s";

/// Which cut is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// [`GPT2_REGEX`].
    Gpt2,
    /// [`LLAMA3_REGEX`] with that many digits at most in a word.
    Llama3 {
        /// 3 for Llama 3, 1 for Qwen 2.
        digits: usize,
    },
    /// [`CL100K_REGEX`].
    Cl100k,
    /// [`O200K_REGEX`].
    O200k,
}

impl Pattern {
    /// The pattern a regular expression stands for, if it is one of the known ones.
    pub fn from_regex(regex: &str) -> Option<Self> {
        match regex {
            GPT2_REGEX | R50K_REGEX => Some(Self::Gpt2),
            LLAMA3_REGEX => Some(Self::Llama3 { digits: 3 }),
            QWEN2_REGEX => Some(Self::Llama3 { digits: 1 }),
            CL100K_REGEX => Some(Self::Cl100k),
            O200K_REGEX => Some(Self::O200k),
            _ => None,
        }
    }

    /// The regular expression.
    pub fn regex(self) -> String {
        match self {
            Self::Gpt2 => GPT2_REGEX.to_string(),
            Self::Llama3 { digits: 1 } => QWEN2_REGEX.to_string(),
            Self::Llama3 { digits } => LLAMA3_REGEX.replace("{1,3}", &format!("{{1,{digits}}}")),
            Self::Cl100k => CL100K_REGEX.to_string(),
            Self::O200k => O200K_REGEX.to_string(),
        }
    }

    /// The words of `text`, in order; together they are the text.
    pub fn words(self, text: &str) -> Words<'_> {
        Words { cursor: Cursor { text, bytes: text.as_bytes(), classes: classes() }, at: 0, pattern: self }
    }
}

/// Iterator over words, see [`Pattern::words`].
#[derive(Debug)]
pub struct Words<'a> {
    cursor: Cursor<'a>,
    at: usize,
    pattern: Pattern,
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    #[inline]
    fn next(&mut self) -> Option<&'a str> {
        if self.at >= self.cursor.bytes.len() {
            return None;
        }
        let start = self.at;
        self.at = match self.pattern {
            Pattern::Gpt2 => self.cursor.gpt2_end(start),
            Pattern::Llama3 { digits } => self.cursor.llama3_end(start, digits, false),
            Pattern::Cl100k => self.cursor.llama3_end(start, 3, true),
            Pattern::O200k => self.cursor.o200k_end(start),
        };
        Some(&self.cursor.text[start..self.at])
    }
}

/// Classes of characters, a bit each.
type Class = u8;
/// Letters that are neither: `\p{Lo}`, `\p{Lm}`.
const UNCASED: Class = 1;
/// `\p{Lu}`, `\p{Lt}`.
const UPPER: Class = 2;
/// `\p{Ll}`.
const LOWER: Class = 4;
/// `\p{M}`.
const MARK: Class = 8;
/// `\p{N}`.
const NUMBER: Class = 16;
/// `\s`.
const SPACE: Class = 32;
/// None of these.
const OTHER: Class = 64;
/// `\p{L}`.
const LETTER: Class = UNCASED | UPPER | LOWER;
/// `[^\s\p{L}\p{N}]`.
const SYMBOL: Class = MARK | OTHER;

/// The class of every character: blocks of 256 code points, equal ones kept once.
#[derive(Debug)]
struct Classes {
    ascii: [Class; 128],
    block: Vec<u16>,
    classes: Vec<Class>,
}

const BLOCK: usize = 256;
const CODE_POINTS: usize = 0x11_0000;

fn classes() -> &'static Classes {
    static CLASSES: OnceLock<Classes> = OnceLock::new();
    CLASSES.get_or_init(|| {
        let mut flat = vec![OTHER; CODE_POINTS];
        let all =
            [(r"[\p{Lo}\p{Lm}]", UNCASED), (r"[\p{Lu}\p{Lt}]", UPPER), (r"\p{Ll}", LOWER), (r"\p{M}", MARK), (r"\p{N}", NUMBER), (r"\s", SPACE)];
        for (pattern, class) in all {
            for (first, last) in ranges(pattern) {
                flat[first as usize..=last as usize].fill(class);
            }
        }
        let mut table = Classes { ascii: [OTHER; 128], block: Vec::new(), classes: Vec::new() };
        table.ascii.copy_from_slice(&flat[..128]);
        let mut seen: std::collections::HashMap<&[Class], u16> = std::collections::HashMap::new();
        for block in flat.chunks(BLOCK) {
            let next = seen.len() as u16;
            table.block.push(*seen.entry(block).or_insert(next));
            if seen.len() as u16 > next {
                table.classes.extend_from_slice(block);
            }
        }
        table
    })
}

/// Code point ranges of a one-class regular expression; none where it is not one.
pub(crate) fn ranges(pattern: &str) -> Vec<(char, char)> {
    match regex_syntax::parse(pattern).map(regex_syntax::hir::Hir::into_kind) {
        Ok(regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class))) => class.iter().map(|r| (r.start(), r.end())).collect(),
        _ => Vec::new(),
    }
}

#[derive(Debug)]
struct Cursor<'a> {
    text: &'a str,
    bytes: &'a [u8],
    classes: &'static Classes,
}

impl Cursor<'_> {
    /// Class of the character at byte `at` and the byte after it; no class at the end of the text.
    #[inline(always)]
    fn class(&self, at: usize) -> (Class, usize) {
        match self.bytes.get(at) {
            Some(&first @ 0..128) => (self.classes.ascii[usize::from(first)], at + 1),
            Some(&first) => self.wide(first, at),
            None => (0, at),
        }
    }

    fn wide(&self, first: u8, at: usize) -> (Class, usize) {
        let byte = |i: usize| usize::from(self.bytes.get(at + i).copied().unwrap_or(0) & 0x3f);
        let first = usize::from(first);
        let (code, length) = match first {
            0..0xE0 => ((first & 0x1f) << 6 | byte(1), 2),
            0xE0..0xF0 => ((first & 0x0f) << 12 | byte(1) << 6 | byte(2), 3),
            _ => ((first & 0x07) << 18 | byte(1) << 12 | byte(2) << 6 | byte(3), 4),
        };
        let block = self.classes.block.get(code / BLOCK).copied().unwrap_or(0);
        (self.classes.classes[usize::from(block) * BLOCK + code % BLOCK], at + length)
    }

    /// End of the longest run of characters in `classes` from `at`.
    #[inline(always)]
    fn run(&self, mut at: usize, classes: Class) -> usize {
        loop {
            let (found, next) = self.class(at);
            if found & classes == 0 {
                return at;
            }
            at = next;
        }
    }

    #[inline(always)]
    fn byte(&self, at: usize) -> u8 {
        self.bytes.get(at).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn is_newline(&self, at: usize) -> bool {
        matches!(self.byte(at), b'\r' | b'\n')
    }

    /// End of an English contraction that starts with an apostrophe at `at`.
    #[inline(always)]
    fn contraction(&self, at: usize, any_case: bool) -> Option<usize> {
        if self.byte(at) != b'\'' {
            return None;
        }
        let lower = |b: u8| if any_case { b.to_ascii_lowercase() } else { b };
        match (lower(self.byte(at + 1)), lower(self.byte(at + 2))) {
            (b's' | b't' | b'm' | b'd', _) => Some(at + 2),
            (b'r' | b'v', b'e') | (b'l', b'l') => Some(at + 3),
            // The long s.
            (0xC5, 0xBF) if any_case => Some(at + 3),
            _ => None,
        }
    }

    /// `\s+(?!\S)|\s+` on a run of blanks `start..end`: the last blank is left to a word that follows.
    fn blanks(&self, start: usize, end: usize) -> usize {
        if end == self.bytes.len() {
            return end;
        }
        let last = self.text[start..end].char_indices().next_back().map_or(0, |(i, _)| i);
        if last == 0 { end } else { start + last }
    }

    /// `\s*[\r\n]+|\s+(?!\S)|\s+` from `at`, the run of blanks ending at `end`; with `whole_end` after `\s++$`.
    fn lines(&self, at: usize, end: usize, whole_end: bool) -> usize {
        if whole_end && end == self.bytes.len() {
            return end;
        }
        match self.bytes[at..end].iter().rposition(|b| matches!(b, b'\r' | b'\n')) {
            Some(last) => at + last + 1,
            None => self.blanks(at, end),
        }
    }

    #[inline(always)]
    fn gpt2_end(&self, at: usize) -> usize {
        if let Some(end) = self.contraction(at, false) {
            return end;
        }
        let (mut class, mut next) = self.class(at);
        if self.byte(at) == b' ' {
            let (following, after) = self.class(next);
            if following != 0 && following != SPACE {
                (class, next) = (following, after);
            }
        }
        match class {
            SPACE => self.blanks(at, self.run(next, SPACE)),
            NUMBER => self.run(next, NUMBER),
            class if class & LETTER != 0 => self.run(next, LETTER),
            _ => self.run(next, SYMBOL),
        }
    }

    #[inline(always)]
    fn llama3_end(&self, at: usize, digits: usize, whole_end: bool) -> usize {
        if let Some(end) = self.contraction(at, true) {
            return end;
        }
        let (class, next) = self.class(at);
        if class & LETTER != 0 {
            return self.run(next, LETTER);
        }
        if class == NUMBER {
            return self.number(next, digits);
        }
        let (following, after) = self.class(next);
        if following & LETTER != 0 && !self.is_newline(at) {
            return self.run(after, LETTER);
        }
        if let Some(start) = self.symbols(at, class, next, following, after) {
            let mut end = self.run(start, SYMBOL);
            while self.is_newline(end) {
                end += 1;
            }
            return end;
        }
        self.lines(at, self.run(next, SPACE), whole_end)
    }

    /// End of a number of at most `digits` digits of which the first ends at `end`.
    #[inline(always)]
    fn number(&self, mut end: usize, digits: usize) -> usize {
        for _ in 1..digits {
            match self.class(end) {
                (NUMBER, after) => end = after,
                _ => break,
            }
        }
        end
    }

    /// Where ` ?[^\s\p{L}\p{N}]+` goes on after its first symbol, if it begins at `at`.
    #[inline(always)]
    fn symbols(&self, at: usize, class: Class, next: usize, following: Class, after: usize) -> Option<usize> {
        if class & SYMBOL != 0 {
            Some(next)
        } else if following & SYMBOL != 0 && self.byte(at) == b' ' {
            Some(after)
        } else {
            None
        }
    }

    fn o200k_end(&self, at: usize) -> usize {
        let (class, next) = self.class(at);
        // `[^\r\n\p{L}\p{N}]?`, tried with and without, for either way of writing a word.
        let prefix = (class & (LETTER | NUMBER) == 0 && !self.is_newline(at)).then_some(next);
        for way in [Self::lower_word, Self::upper_word] {
            for start in prefix.into_iter().chain([at]) {
                if let Some(end) = way(self, start) {
                    return self.contraction(end, true).unwrap_or(end);
                }
            }
        }
        if class == NUMBER {
            return self.number(next, 3);
        }
        let (following, after) = self.class(next);
        if let Some(start) = self.symbols(at, class, next, following, after) {
            let mut end = self.run(start, SYMBOL);
            while self.is_newline(end) || self.byte(end) == b'/' {
                end += 1;
            }
            return end;
        }
        self.lines(at, self.run(next, SPACE), false)
    }

    /// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+`.
    fn lower_word(&self, start: usize) -> Option<usize> {
        const EITHER: Class = UNCASED | MARK;
        // The first part takes all it can, and gives back up to the last character that the second may have.
        let (mut at, mut after_either) = (start, None);
        loop {
            let (class, next) = self.class(at);
            if class & LOWER != 0 {
                return Some(self.run(next, LOWER | EITHER));
            }
            if class & (UPPER | EITHER) == 0 {
                return after_either;
            }
            at = next;
            if class & EITHER != 0 {
                after_either = Some(at);
            }
        }
    }

    /// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*`.
    fn upper_word(&self, start: usize) -> Option<usize> {
        let end = self.run(start, UPPER | UNCASED | MARK);
        (end > start).then(|| self.run(end, LOWER | UNCASED | MARK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_known_line() {
        let words = |pattern: Pattern, text| pattern.words(text).collect::<Vec<&str>>();
        assert_eq!(words(Pattern::Llama3 { digits: 3 }, "It's  12345 cafés!\n\n x"), ["It", "'s", " ", " ", "123", "45", " cafés", "!\n\n", " x"]);
        assert_eq!(words(Pattern::Llama3 { digits: 1 }, "a12 "), ["a", "1", "2", " "]);
        assert_eq!(words(Pattern::Gpt2, "we'll see 12345 \n ok"), ["we", "'ll", " see", " 12345", " \n", " ok"]);
        assert_eq!(words(Pattern::Cl100k, "a \n  "), ["a", " \n  "]);
        assert_eq!(words(Pattern::Llama3 { digits: 3 }, "a \n  "), ["a", " \n", "  "]);
        assert_eq!(words(Pattern::O200k, "fooBar HTTPServer's don't //x"), ["foo", "Bar", " HTTPServer's", " don't", " //", "x"]);
    }
}
