//! The model in memory: words to numbers, and one hash table for each length of n-gram.
//!
//! Layout and hashes are KenLM's probing model: the key of an n-gram combines its word numbers from the last to the first, so that
//! a growing context extends the key; tables are probed linearly, key 0 is empty. An n-gram that no longer one ends in has the sign
//! bit of its probability set, and one that no longer one begins with has a back-off of negative zero.

use super::MAX_ORDER;

pub(super) const UNKNOWN: u32 = 0;

/// One place of a [`Table`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Slot {
    /// 0: empty.
    pub key: u64,
    pub prob: f32,
    pub backoff: f32,
}

/// Probing hash table from keys to a probability and a back-off.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    pub slots: Vec<Slot>,
}

impl Table {
    /// KenLM's size for `entries`.
    pub fn buckets(entries: u64, multiplier: f32) -> u64 {
        (entries + 1).max((multiplier * entries as f32) as u64)
    }

    pub fn with_entries(entries: usize, multiplier: f32) -> Self {
        Self { slots: vec![Slot::default(); Self::buckets(entries as u64, multiplier) as usize] }
    }

    fn slot(&self, key: u64) -> Option<usize> {
        let buckets = self.slots.len();
        let mut at = (key % buckets.max(1) as u64) as usize;
        // A damaged file may have a table without an empty place.
        for _ in 0..buckets {
            if self.slots[at].key == key || self.slots[at].key == 0 {
                return Some(at);
            }
            at = if at + 1 == buckets { 0 } else { at + 1 };
        }
        None
    }

    pub fn find(&self, key: u64) -> Option<Slot> {
        self.slot(key).map(|at| self.slots[at]).filter(|slot| slot.key == key && key != 0)
    }

    fn find_mut(&mut self, key: u64) -> Option<&mut Slot> {
        self.slot(key).map(|at| &mut self.slots[at]).filter(|slot| slot.key == key && key != 0)
    }

    /// False when the table is full.
    #[must_use]
    pub fn insert(&mut self, slot: Slot) -> bool {
        match self.slot(slot.key) {
            Some(at) => {
                self.slots[at] = slot;
                true
            }
            None => false,
        }
    }
}

/// Extends the key of an n-gram by the word before it.
pub(super) fn combine(key: u64, word: u32) -> u64 {
    key.wrapping_mul(8_978_948_897_894_561_157) ^ u64::from(word.wrapping_add(1)).wrapping_mul(17_894_857_484_156_487_943)
}

/// An n-gram model.
#[derive(Debug, Clone)]
pub struct Model {
    pub(super) order: usize,
    /// Hash of a word to its number.
    pub(super) vocabulary: Table32,
    /// In the order of their numbers; empty when a binary file has none.
    pub(super) words: Vec<Box<[u8]>>,
    pub(super) unigrams: Vec<(f32, f32)>,
    /// Orders 2 to `order`.
    pub(super) tables: Vec<Table>,
    pub(super) counts: Vec<u64>,
    /// Some n-gram is there although the shorter one that it ends with is not: look for longer ones all the same.
    pub(super) gaps: bool,
    pub(super) begin: u32,
    pub(super) end: u32,
}

/// Probing hash table from hashes of words to numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct Table32 {
    pub keys: Vec<u64>,
    pub values: Vec<u32>,
}

impl Table32 {
    pub fn with_entries(entries: usize, multiplier: f32) -> Self {
        let buckets = Table::buckets(entries as u64, multiplier) as usize;
        Self { keys: vec![0; buckets], values: vec![0; buckets] }
    }

    fn slot(&self, key: u64) -> Option<usize> {
        let buckets = self.keys.len();
        let mut at = (key % buckets.max(1) as u64) as usize;
        for _ in 0..buckets {
            if self.keys[at] == key || self.keys[at] == 0 {
                return Some(at);
            }
            at = if at + 1 == buckets { 0 } else { at + 1 };
        }
        None
    }

    pub fn get(&self, key: u64) -> Option<u32> {
        self.slot(key).filter(|at| self.keys[*at] == key).map(|at| self.values[at])
    }

    pub fn insert(&mut self, key: u64, value: u32) -> bool {
        match self.slot(key) {
            Some(at) => {
                (self.keys[at], self.values[at]) = (key, value);
                true
            }
            None => false,
        }
    }
}

