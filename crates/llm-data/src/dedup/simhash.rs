//! SimHash: 64 bits of which near duplicates share most (Charikar, 2002; Manku et al., 2007).
//!
//! Each bit is the majority vote of the n-grams' hashes. To find all pairs that differ in at most `d` bits without comparing all,
//! the bits are cut into `d + 2` blocks: two of them must be equal, so every pair of blocks is a key under which the document is filed.

/// The SimHash of a set of n-grams; `None` without any.
pub fn simhash(grams: &[u64]) -> Option<u64> {
    if grams.is_empty() {
        return None;
    }
    let mut votes = [0i32; 64];
    for &x in grams {
        for (bit, vote) in votes.iter_mut().enumerate() {
            *vote += ((x >> bit) & 1) as i32;
        }
    }
    let half = grams.len() as i32;
    Some(votes.iter().enumerate().fold(0, |h, (bit, vote)| h | (u64::from(2 * vote > half) << bit)))
}

/// Keys under which a SimHash is filed so that every other within `distance` bits shares one.
pub fn keys(hash: u64, distance: u32) -> impl Iterator<Item = u64> {
    let blocks = distance as usize + 2;
    let mask = move |block: usize| {
        let (from, to) = (64 * block / blocks, 64 * (block + 1) / blocks);
        (u64::MAX >> (64 - (to - from))) << from
    };
    let pairs = (0..blocks).flat_map(move |i| (i + 1..blocks).map(move |j| (i, j)));
    pairs.enumerate().map(move |(n, (i, j))| super::minhash::mix(super::minhash::mix(hash & (mask(i) | mask(j))) ^ n as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_run::Seed;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whoever_is_near_shares_a_key(hash: u64, distance in 0u32..6, flips in proptest::collection::vec(0u32..64, 0..6)) {
            let other = flips.iter().take(distance as usize).fold(hash, |h, bit| h ^ (1 << bit));
            prop_assert!(keys(hash, distance).zip(keys(other, distance)).any(|(a, b)| a == b));
        }
    }

    #[test]
    fn few_changes_flip_few_bits() {
        let mut rng = Seed(5).rng();
        let a: Vec<u64> = (0..1000).map(|_| rng.next_u64()).collect();
        let mut b = a.clone();
        b.truncate(990);
        let c: Vec<u64> = (0..1000).map(|_| rng.next_u64()).collect();
        let distance = |x: &[u64], y: &[u64]| (simhash(x).unwrap() ^ simhash(y).unwrap()).count_ones();
        assert!(distance(&a, &b) <= 6, "{}", distance(&a, &b));
        assert!((20..44).contains(&distance(&a, &c)), "{}", distance(&a, &c));
        assert_eq!(simhash(&[]), None);
    }
}
