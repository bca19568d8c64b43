//! What Python does, where a number depends on it: its random generator, and the string methods that prompts are made with.
//!
//! lm-evaluation-harness draws few-shot examples with `random.Random(1234).sample`, so the same examples need the same
//! generator: the Mersenne Twister MT19937 (Matsumoto & Nishimura 1998) seeded by `init_by_array`, and CPython's way from
//! 32-bit words to a choice (`Lib/random.py`, `_randbelow_with_getrandbits` and `sample`). The tests hold numbers printed by
//! CPython 3.11.

const N: usize = 624;
const M: usize = 397;

/// `random.Random(seed)`.
#[derive(Clone)]
pub struct PythonRandom {
    state: [u32; N],
    next: usize,
}

impl std::fmt::Debug for PythonRandom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PythonRandom").field("next", &self.next).finish_non_exhaustive()
    }
}

impl PythonRandom {
    /// Seeded with a non-negative integer, as `random.Random(seed)`.
    pub fn new(seed: u64) -> Self {
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        let key = if high == 0 { vec![low] } else { vec![low, high] };
        let mut random = Self { state: [0; N], next: N };
        random.init_genrand(19_650_218);
        let state = &mut random.state;
        let (mut i, mut j) = (1, 0);
        for _ in 0..N.max(key.len()) {
            let mixed = (state[i - 1] ^ (state[i - 1] >> 30)).wrapping_mul(1_664_525);
            state[i] = (state[i] ^ mixed).wrapping_add(key[j]).wrapping_add(j as u32);
            i += 1;
            j = (j + 1) % key.len();
            if i >= N {
                state[0] = state[N - 1];
                i = 1;
            }
        }
        for _ in 0..N - 1 {
            let mixed = (state[i - 1] ^ (state[i - 1] >> 30)).wrapping_mul(1_566_083_941);
            state[i] = (state[i] ^ mixed).wrapping_sub(i as u32);
            i += 1;
            if i >= N {
                state[0] = state[N - 1];
                i = 1;
            }
        }
        state[0] = 0x8000_0000;
        random
    }

    fn init_genrand(&mut self, seed: u32) {
        self.state[0] = seed;
        for i in 1..N {
            let before = self.state[i - 1];
            self.state[i] = 1_812_433_253u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(i as u32);
        }
        self.next = N;
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.next >= N {
            for i in 0..N {
                let y = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
                let twisted = self.state[(i + M) % N] ^ (y >> 1);
                self.state[i] = if y & 1 == 1 { twisted ^ 0x9908_b0df } else { twisted };
            }
            self.next = 0;
        }
        let mut y = self.state[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// `getrandbits(k)` for `k <= 64`.
    pub fn getrandbits(&mut self, k: u32) -> u64 {
        match k {
            0 => 0,
            1..=32 => u64::from(self.next_u32() >> (32 - k)),
            _ => {
                let low = u64::from(self.next_u32());
                low | u64::from(self.next_u32() >> (64 - k.min(64))) << 32
            }
        }
    }

    /// `_randbelow(n)`: uniform in `0..n` by rejection; 0 for an empty range.
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 {
            return 0;
        }
        let bits = usize::BITS - n.leading_zeros();
        loop {
            let drawn = self.getrandbits(bits) as usize;
            if drawn < n {
                return drawn;
            }
        }
    }

    /// `random()`: 53 bits in `[0, 1)`.
    pub fn random(&mut self) -> f64 {
        let (a, b) = (f64::from(self.next_u32() >> 5), f64::from(self.next_u32() >> 6));
        (a * 67_108_864.0 + b) / 9_007_199_254_740_992.0
    }

    /// Places that `sample(population, k)` takes from a population of `n`; `None` when `k > n`, where Python raises.
    pub fn sample(&mut self, n: usize, k: usize) -> Option<Vec<usize>> {
        if k > n {
            return None;
        }
        let mut set_size = 21f64;
        if k > 5 {
            set_size += 4f64.powf((k as f64 * 3.0).log(4.0).ceil());
        }
        if n as f64 <= set_size {
            let mut pool: Vec<usize> = (0..n).collect();
            return Some(
                (0..k)
                    .map(|i| {
                        let j = self.below(n - i);
                        let chosen = pool[j];
                        pool[j] = pool[n - i - 1];
                        chosen
                    })
                    .collect(),
            );
        }
        let mut seen = std::collections::HashSet::new();
        Some(
            (0..k)
                .map(|_| {
                    loop {
                        let j = self.below(n);
                        if seen.insert(j) {
                            break j;
                        }
                    }
                })
                .collect(),
        )
    }

    /// `choice` of a sequence of length `n > 0`, as a place.
    pub fn choice(&mut self, n: usize) -> usize {
        self.below(n)
    }

    /// `shuffle`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i + 1);
            items.swap(i, j);
        }
    }
}

