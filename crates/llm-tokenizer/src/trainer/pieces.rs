//! What SentencePiece-style models have in common: how text is cut into words, which characters the vocabulary has, and which
//! strings may be a piece. The rules and their defaults are those of SentencePiece (Kudo and Richardson 2018, arXiv 1808.06226;
//! `src/trainer_interface.cc`) with identity normalisation.

use super::config::TrainerConfig;
use super::script::{INHERITED, script};
use super::words::Words;
use crate::error::{Error, Result};
use std::collections::{HashMap, HashSet};

/// Stands for a blank: pieces have it in front only.
pub const BLANK: char = '\u{2581}';
/// Behind a word that ends a line.
const LINE_END: u8 = b'\n';
/// SentencePiece's mark for a character outside of the vocabulary; never a character of it.
const OUTSIDE: char = '\u{2585}';

/// Every word of `text`, with the blank before it written as U+2581. The beginning of a line counts as a blank, several blanks as
/// one. Lines end a word and are in no piece, so their ends become byte tokens; all other white space is part of words.
pub fn words(text: &str, each: &mut dyn FnMut(&[u8])) {
    let mut word = String::new();
    for part in text.lines().flat_map(|line| line.split([' ', BLANK])).filter(|part| !part.is_empty()) {
        word.clear();
        word.push(BLANK);
        word.push_str(part);
        each(word.as_bytes());
    }
}

/// [`words`]; the last word of a line has [`LINE_END`] behind it.
pub fn words_of_lines(text: &str, each: &mut dyn FnMut(&[u8])) {
    for line in text.lines() {
        let mut last: Vec<u8> = Vec::new();
        words(line, &mut |word| {
            if !last.is_empty() {
                each(&last);
            }
            last.clear();
            last.extend_from_slice(word);
        });
        if !last.is_empty() {
            last.push(LINE_END);
            each(&last);
        }
    }
}

/// A word without its [`LINE_END`], and whether it had one.
pub fn without_end(word: &[u8]) -> (&[u8], bool) {
    match word {
        [word @ .., LINE_END] => (word, true),
        word => (word, false),
    }
}

