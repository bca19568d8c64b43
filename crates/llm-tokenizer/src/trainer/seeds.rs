//! The vocabulary that a unigram training begins with: every character, and the substrings of words that cover most text.
//!
//! A sorted array of all suffixes of all words, cut off after the longest piece, has equal beginnings side by side. Walking over it
//! with a stack finds the substrings that cannot be made longer without becoming rarer (the inner nodes of the suffix tree); those
//! that always go on in the same way are left out, as in SentencePiece (`MakeSeedSentencePieces`). Going on means the next
//! character, a blank, the end of the line, or any character that is not in the alphabet: a word that is never last in its line is
//! no seed unless longer words begin with it. Words are sorted once with their counts, not once for each occurrence.

use super::pieces::{Alphabet, Rules, as_text, without_end};
use super::words::Words;
use crate::error::{Error, Result};
use rayon::prelude::*;
use std::cmp::Ordering;

/// What may come after the characters of a piece other than a character: a blank, the end of a line, a rare character.
const BLANK_FOLLOWS: u32 = 0;
const LINE_ENDS: u32 = 1;
const RARE: u32 = 2;
/// Added to code points.
const SHIFT: u32 = RARE + 1;

/// A substring: where it begins, its length in characters, its score.
struct Found {
    at: u32,
    length: u32,
    score: f64,
}

/// Suffixes of all words, in order.
struct Suffixes {
    chars: Vec<u32>,
    /// Where each word begins.
    starts: Vec<u32>,
    /// Characters that are compared.
    depth: usize,
}

/// Pieces with scores: characters with their counts, and at most `most` substrings with count times length, best first.
/// `unit` is what one occurrence counts; substrings that occur less than `least` times are left out.
pub fn seeds(words: &Words, alphabet: &Alphabet, rules: &Rules, most: usize, least: u64, unit: f64) -> Result<Vec<(String, f64)>> {
    // One more than a piece has, to see how the longest pieces go on.
    let mut suffixes = Suffixes { chars: Vec::new(), starts: Vec::new(), depth: rules.max_chars() + 1 };
    for (word, _) in words.iter() {
        suffixes.starts.push(suffixes.chars.len() as u32);
        let (word, ends_line) = without_end(word);
        let chars = as_text(word).chars().map(|c| if alphabet.has(c) { u32::from(c) + SHIFT } else { RARE });
        suffixes.chars.extend(chars.chain([if ends_line { LINE_ENDS } else { BLANK_FOLLOWS }]));
        if suffixes.chars.len() > u32::MAX as usize {
            return Err(Error::Train("the different words have more than 2^32 characters: train on less text (max_bytes)".to_string()));
        }
    }
    let mut found = suffixes.nodes(words, least.saturating_mul(unit as u64).max(1), unit, |text| rules.allows(text));
    let order = |a: &Found, b: &Found| b.score.total_cmp(&a.score).then_with(|| suffixes.text(a).cmp(suffixes.text(b)));
    found.par_sort_unstable_by(order);
    found.truncate(most);
    let mut seeds: Vec<(String, f64)> = alphabet.chars().iter().zip(alphabet.counts()).map(|(c, &n)| (c.to_string(), n as f64 / unit)).collect();
    seeds.extend(found.iter().map(|f| (to_string(suffixes.text(f)), f.score)));
    Ok(seeds)
}

impl Suffixes {
    fn text(&self, found: &Found) -> &[u32] {
        &self.chars[found.at as usize..(found.at + found.length) as usize]
    }

    /// The suffix at `at`, to what comes after its last character.
    fn suffix(&self, at: u32) -> &[u32] {
        let rest = &self.chars[at as usize..];
        let rest = &rest[..rest.len().min(self.depth)];
        &rest[..rest.iter().position(|&c| c < SHIFT).map_or(rest.len(), |end| end + 1)]
    }

    /// Places of all suffixes, in order of their texts; of equal ones the first.
    fn sorted(&self) -> Vec<(u64, u32)> {
        let key = |at: u32| self.suffix(at).iter().chain([&BLANK_FOLLOWS; 3]).take(3).fold(0, |key, &c| key << 21 | u64::from(c));
        let places = (0..self.chars.len() as u32).filter(|&at| self.chars[at as usize] >= SHIFT);
        let mut order: Vec<(u64, u32)> = places.map(|at| (key(at), at)).collect();
        order.par_sort_unstable_by(|a, b| match a.0.cmp(&b.0) {
            Ordering::Equal => self.suffix(a.1).cmp(self.suffix(b.1)).then(a.1.cmp(&b.1)),
            different => different,
        });
        order
    }

