//! Sequences of different lengths as one packed row: no padding, no leaks between neighbours.
//!
//! Legend: N tokens of all sequences together.

use llm_arch::PackedBatch;
use llm_tensor::ops::{IGNORE, Indices};

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
    /// `[N]` next tokens where trained, [`IGNORE`] elsewhere.
    pub targets: Indices,
    /// Number of trained targets.
    pub trained: usize,
    /// Index of the sequence each input token belongs to, `[N]`.
    pub owner: Vec<usize>,
}

impl Sequences {
    /// Pack; a sequence of n ids gives n - 1 inputs, one of fewer than two ids gives none.
    pub fn pack<'a>(sequences: impl IntoIterator<Item = &'a Sequence>) -> Self {
        let (mut ids, mut targets, mut starts, mut owner) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (i, sequence) in sequences.into_iter().enumerate() {
            let n = sequence.ids.len().saturating_sub(1);
            if n == 0 {
                continue;
            }
            starts.push(ids.len() as u32);
            ids.extend_from_slice(&sequence.ids[..n]);
            targets.extend(sequence.ids[1..].iter().zip(&sequence.loss_mask[1..]).map(|(&id, &trained)| if trained { id } else { IGNORE }));
            owner.extend(std::iter::repeat_n(i, n));
        }
        let trained = targets.iter().filter(|&&t| t != IGNORE).count();
        let length = ids.len();
        Self { batch: PackedBatch::documents(ids, &[&starts], length), targets: targets.into(), trained, owner }
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
        assert_eq!(&*packed.targets, &[IGNORE, 3, 5]);
        assert_eq!(&*packed.batch.positions, &[0, 1, 0]);
        assert_eq!((packed.trained, packed.owner.as_slice()), (2, &[0, 0, 2][..]));
    }

    proptest! {
        #[test]
        fn groups_keep_order_and_budget(lengths in prop::collection::vec(1usize..30, 0..40), budget in 1usize..60) {
            let sequences: Vec<_> = lengths.iter().enumerate().map(|(i, &n)| sequence(&vec![i as u32; n], &vec![1; n])).collect();
            let groups = groups(&sequences, budget);
            prop_assert_eq!(groups.concat(), sequences);
            for group in groups {
                prop_assert!(group.len() == 1 || group.iter().map(|s| s.ids.len()).sum::<usize>() <= budget);
            }
        }
    }
}
