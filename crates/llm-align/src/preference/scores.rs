//! From packed sequences to one log-probability per answer.
//!
//! Legend: S answers, M trained tokens of all of them, N input tokens, R rows of a part, V vocabulary, D hidden.

use llm_arch::Decoder;
use llm_tensor::burn::tensor::Tensor;
use llm_tensor::{host, ops};
use llm_train::sequences::Sequences;

/// Logits that exist at a time where they are needed whole, in floats.
const LOGITS_AT_ONCE: usize = 1 << 21;

/// Sums `[S]` of per-token numbers `[M]` over the answer each token belongs to, differentiable. An answer without tokens has sum 0.
pub fn sums(x_M: Tensor<1>, owner: &[usize], answers: usize) -> Tensor<1> {
    let device = x_M.device();
    let m = owner.len();
    let mut counts = vec![0usize; answers];
    owner.iter().for_each(|&o| counts[o] += 1);
    let longest = counts.iter().copied().max().unwrap_or(0).max(1);
    // Answers as rows of equal length, filled up with a zero that stands behind the last token.
    let mut places = vec![m as u32; answers * longest];
    let mut next: Vec<usize> = (0..answers).map(|o| o * longest).collect();
    for (i, &o) in owner.iter().enumerate() {
        places[next[o]] = i as u32;
        next[o] += 1;
    }
    let table = Tensor::cat(vec![x_M, Tensor::zeros([1], &device)], 0).reshape([m + 1, 1]);
    ops::embedding(table, places.into()).reshape([answers, longest]).sum_dim(1).reshape([answers])
}

/// Trained tokens of each answer.
pub fn lengths(sequences: &Sequences, answers: usize) -> Vec<f32> {
    let mut lengths = vec![0f32; answers];
    sequences.owner.iter().for_each(|&o| lengths[o] += 1.0);
    lengths
}

/// Log-probabilities `[S]` of whole answers under a model without gradients, on the host.
pub fn of(model: &Decoder, sequences: &Sequences, answers: usize) -> Vec<f32> {
    host::to_vec(sums(sequences.nll(model).neg(), &sequences.owner, answers))
}

/// Weights `[S]` of WPO (Zhou et al. 2024, Weighted Preference Optimization, equation 2 with the alignment of section 3.3), as TRL's `use_weighting`:
/// the geometric mean over an answer's tokens of `p(token) / sum_v p(v)^2`. Without gradients; `log_p_M` are the tokens' log-probabilities.
pub fn wpo_weights(model: &Decoder, hidden_ND: Tensor<2>, log_p_M: Tensor<1>, sequences: &Sequences, answers: usize) -> Tensor<1> {
    let (model, hidden_ND, log_p_M) = (model.untracked(), hidden_ND.inner(), log_p_M.inner());
    let device = log_p_M.device();
    let hidden_MD = ops::embedding(hidden_ND, sequences.rows.clone());
    let [m, d] = hidden_MD.dims();
    let rows = (LOGITS_AT_ONCE / model.config().vocab_size.max(1)).max(1);
    let parts = (0..m).step_by(rows).map(|from| {
        let to = m.min(from + rows);
        let logits_RV = model.logits(hidden_MD.clone().slice([from..to, 0..d])).cast(log_p_M.dtype());
        let exp_RV = (logits_RV.clone() - logits_RV.max_dim(1)).exp();
        let (sum_R, squares_R) = (exp_RV.clone().sum_dim(1), exp_RV.square().sum_dim(1));
        (squares_R.log() - sum_R.log().mul_scalar(2.0)).reshape([to - from])
    });
    let parts: Vec<Tensor<1>> = parts.collect();
    if parts.is_empty() {
        return Tensor::ones([answers], &device);
    }
    let aligned_M = log_p_M - Tensor::cat(parts, 0);
    let lengths_S: Tensor<1> = host::from_vec(lengths(sequences, answers).into_iter().map(|n| n.max(1.0)).collect(), [answers], &device);
    (sums(aligned_M, &sequences.owner, answers) / lengths_S).exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_tensor::burn::tensor::Device;

    /// If this fails, tokens are counted for the wrong answer, or gradients reach the wrong token.
    #[test]
    fn sums_and_their_gradients_belong_to_the_owner() {
        let device = Device::flex().autodiff();
        let x = Tensor::<1>::from_inner(host::from_vec(vec![1.0, 2.0, 4.0, 8.0, 16.0], [5], &Device::flex())).require_grad();
        let got = sums(x.clone(), &[0, 0, 2, 2, 2], 4);
        assert_eq!(host::to_vec(got.clone().inner()), [3.0, 0.0, 28.0, 0.0]);
        let weights = Tensor::<1>::from_inner(host::from_vec(vec![1.0, 10.0, 100.0, 1000.0], [4], &device.inner()));
        let gradients = (got * weights).sum().backward();
        assert_eq!(host::to_vec(x.grad(&gradients).unwrap()), [1.0, 1.0, 100.0, 100.0, 100.0]);
    }
}
