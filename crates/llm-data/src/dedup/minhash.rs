//! MinHash signatures: one number per hash function, its least value over all n-grams of a document.
//!
//! A document is the set of its word n-grams; the share of equal components of two signatures estimates the Jaccard
//! similarity of the sets (Broder, 1997). With `bands` bands of `rows` rows a pair of similarity `s` shares a band, and becomes a
//! candidate, with probability `1 - (1 - s^rows)^bands`; 14 x 8 puts the half-way point near 0.72 (Lee et al., 2022; FineWeb).
//! Hash functions are `a * x + b` modulo 2^64 with odd `a` over an already mixed 64-bit hash of the n-gram.
//!
//! The cost is the product of n-grams and functions. Eight functions at a time stay in registers while all n-grams of a document
//! pass by; the compiler makes vector code of that loop, for AVX-512 too (which has the 64-bit product that AVX2 lacks), and the
//! machine's own instruction set is looked up once.

use llm_run::Seed;

/// Functions that are evaluated together.
const LANES: usize = 8;

/// The hash family and its banding.
#[derive(Debug, Clone)]
pub struct MinHash {
    ngram: usize,
    bands: usize,
    rows: usize,
    /// `a` and `b` of every function, padded to a multiple of [`LANES`].
    a: Vec<u64>,
    b: Vec<u64>,
}

/// One value per hash function; `u64::MAX` everywhere for a text without words.
pub type Signature = Vec<u64>;

impl MinHash {
    /// A family for word `ngram`s, named by `seed`.
    pub fn new(ngram: usize, bands: usize, rows: usize, seed: u64) -> Self {
        let mut rng = Seed(seed).stream("minhash").rng();
        let (mut a, mut b): (Vec<u64>, Vec<u64>) = (0..bands * rows).map(|_| (rng.next_u64() | 1, rng.next_u64())).unzip();
        let padded = (bands * rows).next_multiple_of(LANES);
        a.resize(padded, 1);
        b.resize(padded, 0);
        Self { ngram: ngram.max(1), bands, rows, a, b }
    }

    /// The signature of a text. A text shorter than one n-gram is one n-gram.
    pub fn signature(&self, text: &str) -> Signature {
        self.signature_of(&grams(text, self.ngram))
    }

    /// The signature of a set of hashed n-grams.
    pub fn signature_of(&self, grams: &[u64]) -> Signature {
        let mut signature = vec![u64::MAX; self.a.len()];
        minima(grams, &self.a, &self.b, &mut signature);
        signature.truncate(self.bands * self.rows);
        signature
    }

    /// One key per band; none for a text without words.
    pub fn band_keys<'a>(&'a self, signature: &'a [u64]) -> impl Iterator<Item = u64> + 'a {
        band_keys(signature, self.rows)
    }
}

/// One key per band of `rows` components; none for the signature of an empty set.
pub fn band_keys(signature: &[u64], rows: usize) -> impl Iterator<Item = u64> + '_ {
    let empty = signature.first().is_none_or(|v| *v == u64::MAX);
    let signature = if empty { &[] } else { signature };
    signature.chunks_exact(rows).enumerate().map(|(band, values)| values.iter().fold(band as u64, |h, v| mix(h.rotate_left(7) ^ v)))
}

/// `signature[i] = min(signature[i], min over x of a[i] * x + b[i])`.
fn minima(grams: &[u64], a: &[u64], b: &[u64], signature: &mut [u64]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("avx512dq") {
        // SAFETY: the two instruction sets that the function is compiled for were just found on this machine.
        return unsafe { minima_avx512(grams, a, b, signature) };
    }
    minima_portable(grams, a, b, signature);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq")]
fn minima_avx512(grams: &[u64], a: &[u64], b: &[u64], signature: &mut [u64]) {
    minima_portable(grams, a, b, signature);
}

#[inline(always)]
fn minima_portable(grams: &[u64], a: &[u64], b: &[u64], signature: &mut [u64]) {
    for ((signature, a), b) in signature.chunks_exact_mut(LANES).zip(a.chunks_exact(LANES)).zip(b.chunks_exact(LANES)) {
        let (mut least, mut factor, mut offset) = ([u64::MAX; LANES], [0; LANES], [0; LANES]);
        least.copy_from_slice(signature);
        factor.copy_from_slice(a);
        offset.copy_from_slice(b);
        for &x in grams {
            for lane in 0..LANES {
                least[lane] = least[lane].min(x.wrapping_mul(factor[lane]).wrapping_add(offset[lane]));
            }
        }
        signature.copy_from_slice(&least);
    }
}

/// Estimated Jaccard similarity: the share of equal components.
pub fn similarity<T: PartialEq>(a: &[T], b: &[T]) -> f64 {
    a.iter().zip(b).filter(|(x, y)| x == y).count() as f64 / a.len().max(1) as f64
}

/// Hashes of the word n-grams of a text, in order; one for a text with fewer words, none for a text without words.
pub fn grams(text: &str, ngram: usize) -> Vec<u64> {
    let words = word_hashes(text);
    if words.is_empty() {
        return Vec::new();
    }
    words.windows(ngram.min(words.len())).map(|gram| gram.iter().fold(0x243F_6A88_85A3_08D3u64, |h, w| mix(h.rotate_left(5) ^ w))).collect()
}

const FNV_START: u64 = 0xCBF2_9CE4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01B3;

/// Lower-case form of ASCII letters, digits and underscores; 0 for everything else.
const ASCII_WORD: [u8; 128] = {
    let mut table = [0; 128];
    let mut c = 0u8;
    while c < 128 {
        if c.is_ascii_alphanumeric() || c == b'_' {
            table[c as usize] = c.to_ascii_lowercase();
        }
        c += 1;
    }
    table
};

/// Hashes of the words: runs of letters, digits and underscores, without regard to case.
fn word_hashes(text: &str) -> Vec<u64> {
    let mut words = Vec::with_capacity(text.len() / 5);
    let (mut hash, mut inside) = (FNV_START, false);
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        if byte < 128 {
            at += 1;
            let lower = ASCII_WORD[usize::from(byte)];
            if lower != 0 {
                hash = (hash ^ u64::from(lower)).wrapping_mul(FNV_PRIME);
                inside = true;
                continue;
            }
        } else if let Some(c) = text[at..].chars().next() {
            at += c.len_utf8();
            if c.is_alphanumeric() {
                hash = c.to_lowercase().fold(hash, |h, c| (h ^ u64::from(u32::from(c))).wrapping_mul(FNV_PRIME));
                inside = true;
                continue;
            }
        }
        if inside {
            words.push(mix(hash));
            (hash, inside) = (FNV_START, false);
        }
    }
    if inside {
        words.push(mix(hash));
    }
    words
}