/// Text of the token of a byte.
pub fn byte_token(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

/// Special tokens and byte tokens, in id order: what comes before the pieces.
pub fn reserved(config: &TrainerConfig) -> impl Iterator<Item = String> {
    config.special_tokens.iter().cloned().chain((0..=255).map(byte_token))
}

/// Ids that are left for pieces.
pub fn room(config: &TrainerConfig) -> usize {
    config.vocab_size.saturating_sub(config.special_tokens.len() + 256)
}

/// The characters of a vocabulary: those that cover enough of the text. All others are spelled in bytes.
#[derive(Debug)]
pub struct Alphabet {
    chars: Vec<char>,
    ids: HashMap<char, u32>,
    counts: Vec<u64>,
}

impl Alphabet {
    /// The most frequent characters that together are `coverage` of the text; of equally frequent ones the lower code point.
    pub fn new(words: &Words, coverage: f64) -> Self {
        let mut counts: HashMap<char, u64> = HashMap::new();
        for (word, count) in words.iter() {
            for c in as_text(without_end(word).0).chars().filter(|&c| c != '\0' && c != OUTSIDE) {
                let sum = counts.entry(c).or_default();
                *sum = sum.saturating_add(count);
            }
        }
        let all: f64 = counts.values().map(|&c| c as f64).sum::<f64>().max(1.0);
        let mut counts: Vec<(char, u64)> = counts.into_iter().collect();
        counts.sort_unstable_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        let mut covered = 0u128;
        // The comparison is in single precision, as SentencePiece's: at the edge this decides.
        counts.retain(|&(_, count)| {
            let enough = (covered as f64 / all) as f32 >= coverage as f32;
            covered += u128::from(count);
            !enough
        });
        let (chars, counts): (Vec<char>, Vec<u64>) = counts.into_iter().unzip();
        Self { ids: chars.iter().copied().zip(0..).collect(), chars, counts }
    }

    /// Most frequent first.
    pub fn chars(&self) -> &[char] {
        &self.chars
    }

    /// How often each character occurs.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Is this character in the alphabet?
    pub fn has(&self, c: char) -> bool {
        self.ids.contains_key(&c)
    }

    /// The parts of a word between characters that are not in the alphabet.
    pub fn runs<'s>(&'s self, word: &'s [u8]) -> impl Iterator<Item = &'s str> {
        as_text(without_end(word).0).split(move |c| !self.has(c)).filter(|run| !run.is_empty())
    }

    /// Places of a run's characters in [`Alphabet::chars`].
    pub fn ids(&self, run: &str) -> Vec<u32> {
        run.chars().filter_map(|c| self.ids.get(&c).copied()).collect()
    }

    /// An error if the vocabulary has no place for `needed` characters.
    pub fn check_room(needed: usize, config: &TrainerConfig) -> Result<()> {
        if needed <= room(config) {
            return Ok(());
        }
        let least = needed + config.special_tokens.len() + 256;
        Err(Error::Train(format!(
            "vocab_size = {} is too small: {needed} characters, 256 bytes and {} special tokens need {least}; give that, or lower character_coverage = {}",
            config.vocab_size,
            config.special_tokens.len(),
            config.character_coverage
        )))
    }
}

/// Words were cut from text, so they are text.
pub fn as_text(word: &[u8]) -> &str {
    std::str::from_utf8(word).unwrap_or_default()
}

/// Which strings may be a piece.
#[derive(Debug)]
pub struct Rules {
    max_chars: usize,
    max_bytes: usize,
    split_digits: bool,
    /// A piece that is spelled like a special token would be that token.
    reserved: HashSet<String>,
}

impl Rules {
    /// The rules of these settings.
    pub fn new(config: &TrainerConfig) -> Self {
        Self {
            max_chars: config.max_piece_chars,
            max_bytes: config.max_token_bytes,
            split_digits: config.split_digits,
            reserved: reserved(config).collect(),
        }
    }

    /// Most characters in a piece.
    pub fn max_chars(&self) -> usize {
        self.max_chars
    }

    /// Not too long, of one script (digits and punctuation are a script of their own, called common), the blank only in front.
    pub fn allows(&self, piece: &str) -> bool {
        let mut chars = 0;
        let mut before = None;
        for c in piece.chars() {
            chars += 1;
            match c {
                BLANK if chars > 1 => return false,
                BLANK => continue,
                '\0' | ' ' | OUTSIDE => return false,
                _ => {}
            }
            if self.split_digits && piece.len() > c.len_utf8() && matches!(c, '0'..='9' | '０'..='９') {
                return false;
            }
            let script = match script(c) {
                INHERITED => before,
                script => Some(script),
            };
            if before.is_some() && script.is_some() && before != script {
                return false;
            }
            before = script;
        }
        (1..=self.max_chars).contains(&chars) && piece.len() <= self.max_bytes && !self.reserved.contains(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::Model;
    use super::*;

    fn cut(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        words(text, &mut |word| found.push(as_text(word).to_string()));
        found
    }

    #[test]
    fn blanks_become_marks_and_lines_end_words() {
        assert_eq!(cut("  two  words\r\n\na\tb \u{2581}c\u{a0}d"), ["▁two", "▁words", "▁a\tb", "▁c\u{a0}d"]);
        assert!(cut(" \n ").is_empty());
        let mut found = Vec::new();
        words_of_lines("a b \n\nc", &mut |word| found.push(word.to_vec()));
        assert_eq!(found, ["▁a".as_bytes(), "▁b\n".as_bytes(), "▁c\n".as_bytes()]);
        assert_eq!(without_end(&found[1]), ("▁b".as_bytes(), true));
    }

    #[test]
    fn pieces_keep_to_one_script() {
        let config = TrainerConfig { max_piece_chars: 6, ..TrainerConfig::of(Model::Unigram) };
        let rules = Rules::new(&config);
        for piece in ["▁", "▁the", "12", "1,5", "▁(", "...", "▁\t\t", "日ほンー", "e\u{301}a", "▁\u{301}a"] {
            assert!(rules.allows(piece), "{piece}");
        }
        for piece in ["", "F1", "a.", "aж", "the▁", "▁▁", "a\tb", "a b", "sevenup", "<0x0A>", "<s>", "1e"] {
            assert!(!rules.allows(piece), "{piece}");
        }
        let digits = Rules::new(&TrainerConfig { split_digits: true, ..config });
        assert!(digits.allows("1") && !digits.allows("12") && !digits.allows("▁1") && digits.allows(".."));
    }

    #[test]
    fn coverage_leaves_out_the_rarest_characters() {
        let mut counted = Words::default();
        counted.push("▁aab".as_bytes(), 30);
        counted.push("▁a\tcz".as_bytes(), 1);
        let chars = |coverage| Alphabet::new(&counted, coverage).chars().to_vec();
        assert_eq!(chars(1.0), ['a', '▁', 'b', '\t', 'c', 'z']);
        assert_eq!(chars(0.981), ['a', '▁', 'b', '\t']);
        assert_eq!(chars(0.97), ['a', '▁', 'b']);
        let alphabet = Alphabet::new(&counted, 0.97);
        assert_eq!(alphabet.runs("▁a\tcz".as_bytes()).collect::<Vec<_>>(), ["▁a"]);
        assert_eq!((alphabet.ids("▁ab"), alphabet.counts()), (vec![1, 0, 2], &[61, 31, 30][..]));
    }
}
