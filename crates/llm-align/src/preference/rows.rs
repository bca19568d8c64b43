//! Encoded rows: one sequence each, or the chosen and the rejected answer of a pair; which of them a step takes, and how they are packed.

use llm_run::Seed;
use llm_run::seed::permuted;
use llm_train::sequences::{Sequence, Sequences};

/// Rows of a data file.
#[derive(Debug)]
pub(super) struct Rows {
    /// 1-based row in the file of each.
    pub numbers: Vec<usize>,
    /// `width` for each row, side by side.
    pub sequences: Vec<Sequence>,
    /// Answers of a row.
    pub width: usize,
}

impl Rows {
    /// Pairs: chosen first.
    pub fn pairs(pairs: Vec<(usize, (Sequence, Sequence))>) -> Self {
        let numbers = pairs.iter().map(|(row, _)| *row).collect();
        Self { numbers, sequences: pairs.into_iter().flat_map(|(_, (chosen, rejected))| [chosen, rejected]).collect(), width: 2 }
    }

    /// Single answers.
    pub fn single(rows: Vec<(usize, Sequence)>) -> Self {
        let (numbers, sequences) = rows.into_iter().unzip();
        Self { numbers, sequences, width: 1 }
    }

    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Keep the first `n`.
    pub fn truncate(&mut self, n: usize) {
        self.numbers.truncate(n);
        self.sequences.truncate(n * self.width);
    }

    /// Sequences of a row.
    pub fn of(&self, row: usize) -> &[Sequence] {
        &self.sequences[row * self.width..][..self.width]
    }

    fn tokens(&self, row: usize) -> usize {
        self.of(row).iter().map(|s| s.ids.len()).sum()
    }

    /// Tokens of a row and of an answer, on average.
    pub fn mean_tokens(&self) -> (f64, usize) {
        let total: usize = self.sequences.iter().map(|s| s.ids.len()).sum();
        (total as f64 / self.len().max(1) as f64, total / self.sequences.len().max(1))
    }

    /// Cut picked rows into groups of at most `budget` tokens, at least one row each, in order.
    pub fn groups(&self, picked: &[usize], budget: usize) -> Vec<Vec<usize>> {
        let (mut out, mut tokens) = (Vec::<Vec<usize>>::new(), 0);
        for &row in picked {
            let more = self.tokens(row);
            match out.last_mut() {
                Some(group) if tokens + more <= budget => {
                    group.push(row);
                    tokens += more;
                }
                _ => {
                    out.push(vec![row]);
                    tokens = more;
                }
            }
        }
        out
    }

    /// All answers of a group as one ragged batch.
    pub fn pack(&self, group: &[usize]) -> Sequences {
        Sequences::pack(group.iter().flat_map(|&row| self.of(row)))
    }
}

/// Which rows a step takes: another order in every pass over the data, a function of seed and step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub seed: Seed,
    pub rows: usize,
    pub batch_size: usize,
}

impl Order {
    /// Rows of 0-based `step`.
    pub fn picked(&self, step: u64) -> Vec<usize> {
        let (n, batch) = (self.rows as u64, self.batch_size as u64);
        (step * batch..(step + 1) * batch).map(|i| permuted(self.seed.at(i / n), i % n, n) as usize).collect()
    }

    /// Steps until every row has been taken.
    pub fn steps(&self) -> u64 {
        (self.rows as u64).div_ceil(self.batch_size as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows(lengths: &[usize]) -> Rows {
        let sequence = |n: usize| Sequence { ids: vec![1; n], loss_mask: vec![true; n] };
        Rows::pairs(lengths.iter().enumerate().map(|(i, &n)| (i + 1, (sequence(n), sequence(2)))).collect())
    }

    proptest! {
        /// If this fails, a pair is lost, seen twice, or torn apart.
        #[test]
        fn groups_keep_order_pairs_and_budget(lengths in prop::collection::vec(1usize..30, 1..30), budget in 1usize..80) {
            let rows = rows(&lengths);
            let picked: Vec<usize> = (0..lengths.len()).rev().collect();
            let groups = rows.groups(&picked, budget);
            prop_assert_eq!(groups.concat(), picked);
            for group in groups {
                prop_assert!(group.len() == 1 || group.iter().map(|&r| rows.tokens(r)).sum::<usize>() <= budget);
                let packed = rows.pack(&group);
                prop_assert!(packed.owner.iter().all(|&o| o < 2 * group.len()));
            }
        }

        #[test]
        fn a_pass_takes_every_row_once(rows in 1usize..50, batch_size in 1usize..9, seed: u64) {
            let order = Order { seed: Seed(seed), rows, batch_size };
            let mut taken: Vec<usize> = (0..order.steps()).flat_map(|s| order.picked(s)).take(rows).collect();
            taken.sort_unstable();
            prop_assert_eq!(taken, (0..rows).collect::<Vec<_>>());
        }
    }
}
