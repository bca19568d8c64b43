//! Hashes of lines, words and word n-grams, and the tables that count them.
//!
//! Strings are never stored: two are taken as equal when their 64-bit hashes are. For `n` different strings the chance that any two
//! collide is about `n² / 2^65`: 3e-10 for a document of 100,000 words, so a verdict differs from one by strings practically never.
//! N-grams that are compared with their words run together (`ab c` equals `a bc`) use a polynomial modulo 2^61 - 1, whose value for a
//! piece follows from those of two prefixes; its collisions are of the same order times the length of an n-gram.

/// 2^61 - 1.
const PRIME: u64 = (1 << 61) - 1;
/// The base of the polynomial; any fixed number without pattern.
const BASE: u64 = 0x0a5b_86e3_1f4d_92c7;

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// Mixes two hashes into one, order mattering.
pub fn combine(a: u64, b: u64) -> u64 {
    fold(a ^ 0x9e37_79b9_7f4a_7c15, b.rotate_left(32) ^ 0xe703_7ed1_a0b4_28db)
}

fn word(bytes: &[u8]) -> u64 {
    let mut buffer = [0u8; 8];
    let n = bytes.len().min(8);
    buffer[..n].copy_from_slice(&bytes[..n]);
    u64::from_le_bytes(buffer)
}

/// A 64-bit hash of bytes: multiply and fold, 16 bytes a step.
pub fn hash64(bytes: &[u8]) -> u64 {
    let mut h = 0x243f_6a88_85a3_08d3 ^ (bytes.len() as u64).wrapping_mul(0x9fb2_1c65_1e98_df25);
    let mut chunks = bytes.chunks_exact(16);
    for chunk in &mut chunks {
        h = fold(word(chunk) ^ h, word(&chunk[8..]) ^ 0x1319_8a2e_0370_7344);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        let second = if rest.len() > 8 { word(&rest[8..]) } else { 0 };
        h = fold(word(rest) ^ h, second ^ 0xa409_3822_299f_31d0);
    }
    fold(h ^ 0x082e_fa98_ec4e_6c89, 0x4528_21e6_38d0_1377 ^ h.rotate_left(29))
}

fn multiply(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    let sum = (product as u64 & PRIME) + (product >> 61) as u64;
    if sum >= PRIME { sum - PRIME } else { sum }
}

/// The polynomial of a string by itself.
pub fn polynomial(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |h, b| append(h, u64::from(*b) + 1, BASE))
}

/// The polynomial of a string followed by another: `h * BASE^n + tail`, with `power = BASE^n`.
pub fn append(h: u64, tail: u64, power: u64) -> u64 {
    let sum = multiply(h, power) + tail;
    if sum >= PRIME { sum - PRIME } else { sum }
}

/// The polynomial of what follows `head` in `whole`; `power` is the base to its length.
pub fn tail(whole: u64, head: u64, power: u64) -> u64 {
    let start = multiply(head, power);
    if whole >= start { whole - start } else { whole + PRIME - start }
}

/// Powers of the base.
#[derive(Debug)]
pub struct Powers(Vec<u64>);

impl Default for Powers {
    fn default() -> Self {
        let mut powers = vec![1u64; 4096];
        for i in 1..powers.len() {
            powers[i] = multiply(powers[i - 1], BASE);
        }
        Self(powers)
    }
}

impl Powers {
    /// `BASE^n`.
    pub fn get(&self, n: usize) -> u64 {
        match self.0.get(n) {
            Some(p) => *p,
            None => {
                let half = self.get(n / 2);
                let square = multiply(half, half);
                if n.is_multiple_of(2) { square } else { multiply(square, BASE) }
            }
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    key: u64,
    round: u32,
    count: u32,
    first: u32,
}

/// An open-addressing table from hash to (count, where first seen). [`Table::start`] empties it without touching the memory.
#[derive(Debug, Default)]
pub struct Table {
    slots: Vec<Slot>,
    round: u32,
    mask: usize,
}

impl Table {
    /// Empty the table and make room for `n` keys.
    pub fn start(&mut self, n: usize) {
        let wanted = (n.max(8) * 2).next_power_of_two();
        if self.slots.len() < wanted {
            self.slots = vec![Slot::default(); wanted];
            self.round = 0;
        }
        // A small document works in the first few slots, so that they stay in the cache.
        self.mask = wanted - 1;
        self.round = self.round.wrapping_add(1);
        if self.round == 0 {
            self.slots.fill(Slot::default());
            self.round = 1;
        }
    }

    /// Count `key`, seen at position `at`: how often it has been seen now, and where first.
    pub fn add(&mut self, key: u64, at: usize) -> (u32, u32) {
        let mut i = (key ^ key >> 32) as usize & self.mask;
        loop {
            let slot = &mut self.slots[i];
            if slot.round != self.round {
                *slot = Slot { key, round: self.round, count: 1, first: at as u32 };
                return (1, at as u32);
            }
            if slot.key == key {
                slot.count += 1;
                return (slot.count, slot.first);
            }
            i = (i + 1) & self.mask;
        }
    }

    /// True if `key` had been added before; adds it.
    pub fn seen(&mut self, key: u64) -> bool {
        self.add(key, 0).0 > 1
    }

    /// How often `key` was added.
    pub fn count(&self, key: u64) -> u32 {
        let mut i = (key ^ key >> 32) as usize & self.mask;
        loop {
            let slot = self.slots[i];
            if slot.round != self.round {
                return 0;
            }
            if slot.key == key {
                return slot.count;
            }
            i = (i + 1) & self.mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_has_the_hash_of_the_same_string_elsewhere() {
        let (powers, text) = (Powers::default(), b"to be or not to be");
        let prefix = |n: usize| polynomial(&text[..n]);
        let piece = |a: usize, b: usize| tail(prefix(b), prefix(a), powers.get(b - a));
        assert_eq!(piece(0, 5), piece(13, 18));
        assert_eq!(piece(13, 18), polynomial(b"to be"));
        assert_ne!(piece(0, 5), piece(1, 6));
        assert_eq!(append(polynomial(b"to "), polynomial(b"be"), powers.get(2)), polynomial(b"to be"));
        assert_eq!(powers.get(10_001), append(0, 0, 1) + multiply(powers.get(10_000), BASE));
    }

    #[test]
    fn different_strings_have_different_hashes() {
        let mut all: Vec<u64> = (0..200_000u32).map(|i| hash64(format!("line {i} of a text").as_bytes())).collect();
        all.extend((0..64).map(|n| hash64(&vec![0u8; n])));
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 200_064);
    }

    #[test]
    fn a_table_counts_and_empties() {
        let mut table = Table::default();
        for round in 0..3 {
            table.start(100);
            for i in 0..100u64 {
                assert_eq!(table.add(hash64(&(i % 40).to_le_bytes()), i as usize), ((i / 40 + 1) as u32, (i % 40) as u32), "round {round}");
            }
            assert_eq!((table.count(hash64(&3u64.to_le_bytes())), table.count(hash64(&41u64.to_le_bytes()))), (3, 0));
        }
    }
}
