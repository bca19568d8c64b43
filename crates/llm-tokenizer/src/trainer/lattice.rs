//! All ways to cut a string into pieces, and what a unigram model makes of them: expected counts (forward-backward) and the best way
//! (Viterbi). Kudo (2018), "Subword Regularization", arXiv 1804.10959, section 3.2. Everything is in logarithms.

use super::pair_hash::PairMap;

/// Stands for a character that no piece covers alone.
pub const UNKNOWN: u32 = u32::MAX;

/// Pieces by their characters.
#[derive(Debug)]
pub struct Trie {
    next: PairMap<u32>,
    /// The piece that ends at a node.
    ends: Vec<u32>,
}

impl Trie {
    /// Pieces are numbered in order.
    pub fn new<'p>(pieces: impl Iterator<Item = &'p str>) -> Self {
        let mut trie = Self { next: PairMap::default(), ends: vec![UNKNOWN] };
        for (id, piece) in (0..).zip(pieces) {
            let mut node = 0;
            for c in piece.chars() {
                let fresh = trie.ends.len() as u32;
                node = *trie.next.entry((node, c as u32)).or_insert(fresh);
                if node == fresh {
                    trie.ends.push(UNKNOWN);
                }
            }
            trie.ends[node as usize] = id;
        }
        trie
    }
}

/// A piece at a place.
#[derive(Debug, Clone, Copy)]
struct Edge {
    start: u32,
    end: u32,
    piece: u32,
    score: f64,
}

/// A string with its pieces; made once and filled again and again.
#[derive(Debug, Default)]
pub struct Lattice {
    chars: Vec<char>,
    /// In order of their starts.
    edges: Vec<Edge>,
    forward: Vec<f64>,
    backward: Vec<f64>,
    /// Best score up to each place, and the edge it comes by.
    best: Vec<(f64, u32)>,
    path: Vec<u32>,
}

impl Lattice {
    /// Find all pieces in `text`. Pieces whose score is minus infinity are left out; a character that is not a piece gets the score
    /// `unknown`.
    pub fn fill(&mut self, text: &str, trie: &Trie, scores: &[f64], unknown: f64) {
        self.chars.clear();
        self.chars.extend(text.chars());
        self.edges.clear();
        for start in 0..self.chars.len() {
            let mut node = 0;
            let mut alone = false;
            for (end, &c) in (start as u32 + 1..).zip(&self.chars[start..]) {
                let Some(&next) = trie.next.get(&(node, c as u32)) else { break };
                node = next;
                let piece = trie.ends[node as usize];
                let Some(&score) = scores.get(piece as usize).filter(|s| s.is_finite()) else { continue };
                alone |= end == start as u32 + 1;
                self.edges.push(Edge { start: start as u32, end, piece, score });
            }
            if !alone {
                self.edges.push(Edge { start: start as u32, end: start as u32 + 1, piece: UNKNOWN, score: unknown });
            }
        }
    }

    /// Add to `expected` how often each piece is expected in `count` occurrences of the text.
    pub fn expect(&mut self, count: f64, expected: &mut [f64]) {
        let length = self.chars.len();
        for (sums, at) in [(&mut self.forward, 0), (&mut self.backward, length)] {
            sums.clear();
            sums.resize(length + 1, f64::NEG_INFINITY);
            sums[at] = 0.0;
        }
        for edge in &self.edges {
            let through = self.forward[edge.start as usize] + edge.score;
            let end = &mut self.forward[edge.end as usize];
            *end = log_add(*end, through);
        }
        for edge in self.edges.iter().rev() {
            let through = self.backward[edge.end as usize] + edge.score;
            let start = &mut self.backward[edge.start as usize];
            *start = log_add(*start, through);
        }
        let all = self.forward[length];
        for edge in self.edges.iter().filter(|e| e.piece != UNKNOWN) {
            let through = self.forward[edge.start as usize] + edge.score + self.backward[edge.end as usize];
            expected[edge.piece as usize] += count * (through - all).exp();
        }
    }

