//! Words, labels and the features of a line.
//!
//! Row ids: words come first, in the order of the file; then `words + hash % bucket` for n-grams of characters and words, or
//! `words + place` for those that a pruned model has kept.

use super::Args;
use std::collections::HashMap;

/// End of a line, also a word.
pub(super) const EOS: &[u8] = b"</s>";
/// Sub-words computed beforehand at most: models with more compute them when a word is met.
const CACHED_SUBWORDS: usize = 16 << 20;

/// One word or label as the file has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub word: Box<[u8]>,
    pub count: i64,
    pub is_label: bool,
}

/// The vocabulary.
#[derive(Debug, Clone)]
pub(super) struct Dictionary {
    /// Words, then labels.
    pub entries: Vec<Entry>,
    words: usize,
    /// Tokens seen in training.
    pub tokens: i64,
    /// `(hash bucket, place)` in the order of the file; `None`: not pruned.
    pub pruned: Option<Vec<(i32, i32)>>,
    places: HashMap<i32, i32>,
    /// Open addressing: entry + 1, 0 for empty.
    table: Vec<u32>,
    /// Start of each word's sub-words in `subwords`; empty when they are not computed beforehand.
    starts: Vec<u32>,
    subwords: Vec<u32>,
}

/// FNV-1a of the reference, which takes bytes as signed.
pub(super) fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(2_166_136_261, |h, &b| step(h, b))
}

fn step(h: u32, b: u8) -> u32 {
    (h ^ (b as i8 as i32 as u32)).wrapping_mul(16_777_619)
}

fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\n' | b'\r' | b'\t' | 0x0B | 0x0C | 0)
}

impl Dictionary {
    pub fn new(entries: Vec<Entry>, tokens: i64, pruned: Option<Vec<(i32, i32)>>, args: &Args) -> Result<Self, String> {
        let words = entries.iter().take_while(|e| !e.is_label).count();
        if entries[words..].iter().any(|e| !e.is_label) {
            return Err("the vocabulary has a word after a label; expected all words first".into());
        }
        if words == entries.len() {
            return Err("the model has no labels; expected a supervised model".into());
        }
        let mut table = vec![0u32; (entries.len() * 2).next_power_of_two()];
        let mask = table.len() - 1;
        for (i, entry) in entries.iter().enumerate() {
            let mut at = hash(&entry.word) as usize & mask;
            while table[at] != 0 && entries[table[at] as usize - 1].word != entry.word {
                at = (at + 1) & mask;
            }
            if table[at] == 0 {
                table[at] = i as u32 + 1;
            }
        }
        let places = pruned.iter().flatten().copied().collect();
        let mut this = Self { entries, words, tokens, pruned, places, table, starts: Vec::new(), subwords: Vec::new() };
        this.cache_subwords(args);
        Ok(this)
    }

    fn cache_subwords(&mut self, args: &Args) {
        if args.maxn <= 0 {
            return;
        }
        let lengths = (args.maxn - args.minn.max(1) + 1).max(0) as usize;
        let bytes: usize = self.entries[..self.words].iter().map(|e| e.word.len() + 2).sum();
        if bytes.saturating_mul(lengths) > CACHED_SUBWORDS {
            return;
        }
        let (mut starts, mut all) = (Vec::with_capacity(self.words + 1), Vec::new());
        for i in 0..self.words {
            starts.push(all.len() as u32);
            self.subwords_of(i, args, &mut all);
        }
        starts.push(all.len() as u32);
        (self.starts, self.subwords) = (starts, all);
    }

    pub fn words(&self) -> usize {
        self.words
    }

    pub fn labels(&self) -> usize {
        self.entries.len() - self.words
    }

    pub fn label(&self, index: usize) -> &[u8] {
        &self.entries[self.words + index].word
    }

    pub fn label_counts(&self) -> Vec<i64> {
        self.entries[self.words..].iter().map(|e| e.count).collect()
    }

