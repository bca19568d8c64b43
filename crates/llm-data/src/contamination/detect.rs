//! Where a document holds benchmark text, and what is left without it.

use super::index::Index;
use super::normalise::{Rolling, Words, key, run_hash, words};

/// A stretch of benchmark text in a document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// After the last byte.
    pub end: usize,
    /// N-grams in it that the index has.
    pub ngrams: usize,
    /// The items that share most n-grams with it; the first one of each benchmark.
    pub items: Vec<u32>,
}

/// Room for one document's words, to be used again.
#[derive(Debug, Default)]
pub struct Scratch {
    words: Words,
    hits: Vec<(usize, usize, u32)>,
}

impl Index {
    /// Benchmark text in `text`, in order; overlapping matches are one span.
    pub fn find(&self, text: &str, scratch: &mut Scratch) -> Vec<Span> {
        let Scratch { words: found, hits } = scratch;
        words(text, self.info.normalisation, found);
        hits.clear();
        let n = self.info.n;
        for (at, hash) in Rolling::new(&found.hashes, n).enumerate() {
            if let Some(items) = self.get(key(hash, n)) {
                hits.extend(items.iter().map(|i| (at, at + n, *i)));
            }
        }
        if !self.anchors.is_empty() {
            let head = self.info.min_words;
            for (at, hash) in Rolling::new(&found.hashes, head).enumerate() {
                if !self.starts_text(key(hash, head)) {
                    continue;
                }
                for &m in &self.lengths {
                    let Some(run) = found.hashes.get(at..at + m) else { break };
                    if let Some(items) = self.get(key(run_hash(run), m)) {
                        hits.extend(items.iter().map(|i| (at, at + m, *i)));
                    }
                }
            }
        }
        if hits.is_empty() {
            return Vec::new();
        }
        hits.sort_unstable();
        let mut spans = Vec::new();
        let mut from = 0;
        while from < hits.len() {
            let (mut end, mut to) = (hits[from].1, from + 1);
            while to < hits.len() && hits[to].0 < end {
                end = end.max(hits[to].1);
                to += 1;
            }
            spans.push(self.span(&hits[from..to], end, &found.spans));
            from = to;
        }
        spans
    }

    fn span(&self, hits: &[(usize, usize, u32)], end: usize, places: &[(u32, u32)]) -> Span {
        let mut by_item: Vec<(u32, usize)> = Vec::new();
        let mut items: Vec<u32> = hits.iter().map(|h| h.2).collect();
        items.sort_unstable();
        for group in items.chunk_by(|a, b| a == b) {
            by_item.push((group[0], group.len()));
        }
        by_item.sort_by_key(|(item, n)| (std::cmp::Reverse(*n), *item));
        let mut best: Vec<u32> = Vec::new();
        for (item, _) in by_item {
            let benchmark = self.benchmark_of(item);
            if best.iter().all(|b| self.benchmark_of(*b) != benchmark) {
                best.push(item);
            }
        }
        let ngrams = hits.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)).count();
        Span { start: places[hits[0].0].0 as usize, end: places[end - 1].1 as usize, ngrams, items: best }
    }

    /// True when the words of `text` as a whole are in the index; for tests and for looking up one question.
    pub fn holds(&self, text: &str) -> bool {
        let mut found = Words::default();
        words(text, self.info.normalisation, &mut found);
        let n = self.info.n;
        match found.hashes.len() {
            m if m >= n => Rolling::new(&found.hashes, n).any(|h| self.get(key(h, n)).is_some()),
            m => self.get(key(run_hash(&found.hashes), m)).is_some(),
        }
    }
}

/// The parts of `text` that are left when `window` characters around each span go as well; parts of at most `min_slice`
/// characters go too. As lm-evaluation-harness's `janitor` cuts, but never through a word.
pub fn slices<'a>(text: &'a str, spans: &[Span], window: usize, min_slice: usize) -> Vec<&'a str> {
    let mut parts = Vec::new();
    let mut at = 0;
    for span in spans {
        let cut = back(text, span.start, window);
        if cut > at {
            parts.push(&text[at..cut]);
        }
        at = at.max(forth(text, span.end, window));
    }
    parts.push(&text[at..]);
    parts.retain(|p| p.chars().count() > min_slice);
    parts
}

/// `window` characters before `at`, and on to where the word before begins.
fn back(text: &str, at: usize, window: usize) -> usize {
    let cut = text[..at].char_indices().rev().take(window).last().map_or(at, |(i, _)| i);
    text[..cut].rfind(char::is_whitespace).map_or(0, |i| i + text[i..].chars().next().map_or(1, char::len_utf8))
}

/// `window` characters after `at`, and on to where the word there ends.
fn forth(text: &str, at: usize, window: usize) -> usize {
    let cut = text[at..].char_indices().nth(window).map_or(text.len(), |(i, _)| at + i);
    text[cut..].find(char::is_whitespace).map_or(text.len(), |i| cut + i)
}
