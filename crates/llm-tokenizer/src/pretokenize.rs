//! Pre-tokenisation: text is cut into words, and merges never cross a word.
//!
//! The three regular expressions in wide use are written out by hand here, because a regex engine costs more than the
//! rest of encoding: GPT-2's, Llama 3's (`\p{N}{1,3}`) and Qwen 2's (Llama 3's with single digits). Letters and numbers
//! are Unicode general categories L and N as `regex-syntax` tabulates them. `tests/pretokenize.rs` proves equality with
//! the regular expressions.
//!
//! The surprising part: `\s+(?!\S)` leaves the last blank of a run to the following word, and case-insensitive `'s`
//! matches the long s (U+017F) too.

use std::sync::OnceLock;

/// GPT-2's pattern, also what the `ByteLevel` pre-tokenizer applies by itself.
pub const GPT2_REGEX: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3's pattern: up to three digits are one word.
pub const LLAMA3_REGEX: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2's pattern: each digit is a word.
pub const QWEN2_REGEX: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

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
}

impl Pattern {
    /// The pattern a regular expression stands for, if it is one of the known ones.
    pub fn from_regex(regex: &str) -> Option<Self> {
        match regex {
            GPT2_REGEX => Some(Self::Gpt2),
            LLAMA3_REGEX => Some(Self::Llama3 { digits: 3 }),
            QWEN2_REGEX => Some(Self::Llama3 { digits: 1 }),
            _ => None,
        }
    }

    /// The regular expression.
    pub fn regex(self) -> String {
        match self {
            Self::Gpt2 => GPT2_REGEX.to_string(),
            Self::Llama3 { digits: 1 } => QWEN2_REGEX.to_string(),
            Self::Llama3 { digits } => LLAMA3_REGEX.replace("{1,3}", &format!("{{1,{digits}}}")),
        }
    }

    /// The words of `text`, in order; together they are the text.
    pub fn words(self, text: &str) -> Words<'_> {
        Words { text, at: 0, pattern: self, classes: classes() }
    }
}

/// Iterator over words, see [`Pattern::words`].
#[derive(Debug)]
pub struct Words<'a> {
    text: &'a str,
    at: usize,
    pattern: Pattern,
    classes: &'static Classes,
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    #[inline]
    fn next(&mut self) -> Option<&'a str> {
        if self.at >= self.text.len() {
            return None;
        }
        let start = self.at;
        let cursor = Cursor { text: self.text, classes: self.classes };
        self.at = match self.pattern {
            Pattern::Gpt2 => cursor.gpt2_end(start),
            Pattern::Llama3 { digits } => cursor.llama3_end(start, digits),
        };
        Some(&self.text[start..self.at])
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Other,
    Letter,
    Number,
    Space,
}

use Class::{Letter, Number, Other, Space};

/// Two bits per code point, 278 kB; ASCII separately because almost every look-up is there.
#[derive(Debug)]
struct Classes {
    ascii: [Class; 128],
    packed: Vec<u8>,
}

const CODE_POINTS: usize = 0x11_0000;