    /// Pieces of the best cut, of equally good ones that whose last piece is longest. With `in_parts` the text as one piece does not
    /// count. `None` where there is no way.
    pub fn viterbi(&mut self, in_parts: bool) -> Option<&[u32]> {
        let length = self.chars.len();
        self.best.clear();
        self.best.resize(length + 1, (f64::NEG_INFINITY, u32::MAX));
        self.best[0].0 = 0.0;
        for (i, edge) in (0..).zip(&self.edges) {
            if in_parts && (edge.end - edge.start) as usize == length {
                continue;
            }
            let score = self.best[edge.start as usize].0 + edge.score;
            let best = &mut self.best[edge.end as usize];
            if score > best.0 {
                *best = (score, i);
            }
        }
        self.path.clear();
        let mut at = length;
        while at > 0 {
            let edge = self.edges.get(self.best[at].1 as usize)?;
            self.path.push(edge.piece);
            at = edge.start as usize;
        }
        self.path.reverse();
        Some(&self.path)
    }
}

/// Logarithm of the sum of two numbers given by their logarithms.
fn log_add(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    if low == f64::NEG_INFINITY { high } else { high + (low - high).exp().ln_1p() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every cut with its pieces and its score.
    fn cuts(text: &str, pieces: &[(String, f64)]) -> Vec<(Vec<u32>, f64)> {
        if text.is_empty() {
            return vec![(Vec::new(), 0.0)];
        }
        let mut all = Vec::new();
        for (id, (piece, score)) in pieces.iter().enumerate() {
            for (rest, more) in text.strip_prefix(piece.as_str()).map(|rest| cuts(rest, pieces)).unwrap_or_default() {
                all.push(([&[id as u32], &rest[..]].concat(), score + more));
            }
        }
        all
    }

    proptest! {
        #[test]
        fn sums_and_best_are_those_over_all_cuts(
            longer in prop::collection::btree_map("[ab]{2,4}", -9.0..-0.1f64, 0..8),
            text in "[ab]{1,9}",
        ) {
            let letters = [("a".to_string(), -2.0), ("b".to_string(), -3.0)];
            let pieces: Vec<(String, f64)> = letters.into_iter().chain(longer).collect();
            let scores: Vec<f64> = pieces.iter().map(|p| p.1).collect();
            let mut lattice = Lattice::default();
            lattice.fill(&text, &Trie::new(pieces.iter().map(|p| p.0.as_str())), &scores, -20.0);
            let mut expected = vec![0.0; pieces.len()];
            lattice.expect(3.0, &mut expected);
            let all = cuts(&text, &pieces);
            let sum: f64 = all.iter().map(|c| c.1.exp()).sum();
            for (id, &found) in expected.iter().enumerate() {
                let times = |cut: &[u32]| cut.iter().filter(|&&p| p as usize == id).count() as f64;
                let true_count = 3.0 * all.iter().map(|(cut, score)| times(cut) * score.exp()).sum::<f64>() / sum;
                prop_assert!((found - true_count).abs() < 1e-9);
            }
            for in_parts in [false, true] {
                let best = all.iter().filter(|c| !in_parts || c.0.len() > 1).map(|c| c.1).max_by(f64::total_cmp);
                let found = lattice.viterbi(in_parts).map(|path| path.iter().map(|&p| scores[p as usize]).sum::<f64>());
                prop_assert!(found.is_some() == best.is_some() && (found.unwrap_or(0.0) - best.unwrap_or(0.0)).abs() < 1e-9);
            }
        }
    }

    #[test]
    fn a_character_that_is_no_piece_is_passed_over() {
        let mut lattice = Lattice::default();
        lattice.fill("axb", &Trie::new(["a", "b", "ax"].into_iter()), &[-1.0, -1.0, f64::NEG_INFINITY], -11.0);
        assert_eq!(lattice.viterbi(false), Some(&[0, UNKNOWN, 1][..]));
        let mut expected = [0.0; 3];
        lattice.expect(2.0, &mut expected);
        assert_eq!(expected, [2.0, 2.0, 0.0]);
    }
}
