//! SentencePiece's BPE: characters are joined by the best-scored pair, the leftmost of equals first (`bpe_model.cc`).
//!
//! Joining is that of [`crate::bpe`]. What is different is where it starts: from characters, of which some have no piece of their own,
//! and from user-defined pieces, which stay as they are. Both have ids beyond the vocabulary while joining.
//!
//! Where no piece has a blank after another character, which is so in every published model, no join crosses the beginning of a word, so
//! words are joined one by one and remembered.

use super::model::{Piece, PieceType};
use super::normalize::BLANK;
use super::trie::Trie;
use super::{Spans, Unknown};
use crate::bpe::{Merges, Rule, merge};
use crate::scratch::Scratch;
use std::collections::HashMap;

/// A BPE encoder.
#[derive(Debug)]
pub struct PieceBpe {
    /// Ids of characters, those without a piece that stand in one included.
    characters: HashMap<char, u32>,
    /// The same for code points below 2^16.
    basic: Box<[u32]>,
    merges: Merges,
    user_defined: Option<Trie>,
    /// Number of pieces.
    size: u32,
    /// Bytes of each piece.
    lengths: Vec<u32>,
    /// Characters that stand in pieces and have none themselves; their ids follow those of the pieces.
    beyond: Vec<char>,
    /// Words may be cut off before they are joined.
    by_words: bool,
}

const NONE: u32 = u32::MAX;
/// While joining, an unknown character has its code point and this as its id: it joins with nothing. Vocabularies are smaller than 2^24.
const UNKNOWN_FROM: u32 = 1 << 25;
/// The same for user-defined pieces.
const FROZEN_FROM: u32 = 1 << 26;

impl PieceBpe {
    /// Two pieces are joined if their join is a piece; the higher its score, the sooner.
    pub fn from_scores(pieces: &[Piece], user_defined: Option<Trie>) -> Result<Self, String> {
        if let Some(at) = pieces.iter().position(|p| p.kind == PieceType::Unused) {
            return Err(format!("pieces[{at}]: {:?} has type UNUSED, which is supported in Unigram models only", pieces[at].text));
        }
        let found = |p: &Piece| matches!(p.kind, PieceType::Normal | PieceType::UserDefined);
        let mut this = Self::empty(pieces.len(), user_defined);
        let ids: HashMap<&str, u32> = pieces.iter().enumerate().filter(|(_, p)| found(p)).map(|(id, p)| (p.text.as_str(), id as u32)).collect();
        let mut scores: Vec<f32> = pieces.iter().filter(|p| found(p)).map(|p| p.score).collect();
        scores.sort_unstable_by(|a, b| b.total_cmp(a));
        scores.dedup();
        for (&text, &id) in &ids {
            this.add_character(text, id);
        }
        let mut rules = Vec::new();
        for (id, piece) in pieces.iter().enumerate().filter(|(_, p)| found(p)) {
            let rank = scores.partition_point(|s| s.total_cmp(&piece.score).is_gt()) as u32;
            for (cut, _) in piece.text.char_indices().skip(1) {
                let (left, right) = piece.text.split_at(cut);
                if let (Some(left), Some(right)) = (this.part(left, &ids), this.part(right, &ids)) {
                    rules.push(Rule { left, right, rank, joined: id as u32 });
                }
            }
        }
        this.finish(&rules, ids.iter().map(|(&text, &id)| (text, id)));
        Ok(this)
    }

