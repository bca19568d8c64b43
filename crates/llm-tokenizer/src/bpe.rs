//! Byte pair encoding of one word: repeatedly join the adjacent pair with the lowest rank, leftmost first.
//!
//! Short words scan for the minimum, long ones keep a heap over a linked list, so that a megabyte without a blank costs
//! n log n and not n squared (Sennrich et al. 2016, arXiv 1508.07909).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Words up to this many bytes are merged by scanning.
const SCAN_LIMIT: usize = 64;
const NONE: u32 = u32::MAX;

/// Merge rules: (left id, right id) -> (rank, id of the joined token), in an open-addressing table.
#[derive(Debug)]
pub struct Merges {
    /// Key, rank, id of the joined token.
    entries: Vec<(u64, u32, u32)>,
    mask: usize,
}

const FREE: u64 = u64::MAX;

fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

fn slot(key: u64, mask: usize) -> usize {
    let mixed = key.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 32)) as usize & mask
}

/// One rule: `left` and `right` become `joined`, the lowest rank first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    pub left: u32,
    pub right: u32,
    pub rank: u32,
    pub joined: u32,
}

impl Merges {
    /// A pair given twice has the later rank.
    pub fn new(rules: &[Rule]) -> Self {
        let capacity = (rules.len() * 2).next_power_of_two().max(16);
        let mut table = Self { entries: vec![(FREE, NONE, NONE); capacity], mask: capacity - 1 };
        for &Rule { left, right, rank, joined } in rules {
            let key = key(left, right);
            let mut at = slot(key, table.mask);
            while table.entries[at].0 != FREE && table.entries[at].0 != key {
                at = (at + 1) & table.mask;
            }
            table.entries[at] = (key, rank, joined);
        }
        table
    }

    /// Rank and joined id of a pair; rank `u32::MAX` if there is no rule.
    #[inline]
    pub fn get(&self, left: u32, right: u32) -> (u32, u32) {
        let key = key(left, right);
        let mut at = slot(key, self.mask);
        loop {
            let (found, rank, joined) = self.entries[at];
            if found == key || found == FREE {
                return (rank, joined);
            }
            at = (at + 1) & self.mask;
        }
    }
}

/// Whole words and their ids.
pub type WholeWords = HashMap<Box<[u8]>, u32, BuildHasherDefault<Hash>>;

/// Multiply and rotate, eight bytes at a time: the table is looked into for every word that the cache does not have. What is in it comes
/// from the tokenizer's file and not from text, so nobody chooses text that collides.
#[derive(Debug, Default, Clone, Copy)]
pub struct Hash(u64);

impl Hasher for Hash {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = (self.0 ^ u64::from_le_bytes(word)).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
        }
    }

    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0xBF58_476D_1CE4_E5B9)
    }
}

/// Encoder of single words.
#[derive(Debug)]
pub struct Bpe {
    byte_ids: [u32; 256],
    merges: Merges,
    /// Rank and joined id of every two bytes: half of all look-ups, in a table that stays in the cache.
    byte_pairs: Box<[(u32, u32)]>,
    /// Whole words that are tokens regardless of the merges (`ignore_merges` of Llama 3).
    whole_words: WholeWords,
}

/// Buffers that merging reuses from word to word.
#[derive(Debug, Default)]
pub struct Scratch {
    /// The symbols of a word, before and after [`merge`].
    pub ids: Vec<u32>,
    ranks: Vec<(u32, u32)>,
    previous: Vec<u32>,
    next: Vec<u32>,
    heap: BinaryHeap<Reverse<(u32, u32, u32)>>,
}

impl Bpe {
    /// `byte_ids[b]` is the id of the one-byte token `b`.
    pub fn new(byte_ids: [u32; 256], merges: Merges, whole_words: WholeWords) -> Self {
        let pair = |i: usize| merges.get(byte_ids[i >> 8], byte_ids[i & 255]);
        let byte_pairs = (0..1 << 16).map(pair).collect();
        Self { byte_ids, merges, byte_pairs, whole_words }
    }

    /// Append the ids of `word` to `out`.
    pub fn encode_word(&self, word: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        if let Some(&id) = (!self.whole_words.is_empty()).then(|| self.whole_words.get(word)).flatten() {
            out.push(id);
            return;
        }
        scratch.ids.clear();
        scratch.ids.extend(word.iter().map(|&b| self.byte_ids[usize::from(b)]));
        let pairs = word.windows(2).map(|pair| self.byte_pairs[usize::from(pair[0]) << 8 | usize::from(pair[1])]);
        merge_with(&self.merges, scratch, pairs);
        out.extend_from_slice(&scratch.ids);
    }
}

