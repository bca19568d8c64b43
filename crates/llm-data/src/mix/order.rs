//! The order: which document stands at which position, and at which position a document stands, both without a table.
//!
//! Draw `k` of `n` of a source stands at the fraction `(2k + 1) / 2n` of the stream; positions are the ranks of these
//! fractions. So a prefix of the stream holds of each source its share, give or take one document.

use llm_run::Seed;
use llm_run::seed::{permuted, unpermuted};

/// One document of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// Number of the source.
    pub source: usize,
    /// How often the source has been passed over before.
    pub pass: u64,
    /// The document's number in the source, in reading order.
    pub index: u64,
}

#[derive(Debug, Clone, Copy)]
struct Stream {
    seed: Seed,
    /// Documents there are.
    size: u64,
    /// Documents drawn.
    draws: u64,
}

/// The order of a whole mixture; a few numbers per source.
#[derive(Debug, Clone)]
pub struct Order {
    streams: Vec<Stream>,
}

impl Order {
    /// For sources of `(name, documents there are, documents drawn)`.
    pub fn new<'a>(seed: Seed, epoch: u64, sources: impl IntoIterator<Item = (&'a str, u64, u64)>) -> Self {
        let root = seed.stream("mix").at(epoch);
        let stream = |(name, size, draws): (&str, u64, u64)| Stream { seed: root.stream(name), size, draws: if size == 0 { 0 } else { draws } };
        Self { streams: sources.into_iter().map(stream).collect() }
    }

    /// Documents in the stream.
    pub fn len(&self) -> u64 {
        self.streams.iter().map(|s| s.draws).sum()
    }

    /// True when nothing is drawn.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Document `index` of pass `pass` of a source as the permutation orders them: draw number to document.
    pub fn document(&self, source: usize, draw: u64) -> Draw {
        let s = &self.streams[source];
        let (pass, at) = (draw / s.size, draw % s.size);
        Draw { source, pass, index: permuted(s.seed.at(pass), at, s.size) }
    }

    /// Rank of draw `k` of `source` among all draws.
    fn rank(&self, source: usize, k: u64) -> u64 {
        let own = &self.streams[source];
        let before = |(j, other): (usize, &Stream)| -> u64 {
            if j == source {
                return k;
            }
            // Odd numbers 2m + 1 with (2m + 1) * own.draws < (2k + 1) * other.draws; a tie goes to the source named first.
            let limit = (2 * u128::from(k) + 1) * u128::from(other.draws);
            let limit = if j < source { limit } else { limit.saturating_sub(1) };
            (limit / u128::from(own.draws)).div_ceil(2) as u64
        };
        self.streams.iter().enumerate().map(before).sum()
    }

    /// What stands at `position`; `None` past the end.
    pub fn at(&self, position: u64) -> Option<Draw> {
        for (source, s) in self.streams.iter().enumerate() {
            let (mut low, mut high) = (0, s.draws);
            while low < high {
                let middle = low + (high - low) / 2;
                match self.rank(source, middle).cmp(&position) {
                    std::cmp::Ordering::Equal => return Some(self.document(source, middle)),
                    std::cmp::Ordering::Less => low = middle + 1,
                    std::cmp::Ordering::Greater => high = middle,
                }
            }
        }
        None
    }

    /// Where document `index` of `source` stands: `(pass, position)` for every pass that draws it.
    pub fn positions(&self, source: usize, index: u64) -> Vec<(u64, u64)> {
        let s = &self.streams[source];
        let passes = if s.size == 0 { 0 } else { s.draws.div_ceil(s.size) };
        (0..passes)
            .map(|pass| (pass, pass * s.size + unpermuted(s.seed.at(pass), index, s.size)))
            .filter(|(_, draw)| *draw < s.draws)
            .map(|(pass, draw)| (pass, self.rank(source, draw)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn positions_and_documents_are_one_to_one(sizes in prop::collection::vec((1u64..40, 0u64..120), 1..5), seed: u64, epoch in 0u64..3) {
            let names = ["a", "b", "c", "d"];
            let order = Order::new(Seed(seed), epoch, sizes.iter().zip(names).map(|((size, draws), name)| (name, *size, *draws)));
            let draws: Vec<Draw> = (0..order.len()).map(|t| order.at(t).unwrap()).collect();
            prop_assert_eq!(order.at(order.len()), None);
            let mut counts = vec![0u64; sizes.len()];
            let mut seen = std::collections::HashSet::new();
            for (t, draw) in draws.iter().enumerate() {
                prop_assert!(seen.insert((draw.source, draw.pass, draw.index)), "twice");
                prop_assert!(order.positions(draw.source, draw.index).contains(&(draw.pass, t as u64)));
                counts[draw.source] += 1;
                // Every prefix has each source within one document of its share.
                for (count, (_, n)) in counts.iter().zip(&sizes) {
                    let share = *n as f64 * (t as f64 + 1.0) / order.len() as f64;
                    prop_assert!((*count as f64 - share).abs() <= sizes.len() as f64 / 2.0 + 0.5, "{} of {}", count, share);
                }
            }
            for (source, (size, n)) in sizes.iter().enumerate() {
                prop_assert_eq!(counts[source], *n);
                // A pass is complete before the next begins.
                let whole = n / size;
                for pass in 0..whole {
                    prop_assert_eq!(seen.iter().filter(|s| s.0 == source && s.1 == pass).count() as u64, *size);
                }
            }
        }
    }

    #[test]
    fn seed_and_epoch_name_the_order() {
        let of = |seed, epoch| {
            let order = Order::new(Seed(seed), epoch, [("a", 1000, 300), ("b", 10, 30)]);
            (0..330).map(|t| order.at(t).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(of(1, 0), of(1, 0));
        assert_ne!(of(1, 0), of(2, 0));
        assert_ne!(of(1, 0), of(1, 1));
        // Sources keep their order when another is added.
        let a = |order: &Order| (0..300).map(|k| order.document(0, k)).collect::<Vec<_>>();
        assert_eq!(a(&Order::new(Seed(1), 0, [("a", 1000, 300)])), a(&Order::new(Seed(1), 0, [("a", 1000, 300), ("b", 10, 30)])));
    }

    #[test]
    fn a_trillion_documents_need_no_table() {
        let order = Order::new(Seed(3), 0, [("web", 900_000_000_000, 1_000_000_000_000), ("code", 7_000_000_000, 21_000_000_001)]);
        for t in [0, 1, 999_999_999_999, order.len() - 1] {
            let draw = order.at(t).unwrap();
            assert!(order.positions(draw.source, draw.index).contains(&(draw.pass, t)));
        }
    }
}
