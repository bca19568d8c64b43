//! Losses on single answers that someone found good or bad: KTO (Ethayarajh et al. 2024, equation 7) and unpaired APO-zero (D'Oosterlinck
//! et al. 2024, equation 7), as in TRL's `kto_trainer.py`.
//!
//! KTO compares an answer's log-ratio with the KL divergence of the batch, estimated from prompts with the answers to *other* prompts. It is a
//! plain number here: no gradient flows through it.
//!
//! Legend: B answers.

use llm_tensor::burn::tensor::Tensor;
use llm_tensor::burn::tensor::activation::sigmoid;
use llm_tensor::host;
use serde::{Deserialize, Serialize};

/// Losses on single answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnpairedLoss {
    /// `1 - sigmoid(beta (r - KL))` for good answers, `1 - sigmoid(beta (KL - r))` for bad ones.
    #[default]
    Kto,
    /// The same with a KL of 0.
    ApoZeroUnpaired,
}

/// Numbers in the losses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parameters {
    /// Inverse temperature of the implicit reward.
    pub beta: f64,
    /// Weight of good answers.
    pub desirable_weight: f64,
    /// Weight of bad answers.
    pub undesirable_weight: f64,
}

/// The batch's KL estimate in nats: mean log-ratio of mismatched prompts and answers, not below 0.
pub fn kl(policy: &[f32], reference: &[f32]) -> f64 {
    let sum: f64 = policy.iter().zip(reference).map(|(p, r)| f64::from(*p) - f64::from(*r)).sum();
    let mean = sum / policy.len().max(1) as f64;
    // Not `max`, which would turn NaN into 0.
    if mean < 0.0 { 0.0 } else { mean }
}

/// Loss of each answer `[B]` from the log-ratios `log pi - log ref` of whole answers, whether each is `desirable`, and [`kl`].
pub fn per_answer(loss: UnpairedLoss, logratio_B: Tensor<1>, desirable: &[bool], kl: f64, p: &Parameters) -> Tensor<1> {
    let device = logratio_B.device();
    let constant = |of: &dyn Fn(bool) -> f64| {
        let values: Vec<f32> = desirable.iter().map(|&good| of(good) as f32).collect();
        let n = values.len();
        host::from_vec(values, [n], &device)
    };
    let sign_B = constant(&|good| if good { p.beta } else { -p.beta });
    let weight_B = constant(&|good| if good { p.desirable_weight } else { p.undesirable_weight });
    let kl = match loss {
        UnpairedLoss::Kto => kl,
        UnpairedLoss::ApoZeroUnpaired => 0.0,
    };
    let value_B = sigmoid(sign_B * logratio_B.sub_scalar(kl));
    weight_B * value_B.neg().add_scalar(1.0)
}
