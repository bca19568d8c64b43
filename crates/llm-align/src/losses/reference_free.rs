//! Losses on pairs that need no reference model: ORPO (Hong et al. 2024), SimPO (Meng et al. 2024), CPO (Xu et al. 2024), as in TRL's
//! `orpo_trainer.py` and `cpo_trainer.py`.
//!
//! ORPO and SimPO compare log-probabilities per token, CPO their sums. The part of ORPO and CPO that imitates the chosen answer is
//! [`PreferenceLoss::nll_weight`](super::preference::PreferenceLoss::nll_weight), because it is a mean over tokens and not over pairs. It counts
//! the tokens of the answer, as the papers have it; TRL's ORPO also counts those of the prompt.
//!
//! Legend: B pairs.

use super::preference::smoothed;
use llm_tensor::burn::tensor::Tensor;
use llm_tensor::burn::tensor::activation::log_sigmoid;

/// Log-probabilities per token are kept below this: at 0 the odds are infinite and have no gradient.
const MOST: f32 = -1e-6;

/// `log(1 - exp(x))` for negative x, exact where `exp(x)` is close to 1: `1 - e^x = (1 + e^x) tanh(-x / 2)`.
fn log1mexp(x_B: Tensor<1>) -> Tensor<1> {
    x_B.clone().exp().log1p() + x_B.mul_scalar(-0.5).tanh().log()
}

/// Log of the odds of the chosen answer over those of the rejected one, from log-probabilities per token (ORPO, equations 4 and 7).
pub fn log_odds(chosen_B: Tensor<1>, rejected_B: Tensor<1>) -> Tensor<1> {
    let (chosen_B, rejected_B) = (chosen_B.clamp_max(MOST), rejected_B.clamp_max(MOST));
    (chosen_B.clone() - rejected_B.clone()) - (log1mexp(chosen_B) - log1mexp(rejected_B))
}

/// ORPO's odds term, `-beta log sigmoid(log odds)`, from log-probabilities per token; the paper's lambda is `beta`.
pub fn orpo(chosen_B: Tensor<1>, rejected_B: Tensor<1>, beta: f64) -> Tensor<1> {
    log_sigmoid(log_odds(chosen_B, rejected_B)).mul_scalar(-beta)
}

/// SimPO: `-log sigmoid(beta (chosen - rejected) - gamma)` from log-probabilities per token.
pub fn simpo(chosen_B: Tensor<1>, rejected_B: Tensor<1>, beta: f64, gamma: f64, label_smoothing: f64) -> Tensor<1> {
    smoothed((chosen_B - rejected_B).mul_scalar(beta).sub_scalar(gamma), label_smoothing)
}

/// CPO: `-log sigmoid(beta (chosen - rejected))` from sums of log-probabilities.
pub fn cpo(chosen_B: Tensor<1>, rejected_B: Tensor<1>, beta: f64, label_smoothing: f64) -> Tensor<1> {
    smoothed((chosen_B - rejected_B).mul_scalar(beta), label_smoothing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_tensor::burn::tensor::Device;
    use llm_tensor::host;

    /// If this fails, ORPO is wrong for answers the model is nearly certain of, where `1 - exp(x)` has no digits left.
    #[test]
    fn log1mexp_keeps_its_digits_at_both_ends() {
        let x = [-1e-5f32, -1e-3, -0.1, -0.693, -2.0, -12.0];
        let got = host::to_vec(log1mexp(host::from_vec(x.to_vec(), [x.len()], &Device::flex())));
        for (x, got) in x.into_iter().zip(got) {
            let want = (-f64::from(x).exp_m1()).ln();
            assert!((f64::from(got) - want).abs() <= 5e-6 * want.abs().max(0.05), "{x}: {got} instead of {want}");
        }
    }
}
