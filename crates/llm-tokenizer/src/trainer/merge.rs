//! Learning merges: join the most frequent pair, again and again, updating only the counts a merge changes.
//!
//! A heap holds pairs under counts that may be too high; a popped pair whose count fell goes back with the true one.
//! Ties go to the lowest pair of ids, so the result is a function of the word counts.

use rayon::prelude::*;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

type Pair = (u32, u32);

/// How often a pair occurs, and words it occurs in (some perhaps no longer).
#[derive(Debug, Default)]
struct Seen {
    count: u64,
    words: Vec<u32>,
}

struct Word {
    ids: Vec<u32>,
    count: u64,
}

/// At most `wanted` merges over `words`, ids from 256 on in order. Pairs below `min_frequency` or joining to more than
/// `max_bytes` are not merged.
pub fn learn(words: &[(Box<str>, u64)], wanted: usize, min_frequency: u64, max_bytes: usize) -> Vec<Pair> {
    let mut words: Vec<Word> = words.iter().map(|(word, count)| Word { ids: word.bytes().map(u32::from).collect(), count: *count }).collect();
    let mut seen = count_pairs(&words);
    let mut heap: BinaryHeap<(u64, Reverse<Pair>)> = seen.iter().map(|(&pair, s)| (s.count, Reverse(pair))).collect();
    let mut lengths = vec![1usize; 256];
    let mut merges = Vec::with_capacity(wanted);
    while merges.len() < wanted {
        let Some((count, Reverse(pair))) = heap.pop() else {
            break;
        };
        let now = seen.get(&pair).map_or(0, |s| s.count);
        if now < min_frequency {
            continue;
        }
        if now != count {
            heap.push((now, Reverse(pair)));
            continue;
        }
        let length = lengths[pair.0 as usize] + lengths[pair.1 as usize];
        if length > max_bytes {
            continue;
        }
        let joined = lengths.len() as u32;
        lengths.push(length);
        merges.push(pair);
        apply(pair, joined, &mut words, &mut seen, &mut heap);
    }
    merges
}

fn count_pairs(words: &[Word]) -> HashMap<Pair, Seen> {
    const CHUNK: usize = 1 << 14;
    let parts: Vec<HashMap<Pair, Seen>> = words
        .par_chunks(CHUNK)
        .enumerate()
        .map(|(chunk, words)| {
            let mut part: HashMap<Pair, Seen> = HashMap::new();
            for (i, word) in words.iter().enumerate() {
                for pair in word.ids.windows(2) {
                    note(part.entry((pair[0], pair[1])).or_default(), word.count, (chunk * CHUNK + i) as u32);
                }
            }
            part
        })
        .collect();
    let mut all: HashMap<Pair, Seen> = HashMap::new();
    for part in parts {
        for (pair, seen) in part {
            let total = all.entry(pair).or_default();
            total.count = total.count.saturating_add(seen.count);
            total.words.extend(seen.words);
        }
    }
    all
}

fn note(seen: &mut Seen, count: u64, word: u32) {
    seen.count = seen.count.saturating_add(count);
    if seen.words.last() != Some(&word) {
        seen.words.push(word);
    }
}

/// Join `pair` in every word it occurs in.
fn apply(pair: Pair, joined: u32, words: &mut [Word], seen: &mut HashMap<Pair, Seen>, heap: &mut BinaryHeap<(u64, Reverse<Pair>)>) {
    let mut places = seen.remove(&pair).unwrap_or_default().words;
    places.sort_unstable();
    places.dedup();
    let mut fresh: Vec<Pair> = Vec::new();
    let mut out = Vec::new();
    for place in places {
        let word = &mut words[place as usize];
        out.clear();
        let mut i = 0;
        let mut gone = |pair: Pair| {
            if let Some(s) = seen.get_mut(&pair) {
                s.count = s.count.saturating_sub(word.count);
            }
        };
        let mut born: Vec<Pair> = Vec::new();
        while i < word.ids.len() {
            if i + 1 < word.ids.len() && (word.ids[i], word.ids[i + 1]) == pair {
                if let Some(&left) = out.last() {
                    match born.last() == Some(&(left, pair.0)) && left == joined {
                        // Two joins in a row: the pair between them was only just born.
                        true => {
                            born.pop();
                        }
                        false => gone((left, pair.0)),
                    }
                    born.push((left, joined));
                }
                if let Some(&right) = word.ids.get(i + 2) {
                    gone((pair.1, right));
                    born.push((joined, right));
                }
                out.push(joined);
                i += 2;
            } else {
                out.push(word.ids[i]);
                i += 1;
            }
        }
        for pair in born {
            note(seen.entry(pair).or_default(), word.count, place);
            fresh.push(pair);
        }
        std::mem::swap(&mut word.ids, &mut out);
    }
    fresh.sort_unstable();
    fresh.dedup();
    for pair in fresh {
        if let Some(s) = seen.get(&pair) {
            heap.push((s.count, Reverse(pair)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Recounts everything before every merge.
    fn learn_slowly(words: &[(Box<str>, u64)], wanted: usize, min_frequency: u64) -> Vec<Pair> {
        let mut words: Vec<(Vec<u32>, u64)> = words.iter().map(|(w, c)| (w.bytes().map(u32::from).collect(), *c)).collect();
        let mut merges = Vec::new();
        while merges.len() < wanted {
            let mut counts: HashMap<Pair, u64> = HashMap::new();
            for (ids, count) in &words {
                for pair in ids.windows(2) {
                    *counts.entry((pair[0], pair[1])).or_default() += count;
                }
            }
            let Some((&pair, &count)) = counts.iter().max_by_key(|&(&pair, &count)| (count, Reverse(pair))) else {
                break;
            };
            if count < min_frequency {
                break;
            }
            let joined = 256 + merges.len() as u32;
            merges.push(pair);
            for (ids, _) in &mut words {
                let mut i = 0;
                while i + 1 < ids.len() {
                    if (ids[i], ids[i + 1]) == pair {
                        ids.splice(i..i + 2, [joined]);
                    }
                    i += 1;
                }
            }
        }
        merges
    }

    proptest! {
        #[test]
        fn incremental_counts_are_the_true_ones(words in prop::collection::btree_map("[abc]{1,12}", prop_oneof![1u64..20, Just(1u64 << 33)], 1..20), min_frequency in 1u64..4) {
            let words: Vec<(Box<str>, u64)> = words.into_iter().map(|(w, c)| (w.into(), c)).collect();
            prop_assert_eq!(learn(&words, 40, min_frequency, 100), learn_slowly(&words, 40, min_frequency));
        }
    }
}
