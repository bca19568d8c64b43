//! Learning merges: join the most frequent pair, again and again, updating only the counts a merge changes.
//!
//! A heap holds pairs under counts that may be too high; a popped pair whose count fell goes back with the true one.
//! Ties go to the lowest pair of ids, so the result is a function of the word counts. This is also the rule of Hugging Face's
//! `BpeTrainer`. As there, two ways to build one text give one token. [`Limits`] may ask for another rule: SentencePiece's.
//!
//! All words lie in one array of symbols and shrink in place; a pair knows the words it occurs in (some perhaps no longer).

use super::pair_hash::{PairMap, PairSet};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

pub type Pair = (u32, u32);

/// How often a pair occurs, and words it occurs in.
#[derive(Debug, Default)]
struct Seen {
    count: u64,
    words: Vec<u32>,
}

/// A merge that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub pair: Pair,
    /// Id of the joined token.
    pub joined: u32,
    /// How often the pair occurred.
    pub count: u64,
}

/// What may be merged, and what first. `K` orders equally frequent pairs, before their ids do.
pub struct Limits<'a, K = ()> {
    /// A pair that occurs less often is not merged.
    pub min_frequency: u64,
    /// May this text be a token?
    pub allowed: &'a dyn Fn(&[u8]) -> bool,
    /// Of equally frequent pairs, given by their two texts, that with the least key is merged.
    pub key: &'a dyn Fn(&[u8], &[u8]) -> K,
    /// Is a pair joined whose text is a token already, that is, another way to the same token?
    pub rejoin: bool,
}

impl<'a> Limits<'a> {
    /// The rule of byte-level BPE.
    pub fn by_id(min_frequency: u64, allowed: &'a dyn Fn(&[u8]) -> bool) -> Self {
        fn no_key(_: &[u8], _: &[u8]) {}
        Self { min_frequency, allowed, key: &no_key, rejoin: true }
    }
}

/// The state between two merges.
pub struct Learner<'a, K = ()> {
    limits: Limits<'a, K>,
    symbols: Vec<u32>,
    /// Where each word begins in `symbols`, and how many symbols it has now.
    words: Vec<(u64, u32)>,
    counts: Vec<u64>,
    /// Text of every token.
    tokens: Vec<Box<[u8]>>,
    ids: HashMap<Box<[u8]>, u32>,
    seen: PairMap<Seen>,
    heap: BinaryHeap<(u64, Reverse<(K, Pair)>)>,
    merged: PairSet,
}

impl<'a, K: Ord> Learner<'a, K> {
    /// `tokens` are the texts of the ids that words are made of at first. `words` gives each word's symbols to its second
    /// argument, word by word, with the word's count; `sizes` is `(words, symbols)`, for exact allocation.
    pub fn new(tokens: Vec<Box<[u8]>>, sizes: (usize, usize), words: impl Iterator<Item = (Vec<u32>, u64)>, limits: Limits<'a, K>) -> Self {
        let mut symbols = Vec::with_capacity(sizes.1);
        let (mut spans, mut counts) = (Vec::with_capacity(sizes.0), Vec::with_capacity(sizes.0));
        for (word, count) in words {
            if word.len() < 2 {
                continue;
            }
            spans.push((symbols.len() as u64, word.len() as u32));
            symbols.extend_from_slice(&word);
            counts.push(count);
        }
        let ids = tokens.iter().enumerate().map(|(id, text)| (text.clone(), id as u32)).collect();
        let mut learner = Self {
            limits,
            symbols,
            words: spans,
            counts,
            tokens,
            ids,
            seen: PairMap::default(),
            heap: BinaryHeap::new(),
            merged: Default::default(),
        };
        learner.count_pairs();
        learner
    }

