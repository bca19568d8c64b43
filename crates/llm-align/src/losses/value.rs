//! The clipped loss of a value function (Schulman et al.'s PPO code, 2017; TRL, `ppo_trainer.py`): an estimate gains nothing by moving
//! further than `clip` from what it was when the answers were sampled.
//!
//! Legend: M answer tokens.

use llm_tensor::burn::tensor::Tensor;

/// Losses of the tokens of a batch.
#[derive(Debug)]
pub struct ValueLoss {
    /// `[M]`: `0.5 * max((v - R)^2, (clip(v, old - clip, old + clip) - R)^2)`.
    pub loss_M: Tensor<1>,
    /// `[M]`: 1 where the clipped estimate is the worse one, which has no gradient.
    pub clipped_M: Tensor<1>,
}

/// Losses of the estimates `values_M` towards `returns_M`; `old_M` are the estimates at sampling time, both without gradient.
pub fn clipped_value(values_M: Tensor<1>, old_M: Tensor<1>, returns_M: Tensor<1>, clip: f64) -> ValueLoss {
    let (low_M, high_M) = (old_M.clone().sub_scalar(clip), old_M.add_scalar(clip));
    let near_M = values_M.clone().min_pair(high_M).max_pair(low_M);
    let (plain_M, near_M) = ((values_M - returns_M.clone()).square(), (near_M - returns_M).square());
    let clipped_M = near_M.clone().greater(plain_M.clone()).float();
    ValueLoss { loss_M: plain_M.max_pair(near_M).mul_scalar(0.5), clipped_M }
}