/// `str.capitalize()`: the first character in title case, all others in lower case.
pub fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return String::new() };
    // Title case differs from upper case only in a few digraphs and ß, where Python writes one capital.
    let mut upper = first.to_uppercase();
    let mut out: String = upper.next().into_iter().collect();
    out.extend(upper.flat_map(char::to_lowercase));
    out.push_str(&chars.as_str().to_lowercase());
    out
}

/// Python's `str.strip()`: its white space has four separators more than Rust's.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Python's `str.rstrip()`.
pub fn rstrip(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// Python's `str.isspace()` for one character.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(seed: u64, n: usize) -> Vec<u64> {
        let mut random = PythonRandom::new(seed);
        (0..n).map(|_| random.getrandbits(32)).collect()
    }

    #[test]
    fn words_and_bits_are_those_of_cpython() {
        assert_eq!(words(1234, 5), [4_150_886_329, 3_342_196_574, 1_892_932_127, 501_869_158, 32_175_636]);
        assert_eq!(words(0, 3), [3_626_764_237, 1_654_615_998, 3_255_389_356]);
        assert_eq!(words((1 << 40) + 17, 3), [2_840_774_218, 3_282_848_423, 1_037_313_734]);
        let mut random = PythonRandom::new(1234);
        let bits: Vec<u64> = [1, 7, 20, 33, 53, 64].into_iter().map(|k| random.getrandbits(k)).collect();
        assert_eq!(bits, [1, 99, 462_141, 501_869_158, 8_205_342_134_790_981, 17_326_454_776_888_161_602]);
        let mut random = PythonRandom::new(1234);
        assert_eq!(
            [random.random(), random.random(), random.random()],
            [0.966_453_535_692_138_8, 0.440_732_599_175_352_7, 0.007_491_470_058_587_191]
        );
    }

    /// One generator goes through all of them, so a single wrong draw shows in every later line; 21, 85 and their neighbours
    /// are where `sample` changes its method.
    #[test]
    fn samples_are_those_of_cpython() {
        let mut random = PythonRandom::new(1234);
        let cases: [(usize, &[usize]); 12] = [
            (10, &[7, 1, 0]),
            (21, &[2, 18, 1, 20, 3]),
            (22, &[11, 7, 0, 20, 19]),
            (1000, &[495, 630, 474, 152, 93]),
            (1000, &[187, 730, 117, 865, 14, 515]),
            (85, &[62, 31, 8, 69, 59, 82]),
            (86, &[76, 11, 65, 74, 5, 34]),
            (40, &[35, 4, 19, 30, 22, 17, 15, 12, 29, 28]),
            (7473, &[4343, 5451, 158, 4162, 578]),
            (
                2000,
                &[11, 683, 294, 1454, 968, 1346, 772, 342, 110, 156, 1203, 1016, 335, 154, 1141, 440, 295, 55, 1919, 709, 1578, 227, 1959, 1084, 289],
            ),
            (1, &[0]),
            (5, &[]),
        ];
        for (n, expected) in cases {
            assert_eq!(random.sample(n, expected.len()).unwrap(), expected, "sample of {} from {n}", expected.len());
        }
        assert_eq!(random.sample(3, 4), None);
        let mut random = PythonRandom::new(42);
        let mut items: Vec<u32> = (0..12).collect();
        random.shuffle(&mut items);
        assert_eq!((items, random.choice(9)), (vec![7, 5, 2, 8, 9, 6, 11, 3, 4, 0, 1, 10], 0));
    }

    #[test]
    fn two_thousand_samples_later_the_state_is_still_the_same() {
        let mut random = PythonRandom::new(1234);
        let sum = (0..2000).fold(0u64, |s, _| (s * 31 + random.sample(1319, 9).unwrap().iter().sum::<usize>() as u64) % 1_000_000_007);
        assert_eq!((sum, random.getrandbits(32)), (633_427_263, 10_406_828));
    }

    #[test]
    fn strings_as_in_python() {
        for (text, expected) in [("hELLO World", "Hello world"), ("ßa", "Ssa"), ("ÉCOLE", "École"), ("", "")] {
            assert_eq!(capitalize(text), expected);
        }
        assert_eq!((strip("\u{1c} a b\n"), rstrip(" a\u{a0}")), ("a b", " a"));
    }
}
