//! A bounded word cache: natural text repeats its words, so most of encoding is one look-up.
//!
//! Direct-mapped: a word has one place and evicts what was there. Only words of up to [`MAX_WORD`] bytes and up to
//! [`MAX_IDS`] ids enter; everything else is encoded each time. The memory is fixed (1.25 MiB).

/// Longest cached word in bytes; its length takes the sixteenth byte of the key.
const MAX_WORD: usize = 15;
/// Most ids of a cached word.
const MAX_IDS: usize = 5;
const SLOTS: usize = 1 << 15;

#[derive(Debug, Clone, Copy)]
struct Entry {
    key: u128,
    ids: [u32; MAX_IDS],
    len: u32,
}

/// The cache of one thread.
#[derive(Debug)]
pub struct WordCache {
    entries: Vec<Entry>,
}

impl Default for WordCache {
    fn default() -> Self {
        // Key 0 is the empty word, which is never asked for.
        Self { entries: vec![Entry { key: 0, ids: [0; MAX_IDS], len: 0 }; SLOTS] }
    }
}

fn key(word: &[u8]) -> u128 {
    let mut bytes = [0u8; 16];
    bytes[..word.len()].copy_from_slice(word);
    bytes[15] = word.len() as u8;
    u128::from_le_bytes(bytes)
}

fn slot(key: u128) -> usize {
    let (low, high) = (key as u64, (key >> 64) as u64);
    let mixed = (low ^ high.rotate_left(29).wrapping_mul(0xBF58_476D_1CE4_E5B9)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> (64 - SLOTS.trailing_zeros())) as usize
}

impl WordCache {
    /// Append the ids of `word` to `out`, asking `encode` on a miss.
    #[inline]
    pub fn encode(&mut self, word: &[u8], out: &mut Vec<u32>, encode: impl FnOnce(&mut Vec<u32>)) {
        if word.len() > MAX_WORD {
            return encode(out);
        }
        let key = key(word);
        let entry = &mut self.entries[slot(key)];
        if entry.key == key {
            out.extend_from_slice(&entry.ids[..entry.len as usize]);
            return;
        }
        let start = out.len();
        encode(out);
        let ids = &out[start..];
        if ids.len() <= MAX_IDS {
            entry.key = key;
            entry.len = ids.len() as u32;
            entry.ids[..ids.len()].copy_from_slice(ids);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_look_up_does_not_encode_and_zero_bytes_count() {
        let mut cache = WordCache::default();
        let mut out = Vec::new();
        cache.encode(b"ab", &mut out, |o| o.extend([1, 2]));
        cache.encode(b"ab\0", &mut out, |o| o.extend([3]));
        cache.encode(b"ab", &mut out, |_| panic!("must come from the cache"));
        cache.encode(b"ab\0", &mut out, |_| panic!("must come from the cache"));
        assert_eq!(out, [1, 2, 3, 1, 2, 3]);
    }
}