    /// From the merges of a `tokenizer.json`, in rank order: `(left, right, joined)`.
    pub fn from_merges<'a>(vocab: impl Iterator<Item = (&'a str, u32)> + Clone, merges: &[(u32, u32, u32)]) -> Self {
        let size = vocab.clone().map(|(_, id)| id as usize + 1).max().unwrap_or(0);
        let mut this = Self::empty(size, None);
        for (text, id) in vocab.clone() {
            this.add_character(text, id);
        }
        let rules: Vec<Rule> =
            merges.iter().enumerate().map(|(rank, &(left, right, joined))| Rule { left, right, rank: rank as u32, joined }).collect();
        this.finish(&rules, vocab);
        this
    }

    fn empty(size: usize, user_defined: Option<Trie>) -> Self {
        let merges = Merges::new(&[]);
        Self {
            characters: HashMap::new(),
            basic: vec![NONE; 1 << 16].into(),
            merges,
            user_defined,
            size: size as u32,
            lengths: vec![0; size],
            beyond: Vec::new(),
            by_words: false,
        }
    }

    fn add_character(&mut self, text: &str, id: u32) {
        let mut chars = text.chars();
        if let (Some(c), None) = (chars.next(), chars.next()) {
            self.characters.insert(c, id);
        }
    }

    /// Id of a part of a piece: a piece, or a character that has none.
    fn part(&mut self, text: &str, ids: &HashMap<&str, u32>) -> Option<u32> {
        if let Some(&id) = ids.get(text) {
            return Some(id);
        }
        let mut chars = text.chars();
        let (Some(c), None) = (chars.next(), chars.next()) else { return None };
        let next = self.size + self.beyond.len() as u32;
        let id = *self.characters.entry(c).or_insert(next);
        if id == next {
            self.beyond.push(c);
        }
        Some(id)
    }

    fn finish<'a>(&mut self, rules: &[Rule], vocab: impl Iterator<Item = (&'a str, u32)>) {
        self.merges = Merges::new(rules);
        for (&c, &id) in &self.characters {
            if let Some(slot) = self.basic.get_mut(c as usize) {
                *slot = id;
            }
        }
        self.by_words = self.characters.contains_key(&'\u{2581}');
        for (text, id) in vocab {
            self.lengths[id as usize] = text.len() as u32;
            self.by_words &= !text.trim_start_matches(BLANK).contains(BLANK);
        }
    }

    /// Append the ids of a normalised text.
    pub fn encode(&self, text: &str, unknown: &Unknown, scratch: &mut Scratch, out: &mut Vec<u32>) {
        let start = out.len();
        if !self.by_words {
            return self.encode_word(text, unknown, &mut scratch.bpe, start, out);
        }
        let Scratch { cache, bpe, .. } = scratch;
        let mut at = 0;
        while at < text.len() {
            let end = at + word_end(&text[at..]);
            let word = &text[at..end];
            // A run of unknown characters may go on from the word before, so such words are not remembered.
            let begins_anew = unknown.bytes.is_some() || !unknown.fuse || word.starts_with(BLANK);
            match begins_anew {
                true => cache.encode(text.as_bytes(), at, end, out, |out| {
                    let start = out.len();
                    self.encode_word(word, unknown, bpe, start, out);
                }),
                false => self.encode_word(word, unknown, bpe, start, out),
            }
            at = end;
        }
    }

    fn encode_word(&self, word: &str, unknown: &Unknown, scratch: &mut crate::bpe::Scratch, start: usize, out: &mut Vec<u32>) {
        self.join(word, scratch);
        let mut text = [0; 4];
        for &symbol in &scratch.ids {
            match self.meaning(symbol) {
                Symbol::Stranger(c) => unknown.push(c.encode_utf8(&mut text), start, out),
                Symbol::Piece(id) => out.push(id),
            }
        }
    }

    /// Append the ids of a normalised text and how many of its bytes each stands for.
    pub fn spans(&self, text: &str, unknown: &Unknown, scratch: &mut crate::bpe::Scratch, out: &mut Spans) {
        self.join(text, scratch);
        let mut bytes = [0; 4];
        for &symbol in &scratch.ids {
            match self.meaning(symbol) {
                Symbol::Stranger(c) => out.unknown(c.encode_utf8(&mut bytes), unknown),
                Symbol::Piece(id) => out.push(id, self.lengths[id as usize] as usize),
            }
        }
    }

    /// Leave the symbols of `word` in `scratch.ids`.
    fn join(&self, word: &str, scratch: &mut crate::bpe::Scratch) {
        scratch.ids.clear();
        let mut rest = word;
        while let Some(c) = rest.chars().next() {
            if let Some((length, id)) = self.user_defined.as_ref().and_then(|trie| trie.longest(rest.as_bytes())) {
                scratch.ids.push(FROZEN_FROM + id);
                rest = &rest[length..];
                continue;
            }
            let id = self.basic.get(c as usize).copied().unwrap_or_else(|| self.characters.get(&c).copied().unwrap_or(NONE));
            scratch.ids.push(if id == NONE { UNKNOWN_FROM + c as u32 } else { id });
            rest = &rest[c.len_utf8()..];
        }
        merge(&self.merges, scratch);
    }

    #[inline]
    fn meaning(&self, symbol: u32) -> Symbol {
        match symbol {
            FROZEN_FROM.. => Symbol::Piece(symbol - FROZEN_FROM),
            UNKNOWN_FROM.. => Symbol::Stranger(char::from_u32(symbol - UNKNOWN_FROM).unwrap_or(char::REPLACEMENT_CHARACTER)),
            _ => self.beyond.get(symbol.wrapping_sub(self.size) as usize).map_or(Symbol::Piece(symbol), |&c| Symbol::Stranger(c)),
        }
    }
}

/// What a symbol is after joining.
enum Symbol {
    Piece(u32),
    /// A character without a piece.
    Stranger(char),
}

/// Where the first word of `text` ends: before a blank that follows something else.
fn word_end(text: &str) -> usize {
    let lead = text.len() - text.trim_start_matches(BLANK).len();
    text[lead..].find(BLANK).map_or(text.len(), |at| lead + at)
}
