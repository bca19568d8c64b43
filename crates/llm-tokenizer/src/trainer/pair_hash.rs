//! Hashing pairs of 32-bit numbers, the keys of the tables that training spends its time in. No protection against chosen keys.

use std::hash::{BuildHasherDefault, Hasher};

/// A map from pairs of numbers.
pub type PairMap<V> = std::collections::HashMap<(u32, u32), V, BuildHasherDefault<PairHasher>>;
/// A set of pairs of numbers.
pub type PairSet = std::collections::HashSet<(u32, u32), BuildHasherDefault<PairHasher>>;

/// Multiply and fold the two ids.
#[derive(Debug, Default)]
pub struct PairHasher(u64);

impl Hasher for PairHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.write_u32(u32::from(b)));
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = self.0 << 32 | u64::from(id);
    }

    fn finish(&self) -> u64 {
        let product = u128::from(self.0 ^ 0x9E37_79B9_7F4A_7C15) * 0xA076_1D64_78BD_642F;
        product as u64 ^ (product >> 64) as u64
    }
}