fn classes() -> &'static Classes {
    static CLASSES: OnceLock<Classes> = OnceLock::new();
    CLASSES.get_or_init(|| {
        let mut packed = vec![0u8; CODE_POINTS / 4];
        for (pattern, class) in [(r"\p{L}", Letter), (r"\p{N}", Number), (r"\s", Space)] {
            for (first, last) in ranges(pattern) {
                for code in first as usize..=last as usize {
                    packed[code / 4] |= (class as u8) << (code % 4 * 2);
                }
            }
        }
        let mut table = Classes { ascii: [Other; 128], packed };
        for code in 0..128u8 {
            table.ascii[usize::from(code)] = table.of_wide(char::from(code));
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

impl Classes {
    fn of_wide(&self, c: char) -> Class {
        match self.packed[c as usize / 4] >> (c as usize % 4 * 2) & 3 {
            0 => Other,
            1 => Letter,
            2 => Number,
            _ => Space,
        }
    }
}

struct Cursor<'a> {
    text: &'a str,
    classes: &'static Classes,
}

impl Cursor<'_> {
    /// Class of the character at byte `at` and the byte after it; `None` at the end of the text.
    #[inline]
    fn class(&self, at: usize) -> Option<(Class, usize)> {
        let first = *self.text.as_bytes().get(at)?;
        if first < 128 {
            return Some((self.classes.ascii[usize::from(first)], at + 1));
        }
        let c = self.text[at..].chars().next()?;
        Some((self.classes.of_wide(c), at + c.len_utf8()))
    }

    /// End of the longest run of `class` from `at`.
    #[inline]
    fn run(&self, mut at: usize, class: Class) -> usize {
        while let Some((found, next)) = self.class(at) {
            if found != class {
                break;
            }
            at = next;
        }
        at
    }

    fn byte(&self, at: usize) -> u8 {
        self.text.as_bytes().get(at).copied().unwrap_or(0)
    }

    fn is_newline(&self, at: usize) -> bool {
        matches!(self.byte(at), b'\r' | b'\n')
    }

    /// End of an English contraction that starts with the apostrophe at `at`.
    fn contraction(&self, at: usize, any_case: bool) -> Option<usize> {
        if self.byte(at) != b'\'' {
            return None;
        }
        let lower = |b: u8| if any_case { b.to_ascii_lowercase() } else { b };
        let long_s = any_case && self.text[at + 1..].starts_with('\u{17f}');
        match (lower(self.byte(at + 1)), lower(self.byte(at + 2))) {
            (b's' | b't' | b'm' | b'd', _) => Some(at + 2),
            (b'r' | b'v', b'e') | (b'l', b'l') => Some(at + 3),
            _ if long_s => Some(at + 3),
            _ => None,
        }
    }

    /// `\s+(?!\S)|\s+` on a run of blanks `start..end`: the last blank is left to a word that follows.
    fn blanks(&self, start: usize, end: usize) -> usize {
        if end == self.text.len() {
            return end;
        }
        let last = self.text[start..end].char_indices().next_back().map_or(0, |(i, _)| i);
        if last == 0 { end } else { start + last }
    }

    fn gpt2_end(&self, at: usize) -> usize {
        if let Some(end) = self.contraction(at, false) {
            return end;
        }
        let (mut class, mut next) = match self.class(at) {
            Some(found) => found,
            None => return at,
        };
        if self.byte(at) == b' '
            && let Some((following, after)) = self.class(next)
            && following != Space
        {
            (class, next) = (following, after);
        }
        match class {
            Space => self.blanks(at, self.run(next, Space)),
            class => self.run(next, class),
        }
    }

    fn llama3_end(&self, at: usize, digits: usize) -> usize {
        if let Some(end) = self.contraction(at, true) {
            return end;
        }
        let Some((class, next)) = self.class(at) else {
            return at;
        };
        if class == Letter {
            return self.run(next, Letter);
        }
        if class == Number {
            let mut end = next;
            for _ in 1..digits {
                match self.class(end) {
                    Some((Number, after)) => end = after,
                    _ => break,
                }
            }
            return end;
        }
        let following = self.class(next);
        if let Some((Letter, after)) = following
            && !self.is_newline(at)
        {
            return self.run(after, Letter);
        }
        let punctuation = match (class, following) {
            (Other, _) => Some(next),
            (_, Some((Other, after))) if self.byte(at) == b' ' => Some(after),
            _ => None,
        };
        if let Some(start) = punctuation {
            let mut end = self.run(start, Other);
            while self.is_newline(end) {
                end += 1;
            }
            return end;
        }
        let end = self.run(next, Space);
        match self.text.as_bytes()[at..end].iter().rposition(|b| matches!(b, b'\r' | b'\n')) {
            Some(last) => at + last + 1,
            None => self.blanks(at, end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_known_line() {
        let llama: Vec<&str> = Pattern::Llama3 { digits: 3 }.words("It's  12345 cafés!\n\n x").collect();
        assert_eq!(llama, ["It", "'s", " ", " ", "123", "45", " cafés", "!\n\n", " x"]);
        let qwen: Vec<&str> = Pattern::Llama3 { digits: 1 }.words("a12 ").collect();
        assert_eq!(qwen, ["a", "1", "2", " "]);
        let gpt2: Vec<&str> = Pattern::Gpt2.words("we'll see 12345 \n ok").collect();
        assert_eq!(gpt2, ["we", "'ll", " see", " 12345", " \n", " ok"]);
    }
}