    fn nodes(&self, words: &Words, least: u64, unit: f64, allowed: impl Fn(&str) -> bool) -> Vec<Found> {
        let mut found = Vec::new();
        // Open nodes: length, count, a place.
        let mut open: Vec<(usize, u64, u32)> = Vec::new();
        let mut close = |(length, count, at): (usize, u64, u32)| {
            let whole = |at: u32| self.chars[at as usize + length - 1] >= SHIFT;
            if (2..self.depth).contains(&length) && count >= least && whole(at) {
                let node = Found { at, length: length as u32, score: count as f64 / unit * length as f64 };
                if allowed(&to_string(self.text(&node))) {
                    found.push(node);
                }
            }
        };
        let mut before: &[u32] = &[];
        for (_, at) in self.sorted() {
            let suffix = self.suffix(at);
            let shared = suffix.iter().zip(before).take_while(|(a, b)| a == b).count();
            let mut below = 0u64;
            while let Some(node) = open.pop_if(|node| node.0 > shared) {
                let count = node.1.saturating_add(below);
                close((node.0, count, node.2));
                below = count;
                if open.last().is_none_or(|next| next.0 < shared) {
                    open.push((shared, below, node.2));
                    below = 0;
                }
            }
            if let Some(node) = open.last_mut() {
                node.1 = node.1.saturating_add(below);
            }
            let word = self.starts.partition_point(|&start| start <= at) - 1;
            match open.last_mut().filter(|node| node.0 == suffix.len()) {
                Some(node) => node.1 = node.1.saturating_add(words.count(word)),
                None => open.push((suffix.len(), words.count(word), at)),
            }
            before = suffix;
        }
        let mut below = 0u64;
        while let Some((length, count, at)) = open.pop() {
            below = below.saturating_add(count);
            close((length, below, at));
        }
        found
    }
}

fn to_string(chars: &[u32]) -> String {
    chars.iter().filter_map(|&c| char::from_u32(c.wrapping_sub(SHIFT))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::config::{Model, TrainerConfig};
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// Count of every substring, and what follows it.
    fn slowly(words: &BTreeMap<String, u64>, longest: usize) -> BTreeMap<String, f64> {
        let mut all: BTreeMap<String, (u64, BTreeSet<Option<char>>)> = BTreeMap::new();
        for (word, &count) in words {
            let chars: Vec<char> = word.chars().collect();
            for start in 0..chars.len() {
                for end in start + 2..=chars.len().min(start + longest) {
                    let text: String = chars[start..end].iter().collect();
                    if !text.contains(['\n', '?']) {
                        let entry = all.entry(text).or_default();
                        entry.0 += count;
                        entry.1.insert(chars.get(end).copied());
                    }
                }
            }
        }
        all.into_iter()
            .filter(|(_, (n, next))| *n >= 2 && next.len() > 1)
            .map(|(s, (n, _))| (s.clone(), (n * s.chars().count() as u64) as f64))
            .collect()
    }

    proptest! {
        #[test]
        fn substrings_and_counts_are_the_true_ones(words in prop::collection::btree_map("▁?[ab]{1,9}[?]?[ab]{0,4}\n?", 1u64..4, 1..12)) {
            let config = TrainerConfig { max_piece_chars: 5, ..TrainerConfig::of(Model::Unigram) };
            let (mut counted, mut known) = (Words::default(), Words::default());
            words.iter().for_each(|(word, &count)| counted.push(word.as_bytes(), count));
            known.push("▁ab".as_bytes(), 1);
            let alphabet = Alphabet::new(&known, 1.0);
            let all = seeds(&counted, &alphabet, &Rules::new(&config), 1000, 2, 1.0).unwrap();
            let found: BTreeMap<String, f64> = all[alphabet.chars().len()..].iter().cloned().collect();
            prop_assert_eq!(found, slowly(&words, 5));
            let few = seeds(&counted, &alphabet, &Rules::new(&config), 3, 2, 1.0).unwrap();
            prop_assert_eq!(&few[..], &all[..few.len()]);
        }
    }
}
