//! What drops tokens after the temperature: top-k, top-p, min-p, typical, epsilon, eta, in the order of Hugging Face's `generate`.
//!
//! Top-k, top-p and min-p keep a prefix of the tokens sorted by logit, usually a short one, so the vocabulary is ranked
//! only as far as somebody looks ([`Ranking`]).

use super::Sampling;

/// Indices by falling score, the lower index first among equals, sorted as far as they were asked for.
pub(super) struct Ranking {
    /// The score in the high half, such that smaller is better; the index in the low half.
    keys: Vec<u64>,
    sorted: usize,
}

impl Ranking {
    pub fn new(scores: impl Iterator<Item = f32>) -> Self {
        let key = |(i, score): (usize, f32)| {
            // The order of `f32::total_cmp` as an unsigned number: negative numbers are stored by magnitude.
            let bits = score.to_bits();
            let rising = if bits >> 31 == 1 { !bits } else { bits | (1 << 31) };
            (u64::from(!rising) << 32) | i as u64
        };
        Self { keys: scores.enumerate().map(key).collect(), sorted: 0 }
    }

    /// Sort the best `n`: select them among the rest, which costs a pass, then sort what is new.
    fn extend(&mut self, n: usize) {
        let n = n.min(self.keys.len());
        if n <= self.sorted {
            return;
        }
        let rest = &mut self.keys[self.sorted..];
        let new = n - self.sorted;
        if new < rest.len() {
            rest.select_nth_unstable(new - 1);
        }
        rest[..new].sort_unstable();
        self.sorted = n;
    }

    /// The best `n`.
    pub fn first(&mut self, n: usize) -> impl Iterator<Item = usize> {
        self.extend(n);
        self.keys.iter().take(n).map(|&key| index(key))
    }

    /// Number `rank`, from 0.
    pub fn get(&mut self, rank: usize) -> Option<usize> {
        if rank >= self.sorted {
            // Few passes over a large vocabulary, little sorted in vain.
            self.extend((rank + 1).max(64).max(self.sorted * 8));
        }
        self.keys.get(rank).map(|&key| index(key))
    }
}

fn index(key: u64) -> usize {
    (key & u64::from(u32::MAX)) as usize
}

/// Probabilities of the tokens that all filters keep, most likely first. Without any filter the list ends as soon as it
/// holds `enough` probability.
pub(super) fn filter(logits: &[f32], sampling: &Sampling, enough: f64) -> Vec<(u32, f64)> {
    if !sampling.filters() {
        return head(logits, sampling, enough);
    }
    let mut kept = head(logits, sampling, f64::INFINITY);
    normalise(&mut kept);
    if sampling.typical_p < 1.0 {
        typical(&mut kept, f64::from(sampling.typical_p));
        normalise(&mut kept);
    }
    if sampling.epsilon_cutoff > 0.0 {
        cut(&mut kept, f64::from(sampling.epsilon_cutoff));
        normalise(&mut kept);
    }
    if sampling.eta_cutoff > 0.0 {
        let eta = f64::from(sampling.eta_cutoff);
        let bound = eta.min(eta.sqrt() * (-entropy(&kept)).exp());
        cut(&mut kept, bound);
        normalise(&mut kept);
    }
    kept
}

fn normalise(kept: &mut [(u32, f64)]) {
    let total: f64 = kept.iter().map(|w| w.1).sum();
    kept.iter_mut().for_each(|w| w.1 /= total);
}

/// Top-k, top-p, min-p: the longest allowed prefix of the ranking, with probabilities among the top k.
fn head(logits: &[f32], sampling: &Sampling, enough: f64) -> Vec<(u32, f64)> {
    let mut ranking = Ranking::new(logits.iter().copied());
    let Some(best) = ranking.first(1).next() else { return Vec::new() };
    let weight = |i: usize| f64::from(logits[i] - logits[best]).exp();
    let all = logits.len();
    let k = if sampling.top_k == 0 { all } else { sampling.top_k.min(all) };
    let total: f64 = if k < all { ranking.first(k).map(weight).sum() } else { (0..all).map(weight).sum() };
    let enough = if sampling.top_p < 1.0 { enough.min(f64::from(sampling.top_p)) } else { enough };
    let floor = weight(best) / total * f64::from(sampling.min_p);
    let mut kept: Vec<(u32, f64)> = Vec::new();
    let mut before = 0.0;
    for rank in 0..k {
        let Some(i) = ranking.get(rank) else { break };
        let p = weight(i) / total;
        // A probability of 0 is a ban (or beyond the range of f64): nothing follows that could be drawn.
        if rank > 0 && (before >= enough || p < floor || p == 0.0) {
            break;
        }
        kept.push((i as u32, p));
        before += p;
    }
    kept
}

fn entropy(kept: &[(u32, f64)]) -> f64 {
    -kept.iter().map(|w| if w.1 > 0.0 { w.1 * w.1.ln() } else { 0.0 }).sum::<f64>()
}

/// The tokens whose surprise -ln p is nearest to the entropy, until `mass` is reached; ties with the last one stay.
fn typical(kept: &mut Vec<(u32, f64)>, mass: f64) {
    let entropy = entropy(kept);
    // In f32, so that ties are what they are for the reference.
    let distance = |p: f64| (-p.ln() - entropy).abs() as f32;
    let mut ranking = Ranking::new(kept.iter().map(|w| -distance(w.1)));
    let (mut sum, mut bound) = (0.0, f32::INFINITY);
    for rank in 0..kept.len() {
        let Some(i) = ranking.get(rank) else { break };
        sum += kept[i].1;
        if sum >= mass {
            bound = distance(kept[i].1);
            break;
        }
    }
    kept.retain(|w| distance(w.1) <= bound);
}

/// Drop what is less likely than `bound`, but never the most likely token.
fn cut(kept: &mut Vec<(u32, f64)>, bound: f64) {
    let best = kept.iter().map(|w| w.1).fold(0.0, f64::max);
    kept.retain(|w| w.1 >= bound || w.1 == best);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The lazy ranking is the full sort, ties, zeros, infinities and NaN included, in whatever steps it is read.
        #[test]
        fn ranking_is_a_sort(
            scores in prop::collection::vec(prop_oneof![any::<f32>(), (-3i8..3).prop_map(f32::from), Just(-0.0), Just(f32::NEG_INFINITY)], 1..900),
            steps in prop::collection::vec(0usize..900, 0..6),
        ) {
            let mut sorted: Vec<usize> = (0..scores.len()).collect();
            sorted.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
            let mut ranking = Ranking::new(scores.iter().copied());
            for step in steps {
                prop_assert_eq!(ranking.get(step), sorted.get(step).copied());
                prop_assert!(ranking.first(step).eq(sorted.iter().copied().take(step)));
            }
        }
    }

    #[test]
    fn a_short_nucleus_leaves_the_vocabulary_unsorted() {
        let mut ranking = Ranking::new((0..100_000).map(|i| (i % 977) as f32));
        for rank in 0..64 {
            ranking.get(rank);
        }
        assert_eq!(ranking.sorted, 64);
    }
}