    /// Count first, then fill lists of exactly the right size.
    fn count_pairs(&mut self) {
        let mut sizes: PairMap<(u64, u32, u32)> = PairMap::default();
        for (i, (&(start, length), &count)) in self.words.iter().zip(&self.counts).enumerate() {
            for pair in self.symbols[start as usize..start as usize + length as usize].windows(2) {
                let (total, places, last) = sizes.entry((pair[0], pair[1])).or_insert((0, 0, u32::MAX));
                *total = total.saturating_add(count);
                if *last != i as u32 {
                    (*places, *last) = (*places + 1, i as u32);
                }
            }
        }
        self.seen = sizes.iter().map(|(&pair, &(count, places, _))| (pair, Seen { count, words: Vec::with_capacity(places as usize) })).collect();
        self.heap = sizes.iter().map(|(&pair, &(count, ..))| (count, Reverse((self.key(pair), pair)))).collect();
        drop(sizes);
        for (i, &(start, length)) in self.words.iter().enumerate() {
            for pair in self.symbols[start as usize..start as usize + length as usize].windows(2) {
                if let Some(seen) = self.seen.get_mut(&(pair[0], pair[1]))
                    && seen.words.last() != Some(&(i as u32))
                {
                    seen.words.push(i as u32);
                }
            }
        }
    }

    fn key(&self, pair: Pair) -> K {
        (self.limits.key)(&self.tokens[pair.0 as usize], &self.tokens[pair.1 as usize])
    }

    pub fn tokens(&self) -> &[Box<[u8]>] {
        &self.tokens
    }

    pub fn into_tokens(self) -> Vec<Box<[u8]>> {
        self.tokens
    }

    /// Words as they are cut now, with their counts.
    pub fn words(&self) -> impl Iterator<Item = (&[u32], u64)> {
        self.words.iter().zip(&self.counts).map(|(&(start, length), &count)| (&self.symbols[start as usize..start as usize + length as usize], count))
    }

    /// The pairs that are most frequent now, best first.
    pub fn best(&self, most: usize) -> Vec<(Pair, u64)> {
        let mut pairs: Vec<(Pair, u64)> = self.seen.iter().filter(|(_, s)| s.count > 0).map(|(&pair, s)| (pair, s.count)).collect();
        pairs.sort_unstable_by_key(|&(pair, count)| (Reverse(count), pair));
        pairs.truncate(most);
        pairs
    }

    /// Make the next merge; `None` when no pair is worth one.
    pub fn step(&mut self) -> Option<Step> {
        loop {
            let (count, Reverse((key, pair))) = self.heap.pop()?;
            let now = self.seen.get(&pair).map_or(0, |s| s.count);
            if now < self.limits.min_frequency.max(1) {
                continue;
            }
            if now != count {
                self.heap.push((now, Reverse((key, pair))));
                continue;
            }
            let text = [&*self.tokens[pair.0 as usize], &*self.tokens[pair.1 as usize]].concat().into_boxed_slice();
            if !(self.limits.allowed)(&text) {
                continue;
            }
            let joined = match self.ids.get(&text) {
                Some(_) if !self.limits.rejoin => continue,
                Some(&id) => id,
                None => {
                    let id = self.tokens.len() as u32;
                    self.ids.insert(text.clone(), id);
                    self.tokens.push(text);
                    id
                }
            };
            self.apply(pair, joined);
            if self.merged.insert(pair) {
                return Some(Step { pair, joined, count });
            }
        }
    }

