//! KenLM's binary format, version 5, with probing hash tables: header, vocabulary, unigrams, tables, words. Little-endian.

use super::MAX_ORDER;
use super::model::{Model, Slot, Table, Table32, UNKNOWN, hash_word, negative};
use crate::error::{Error, Result};
use std::io::Read;
use std::path::Path;

/// What every binary begins with, whatever its version.
pub(super) const MAGIC_START: &[u8] = b"mmap lm http://kheafield.com/code";
const MAGIC: &[u8] = b"mmap lm http://kheafield.com/code format version 5\n\0\0";
/// Buckets per entry, KenLM's default.
pub(super) const MULTIPLIER: f32 = 1.5;
const KINDS: [&str; 6] = ["probing", "probing with rest costs", "trie", "quantised trie", "array trie", "quantised array trie"];

fn sanity() -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.resize(MAGIC.len().next_multiple_of(8), 0);
    for x in [0.0f32, 1.0, -0.5] {
        out.extend(x.to_le_bytes());
    }
    for x in [1u32, u32::MAX, 0] {
        out.extend(x.to_le_bytes());
    }
    out.extend(1u64.to_le_bytes());
    out
}

const FIXED: usize = 20;

fn header_size(order: usize) -> usize {
    (sanity().len() + FIXED + 8 * order).next_multiple_of(8)
}

struct Source<R> {
    reader: R,
    left: u64,
}

