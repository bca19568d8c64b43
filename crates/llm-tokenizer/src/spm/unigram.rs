//! The Unigram model: the segmentation with the largest sum of scores (Kudo 2018, arXiv 1804.10959, section 3.2).
//!
//! The sums of a SentencePiece model are rounded as in `Model::EncodeOptimized` of SentencePiece's `unigram_model.cc` (`f32`), or near
//! ties would be cut differently; those of a `tokenizer.json` are not rounded. That is also why the path runs over the whole text and not word
//! by word.

use super::model::{PieceModel, PieceType};
use super::normalize::BLANK;
use super::trie::Trie;
use super::{Spans, Unknown};
use crate::scratch::Scratch;

/// An unknown character is worth this much less than the worst piece.
const UNKNOWN_PENALTY: f64 = 10.0;
const UNREACHED: u32 = u32::MAX;
/// Below this sum the library begins again at zero, so that rounding stays small in long texts (seen in sentencepiece 0.2.3).
const LOWEST_SUM: f64 = -1e5;

/// Best way to a place of the text.
#[derive(Debug, Clone, Copy)]
pub struct Node {
    /// Piece that ends here, [`Trie::NONE`] for a character without one.
    id: u32,
    start: u32,
    score: f64,
}

/// A Unigram encoder.
#[derive(Debug)]
pub struct Unigram {
    trie: Trie,
    scores: Vec<f64>,
    user_defined: Vec<bool>,
    best: f32,
    unknown: f64,
    /// Sums are rounded to `f32`.
    rounds: bool,
    /// Every word has a path of its own.
    by_words: bool,
    /// Bytes of the longest piece.
    longest: usize,
}

impl Unigram {
    /// From the pieces of a model.
    pub fn new(model: &PieceModel) -> Self {
        let pieces = &model.pieces;
        let used = |kind| matches!(kind, PieceType::Normal | PieceType::UserDefined);
        let strings = pieces.iter().enumerate().filter(|(_, p)| used(p.kind)).map(|(id, p)| (p.text.as_bytes(), id as u32));
        let normal = || pieces.iter().filter(|p| p.kind == PieceType::Normal).map(|p| p.score);
        Self {
            trie: Trie::new(strings),
            scores: pieces.iter().map(|p| f64::from(p.score)).collect(),
            user_defined: pieces.iter().map(|p| p.kind == PieceType::UserDefined).collect(),
            best: normal().fold(f32::MIN_POSITIVE, f32::max),
            unknown: f64::from(normal().fold(f32::MAX, f32::min) - UNKNOWN_PENALTY as f32),
            rounds: true,
            by_words: false,
            longest: pieces.iter().map(|p| p.text.len()).max().unwrap_or(0).max(4),
        }
    }

    /// From the vocabulary of a `tokenizer.json`; `found` tells which ids text can give, `by_words` that words are cut off first.
    pub fn from_vocab(vocab: &[(String, f64)], by_words: bool, found: impl Fn(u32) -> bool) -> Self {
        let strings: Vec<(&[u8], u32)> = (0..).zip(vocab).filter(|(id, _)| found(*id)).map(|(id, (text, _))| (text.as_bytes(), id)).collect();
        Self {
            trie: Trie::new(strings.into_iter()),
            scores: vocab.iter().map(|(_, score)| *score).collect(),
            user_defined: vec![false; vocab.len()],
            best: 0.0,
            unknown: vocab.iter().map(|(_, score)| *score).fold(f64::INFINITY, f64::min) - UNKNOWN_PENALTY,
            rounds: false,
            by_words,
            longest: 0,
        }
    }

    /// Append the ids of a normalised text.
    pub fn encode(&self, text: &str, unknown: &Unknown, scratch: &mut Scratch, out: &mut Vec<u32>) {
        let Scratch { cache, path, ends, .. } = scratch;
        if !self.by_words {
            return self.encode_word(text, unknown, (path, ends), out);
        }
        let mut at = 0;
        while at < text.len() {
            let end = at + next_blank(&text[at..]);
            cache.encode(text.as_bytes(), at, end, out, |out| self.encode_word(&text[at..end], unknown, (path, ends), out));
            at = end;
        }
    }

    /// Append the ids of a normalised text and how many of its bytes each stands for.
    pub fn spans(&self, text: &str, unknown: &Unknown, scratch: &mut Scratch, out: &mut Spans) {
        let Scratch { path, ends, .. } = scratch;
        let mut at = 0;
        while at < text.len() {
            let end = if self.by_words { at + next_blank(&text[at..]) } else { text.len() };
            let word = &text[at..end];
            self.best_path(word, path, ends);
            out.anew();
            for &end in ends.iter().rev() {
                let Node { id, start, .. } = path[end];
                let piece = &word[start as usize..end];
                if id == Trie::NONE { out.unknown(piece, unknown) } else { out.push(id, piece.len()) }
            }
            at = end;
        }
    }

    fn encode_word(&self, text: &str, unknown: &Unknown, (path, ends): (&mut Vec<Node>, &mut Vec<usize>), out: &mut Vec<u32>) {
        self.best_path(text, path, ends);
        let start = out.len();
        for &end in ends.iter().rev() {
            let Node { id, start: from, .. } = path[end];
            if id == Trie::NONE { unknown.push(&text[from as usize..end], start, out) } else { out.push(id) }
        }
    }

    /// Leave the best pieces in `path` and their ends in `ends`, last first.
    fn best_path(&self, text: &str, path: &mut Vec<Node>, ends: &mut Vec<usize>) {
        let bytes = text.as_bytes();
        path.clear();
        path.resize(bytes.len() + 1, Node { id: Trie::NONE, start: UNREACHED, score: 0.0 });
        for (at, c) in text.char_indices() {
            let mut before = path[at].score;
            if self.rounds && before < LOWEST_SUM {
                let reached = bytes.len().min(at + self.longest);
                for node in path[at..=reached].iter_mut().filter(|n| n.start != UNREACHED) {
                    node.score = f64::from((node.score - before) as f32);
                }
                before = 0.0;
            }
            let mut consider = |end: usize, id: u32, total: f64| {
                let node = &mut path[end];
                // The sum of two `f32` is exact in `f64`, so rounding it is adding in `f32`.
                let total = if self.rounds { f64::from(total as f32) } else { total };
                if node.start == UNREACHED || total > node.score {
                    *node = Node { id, start: at as u32, score: total };
                }
            };
            let one = at + c.len_utf8();
            let mut has_single = false;
            let mut node = Trie::ROOT;
            for (i, &byte) in bytes[at..].iter().enumerate() {
                let Some(next) = self.trie.step(node, byte) else { break };
                node = next;
                let id = self.trie.value(node);
                if id == Trie::NONE {
                    continue;
                }
                let end = at + i + 1;
                let score = match self.user_defined[id as usize] {
                    true => f64::from((i + 1) as f32 * self.best - 0.1),
                    false => self.scores[id as usize],
                };
                consider(end, id, score + before);
                has_single |= end == one;
            }
            if !has_single {
                consider(one, Trie::NONE, self.unknown + before);
            }
        }
        ends.clear();
        let mut end = bytes.len();
        while end > 0 {
            ends.push(end);
            end = path[end].start as usize;
        }
    }
}

/// Where the blank after the first begins: `Metaspace` lets every blank begin a word.
fn next_blank(text: &str) -> usize {
    let first = text.chars().next().map_or(0, char::len_utf8);
    text[first..].find(BLANK).map_or(text.len(), |at| first + at)
}