    /// Join `pair` in every word it occurs in.
    fn apply(&mut self, pair: Pair, joined: u32) {
        let mut places = self.seen.remove(&pair).unwrap_or_default().words;
        places.sort_unstable();
        places.dedup();
        let mut fresh: Vec<Pair> = Vec::new();
        let mut born: Vec<Pair> = Vec::new();
        for place in places {
            let (start, length) = self.words[place as usize];
            let count = self.counts[place as usize];
            let ids = &mut self.symbols[start as usize..start as usize + length as usize];
            let Some(first) = ids.windows(2).position(|w| (w[0], w[1]) == pair) else { continue };
            let seen = &mut self.seen;
            let mut gone = |pair: Pair| {
                if let Some(s) = seen.get_mut(&pair) {
                    s.count = s.count.saturating_sub(count);
                    if s.count == 0 {
                        s.words = Vec::new();
                    }
                }
            };
            born.clear();
            // Symbols up to `end` are written, from `i` on unread.
            let (mut end, mut i) = (first, first);
            while i < ids.len() {
                if i + 1 < ids.len() && (ids[i], ids[i + 1]) == pair {
                    if end > 0 {
                        let left = ids[end - 1];
                        // Two joins in a row: the pair between them was only just born.
                        match left == joined && born.last() == Some(&(left, pair.0)) {
                            true => {
                                born.pop();
                            }
                            false => gone((left, pair.0)),
                        }
                        born.push((left, joined));
                    }
                    if let Some(&right) = ids.get(i + 2) {
                        gone((pair.1, right));
                        born.push((joined, right));
                    }
                    ids[end] = joined;
                    i += 2;
                } else {
                    ids[end] = ids[i];
                    i += 1;
                }
                end += 1;
            }
            for &pair in &born {
                let s = self.seen.entry(pair).or_default();
                if s.words.is_empty() || s.words.last() != Some(&place) {
                    s.words.push(place);
                }
                s.count = s.count.saturating_add(count);
                fresh.push(pair);
            }
            self.words[place as usize].1 = end as u32;
            if fresh.len() > 1 << 16 {
                fresh.sort_unstable();
                fresh.dedup();
            }
        }
        fresh.sort_unstable();
        fresh.dedup();
        for pair in fresh {
            if let Some(s) = self.seen.get(&pair).filter(|s| s.count > 0) {
                self.heap.push((s.count, Reverse((self.key(pair), pair))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn learn(words: &[(String, u64)], wanted: usize, min_frequency: u64, max_bytes: usize) -> Vec<Pair> {
        let tokens = (0..=255u8).map(|b| vec![b].into()).collect();
        let symbols = words.iter().map(|(w, c)| (w.bytes().map(u32::from).collect(), *c));
        let allowed = |text: &[u8]| text.len() <= max_bytes;
        let mut learner = Learner::new(tokens, (words.len(), 0), symbols, Limits::by_id(min_frequency, &allowed));
        std::iter::from_fn(|| learner.step()).take(wanted).map(|s| s.pair).collect()
    }

    /// Recounts everything before every merge.
    fn learn_slowly(words: &[(String, u64)], wanted: usize, min_frequency: u64, max_bytes: usize) -> Vec<Pair> {
        let mut words: Vec<(Vec<u32>, u64)> = words.iter().map(|(w, c)| (w.bytes().map(u32::from).collect(), *c)).collect();
        let mut tokens: Vec<Vec<u8>> = (0..=255u8).map(|b| vec![b]).collect();
        let mut merges = Vec::new();
        while merges.len() < wanted {
            let mut counts: HashMap<Pair, u64> = HashMap::new();
            for (ids, count) in &words {
                for pair in ids.windows(2) {
                    *counts.entry((pair[0], pair[1])).or_default() += count;
                }
            }
            let text = |pair: Pair| [tokens[pair.0 as usize].as_slice(), &tokens[pair.1 as usize]].concat();
            counts.retain(|&pair, _| text(pair).len() <= max_bytes);
            let Some((&pair, &count)) = counts.iter().max_by_key(|&(&pair, &count)| (count, Reverse(pair))) else {
                break;
            };
            if count < min_frequency {
                break;
            }
            let text = text(pair);
            let joined = tokens.iter().position(|t| *t == text).unwrap_or(tokens.len());
            if joined == tokens.len() {
                tokens.push(text);
            }
            if !merges.contains(&pair) {
                merges.push(pair);
            }
            for (ids, _) in &mut words {
                let mut i = 0;
                while i + 1 < ids.len() {
                    if (ids[i], ids[i + 1]) == pair {
                        ids.splice(i..i + 2, [joined as u32]);
                    }
                    i += 1;
                }
            }
        }
        merges
    }

    proptest! {
        #[test]
        fn incremental_counts_are_the_true_ones(
            words in prop::collection::btree_map("[abc]{1,12}|a{5,20}", prop_oneof![1u64..20, (1u64 << 32) - 2..(1u64 << 32) + 3], 1..20),
            min_frequency in 1u64..4,
            max_bytes in prop_oneof![Just(100usize), 2usize..6],
        ) {
            let words: Vec<(String, u64)> = words.into_iter().collect();
            prop_assert_eq!(learn(&words, 40, min_frequency, max_bytes), learn_slowly(&words, 40, min_frequency, max_bytes));
        }
    }
}
