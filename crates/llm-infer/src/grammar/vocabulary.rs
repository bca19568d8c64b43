//! A tokenizer's tokens as a trie of bytes.
//!
//! Control tokens and end tokens are no text: they stand in the trie behind a byte that UTF-8 does not have, where only their names reach
//! them. A byte token of a SentencePiece model (`<0x41>`) whose byte a piece spells too is left out; a model never learnt to use it.

use llm_tokenizer::Tokenizer;
use std::collections::HashSet;
use std::sync::Arc;
use toktrie::{INVALID_TOKEN, TokEnv, TokRxInfo, TokTrie, TokenizerEnv};

const MARKER: u8 = TokTrie::SPECIAL_TOKEN_MARKER;
/// The trie counts a node's ancestors in ten bits.
const LONGEST: usize = 1000;
/// What stands before a text so that its first word does not get the blank of a text's first word: nothing where nothing is needed, or
/// a character for private use, which joins no piece.
const HEADS: [&str; 2] = ["", "\u{e000}"];

/// Tokens and how text is cut into them.
pub struct Vocabulary {
    tokenizer: Tokenizer,
    trie: TokTrie,
    head: &'static str,
}

impl Vocabulary {
    /// An error if tokens of this tokenizer, one after the other, do not spell the text (WordPiece, lower-casing normalisers).
    pub fn new(tokenizer: &Tokenizer, end_ids: &[u32]) -> Result<Self, String> {
        let size = tokenizer.vocab_size() as u32;
        let no_text = |id: u32| tokenizer.is_special(id) || end_ids.contains(&id) || tokenizer.unk_id() == Some(id);
        let text = |id: u32| tokenizer.token_bytes(id).filter(|bytes| bytes.first() != Some(&MARKER) && bytes.len() <= LONGEST && !no_text(id));
        let spelled: HashSet<u8> = (0..size)
            .filter(|&id| !tokenizer.is_byte_fallback(id))
            .filter_map(|id| match text(id) {
                Some(&[byte]) => Some(byte),
                _ => None,
            })
            .collect();
        let word = |id: u32| match text(id) {
            Some(&[byte]) if tokenizer.is_byte_fallback(id) && spelled.contains(&byte) => Vec::new(),
            Some(bytes) => bytes.to_vec(),
            None if no_text(id) => match tokenizer.token_bytes(id) {
                Some(name) if !name.is_empty() && name.len() < LONGEST => [&[MARKER][..], name].concat(),
                _ => Vec::new(),
            },
            None => Vec::new(),
        };
        let words: Vec<Vec<u8>> = (0..size).map(word).collect();
        let ends: Vec<u32> = end_ids.iter().copied().filter(|&id| id < size).collect();
        let mut trie = TokTrie::from(&TokRxInfo::new(size, INVALID_TOKEN), &words);
        if !ends.is_empty() {
            trie = trie.with_eos_tokens(&ends);
        }
        let mut vocabulary = Self { tokenizer: tokenizer.clone(), trie, head: "" };
        for head in HEADS {
            vocabulary.head = head;
            if ["a", " a", "a a"].iter().all(|text| vocabulary.canonical(text).is_some()) {
                return Ok(vocabulary);
            }
        }
        Err(format!("grammars need a tokenizer whose tokens spell the text one after the other; this one ({}) does not", tokenizer.algorithm()))
    }

    /// For the library.
    pub fn into_env(self) -> TokEnv {
        Arc::new(self)
    }

    /// The tokenizer's own tokens of a text in the middle of another; `None` where they do not spell it, for example because it is
    /// normalised or has characters that the vocabulary lacks.
    fn canonical(&self, text: &str) -> Option<Vec<u32>> {
        let mut ids = self.tokenizer.encode(&[self.head, text].concat());
        if !self.head.is_empty() {
            let head = self.tokenizer.encode(self.head);
            if !ids.starts_with(&head) {
                return None;
            }
            ids.drain(..head.len());
        }
        let mut rest = text.as_bytes();
        for &id in &ids {
            rest = rest.strip_prefix(self.trie.token(id)).filter(|_| !self.trie.token(id).is_empty())?;
        }
        rest.is_empty().then_some(ids)
    }
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        self.trie.tokenize_with_greedy_fallback(bytes, |text| self.canonical(text).unwrap_or_else(|| self.trie.greedy_tokenize(text.as_bytes())))
    }
}
