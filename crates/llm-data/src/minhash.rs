//! MinHash signatures and LSH banding: which documents nearly repeat which.
//!
//! A document is the set of its word n-grams; the share of equal components of two signatures estimates the Jaccard
//! similarity of the sets (Broder, 1997). With `bands` bands of `rows` rows a pair of similarity `s` becomes a candidate
//! with probability `1 - (1 - s^rows)^bands`; 14 x 8 puts the half-way point near 0.72 (Lee et al., 2022; FineWeb).
//! Hash functions are `a * x + b` modulo 2^64 with odd `a` over an already mixed 64-bit hash of the n-gram.

use llm_run::Seed;
use rayon::prelude::*;

/// The hash family and its banding.
#[derive(Debug, Clone)]
pub struct MinHash {
    ngram: usize,
    bands: usize,
    rows: usize,
    functions: Vec<(u64, u64)>,
}

/// One value per hash function; `u64::MAX` everywhere for a text without words.
pub type Signature = Vec<u64>;

impl MinHash {
    /// A family for word `ngram`s, named by `seed`.
    pub fn new(ngram: usize, bands: usize, rows: usize, seed: u64) -> Self {
        let mut rng = Seed(seed).stream("minhash").rng();
        let functions = (0..bands * rows).map(|_| (rng.next_u64() | 1, rng.next_u64())).collect();
        Self { ngram: ngram.max(1), bands, rows, functions }
    }

    /// The signature of a text. A text shorter than one n-gram is one n-gram.
    pub fn signature(&self, text: &str) -> Signature {
        let words: Vec<u64> = words(text).map(hash_word).collect();
        let mut signature = vec![u64::MAX; self.functions.len()];
        if words.is_empty() {
            return signature;
        }
        for gram in words.windows(self.ngram.min(words.len())) {
            let x = gram.iter().fold(0x243F_6A88_85A3_08D3u64, |h, w| mix(h.rotate_left(5) ^ w));
            for (slot, (a, b)) in signature.iter_mut().zip(&self.functions) {
                *slot = (*slot).min(x.wrapping_mul(*a).wrapping_add(*b));
            }
        }
        signature
    }

    /// Clusters of near duplicates: for each document the index of the first document of its cluster (itself, when it is
    /// the first). Candidates of the banding are united when their estimated similarity is at least `min_similarity`.
    pub fn clusters(&self, signatures: &[Signature], min_similarity: f64) -> Vec<usize> {
        let mut parents: Vec<usize> = (0..signatures.len()).collect();
        for band in 0..self.bands {
            let range = band * self.rows..(band + 1) * self.rows;
            let mut keys: Vec<(u64, usize)> = signatures
                .par_iter()
                .enumerate()
                .filter(|(_, s)| s.first().is_some_and(|v| *v != u64::MAX))
                .map(|(i, s)| (s[range.clone()].iter().fold(band as u64, |h, v| mix(h.rotate_left(7) ^ v)), i))
                .collect();
            keys.par_sort_unstable();
            for bucket in keys.chunk_by(|a, b| a.0 == b.0).filter(|b| b.len() > 1) {
                // A bucket may hold several unrelated groups; each is represented by its first member.
                let mut heads: Vec<usize> = Vec::new();
                for &(_, i) in bucket {
                    match heads.iter().find(|h| similarity(&signatures[**h], &signatures[i]) >= min_similarity) {
                        Some(&head) => unite(&mut parents, head, i),
                        None if heads.len() < 16 => heads.push(i),
                        None => {}
                    }
                }
            }
        }
        (0..parents.len()).map(|i| find(&mut parents, i)).collect()
    }
}

/// Estimated Jaccard similarity: the share of equal components.
pub fn similarity(a: &[u64], b: &[u64]) -> f64 {
    a.iter().zip(b).filter(|(x, y)| x == y).count() as f64 / a.len().max(1) as f64
}

/// Words as the signature sees them: runs of letters, digits and underscores.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|w| !w.is_empty())
}

fn hash_word(word: &str) -> u64 {
    mix(word
        .chars()
        .flat_map(char::to_lowercase)
        .fold(0xCBF2_9CE4_8422_2325, |h, c| (h ^ u64::from(u32::from(c))).wrapping_mul(0x0000_0100_0000_01B3)))
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// The root, always the smallest index of the set; halves the path on the way.
fn find(parents: &mut [usize], mut i: usize) -> usize {
    while parents[i] != i {
        parents[i] = parents[parents[i]];
        i = parents[i];
    }
    i
}

fn unite(parents: &mut [usize], a: usize, b: usize) {
    let (a, b) = (find(parents, a), find(parents, b));
    parents[a.max(b)] = a.min(b);
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
    fn near_duplicates_join_the_first_and_others_stay() {
        let minhash = MinHash::new(5, 14, 8, 1);
        let texts = [text(0..300), text(1000..1300), text(3..300), format!("{} tail", text(0..300)), text(2000..2004)];
        let signatures: Vec<Signature> = texts.iter().map(|t| minhash.signature(t)).collect();
        assert_eq!(minhash.clusters(&signatures, 0.7), [0, 1, 0, 0, 4]);
        assert_eq!(minhash.clusters(&signatures, 1.01), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn texts_without_words_are_no_duplicates_of_each_other() {
        let minhash = MinHash::new(5, 14, 8, 1);
        let signatures = vec![minhash.signature(""), minhash.signature("!!!"), minhash.signature("a")];
        assert_eq!(minhash.clusters(&signatures, 0.7), [0, 1, 2]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn a_root_is_its_own_root_and_comes_first(texts in proptest::collection::vec("[ab ]{0,30}", 0..30)) {
            let minhash = MinHash::new(3, 6, 2, 9);
            let signatures: Vec<Signature> = texts.iter().map(|t| minhash.signature(t)).collect();
            let roots = minhash.clusters(&signatures, 0.5);
            for (i, root) in roots.iter().enumerate() {
                prop_assert!(*root <= i);
                prop_assert_eq!(roots[*root], *root);
            }
        }
    }
}
