//! A bounded word cache: natural text repeats its words, so most of encoding is one look-up.
//!
//! A word has two places, those of one look-up's 64 or 128 bytes, and evicts the older of what was there. Short words and longer ones have
//! tables of their own; what does not fit is encoded each time. The memory is fixed (2.5 MiB a thread).

/// Longest word of the first table; the sixteenth byte of a key is the length.
const SHORT: usize = 15;
const SHORT_SLOTS: usize = 1 << 15;
/// Longest word of the second.
const LONG: usize = 31;
const LONG_SLOTS: usize = 1 << 12;
/// No id.
const NONE: u32 = u32::MAX;

/// A word and its ids; the first unused one is [`NONE`].
#[derive(Debug, Clone, Copy)]
struct Entry<K, const N: usize> {
    key: K,
    ids: [u32; N],
}

/// What a look-up reads: the newer word and the older.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Pair<K, const N: usize>([Entry<K, N>; 2]);

/// The cache of one thread.
#[derive(Debug)]
pub struct WordCache {
    short: Box<[Pair<u128, 4>]>,
    long: Box<[Pair<[u128; 2], 8>]>,
}

impl Default for WordCache {
    fn default() -> Self {
        // Key 0 is the empty word, which is never asked for.
        Self {
            short: vec![Pair([Entry { key: 0, ids: [NONE; 4] }; 2]); SHORT_SLOTS].into(),
            long: vec![Pair([Entry { key: [0; 2], ids: [NONE; 8] }; 2]); LONG_SLOTS].into(),
        }
    }
}

/// Up to 16 bytes of `text` from `at` as a number, bytes after `length` zero.
#[inline(always)]
fn load(text: &[u8], at: usize, length: usize) -> u128 {
    match text.get(at..at + 16).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()) {
        Some(bytes) => u128::from_le_bytes(bytes) & u128::MAX.checked_shr(128 - 8 * length as u32).unwrap_or(0),
        None => {
            let mut bytes = [0; 16];
            bytes[..length].copy_from_slice(&text[at..at + length]);
            u128::from_le_bytes(bytes)
        }
    }
}

#[inline(always)]
fn hash(key: u128) -> u64 {
    let (low, high) = (key as u64, (key >> 64) as u64);
    (low ^ high.rotate_left(29).wrapping_mul(0xBF58_476D_1CE4_E5B9)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

impl<K: PartialEq + Copy, const N: usize> Pair<K, N> {
    #[inline(always)]
    fn give(&mut self, key: K, out: &mut Vec<u32>, encode: impl FnOnce(&mut Vec<u32>)) {
        let [newer, older] = &self.0;
        let found = if newer.key == key {
            newer
        } else if older.key == key {
            older
        } else {
            return self.learn(key, out, encode);
        };
        out.push(found.ids[0]);
        if found.ids[1] != NONE {
            out.extend(found.ids[1..].iter().copied().take_while(|&id| id != NONE));
        }
    }

    #[cold]
    #[inline(never)]
    fn learn(&mut self, key: K, out: &mut Vec<u32>, encode: impl FnOnce(&mut Vec<u32>)) {
        let start = out.len();
        encode(out);
        let found = &out[start..];
        if (1..=N).contains(&found.len()) {
            let mut ids = [NONE; N];
            ids[..found.len()].copy_from_slice(found);
            self.0 = [Entry { key, ids }, self.0[0]];
        }
    }
}

impl WordCache {
    /// Append the ids of the word `text[start..end]` to `out`, asking `encode` on a miss.
    #[inline(always)]
    pub fn encode(&mut self, text: &[u8], start: usize, end: usize, out: &mut Vec<u32>, encode: impl FnOnce(&mut Vec<u32>)) {
        let length = end - start;
        if length <= SHORT {
            let key = load(text, start, length) | (length as u128) << 120;
            let slot = hash(key) >> (64 - SHORT_SLOTS.trailing_zeros());
            self.short[slot as usize].give(key, out, encode);
        } else if length <= LONG {
            let key = [load(text, start, 16), load(text, start + 16, length - 16) | (length as u128) << 120];
            let slot = (hash(key[0]) ^ hash(key[1]).rotate_left(17)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> (64 - LONG_SLOTS.trailing_zeros());
            self.long[slot as usize].give(key, out, encode);
        } else {
            encode(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_second_look_up_does_not_encode_and_zero_bytes_count() {
        let mut cache = WordCache::default();
        let mut out = Vec::new();
        let text = b"ab\0 and much more text behind it";
        cache.encode(text, 0, 2, &mut out, |o| o.extend([1, 2]));
        cache.encode(text, 0, 3, &mut out, |o| o.push(3));
        cache.encode(text, 0, 20, &mut out, |o| o.push(4));
        cache.encode(text, 0, 2, &mut out, |_| panic!("must come from the cache"));
        cache.encode(b"ab\0", 0, 3, &mut out, |_| panic!("must come from the cache, at the end of a text too"));
        cache.encode(text, 0, 20, &mut out, |_| panic!("must come from the cache"));
        assert_eq!(out, [1, 2, 3, 4, 1, 2, 3, 4]);
    }

    proptest! {
        #[test]
        fn never_another_words_ids(text in prop::collection::vec(0u8..3, 1..64), cuts in prop::collection::vec((0usize..64, 1usize..36), 1..200)) {
            let mut cache = WordCache::default();
            let ids = |word: &[u8]| word.iter().map(|&b| u32::from(b)).take(word.len() % 10 + 1).collect::<Vec<u32>>();
            for (start, length) in cuts {
                let start = start % text.len();
                let end = (start + length).min(text.len());
                let mut out = vec![7];
                cache.encode(&text, start, end, &mut out, |o| o.extend(ids(&text[start..end])));
                prop_assert_eq!(&out[1..], ids(&text[start..end]));
            }
        }
    }
}