/// MurmurHash64A with seed 0.
pub(super) fn hash_word(word: &[u8]) -> u64 {
    const M: u64 = 0xC6A4_A793_5BD1_E995;
    let mut h = (word.len() as u64).wrapping_mul(M);
    let mut chunks = word.chunks_exact(8);
    for chunk in &mut chunks {
        let mut k = u64::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3], chunk[4], chunk[5], chunk[6], chunk[7]]);
        k = k.wrapping_mul(M);
        k ^= k >> 47;
        h = (h ^ k.wrapping_mul(M)).wrapping_mul(M);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0u64, |t, b| (t << 8) | u64::from(*b));
        h = (h ^ tail).wrapping_mul(M);
    }
    h ^= h >> 47;
    h = h.wrapping_mul(M);
    h ^ (h >> 47)
}

/// What has been read so far: the back-offs of the n-grams that end at the last word.
#[derive(Debug, Clone, Copy)]
pub(super) struct State {
    /// The last words, newest first.
    words: [u32; MAX_ORDER],
    backoffs: [f32; MAX_ORDER],
    length: usize,
}

impl Model {
    /// Longest n-gram.
    pub fn order(&self) -> usize {
        self.order
    }

    /// True when n-grams are missing that longer ones end in, which KenLM's format cannot say.
    pub fn has_gaps(&self) -> bool {
        self.gaps
    }

    /// n-grams of each length, from 1.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Number of a word; `None` for one that the model does not know.
    pub fn word(&self, word: &[u8]) -> Option<u32> {
        self.vocabulary.get(hash_word(word)).filter(|id| *id != UNKNOWN && (*id as usize) < self.unigrams.len())
    }

    /// The state after `<s>`.
    pub(super) fn begin(&self) -> State {
        let mut state = State { words: [0; MAX_ORDER], backoffs: [0.0; MAX_ORDER], length: 1 };
        state.words[0] = self.begin;
        state.backoffs[0] = self.unigrams[self.begin as usize].1;
        state
    }

    /// log10 of the probability of `word` after `state`, and the state after it.
    pub(super) fn step(&self, state: &State, word: u32) -> (f32, State) {
        let (prob, backoff) = self.unigrams[word as usize];
        let mut next = State { words: [0; MAX_ORDER], backoffs: [0.0; MAX_ORDER], length: 1 };
        (next.words[0], next.backoffs[0]) = (word, backoff);
        // With the sign bit set, no longer n-gram ends in this one.
        let mut ends = prob.is_sign_negative() && !self.gaps;
        let (mut prob, mut matched, mut key) = (-prob.abs(), 1, u64::from(word));
        let context = state.length.min(self.order - 1);
        for (n, table) in (2..).zip(&self.tables).take(context) {
            if ends {
                break;
            }
            key = combine(key, state.words[n - 2]);
            match table.find(key) {
                Some(slot) => {
                    (prob, matched) = (-slot.prob.abs(), n);
                    next.backoffs[n - 1] = slot.backoff;
                    ends = slot.prob.is_sign_negative() && !self.gaps;
                }
                None if self.gaps => {}
                None => break,
            }
        }
        prob += state.backoffs[matched - 1..context].iter().sum::<f32>();
        next.length = (context + 1).min(self.order - 1).max(1);
        next.words[1..next.length].copy_from_slice(&state.words[..next.length - 1]);
        if next.length < MAX_ORDER {
            next.backoffs[next.length..].fill(0.0);
        }
        (prob, next)
    }

    /// log10 probability of `words` after `<s>`, whatever follows.
    pub fn prefix_log10<'a>(&self, words: impl Iterator<Item = &'a [u8]>) -> f64 {
        let mut state = self.begin();
        words.fold(0.0, |sum, word| {
            let (prob, next) = self.step(&state, self.word(word).unwrap_or(UNKNOWN));
            state = next;
            sum + f64::from(prob)
        })
    }

    /// log10 probability of the words of one line with `</s>`, after `<s>`, and how many of them are unknown.
    pub fn score<'a>(&self, words: impl Iterator<Item = &'a [u8]>) -> Score {
        let mut state = self.begin();
        let mut score = Score::default();
        for word in words {
            let id = self.word(word);
            let (prob, next) = self.step(&state, id.unwrap_or(UNKNOWN));
            score.log10 += f64::from(prob);
            score.tokens += 1;
            score.unknown += u64::from(id.is_none());
            state = next;
        }
        score.log10 += f64::from(self.step(&state, self.end).0);
        score.tokens += 1;
        score
    }
}

