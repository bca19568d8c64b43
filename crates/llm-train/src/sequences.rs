//! Sequences of different lengths as one packed row: no padding, no leaks between neighbours.
//!
//! Legend: N input tokens of all sequences together, M of them trained, D hidden.

use llm_arch::{Decoder, PackedBatch};
use llm_tensor::burn::tensor::Tensor;
use llm_tensor::ops::{self, Indices};

/// Token ids and, for each, whether predicting it is trained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sequence {
    /// Ids.
    pub ids: Vec<u32>,
    /// `loss_mask[i]`: is `ids[i]` a target?
    pub loss_mask: Vec<bool>,
}

/// A ragged batch.
#[derive(Debug, Clone)]
pub struct Sequences {
    /// Inputs.
    pub batch: PackedBatch,
    /// `[M]` input positions whose next token is trained.
    pub rows: Indices,
    /// `[M]` that next token.
    pub targets: Indices,
    /// `[M]` index of the sequence it belongs to.
    pub owner: Vec<usize>,
}

impl Sequences {
    /// Pack; a sequence of n ids gives n - 1 inputs, one of fewer than two ids gives none.
    pub fn pack<'a>(sequences: impl IntoIterator<Item = &'a Sequence>) -> Self {
        let (mut ids, mut starts) = (Vec::new(), Vec::new());
        let (mut rows, mut targets, mut owner) = (Vec::new(), Vec::new(), Vec::new());
        for (i, sequence) in sequences.into_iter().enumerate() {
            let n = sequence.ids.len().saturating_sub(1);
            if n == 0 {
                continue;
            }
            starts.push(ids.len() as u32);
            for t in 0..n {
                if sequence.loss_mask[t + 1] {
                    rows.push(ids.len() as u32);
                    targets.push(sequence.ids[t + 1]);
                    owner.push(i);
                }
                ids.push(sequence.ids[t]);
            }
        }
        let length = ids.len();
        Self { batch: PackedBatch::documents(ids, &[&starts], length), rows: rows.into(), targets: targets.into(), owner }
    }

    /// Number of trained targets.
    pub fn trained(&self) -> usize {
        self.targets.len()
    }

    /// `[M]` negative log-likelihoods of the targets. The output projection, a third of a small model's work, is computed for
    /// the trained positions only.
    pub fn nll(&self, model: &Decoder) -> Tensor<1> {
        self.nll_of(model, model.hidden(&self.batch))
    }

    /// [`Sequences::nll`] from final hidden states `[N, D]`.
    pub fn nll_of(&self, model: &Decoder, hidden_ND: Tensor<2>) -> Tensor<1> {
        model.nll(ops::embedding(hidden_ND, self.rows.clone()), self.targets.clone())
    }
}

/// Cut a list into groups of at most `budget` tokens (at least one sequence each), in order.
pub fn groups(sequences: &[Sequence], budget: usize) -> Vec<&[Sequence]> {
    let (mut out, mut from, mut tokens) = (Vec::new(), 0, 0);
    for (i, sequence) in sequences.iter().enumerate() {
        if i > from && tokens + sequence.ids.len() > budget {
            out.push(&sequences[from..i]);
            (from, tokens) = (i, 0);
        }
        tokens += sequence.ids.len();
    }
    if from < sequences.len() {
        out.push(&sequences[from..]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sequence(ids: &[u32], mask: &[u8]) -> Sequence {
        Sequence { ids: ids.to_vec(), loss_mask: mask.iter().map(|&m| m == 1).collect() }
    }

    #[test]
    fn targets_are_the_next_trained_tokens_of_the_same_sequence() {
        let packed = Sequences::pack(&[sequence(&[1, 2, 3], &[0, 0, 1]), sequence(&[9], &[1]), sequence(&[4, 5], &[0, 1])]);
        assert_eq!(&*packed.batch.ids, &[1, 2, 4]);
        assert_eq!((&*packed.rows, &*packed.targets), (&[1, 2][..], &[3, 5][..]));
        assert_eq!(&*packed.batch.positions, &[0, 1, 0]);
        assert_eq!((packed.trained(), packed.owner.as_slice()), (2, &[0, 2][..]));
    }

    proptest! {
        #[test]
        fn groups_keep_order_and_budget(lengths in prop::collection::vec(1usize..30, 0..40), budget in 1usize..60) {
            let sequences: Vec<_> = lengths.iter().enumerate().map(|(i, &n)| sequence(&vec![i as u32; n], &vec![1; n])).collect();
            let groups = groups(&sequences, budget);
            prop_assert_eq!(&groups.concat(), &sequences);
            for group in groups {
                prop_assert!(group.len() == 1 || group.iter().map(|s| s.ids.len()).sum::<usize>() <= budget);
            }
        }
    }
}
