//! Counting words on all threads, in 64 bits: the corpora people train on overflow 32.

use crate::pretokenize::Pattern;
use rayon::prelude::*;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Texts are cut into tasks of about this many bytes.
const TASK_BYTES: usize = 256 << 10;

type Counts = HashMap<Box<str>, u64, BuildHasherDefault<WordHasher>>;

/// Word counts of everything added so far.
#[derive(Debug)]
pub struct WordCounts {
    pattern: Pattern,
    counts: Counts,
    bytes: u64,
    words: u64,
}

impl WordCounts {
    pub fn new(pattern: Pattern) -> Self {
        Self { pattern, counts: Counts::default(), bytes: 0, words: 0 }
    }

    pub fn add<T: AsRef<str> + Sync>(&mut self, texts: &[T]) {
        let pattern = self.pattern;
        let tasks = tasks(texts);
        let partial: Vec<Counts> = tasks.par_iter().map(|task| count(task, pattern)).collect();
        self.bytes += texts.iter().map(|t| t.as_ref().len() as u64).sum::<u64>();
        for counts in partial {
            self.merge(counts);
        }
    }

    fn merge(&mut self, counts: Counts) {
        for (word, count) in counts {
            self.words = self.words.saturating_add(count);
            let total = self.counts.entry(word).or_default();
            *total = total.saturating_add(count);
        }
    }

    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn words(&self) -> u64 {
        self.words
    }

    /// Words with their counts in byte order: from here on nothing depends on hashing or threads.
    pub fn into_sorted(self) -> Vec<(Box<str>, u64)> {
        let mut words: Vec<_> = self.counts.into_iter().collect();
        words.par_sort_unstable();
        words
    }
}

/// Groups of neighbouring texts.
fn tasks<T: AsRef<str>>(texts: &[T]) -> Vec<&[T]> {
    let mut tasks = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (i, text) in texts.iter().enumerate() {
        bytes += text.as_ref().len();
        if bytes >= TASK_BYTES {
            tasks.push(&texts[start..=i]);
            (start, bytes) = (i + 1, 0);
        }
    }
    tasks.push(&texts[start..]);
    tasks
}

fn count<T: AsRef<str>>(texts: &[T], pattern: Pattern) -> Counts {
    let mut counts = Counts::default();
    for text in texts {
        for word in pattern.words(text.as_ref()) {
            match counts.get_mut(word) {
                Some(count) => *count += 1,
                None => {
                    counts.insert(word.into(), 1);
                }
            }
        }
    }
    counts
}

/// Multiply-rotate over 8-byte words; counting is bound by hashing and needs no protection against chosen keys.
#[derive(Debug, Default)]
pub struct WordHasher(u64);

impl Hasher for WordHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0u8; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = (self.0.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x517C_C1B7_2722_0A95);
        }
    }

    fn finish(&self) -> u64 {
        // The table takes the high bits for its tags and the low ones for the place: mix both.
        (self.0 ^ (self.0 >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_pass_32_bits() {
        let mut counts = WordCounts::new(Pattern::Gpt2);
        for _ in 0..2 {
            counts.merge(std::iter::once(("the".into(), u64::from(u32::MAX))).collect());
        }
        counts.add(&["the the"]);
        assert_eq!(counts.into_sorted(), [(" the".into(), 1), ("the".into(), 2 * u64::from(u32::MAX) + 1)]);
    }
}
