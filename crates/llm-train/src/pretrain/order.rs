//! Which row stands where: a function of (seed, step) alone, also while annealing.

use super::config::PretrainConfig;
use llm_run::Seed;
use llm_run::seed::permuted;

/// A row of one of the two folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The annealing folder's.
    pub anneal: bool,
    /// Which row of it.
    pub row: usize,
}

/// The order of the rows.
#[derive(Debug, Clone, Copy)]
pub struct Order {
    seed: u64,
    batch_size: u64,
    /// Rows in the folders.
    rows: [u64; 2],
    /// The first step with rows of the annealing folder, and their share.
    anneal: Option<(u64, f64)>,
}

impl Order {
    /// Of folders with so many rows.
    pub fn new(config: &PretrainConfig, train: usize, anneal: usize) -> Self {
        let max_steps = config.trainer.max_steps;
        let first = |fraction: f64| max_steps - ((max_steps as f64 * fraction).round() as u64).min(max_steps);
        Self {
            seed: config.seed,
            batch_size: config.batch_size as u64,
            rows: [train as u64, anneal as u64],
            anneal: config.anneal.as_ref().map(|anneal| (first(anneal.fraction), anneal.share)),
        }
    }

    /// Rows of the annealing folder among the first `slots` of its steps. They are spread evenly.
    fn annealed(slots: u64, share: f64) -> u64 {
        (slots as f64 * share) as u64
    }

    /// Row `slot` of 0-based `step`. The rows of a folder are taken in an order of their own, anew in each pass over it.
    pub fn place(&self, step: u64, slot: u64) -> Place {
        let i = step * self.batch_size + slot;
        let Some((first, share)) = self.anneal.filter(|(first, _)| step >= *first) else { return self.nth(false, i) };
        let slots = i - first * self.batch_size;
        let before = Self::annealed(slots, share);
        if Self::annealed(slots + 1, share) > before { self.nth(true, before) } else { self.nth(false, i - before) }
    }

    /// Which share of a step's rows is from the annealing folder; none without one.
    pub fn share(&self, step: u64) -> Option<f64> {
        let (first, share) = self.anneal?;
        let until = |step: u64| Self::annealed(step.saturating_sub(first) * self.batch_size, share);
        Some((until(step + 1) - until(step)) as f64 / self.batch_size as f64)
    }

    fn nth(&self, anneal: bool, i: u64) -> Place {
        let n = self.rows[usize::from(anneal)].max(1);
        let order = Seed(self.seed).stream(if anneal { "annealing order" } else { "data order" });
        Place { anneal, row: permuted(order.at(i / n), i % n, n) as usize }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pretrain::AnnealConfig;
    use proptest::prelude::*;

    fn order(batch_size: usize, max_steps: u64, anneal: Option<(f64, f64)>) -> Order {
        let anneal = anneal.map(|(fraction, share)| AnnealConfig { train: "x".into(), fraction, share });
        let mut config = PretrainConfig { batch_size, anneal, seed: 7, ..PretrainConfig::default() };
        config.trainer.max_steps = max_steps;
        Order::new(&config, 1000, 300)
    }

    proptest! {
        /// No row is passed over and none comes twice in a pass, whatever is mixed in; and the share is what was asked for.
        #[test]
        fn both_folders_are_read_in_their_own_order(batch_size in 1usize..20, max_steps in 1u64..40, fraction in 0.01f64..1.0, share in 0.01f64..1.0) {
            let (plain, mixed) = (order(batch_size, max_steps, None), order(batch_size, max_steps, Some((fraction, share))));
            let places: Vec<Place> = (0..max_steps).flat_map(|s| (0..batch_size as u64).map(move |j| mixed.place(s, j))).collect();
            let own: Vec<usize> = places.iter().filter(|p| !p.anneal).map(|p| p.row).collect();
            let undisturbed: Vec<usize> = (0..own.len() as u64).map(|i| plain.place(i / batch_size as u64, i % batch_size as u64).row).collect();
            prop_assert_eq!(&own, &undisturbed);
            let other: Vec<usize> = places.iter().filter(|p| p.anneal).map(|p| p.row).take(300).collect();
            let mut distinct = other.clone();
            distinct.sort_unstable();
            distinct.dedup();
            prop_assert_eq!(distinct.len(), other.len());
            let steps = (max_steps as f64 * fraction).round() as u64;
            let total: f64 = (0..max_steps).map(|s| mixed.share(s).unwrap() * batch_size as f64).sum();
            prop_assert!((total - (steps * batch_size as u64) as f64 * share).abs() < 1.0 + 1e-6);
            for s in 0..max_steps {
                let counted = (0..batch_size as u64).filter(|&j| mixed.place(s, j).anneal).count() as f64 / batch_size as f64;
                prop_assert_eq!(counted, mixed.share(s).unwrap());
                prop_assert!(s >= max_steps - steps || counted == 0.0, "step {} is before the annealing", s);
            }
        }
    }
}