    /// Index of a word or label.
    pub fn find(&self, word: &[u8], hash: u32) -> Option<usize> {
        let mask = self.table.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            match self.table[at] {
                0 => return None,
                i if *self.entries[i as usize - 1].word == *word => return Some(i as usize - 1),
                _ => at = (at + 1) & mask,
            }
        }
    }

    fn push_hashed(&self, bucket: i32, rows: &mut Vec<u32>) {
        match &self.pruned {
            None => rows.push((self.words as i64 + i64::from(bucket)) as u32),
            Some(_) => rows.extend(self.places.get(&bucket).map(|place| (self.words as i64 + i64::from(*place)) as u32)),
        }
    }

    /// N-grams of `minn..=maxn` characters of `<word>`, without the single `<` and `>`.
    fn character_ngrams(&self, word: &[u8], args: &Args, rows: &mut Vec<u32>) {
        if args.bucket <= 0 || self.pruned.as_ref().is_some_and(Vec::is_empty) {
            return;
        }
        let len = word.len() + 2;
        let byte = |i: usize| match i {
            0 => b'<',
            i if i + 1 == len => b'>',
            i => word[i - 1],
        };
        let continues = |i: usize| byte(i) & 0xC0 == 0x80;
        for i in 0..len {
            if continues(i) {
                continue;
            }
            let (mut j, mut h) = (i, 2_166_136_261);
            for n in 1..=args.maxn {
                if j >= len {
                    break;
                }
                h = step(h, byte(j));
                j += 1;
                while j < len && continues(j) {
                    h = step(h, byte(j));
                    j += 1;
                }
                if n >= args.minn && !(n == 1 && (i == 0 || j == len)) {
                    self.push_hashed((h % args.bucket as u32) as i32, rows);
                }
            }
        }
    }

    /// The row of the word and those of its n-grams.
    fn subwords_of(&self, index: usize, args: &Args, rows: &mut Vec<u32>) {
        rows.push(index as u32);
        let word = &self.entries[index].word;
        if **word != *EOS {
            self.character_ngrams(word, args, rows);
        }
    }

    /// All rows of one line; `</s>` is added at its end.
    pub fn features(&self, line: &[u8], args: &Args, rows: &mut Vec<u32>) {
        let mut hashes: Vec<i32> = Vec::new();
        let tokens = line.split(|b| is_space(*b)).filter(|t| !t.is_empty());
        for token in tokens.chain([EOS]) {
            let h = hash(token);
            let found = self.find(token, h);
            let is_label = found.map_or_else(|| token.starts_with(super::LABEL_PREFIX.as_bytes()), |i| i >= self.words);
            if !is_label {
                match found {
                    None if token == EOS => {}
                    None if args.maxn <= 0 => {}
                    None => self.character_ngrams(token, args, rows),
                    Some(i) if args.maxn <= 0 => rows.push(i as u32),
                    Some(i) if self.starts.is_empty() => self.subwords_of(i, args, rows),
                    Some(i) => rows.extend_from_slice(&self.subwords[self.starts[i] as usize..self.starts[i + 1] as usize]),
                }
                hashes.push(h as i32);
            }
            if token == EOS {
                break;
            }
        }
        self.word_ngrams(&hashes, args, rows);
    }

    fn word_ngrams(&self, hashes: &[i32], args: &Args, rows: &mut Vec<u32>) {
        if args.bucket <= 0 || self.pruned.as_ref().is_some_and(Vec::is_empty) {
            return;
        }
        for i in 0..hashes.len() {
            let mut h = i64::from(hashes[i]) as u64;
            for next in hashes.iter().skip(i + 1).take((args.word_ngrams - 1).max(0) as usize) {
                h = h.wrapping_mul(116_049_371).wrapping_add(i64::from(*next) as u64);
                self.push_hashed((h % args.bucket as u64) as i32, rows);
            }
        }
    }
}
