//! Learning merges: join the most frequent pair, again and again, updating only the counts a merge changes.
//!
//! A heap holds pairs under counts that may be too high; a popped pair whose count fell goes back with the true one.
//! Ties go to the lowest pair of ids, so the result is a function of the word counts. This is also the rule of Hugging Face's
//! `BpeTrainer`. As there, two ways to build one text give one token.
//!
//! All words lie in one array of symbols and shrink in place; a pair knows the words it occurs in (some perhaps no longer).

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

pub type Pair = (u32, u32);

/// How often a pair occurs, and words it occurs in.
#[derive(Debug, Default)]
struct Seen {
    count: u64,
    words: Vec<u32>,
}

type Pairs = HashMap<Pair, Seen, BuildHasherDefault<PairHasher>>;

/// A merge that was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub pair: Pair,
    /// Id of the joined token.
    pub joined: u32,
    /// How often the pair occurred.
    pub count: u64,
}

/// What may be merged.
pub struct Limits<'a> {
    /// A pair that occurs less often is not merged.
    pub min_frequency: u64,
    /// May this text be a token?
    pub allowed: &'a dyn Fn(&[u8]) -> bool,
}

/// The state between two merges.
pub struct Learner<'a> {
    limits: Limits<'a>,
    symbols: Vec<u32>,
    /// Where each word begins in `symbols`, and how many symbols it has now.
    words: Vec<(u64, u32)>,
    counts: Vec<u64>,
    /// Text of every token.
    tokens: Vec<Box<[u8]>>,
    ids: HashMap<Box<[u8]>, u32>,
    seen: Pairs,
    heap: BinaryHeap<(u64, Reverse<Pair>)>,
    merged: std::collections::HashSet<Pair, BuildHasherDefault<PairHasher>>,
}

impl<'a> Learner<'a> {
    /// `tokens` are the texts of the ids that words are made of at first. `words` gives each word's symbols to its second
    /// argument, word by word, with the word's count; `sizes` is `(words, symbols)`, for exact allocation.
    pub fn new(tokens: Vec<Box<[u8]>>, sizes: (usize, usize), words: impl Iterator<Item = (Vec<u32>, u64)>, limits: Limits<'a>) -> Self {
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
        let mut learner =
            Self { limits, symbols, words: spans, counts, tokens, ids, seen: Pairs::default(), heap: BinaryHeap::new(), merged: Default::default() };
        learner.count_pairs();
        learner
    }

    /// Count first, then fill lists of exactly the right size.
    fn count_pairs(&mut self) {
        let mut sizes: HashMap<Pair, (u64, u32, u32), BuildHasherDefault<PairHasher>> = HashMap::default();
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
        self.heap = sizes.iter().map(|(&pair, &(count, ..))| (count, Reverse(pair))).collect();
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
            let (count, Reverse(pair)) = self.heap.pop()?;
            let now = self.seen.get(&pair).map_or(0, |s| s.count);
            if now < self.limits.min_frequency.max(1) {
                continue;
            }
            if now != count {
                self.heap.push((now, Reverse(pair)));
                continue;
            }
            let text = [&*self.tokens[pair.0 as usize], &*self.tokens[pair.1 as usize]].concat().into_boxed_slice();
            if !(self.limits.allowed)(&text) {
                continue;
            }
            let joined = match self.ids.get(&text) {
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
                self.heap.push((s.count, Reverse(pair)));
            }
        }
    }
}

/// Multiply and fold the two ids.
#[derive(Debug, Default)]
pub struct PairHasher(u64);

impl Hasher for PairHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.write_u32(u32::from(b)));
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = self.0 << 32 | u64::from(id);
    }

    fn finish(&self) -> u64 {
        let product = u128::from(self.0 ^ 0x9E37_79B9_7F4A_7C15) * 0xA076_1D64_78BD_642F;
        product as u64 ^ (product >> 64) as u64
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
        let mut learner = Learner::new(tokens, (words.len(), 0), symbols, Limits { min_frequency, allowed: &allowed });
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