/// Join the symbols in `scratch.ids` until no rule applies.
pub fn merge(merges: &Merges, scratch: &mut Scratch) {
    scratch.ranks.clear();
    scratch.ranks.extend(scratch.ids.windows(2).map(|pair| merges.get(pair[0], pair[1])));
    merge_ranked(merges, scratch);
}

/// [`merge`] where ranks and joins of the pairs are known.
fn merge_with(merges: &Merges, scratch: &mut Scratch, pairs: impl Iterator<Item = (u32, u32)>) {
    scratch.ranks.clear();
    scratch.ranks.extend(pairs);
    merge_ranked(merges, scratch);
}

fn merge_ranked(merges: &Merges, scratch: &mut Scratch) {
    if scratch.ids.len() <= SCAN_LIMIT { merge_by_scan(merges, scratch) } else { merge_by_heap(merges, scratch) }
}

fn merge_by_scan(merges: &Merges, scratch: &mut Scratch) {
    let Scratch { ids, ranks, .. } = scratch;
    loop {
        let mut best = (NONE, 0);
        for (i, &(rank, _)) in ranks.iter().enumerate() {
            if rank < best.0 {
                best = (rank, i);
            }
        }
        let (rank, at) = best;
        if rank == NONE {
            return;
        }
        ids[at] = ranks[at].1;
        ids.remove(at + 1);
        ranks.remove(at);
        if at > 0 {
            ranks[at - 1] = merges.get(ids[at - 1], ids[at]);
        }
        if at + 1 < ids.len() {
            ranks[at] = merges.get(ids[at], ids[at + 1]);
        }
    }
}

fn merge_by_heap(merges: &Merges, scratch: &mut Scratch) {
    let Scratch { ids, ranks, previous, next, heap } = scratch;
    let n = ids.len() as u32;
    previous.clear();
    previous.extend((0..n).map(|i| i.wrapping_sub(1)));
    next.clear();
    next.extend((1..=n).map(|i| if i == n { NONE } else { i }));
    let initial = ranks.iter().enumerate().filter_map(|(i, &(rank, joined))| (rank != NONE).then_some(Reverse((rank, i as u32, joined))));
    let mut entries = std::mem::take(heap).into_vec();
    entries.clear();
    entries.extend(initial);
    *heap = BinaryHeap::from(entries);
    while let Some(Reverse((rank, at, joined))) = heap.pop() {
        let i = at as usize;
        let right = next[i];
        // An entry is stale if one side was merged away or changed since.
        if ids[i] == NONE || right == NONE || merges.get(ids[i], ids[right as usize]) != (rank, joined) {
            continue;
        }
        ids[i] = joined;
        ids[right as usize] = NONE;
        next[i] = next[right as usize];
        if next[i] != NONE {
            previous[next[i] as usize] = at;
            let (rank, joined) = merges.get(ids[i], ids[next[i] as usize]);
            if rank != NONE {
                heap.push(Reverse((rank, at, joined)));
            }
        }
        if previous[i] != NONE {
            let before = previous[i];
            let (rank, joined) = merges.get(ids[before as usize], ids[i]);
            if rank != NONE {
                heap.push(Reverse((rank, before, joined)));
            }
        }
    }
    ids.retain(|&id| id != NONE);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn random_merges(rules: &[(u8, u8)]) -> Merges {
        let mut next = 256;
        let rules: Vec<_> = rules
            .iter()
            .map(|&(a, b)| {
                let pick = |x: u8| {
                    if x < 4 || next == 256 { u32::from(b'a' + x % 4) } else { 256 + u32::from(x) % (next - 256) }
                };
                let rule = Rule { left: pick(a), right: pick(b), rank: next, joined: next };
                next += 1;
                rule
            })
            .collect();
        Merges::new(&rules)
    }

    proptest! {
        #[test]
        fn heap_and_scan_agree(rules in prop::collection::vec((0u8..40, 0u8..40), 0..60), word in prop::collection::vec(b'a'..b'e', 1..200)) {
            let merges = random_merges(&rules);
            let symbols: Vec<u32> = word.iter().map(|&b| u32::from(b)).collect();
            let ranks = |ids: &[u32]| ids.windows(2).map(|pair| merges.get(pair[0], pair[1])).collect();
            let mut scratch = Scratch { ranks: ranks(&symbols), ids: symbols.clone(), ..Scratch::default() };
            merge_by_scan(&merges, &mut scratch);
            let scanned = std::mem::take(&mut scratch.ids);
            scratch.ranks = ranks(&symbols);
            scratch.ids = symbols;
            merge_by_heap(&merges, &mut scratch);
            prop_assert_eq!(scanned, scratch.ids);
        }
    }
}
