//! Byte pair encoding of one word: repeatedly join the adjacent pair with the lowest rank, leftmost first.
//!
//! Short words scan for the minimum (Sennrich et al. 2016, arXiv 1508.07909), longer ones keep a heap over a linked list, n log n. Very
//! long ones take the ranks in order and, for each, its pairs from left to right: a rule joins what rules before it made, so no rank comes
//! up again, and ten megabytes without a blank take ten times as long as one. Where merges break that rule the heap goes on.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

/// Words up to this many bytes are merged by scanning.
const SCAN_LIMIT: usize = 64;
/// Words up to this many bytes are merged with a heap.
const HEAP_LIMIT: usize = 1024;
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
    heap: BinaryHeap<Reverse<(u32, u32)>>,
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
    let way = match scratch.ids.len() {
        n if n <= SCAN_LIMIT => merge_by_scan,
        n if n <= HEAP_LIMIT => merge_by_heap,
        _ => merge_by_rank,
    };
    way(merges, scratch);
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
    let Scratch { ids, ranks, heap, .. } = scratch;
    let initial = ranks.iter().enumerate().filter_map(|(i, &(rank, _))| (rank != NONE).then_some(Reverse((rank, i as u32))));
    let mut entries = std::mem::take(heap).into_vec();
    entries.clear();
    entries.extend(initial);
    *heap = BinaryHeap::from(entries);
    let mut list = List::new(ids, &mut scratch.previous, &mut scratch.next);
    while let Some(Reverse((rank, at))) = heap.pop() {
        list.join(merges, rank, at, |rank, at| heap.push(Reverse((rank, at))));
    }
    list.finish();
}

/// Where pairs of each rank begin; ranks that are behind are gone.
type ByRank = BTreeMap<u32, Vec<u32>>;

fn merge_by_rank(merges: &Merges, scratch: &mut Scratch) {
    let Scratch { ids, ranks, heap, .. } = scratch;
    let mut waiting = ByRank::new();
    for (at, &(rank, _)) in ranks.iter().enumerate().filter(|(_, (rank, _))| *rank != NONE) {
        waiting.entry(rank).or_default().push(at as u32);
    }
    let mut list = List::new(ids, &mut scratch.previous, &mut scratch.next);
    heap.clear();
    while let Some((rank, mut places)) = waiting.pop_first() {
        // Runs in order, one for each rank that led here; this sort takes runs as they are.
        places.sort();
        let mut places = places.into_iter();
        while let Some(at) = places.next() {
            list.join(merges, rank, at, |new, at| if new > rank { waiting.entry(new).or_default().push(at) } else { heap.push(Reverse((new, at))) });
            if !heap.is_empty() {
                // Out of order: what is left goes to the heap.
                heap.extend(places.by_ref().map(|at| Reverse((rank, at))));
                heap.extend(
                    std::mem::take(&mut waiting).into_iter().flat_map(|(rank, places)| places.into_iter().map(move |at| Reverse((rank, at)))),
                );
            }
        }
        while let Some(Reverse((rank, at))) = heap.pop() {
            list.join(merges, rank, at, |rank, at| heap.push(Reverse((rank, at))));
        }
    }
    list.finish();
}

/// The symbols of a word as a list: a joined pair stands where its left part stood.
struct List<'a> {
    ids: &'a mut Vec<u32>,
    previous: &'a mut Vec<u32>,
    next: &'a mut Vec<u32>,
}

impl<'a> List<'a> {
    fn new(ids: &'a mut Vec<u32>, previous: &'a mut Vec<u32>, next: &'a mut Vec<u32>) -> Self {
        let n = ids.len() as u32;
        previous.clear();
        previous.extend((0..n).map(|i| i.wrapping_sub(1)));
        next.clear();
        next.extend((1..=n).map(|i| if i == n { NONE } else { i }));
        Self { ids, previous, next }
    }

    /// Join the pair at `at` if it still has that rank, and tell of the pairs that it is part of now.
    #[inline(always)]
    fn join(&mut self, merges: &Merges, rank: u32, at: u32, mut tell: impl FnMut(u32, u32)) {
        let Self { ids, previous, next } = self;
        let i = at as usize;
        let right = next[i];
        if ids[i] == NONE || right == NONE {
            return;
        }
        let (found, joined) = merges.get(ids[i], ids[right as usize]);
        if found != rank {
            return;
        }
        ids[i] = joined;
        ids[right as usize] = NONE;
        next[i] = next[right as usize];
        if next[i] != NONE {
            previous[next[i] as usize] = at;
            let (rank, _) = merges.get(joined, ids[next[i] as usize]);
            if rank != NONE {
                tell(rank, at);
            }
        }
        let before = previous[i];
        if before != NONE {
            let (rank, _) = merges.get(ids[before as usize], joined);
            if rank != NONE {
                tell(rank, before);
            }
        }
    }

    /// Leave the symbols there are.
    fn finish(self) {
        self.ids.retain(|&id| id != NONE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Ranks as training gives them, or any.
    fn random_merges(rules: &[(u8, u8)], any_rank: bool) -> Merges {
        let mut next = 256;
        let rules: Vec<_> = rules
            .iter()
            .map(|&(a, b)| {
                let pick = |x: u8| {
                    if x < 4 || next == 256 { u32::from(b'a' + x % 4) } else { 256 + u32::from(x) % (next - 256) }
                };
                let rule = Rule { left: pick(a), right: pick(b), rank: if any_rank { u32::from(a ^ b) % 9 } else { next }, joined: next };
                next += 1;
                rule
            })
            .collect();
        Merges::new(&rules)
    }

    proptest! {
        #[test]
        fn every_way_gives_the_same(rules in prop::collection::vec((0u8..40, 0u8..40), 0..60), word in prop::collection::vec(b'a'..b'e', 1..200), any_rank: bool) {
            let merges = random_merges(&rules, any_rank);
            let symbols: Vec<u32> = word.iter().map(|&b| u32::from(b)).collect();
            let ranks = |ids: &[u32]| ids.windows(2).map(|pair| merges.get(pair[0], pair[1])).collect();
            let mut scratch = Scratch { ranks: ranks(&symbols), ids: symbols.clone(), ..Scratch::default() };
            merge_by_scan(&merges, &mut scratch);
            let scanned = std::mem::take(&mut scratch.ids);
            scratch.ranks = ranks(&symbols);
            scratch.ids = symbols.clone();
            merge_by_heap(&merges, &mut scratch);
            prop_assert_eq!(&scanned, &scratch.ids);
            scratch.ranks = ranks(&symbols);
            scratch.ids = symbols;
            merge_by_rank(&merges, &mut scratch);
            prop_assert_eq!(scanned, scratch.ids);
        }
    }
}
