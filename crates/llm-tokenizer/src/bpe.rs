//! Byte pair encoding of one word: repeatedly join the adjacent pair with the lowest rank, leftmost first.
//!
//! Short words scan for the minimum, long ones keep a heap over a linked list, so that a megabyte without a blank costs
//! n log n and not n squared (Sennrich et al. 2016, arXiv 1508.07909).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::HashMap;

/// Words up to this many bytes are merged by scanning.
const SCAN_LIMIT: usize = 64;
const NONE: u32 = u32::MAX;

/// Merge rules: (left id, right id) -> (rank, id of the joined token), in an open-addressing table.
#[derive(Debug)]
pub struct Merges {
    keys: Vec<u64>,
    values: Vec<(u32, u32)>,
    mask: usize,
}

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
        let mut table = Self { keys: vec![u64::MAX; capacity], values: vec![(NONE, NONE); capacity], mask: capacity - 1 };
        for &Rule { left, right, rank, joined } in rules {
            let key = key(left, right);
            let mut at = slot(key, table.mask);
            while table.keys[at] != u64::MAX && table.keys[at] != key {
                at = (at + 1) & table.mask;
            }
            table.keys[at] = key;
            table.values[at] = (rank, joined);
        }
        table
    }

    /// Rank and joined id of a pair; rank `u32::MAX` if there is no rule.
    #[inline]
    pub fn get(&self, left: u32, right: u32) -> (u32, u32) {
        let key = key(left, right);
        let mut at = slot(key, self.mask);
        loop {
            if self.keys[at] == key {
                return self.values[at];
            }
            if self.keys[at] == u64::MAX {
                return (NONE, NONE);
            }
            at = (at + 1) & self.mask;
        }
    }
}

/// Encoder of single words.
#[derive(Debug)]
pub struct Bpe {
    byte_ids: [u32; 256],
    merges: Merges,
    /// Whole words that are tokens regardless of the merges (`ignore_merges` of Llama 3).
    whole_words: HashMap<Box<[u8]>, u32>,
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
    pub fn new(byte_ids: [u32; 256], merges: Merges, whole_words: HashMap<Box<[u8]>, u32>) -> Self {
        Self { byte_ids, merges, whole_words }
    }

    /// Append the ids of `word` to `out`.
    pub fn encode_word(&self, word: &[u8], scratch: &mut Scratch, out: &mut Vec<u32>) {
        if let Some(&id) = (!self.whole_words.is_empty()).then(|| self.whole_words.get(word)).flatten() {
            out.push(id);
            return;
        }
        scratch.ids.clear();
        scratch.ids.extend(word.iter().map(|&b| self.byte_ids[usize::from(b)]));
        merge(&self.merges, scratch);
        out.extend_from_slice(&scratch.ids);
    }
}

/// Join the symbols in `scratch.ids` until no rule applies.
pub fn merge(merges: &Merges, scratch: &mut Scratch) {
    if scratch.ids.len() <= SCAN_LIMIT { merge_by_scan(merges, scratch) } else { merge_by_heap(merges, scratch) }
}

fn merge_by_scan(merges: &Merges, scratch: &mut Scratch) {
    let Scratch { ids, ranks, .. } = scratch;
    ranks.clear();
    ranks.extend(ids.windows(2).map(|pair| merges.get(pair[0], pair[1])));
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
    let Scratch { ids, previous, next, heap, .. } = scratch;
    let n = ids.len() as u32;
    previous.clear();
    previous.extend((0..n).map(|i| i.wrapping_sub(1)));
    next.clear();
    next.extend((1..=n).map(|i| if i == n { NONE } else { i }));
    let initial = ids.windows(2).enumerate().filter_map(|(i, pair)| {
        let (rank, joined) = merges.get(pair[0], pair[1]);
        (rank != NONE).then_some(Reverse((rank, i as u32, joined)))
    });
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
            let mut scratch = Scratch { ids: symbols.clone(), ..Scratch::default() };
            merge_by_scan(&merges, &mut scratch);
            let scanned = std::mem::replace(&mut scratch.ids, symbols);
            merge_by_heap(&merges, &mut scratch);
            prop_assert_eq!(scanned, scratch.ids);
        }
    }
}
