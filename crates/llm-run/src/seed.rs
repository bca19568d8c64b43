//! Randomness as a function of (seed, stream, index), never hidden state.
//!
//! A training step that needs random numbers asks for `seed.stream("dropout").at(step)`: a run that is resumed at that
//! step, or a worker that computes only that step, sees the same numbers. The generator is SplitMix64 (Steele et al.,
//! 2014) over a counter, keyed by BLAKE3 of the path; it is fast and statistically sound for sampling and shuffling, and
//! not meant for secrets.

/// A point in the tree of random streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub u64);

impl Seed {
    /// The child stream of that name.
    pub fn stream(self, name: &str) -> Seed {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0.to_le_bytes());
        hasher.update(name.as_bytes());
        Seed(first_word(&hasher))
    }

    /// The child stream of that index: a step, a document, a request.
    pub fn at(self, index: u64) -> Seed {
        Seed(mix(self.0 ^ mix(index.wrapping_add(0x9E37_79B9_7F4A_7C15))))
    }

    /// A generator over this stream.
    pub fn rng(self) -> Rng {
        Rng { key: mix(self.0), counter: 0 }
    }
}

fn first_word(hasher: &blake3::Hasher) -> u64 {
    let mut word = [0u8; 8];
    word.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(word)
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// A small counter-based generator.
#[derive(Debug, Clone)]
pub struct Rng {
    key: u64,
    counter: u64,
}

impl Rng {
    /// 64 uniform bits.
    pub fn next_u64(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        mix(self.key.wrapping_add(self.counter.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    /// Uniform in `[0, 1)` with 53 bits.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in `0..n` without modulo bias worth naming (Lemire's multiply-shift); 0 for `n == 0`.
    pub fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }

    /// Uniform in `low..=high`.
    pub fn range(&mut self, low: i64, high: i64) -> i64 {
        low + self.below((high - low + 1).max(0) as usize) as i64
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// A standard normal number (Box-Muller).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// An element of a non-empty slice.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// Fisher-Yates.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }
}

/// Element `index` of the pseudo-random permutation of `0..n` that `seed` names, in O(1) memory.
///
/// A four-round Feistel network over the next even power of two with cycle walking: the order in which training visits
/// its data is a function, so any step of any epoch can be computed without the ones before.
pub fn permuted(seed: Seed, index: u64, n: u64) -> u64 {
    if n <= 1 {
        return 0;
    }
    let half = (64 - (n - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1u64 << half) - 1;
    let mut value = index % n;
    loop {
        let (mut left, mut right) = (value >> half, value & mask);
        for round in 0..4u64 {
            let next = left ^ (mix(seed.0 ^ mix(right ^ (round << 56))) & mask);
            left = right;
            right = next;
        }
        value = (left << half) | right;
        if value < n {
            return value;
        }
    }
}

/// The inverse of [`permuted`]: at which index of the permutation of `0..n` element `value` stands.
pub fn unpermuted(seed: Seed, value: u64, n: u64) -> u64 {
    if n <= 1 {
        return 0;
    }
    let half = (64 - (n - 1).leading_zeros()).div_ceil(2).max(1);
    let mask = (1u64 << half) - 1;
    let mut value = value % n;
    loop {
        let (mut left, mut right) = (value >> half, value & mask);
        for round in (0..4u64).rev() {
            let previous = right ^ (mix(seed.0 ^ mix(left ^ (round << 56))) & mask);
            right = left;
            left = previous;
        }
        value = (left << half) | right;
        if value < n {
            return value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn permuted_is_a_permutation(seed: u64, n in 1u64..500) {
            let mut seen: Vec<u64> = (0..n).map(|i| permuted(Seed(seed), i, n)).collect();
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..n).collect::<Vec<_>>());
        }

        #[test]
        fn unpermuted_finds_the_index_again(seed: u64, n in 1u64..1 << 40, i: u64) {
            prop_assert_eq!(unpermuted(Seed(seed), permuted(Seed(seed), i % n, n), n), i % n);
        }

        #[test]
        fn shuffle_keeps_the_elements(seed: u64, n in 0usize..100) {
            let mut items: Vec<usize> = (0..n).collect();
            Seed(seed).rng().shuffle(&mut items);
            items.sort_unstable();
            prop_assert_eq!(items, (0..n).collect::<Vec<_>>());
        }
    }

    #[test]
    fn streams_differ_and_repeat() {
        let seed = Seed(42);
        assert_eq!(seed.stream("a").at(3).rng().next_u64(), seed.stream("a").at(3).rng().next_u64());
        assert_ne!(seed.stream("a").at(3), seed.stream("a").at(4));
        assert_ne!(seed.stream("a"), seed.stream("b"));
    }

    #[test]
    fn moments_are_those_of_the_named_distributions() {
        let mut rng = Seed(7).rng();
        let n = 200_000;
        let (mut mean, mut square, mut uniform) = (0.0, 0.0, 0.0);
        for _ in 0..n {
            let x = rng.normal();
            mean += x;
            square += x * x;
            uniform += rng.uniform();
        }
        let n = f64::from(n);
        assert!((mean / n).abs() < 0.01 && (square / n - 1.0).abs() < 0.02 && (uniform / n - 0.5).abs() < 0.005);
    }
}