/// SplitMix64's finaliser.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(range: std::ops::Range<usize>) -> String {
        range.map(|i| format!("word{i} ")).collect()
    }

    #[test]
    fn the_estimate_is_near_the_true_similarity() {
        // 112 components: standard error at most 0.047 each; the mean over 40 families must be within 0.02.
        for overlap in [0.25f64, 0.5, 0.8] {
            let n = 400.0;
            let shared = (2.0 * n * overlap / (1.0 + overlap)) as usize;
            let (a, b) = (text(0..400), text(400 - shared..800 - shared));
            let grams = |s: usize| s - 4;
            let truth = grams(shared) as f64 / (2 * grams(400) - grams(shared)) as f64;
            let mean: f64 =
                (0..40).map(|seed| MinHash::new(5, 14, 8, seed)).map(|m| similarity(&m.signature(&a), &m.signature(&b))).sum::<f64>() / 40.0;
            assert!((mean - truth).abs() < 0.02, "{mean} {truth}");
        }
    }

    #[test]
    fn candidates_follow_the_curve_of_the_banding() {
        // Sets of 200 with planted overlap; 400 pairs a level. The share that collides in a band is binomial around
        // 1 - (1 - s^8)^14: four standard deviations are allowed, which one run in 16,000 would miss.
        for level in [0.5f64, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95] {
            let (size, pairs) = (200usize, 400u32);
            let shared = (2.0 * size as f64 * level / (1.0 + level)).round() as usize;
            let s = shared as f64 / (2 * size - shared) as f64;
            let mut rng = Seed(11).stream("planted").at((level * 100.0) as u64).rng();
            let minhash = MinHash::new(5, 14, 8, 3);
            let mut hits = 0;
            for _ in 0..pairs {
                let common: Vec<u64> = (0..shared).map(|_| rng.next_u64()).collect();
                let mut keys = || -> Vec<u64> {
                    let mut set = common.clone();
                    set.extend((shared..size).map(|_| rng.next_u64()));
                    let signature = minhash.signature_of(&set);
                    minhash.band_keys(&signature).collect()
                };
                let (a, b) = (keys(), keys());
                hits += u32::from(a.iter().zip(&b).any(|(x, y)| x == y));
            }
            let expected = 1.0 - (1.0 - s.powi(8)).powi(14);
            let deviation = (expected * (1.0 - expected) / f64::from(pairs)).sqrt();
            let found = f64::from(hits) / f64::from(pairs);
            assert!((found - expected).abs() <= 4.0 * deviation + 1e-9, "s = {s:.3}: {found:.3} of pairs collide, {expected:.3} expected");
        }
    }

    #[test]
    fn words_are_those_of_the_plain_definition() {
        let plain = |text: &str| -> Vec<u64> {
            text.split(|c: char| !(c.is_alphanumeric() || c == '_'))
                .filter(|w| !w.is_empty())
                .map(|w| mix(w.chars().flat_map(char::to_lowercase).fold(FNV_START, |h, c| (h ^ u64::from(u32::from(c))).wrapping_mul(FNV_PRIME))))
                .collect()
        };
        for text in ["", "A b_c, d1-2", "Größe ÄÖ İstanbul e\u{301}x", "日本語 и 12", "...", "end"] {
            assert_eq!(word_hashes(text), plain(text), "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn vector_code_and_scalar_code_agree(grams in proptest::collection::vec(any::<u64>(), 0..50), bands in 1usize..5, rows in 1usize..9, seed: u64) {
            let minhash = MinHash::new(5, bands, rows, seed);
            let mut scalar = vec![u64::MAX; minhash.a.len()];
            for (i, slot) in scalar.iter_mut().enumerate() {
                for x in &grams {
                    *slot = (*slot).min(x.wrapping_mul(minhash.a[i]).wrapping_add(minhash.b[i]));
                }
            }
            let mut portable = vec![u64::MAX; minhash.a.len()];
            minima_portable(&grams, &minhash.a, &minhash.b, &mut portable);
            prop_assert_eq!(&portable, &scalar);
            scalar.truncate(bands * rows);
            prop_assert_eq!(minhash.signature_of(&grams), scalar);
        }
    }
}
