//! The experts: tokens sorted by expert, one matrix product per expert and projection, and back.
//!
//! The sort is a counting sort on the host over the choices of the router. No expert touches a token that did not choose
//! it and there is no mask over experts, so time grows with `num_experts_per_tok`, not with `num_experts`.
//!
//! Legend: N tokens, K experts per token, M = N*K choices (fewer where some are dropped), D hidden, F expert width, E experts.

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use llm_tensor::ops::{self, Indices};
use llm_tensor::{burn, host};

/// Choices of a batch in the order of their experts.
#[derive(Debug, Clone, PartialEq)]
pub struct Grouping {
    /// Rows of each expert among the sorted choices: `offsets[e]..offsets[e + 1]`.
    pub offsets: Indices,
    /// `[M]`: the token of each sorted choice.
    pub token_of_row: Indices,
    /// `[N * K]`: the sorted place of each choice; 0 for one that was dropped.
    pub row_of_choice: Indices,
    /// `[N * K]`: 1 for a choice that is kept, 0 for one that is not; empty when all are.
    pub kept: Vec<f32>,
    /// `[E]`: choices per expert, the dropped ones included.
    pub counts: Vec<u64>,
    /// Choices beyond the capacity of their expert.
    pub dropped: usize,
}

impl Grouping {
    /// Sort `chosen [N * K]`, in the order of the tokens within an expert; an expert keeps its first `capacity` choices.
    pub fn new(chosen: &[u32], num_experts: usize, num_experts_per_tok: usize, capacity: Option<usize>) -> Self {
        let mut counts = vec![0u64; num_experts];
        chosen.iter().for_each(|&e| counts[e as usize] += 1);
        let limit = capacity.map_or(u64::MAX, |c| c as u64);
        let mut offsets = vec![0u32; num_experts + 1];
        for (e, &count) in counts.iter().enumerate() {
            offsets[e + 1] = offsets[e] + count.min(limit) as u32;
        }
        let rows = offsets[num_experts] as usize;
        let dropped = chosen.len() - rows;
        let mut next = offsets.clone();
        let mut token_of_row = vec![0u32; rows];
        let mut row_of_choice = vec![0u32; chosen.len()];
        let mut kept = if dropped > 0 { vec![1f32; chosen.len()] } else { Vec::new() };
        for (choice, &e) in chosen.iter().enumerate() {
            let e = e as usize;
            if next[e] < offsets[e + 1] {
                row_of_choice[choice] = next[e];
                token_of_row[next[e] as usize] = (choice / num_experts_per_tok) as u32;
                next[e] += 1;
            } else {
                kept[choice] = 0.0;
            }
        }
        Self { offsets: offsets.into(), token_of_row: token_of_row.into(), row_of_choice: row_of_choice.into(), kept, counts, dropped }
    }
}

/// SwiGLU feed-forwards, stacked.
#[derive(Module, Debug)]
pub struct Experts {
    /// `[E, F, D]`.
    pub gate_proj: Param<Tensor<3>>,
    /// `[E, F, D]`.
    pub up_proj: Param<Tensor<3>>,
    /// `[E, D, F]`.
    pub down_proj: Param<Tensor<3>>,
}

impl Experts {
    /// `[N, D]` -> `[N, D]`: the weighted sum over each token's experts; `weights` is `[N, K]`.
    pub fn forward(&self, x_ND: Tensor<2>, grouping: &Grouping, weights_NK: Tensor<2>) -> Tensor<2> {
        let [n, d] = x_ND.dims();
        let k = weights_NK.dims()[1];
        let offsets = &grouping.offsets;
        let x_MD = ops::embedding(x_ND, grouping.token_of_row.clone());
        let gate_MF = ops::grouped_linear(x_MD.clone(), self.gate_proj.val(), offsets.clone());
        let up_MF = ops::grouped_linear(x_MD, self.up_proj.val(), offsets.clone());
        let y_MD = ops::grouped_linear(ops::swiglu(gate_MF, up_MF), self.down_proj.val(), offsets.clone());
        let y_NKD = ops::embedding(y_MD, grouping.row_of_choice.clone()).reshape([n, k, d]);
        let weights_NK = if grouping.dropped > 0 {
            let device = weights_NK.device();
            weights_NK * host::from_vec(grouping.kept.clone(), [n, k], &device)
        } else {
            weights_NK
        };
        let weights_NK1 = weights_NK.cast(y_NKD.dtype()).reshape([n, k, 1]);
        (y_NKD * weights_NK1).sum_dim(1).reshape([n, d])
    }
}

#[cfg(test)]
mod tests {
    use super::Grouping;
    use proptest::prelude::*;

    #[test]
    fn a_full_expert_drops_the_later_tokens() {
        let grouping = Grouping::new(&[2, 0, 2, 1, 2, 0], 4, 2, Some(2));
        assert_eq!(&*grouping.offsets, [0, 2, 3, 5, 5]);
        assert_eq!(&*grouping.token_of_row, [0, 2, 1, 0, 1]);
        assert_eq!(grouping.kept, [1.0, 1.0, 1.0, 1.0, 0.0, 1.0], "the third choice of expert 2");
        assert_eq!((grouping.counts, grouping.dropped), (vec![2, 1, 3, 0], 1));
    }

    proptest! {
        #[test]
        fn places_are_a_permutation_that_keeps_the_order_of_tokens(chosen in prop::collection::vec(0u32..7, 0..60), k in 1usize..4) {
            let chosen = &chosen[..chosen.len() / k * k];
            let grouping = Grouping::new(chosen, 7, k, None);
            let mut places = grouping.row_of_choice.to_vec();
            places.sort_unstable();
            prop_assert_eq!(places, (0..chosen.len() as u32).collect::<Vec<_>>());
            for (choice, &row) in grouping.row_of_choice.iter().enumerate() {
                prop_assert_eq!(grouping.token_of_row[row as usize] as usize, choice / k);
                let e = chosen[choice] as usize;
                prop_assert!((grouping.offsets[e]..grouping.offsets[e + 1]).contains(&row));
            }
            for pair in grouping.offsets.windows(2) {
                prop_assert!(grouping.token_of_row[pair[0] as usize..pair[1] as usize].is_sorted());
            }
        }
    }
}
