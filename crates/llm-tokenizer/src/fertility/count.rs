//! Raw counts of a text, as each of several tokenizers cuts it.

use crate::tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use unicode_segmentation::UnicodeSegmentation;

/// A tokenizer to measure and what it is called.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its name in tables and files.
    pub name: String,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    unknown: Option<u32>,
    /// It puts a blank in front of a text, so that one there already would be a second.
    puts_blank: bool,
}

impl Candidate {
    /// A tokenizer under a name.
    pub fn new(name: impl Into<String>, tokenizer: Tokenizer) -> Self {
        let unknown = tokenizer.unk_id();
        let first = tokenizer.encode("a").first().and_then(|&id| tokenizer.token_bytes(id)).unwrap_or_default();
        let puts_blank = first.starts_with(b" ");
        Self { name: name.into(), unknown, puts_blank, tokenizer }
    }

    /// The token for what the vocabulary cannot spell.
    pub fn unknown_id(&self) -> Option<u32> {
        self.unknown
    }
}

/// Raw counts of a group of texts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// Texts.
    pub documents: u64,
    /// UTF-8 bytes.
    pub bytes: u64,
    /// Unicode scalar values.
    pub characters: u64,
    /// Unicode words.
    pub words: u64,
    /// Words that are one token, taken with the blank before them; the unknown token does not count.
    #[serde(rename = "single_token_word_count")]
    pub single_token_words: u64,
    /// Tokens.
    pub tokens: u64,
    /// Unknown tokens.
    pub unknown_tokens: u64,
}

impl Counts {
    /// Counts of one text with each tokenizer.
    pub fn of(candidates: &[Candidate], text: &str) -> Vec<Self> {
        let words: Vec<&str> = text
            .unicode_word_indices()
            .map(|(at, word)| {
                let start = if text[..at].ends_with(' ') { at - 1 } else { at };
                &text[start..at + word.len()]
            })
            .collect();
        let plain =
            Self { documents: 1, bytes: text.len() as u64, characters: text.chars().count() as u64, words: words.len() as u64, ..Self::default() };
        let with = |candidate: &Candidate| {
            let is_unknown = |id: &u32| Some(*id) == candidate.unknown;
            let ids = candidate.tokenizer.encode(text);
            let is_one = |word: &&&str| {
                let word = if candidate.puts_blank { word.trim_start_matches(' ') } else { word };
                matches!(candidate.tokenizer.encode(word)[..], [id] if !is_unknown(&id))
            };
            Self {
                single_token_words: words.iter().filter(is_one).count() as u64,
                tokens: ids.len() as u64,
                unknown_tokens: ids.iter().filter(|id| is_unknown(id)).count() as u64,
                ..plain
            }
        };
        candidates.iter().map(with).collect()
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.documents += other.documents;
        self.bytes += other.bytes;
        self.characters += other.characters;
        self.words += other.words;
        self.single_token_words += other.single_token_words;
        self.tokens += other.tokens;
        self.unknown_tokens += other.unknown_tokens;
    }
}
