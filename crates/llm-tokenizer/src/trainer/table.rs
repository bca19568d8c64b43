//! A compact hash table of words: all bytes in one arena, sixteen bytes an entry, eight a slot.
//!
//! A general map of boxed strings costs three times the memory and a pointer chase per look-up, and counting words is nothing
//! but look-ups. No removal, no protection against chosen keys.

/// Bits of an entry's span that say where the word begins in the arena; the others are its length.
const START_BITS: u32 = 36;
/// Longer words are not counted: no text has a word of 256 MiB.
const MAX_WORD_BYTES: usize = (1 << (64 - START_BITS)) - 1;

#[derive(Debug, Clone, Copy)]
struct Entry {
    span: u64,
    count: u64,
}

/// Words and their counts.
#[derive(Debug, Default)]
pub struct Table {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// Upper half: 32 bits of the hash, which also say where the search begins; lower half: entry + 1; 0 is free.
    slots: Vec<u64>,
}

impl Table {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes of memory held.
    pub fn memory(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>() + self.slots.capacity() * 8
    }

    pub fn word(&self, entry: usize) -> &[u8] {
        let span = self.entries[entry].span;
        let start = (span & ((1 << START_BITS) - 1)) as usize;
        &self.bytes[start..start + (span >> START_BITS) as usize]
    }

    pub fn count(&self, entry: usize) -> u64 {
        self.entries[entry].count
    }

    /// Count `word`, whose [`hash`] the caller has.
    #[inline]
    pub fn add(&mut self, word: &[u8], hash: u64, count: u64) {
        if self.entries.len() * 4 >= self.slots.len() * 3 {
            self.grow();
        }
        let (tag, mask) = (hash >> 32, self.slots.len() - 1);
        let mut at = tag as usize & mask;
        loop {
            let slot = self.slots[at];
            if slot == 0 {
                break;
            }
            if slot >> 32 == tag {
                let entry = (slot as u32 - 1) as usize;
                if self.word(entry) == word {
                    let total = &mut self.entries[entry].count;
                    *total = total.saturating_add(count);
                    return;
                }
            }
            at = (at + 1) & mask;
        }
        if word.len() > MAX_WORD_BYTES || self.entries.len() >= u32::MAX as usize - 1 {
            return;
        }
        self.entries.push(Entry { span: self.bytes.len() as u64 | (word.len() as u64) << START_BITS, count });
        self.bytes.extend_from_slice(word);
        self.slots[at] = tag << 32 | self.entries.len() as u64;
    }

    fn grow(&mut self) {
        let size = (self.slots.len() * 2).max(64);
        let old = std::mem::replace(&mut self.slots, vec![0; size]);
        for slot in old.into_iter().filter(|&slot| slot != 0) {
            let mut at = (slot >> 32) as usize & (size - 1);
            while self.slots[at] != 0 {
                at = (at + 1) & (size - 1);
            }
            self.slots[at] = slot;
        }
    }
}

/// Multiply and fold, eight bytes at a time.
#[inline]
pub fn hash(bytes: &[u8]) -> u64 {
    let mix = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        product as u64 ^ (product >> 64) as u64
    };
    let mut state = 0x9E37_79B9_7F4A_7C15 ^ bytes.len() as u64;
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let word = u64::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3], chunk[4], chunk[5], chunk[6], chunk[7]]);
        state = mix(state ^ word, 0xA076_1D64_78BD_642F);
    }
    let mut last = 0u64;
    for &byte in chunks.remainder() {
        last = last << 8 | u64::from(byte);
    }
    mix(state ^ last, 0xE703_7ED1_A0B4_28DB)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn counts_what_a_map_counts_also_past_32_bits(words in prop::collection::vec(("[ab]{0,9}", prop_oneof![1u64..5, Just(u64::from(u32::MAX))]), 0..300)) {
            let (mut table, mut map) = (Table::default(), BTreeMap::new());
            for (word, count) in &words {
                table.add(word.as_bytes(), hash(word.as_bytes()), *count);
                *map.entry(word.clone().into_bytes()).or_insert(0u64) += count;
            }
            let counted: BTreeMap<Vec<u8>, u64> = (0..table.len()).map(|e| (table.word(e).to_vec(), table.count(e))).collect();
            prop_assert_eq!(counted, map);
        }
    }
}
