//! Counting words on all threads, in 64 bits: the corpora people train on overflow 32.
//!
//! Every task counts a megabyte of text into tables of its own, one per shard of the hash; shards are then added up in
//! parallel. Over the memory limit the tables become a sorted run on disk (`runs`). Where groups of text have weights, the
//! key of a word is the word, a byte that is in no UTF-8 text, and the group.

use super::runs;
use super::table::{Table, hash};
use super::words::Words;
use crate::error::Result;
use rayon::prelude::*;
use std::path::{Path, PathBuf};

/// Texts are cut into tasks of about this many bytes.
const TASK_BYTES: usize = 1 << 20;
/// Parts of the hash that are added up side by side.
const SHARDS: usize = 16;
/// Stands between a word and its group.
const GROUP: u8 = 0xFF;

/// How text is cut into words: called for every text with a function to call for every word.
pub type Cut<'a> = &'a (dyn Fn(&str, &mut dyn FnMut(&[u8])) + Sync);

/// Word counts of everything added so far.
#[derive(Debug)]
pub struct WordCounts {
    shards: Vec<Table>,
    runs: Vec<PathBuf>,
    bytes: u64,
    words: u64,
}

impl Default for WordCounts {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Table::default()).collect(), runs: Vec::new(), bytes: 0, words: 0 }
    }
}

impl WordCounts {
    /// Go on from runs that an earlier process left.
    pub fn resume(runs: Vec<PathBuf>, bytes: u64, words: u64) -> Self {
        Self { runs, bytes, words, ..Self::default() }
    }

    /// Count the words of texts; `group` is `None` where groups do not matter.
    pub fn add<T: AsRef<str> + Sync>(&mut self, texts: &[T], group: Option<u8>, cut: Cut<'_>) {
        let partial: Vec<(Vec<Table>, u64)> = tasks(texts).par_iter().map(|task| count(task, group, cut)).collect();
        self.bytes += texts.iter().map(|t| t.as_ref().len() as u64).sum::<u64>();
        self.words += partial.iter().map(|(_, words)| words).sum::<u64>();
        self.shards.par_iter_mut().enumerate().for_each(|(i, shard)| {
            for (tables, _) in &partial {
                let table = &tables[i];
                for entry in 0..table.len() {
                    let word = table.word(entry);
                    shard.add(word, hash(word), table.count(entry));
                }
            }
        });
    }

    pub fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.shards.iter().all(|s| s.len() == 0)
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn words(&self) -> u64 {
        self.words
    }

    /// Bytes of memory the tables hold.
    pub fn memory(&self) -> usize {
        self.shards.iter().map(Table::memory).sum()
    }

    pub fn runs(&self) -> &[PathBuf] {
        &self.runs
    }

    /// Entries in byte order of their words, as `(first eight bytes, shard, entry)`.
    fn sorted(&self) -> Vec<(u64, u8, u32)> {
        let mut order: Vec<(u64, u8, u32)> = Vec::with_capacity(self.shards.iter().map(Table::len).sum());
        for (s, shard) in self.shards.iter().enumerate() {
            order.extend((0..shard.len()).map(|e| (prefix(shard.word(e)), s as u8, e as u32)));
        }
        let word = |&(_, s, e): &(u64, u8, u32)| self.shards[usize::from(s)].word(e as usize);
        order.par_sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| word(a).cmp(word(b))));
        order
    }

    /// Write what is in memory to `path` as a sorted run and forget it.
    pub fn spill(&mut self, path: &Path) -> Result<()> {
        let order = self.sorted();
        runs::write(
            path,
            order.iter().map(|&(_, s, e)| (self.shards[usize::from(s)].word(e as usize), self.shards[usize::from(s)].count(e as usize))),
        )?;
        self.runs.push(path.to_path_buf());
        self.shards = (0..SHARDS).map(|_| Table::default()).collect();
        Ok(())
    }

    /// All words. `factors` multiply the counts of groups; without groups it is empty.
    pub fn into_words(mut self, factors: &[u64]) -> Result<Words> {
        let mut words = Words::default();
        let mut push = |key: &[u8], count: u64| match (factors.is_empty(), key) {
            (false, [word @ .., GROUP, group]) => {
                let factor = factors.get(usize::from(*group)).copied().unwrap_or(0);
                words.add_to_last_or_push(word, count.saturating_mul(factor));
            }
            _ => words.push(key, count),
        };
        if self.runs.is_empty() {
            let order = self.sorted();
            for (_, s, e) in order {
                let shard = &self.shards[usize::from(s)];
                push(shard.word(e as usize), shard.count(e as usize));
            }
        } else {
            if let Some(first) = self.runs.first().filter(|_| self.memory() > 0 && self.shards.iter().any(|s| s.len() > 0)) {
                let path = first.with_file_name("last.run");
                self.spill(&path)?;
            }
            runs::merge(&self.runs, |key, count| {
                push(key, count);
                Ok(())
            })?;
        }
        words.shrink();
        Ok(words)
    }
}

fn prefix(word: &[u8]) -> u64 {
    let mut first = [0u8; 8];
    let length = word.len().min(8);
    first[..length].copy_from_slice(&word[..length]);
    u64::from_be_bytes(first)
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

fn count<T: AsRef<str>>(texts: &[T], group: Option<u8>, cut: Cut<'_>) -> (Vec<Table>, u64) {
    let mut tables: Vec<Table> = (0..SHARDS).map(|_| Table::default()).collect();
    let mut words = 0;
    let mut key = Vec::new();
    for text in texts {
        cut(text.as_ref(), &mut |word| {
            words += 1;
            let word = match group {
                None => word,
                Some(group) => {
                    key.clear();
                    key.extend_from_slice(word);
                    key.extend([GROUP, group]);
                    &key
                }
            };
            let hash = hash(word);
            tables[hash as usize % SHARDS].add(word, hash, 1);
        });
    }
    (tables, words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blanks(text: &str, each: &mut dyn FnMut(&[u8])) {
        text.split(' ').for_each(|word| each(word.as_bytes()));
    }

    fn all(words: &Words) -> Vec<(String, u64)> {
        words.iter().map(|(word, count)| (String::from_utf8_lossy(word).into_owned(), count)).collect()
    }

    #[test]
    fn spilled_counts_are_the_counts_in_memory() {
        let dir = tempfile::tempdir().unwrap();
        let texts = ["b a c a", "a longerthaneight longerthaneighu", "b"];
        let mut memory = WordCounts::default();
        memory.add(&texts, None, &blanks);
        let mut disk = WordCounts::default();
        for (i, text) in texts.iter().enumerate() {
            disk.add(&[text], None, &blanks);
            if i < 2 {
                disk.spill(&dir.path().join(format!("{i}.run"))).unwrap();
            }
        }
        let expected = all(&memory.into_words(&[]).unwrap());
        assert_eq!(expected[0], ("a".to_string(), 3));
        assert_eq!(all(&disk.into_words(&[]).unwrap()), expected);
    }

    #[test]
    fn groups_count_with_their_factors() {
        let mut counts = WordCounts::default();
        counts.add(&["a b"], Some(0), &blanks);
        counts.add(&["a a"], Some(1), &blanks);
        assert_eq!(all(&counts.into_words(&[100, 7]).unwrap()), [("a".to_string(), 114), ("b".to_string(), 100)]);
    }
}