impl<R: Read> Source<R> {
    fn take(&mut self, n: u64, what: &str) -> Result<Vec<u8>, String> {
        if n > self.left {
            return Err(format!("{what} would take {n} bytes, but {} are left; the file is truncated or damaged: fetch it again", self.left));
        }
        let mut out = vec![0; n as usize];
        self.reader.read_exact(&mut out).map_err(|e| format!("{what}: {e}"))?;
        self.left -= n;
        Ok(out)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

fn f32_at(bytes: &[u8], at: usize) -> f32 {
    f32::from_bits(u32_at(bytes, at))
}

/// Read a binary of `length` bytes.
pub(super) fn read(reader: impl Read, length: u64) -> Result<Model, String> {
    let mut s = Source { reader, left: length };
    let expected = sanity();
    if s.take(expected.len() as u64, "the header")? != expected {
        return Err("a KenLM binary of another version or machine; build it again from the ARPA file with KenLM's build_binary".into());
    }
    let fixed = s.take(FIXED as u64, "the header")?;
    let (order, multiplier, kind, has_words) = (usize::from(fixed[0]), f32_at(&fixed, 4), u32_at(&fixed, 8), fixed[12] != 0);
    if kind != 0 {
        let name = KINDS.get(kind as usize).unwrap_or(&"unknown");
        return Err(format!("a KenLM binary of kind `{name}`, expected probing: build it with `build_binary probing`, or give the ARPA file"));
    }
    let multipliers = f32::next_up(1.0)..=100.0;
    if !(2..=MAX_ORDER).contains(&order) || !multipliers.contains(&multiplier) {
        return Err(format!("order {order}, multiplier {multiplier}: expected order 2 to {MAX_ORDER} and a multiplier of 1 to 100"));
    }
    let counts: Vec<u64> = s.take(8 * order as u64, "the counts")?.chunks_exact(8).map(|c| u64_at(c, 0)).collect();
    s.take((header_size(order) - expected.len() - FIXED - 8 * order) as u64, "the header")?;
    if counts.iter().any(|c| *c > u64::from(u32::MAX)) {
        return Err(format!("counts {counts:?}: more n-grams than 4 billion; the file is damaged"));
    }

    let vocabulary = {
        s.take(8, "the vocabulary")?;
        let bytes = s.take(12 * Table::buckets(counts[0], multiplier), "the vocabulary")?;
        let (keys, values) = bytes.chunks_exact(12).map(|c| (u64_at(c, 0), u32_at(c, 8))).unzip();
        Table32 { keys, values }
    };
    let bytes = s.take(8 * (counts[0] + 1), "the unigrams")?;
    let unigrams: Vec<(f32, f32)> = bytes.chunks_exact(8).map(|c| (f32_at(c, 0), f32_at(c, 4))).collect();
    let mut tables = Vec::new();
    for (n, count) in (2..).zip(&counts[1..]) {
        // The longest have no back-off.
        let size = if n == order { 12 } else { 16 };
        let bytes = s.take(size * Table::buckets(*count, multiplier), "a table of n-grams")?;
        let slot = |c: &[u8]| Slot { key: u64_at(c, 0), prob: f32_at(c, 8), backoff: if n == order { 0.0 } else { f32_at(c, 12) } };
        tables.push(Table { slots: bytes.chunks_exact(size as usize).map(slot).collect() });
    }
    let words = if has_words {
        let left = s.left;
        let bytes = s.take(left, "the words")?;
        bytes.split(|b| *b == 0).take(counts[0] as usize).map(Into::into).collect()
    } else {
        Vec::new()
    };
    let special = |name: &str| {
        let id = vocabulary.get(hash_word(name.as_bytes())).filter(|id| (*id as usize) < unigrams.len() && *id != UNKNOWN);
        id.ok_or_else(|| format!("the vocabulary has no {name}; the file is damaged"))
    };
    let (begin, end) = (special("<s>")?, special("</s>")?);
    Ok(Model { order, begin, end, vocabulary, words, unigrams, tables, counts, gaps: false })
}

impl Model {
    /// Write KenLM's binary format with probing hash tables.
    pub fn save_kenlm(&self, path: &Path) -> Result<()> {
        if self.gaps {
            return Err(Error::Format {
                path: path.to_path_buf(),
                message: "n-grams are missing that longer ones end in (the model was pruned); use the ARPA file".into(),
            });
        }
        Ok(llm_run::atomic::write(path, self.to_kenlm())?)
    }

    fn to_kenlm(&self) -> Vec<u8> {
        let mut out = sanity();
        out.extend([self.order as u8, 0, 0, 0]);
        out.extend(MULTIPLIER.to_le_bytes());
        out.extend(0u32.to_le_bytes());
        out.extend([u8::from(!self.words.is_empty()), 0, 0, 0]);
        out.extend(0u32.to_le_bytes());
        self.counts.iter().for_each(|c| out.extend(c.to_le_bytes()));
        out.resize(header_size(self.order), 0);

        out.extend(0u32.to_le_bytes());
        out.extend((self.unigrams.len() as u32).to_le_bytes());
        // Sizes follow from the counts: what was read with another multiplier is laid out anew.
        let mut vocabulary = Table32::with_entries(self.counts[0] as usize, MULTIPLIER);
        for (key, value) in self.vocabulary.keys.iter().zip(&self.vocabulary.values).filter(|(k, _)| **k != 0) {
            vocabulary.insert(*key, *value);
        }
        for (key, value) in vocabulary.keys.iter().zip(&vocabulary.values) {
            out.extend(key.to_le_bytes());
            out.extend(value.to_le_bytes());
        }
        let unigrams = self.unigrams.iter().chain([&(0.0, 0.0)]);
        for (prob, backoff) in unigrams.take(self.counts[0] as usize + 1) {
            out.extend(prob.to_le_bytes());
            out.extend(backoff.to_le_bytes());
        }
        for (n, (table, count)) in (2..).zip(self.tables.iter().zip(&self.counts[1..])) {
            let mut laid = Table::with_entries(*count as usize, MULTIPLIER);
            for slot in table.slots.iter().filter(|s| s.key != 0) {
                // It has room: the count is that of the entries.
                let _ = laid.insert(*slot);
            }
            for Slot { key, prob, backoff } in &laid.slots {
                out.extend(key.to_le_bytes());
                if n == self.order {
                    out.extend((if *key == 0 { 0.0 } else { negative(*prob) }).to_le_bytes());
                } else {
                    out.extend(prob.to_le_bytes());
                    out.extend(backoff.to_le_bytes());
                }
            }
        }
        for word in &self.words {
            out.extend(word);
            out.push(0);
        }
        out
    }
}