/// Sum over the tokens of a text, `</s>` of every line counted.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Score {
    /// log10 of the probability.
    pub log10: f64,
    /// Tokens with ends of lines.
    pub tokens: u64,
    /// Tokens that the model does not know.
    pub unknown: u64,
}

impl std::ops::AddAssign for Score {
    fn add_assign(&mut self, other: Self) {
        self.log10 += other.log10;
        self.tokens += other.tokens;
        self.unknown += other.unknown;
    }
}

impl Score {
    /// Perplexity per token; infinite without tokens.
    pub fn perplexity(&self) -> f64 {
        if self.tokens == 0 { f64::INFINITY } else { 10f64.powf(-self.log10 / self.tokens as f64) }
    }
}

/// Fills a [`Model`] with n-grams, shorter ones first.
pub(super) struct Builder {
    model: Model,
}

impl Builder {
    pub fn new(counts: &[u64], multiplier: f32) -> Self {
        let model = Model {
            order: counts.len(),
            vocabulary: Table32::with_entries(counts[0] as usize, multiplier),
            words: vec![b"<unk>".as_slice().into()],
            // The unknown word has a place also where the file has none.
            unigrams: vec![(-100.0, -0.0)],
            tables: counts[1..].iter().map(|n| Table::with_entries(*n as usize, multiplier)).collect(),
            counts: counts.to_vec(),
            gaps: false,
            begin: UNKNOWN,
            end: UNKNOWN,
        };
        Self { model }
    }

    pub fn unigram(&mut self, word: &[u8], value: (f32, f32)) -> Result<(), String> {
        if word == b"<unk>" || word == b"<UNK>" {
            self.model.unigrams[0] = value;
            return Ok(());
        }
        let id = self.model.unigrams.len() as u32;
        let hash = hash_word(word);
        if self.model.vocabulary.get(hash).is_some() {
            return Err(format!("word `{}` is there twice", String::from_utf8_lossy(word)));
        }
        if !self.model.vocabulary.insert(hash, id) {
            return Err("more words than the header says".into());
        }
        match word {
            b"<s>" => self.model.begin = id,
            b"</s>" => self.model.end = id,
            _ => {}
        }
        self.model.words.push(word.into());
        self.model.unigrams.push(value);
        Ok(())
    }

    pub fn word(&self, word: &[u8]) -> u32 {
        self.model.word(word).unwrap_or(UNKNOWN)
    }

    /// An n-gram of two words or more, given from the last word to the first.
    pub fn ngram(&mut self, reversed: &[u32], value: (f32, f32)) -> Result<(), String> {
        let n = reversed.len();
        let model = &mut self.model;
        let key = reversed[1..].iter().fold(u64::from(reversed[0]), |key, word| combine(key, *word));
        // Its tail is extended to the left by it.
        if n == 2 {
            let tail = &mut model.unigrams[reversed[0] as usize].0;
            *tail = tail.abs();
        } else {
            let tail = reversed[1..n - 1].iter().fold(u64::from(reversed[0]), |key, word| combine(key, *word));
            match model.tables[n - 3].find_mut(tail) {
                Some(slot) => slot.prob = slot.prob.abs(),
                None => model.gaps = true,
            }
        }
        // And its head is a context: its back-off counts also when it is 0.
        let extended = |backoff: &mut f32| {
            if *backoff == 0.0 {
                *backoff = 0.0;
            }
        };
        if n == 2 {
            extended(&mut model.unigrams[reversed[1] as usize].1);
        } else {
            let head = reversed[2..].iter().fold(u64::from(reversed[1]), |key, word| combine(key, *word));
            if let Some(slot) = model.tables[n - 3].find_mut(head) {
                extended(&mut slot.backoff);
            }
        }
        let slot = Slot { key, prob: negative(value.0), backoff: value.1 };
        if model.tables[n - 2].insert(slot) { Ok(()) } else { Err(format!("more {n}-grams than the header says")) }
    }

    pub fn finish(mut self) -> Result<Model, String> {
        let model = &mut self.model;
        for (name, id) in [("<s>", model.begin), ("</s>", model.end)] {
            if id == UNKNOWN {
                return Err(format!("the model has no {name}; train it with marks of sentences"));
            }
        }
        model.counts[0] = model.unigrams.len() as u64;
        Ok(self.model)
    }
}

/// With the sign bit set.
pub(super) fn negative(x: f32) -> f32 {
    -x.abs()
}
