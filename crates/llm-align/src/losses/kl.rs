//! Estimates of the Kullback-Leibler divergence from a sampled token (Schulman, "Approximating KL divergence", 2020), in nats.
//!
//! With `d = log p - log q` of a token drawn from `p`, towards the reference `q`:
//!
//! | name | estimate | |
//! |---|---|---|
//! | `k1` | `d` | unbiased, high variance, may be negative |
//! | `k2` | `d^2 / 2` | biased, low variance; its gradient is that of the divergence |
//! | `k3` | `exp(-d) - 1 + d` | unbiased, low variance, never negative |
//!
//! TRL's GRPO trainer puts k3 into the loss, its PPO trainer k1 (or k3) into the rewards.

use llm_tensor::burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// Which estimate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlEstimator {
    /// `log p - log q`.
    #[default]
    K1,
    /// Half its square.
    K2,
    /// `q / p - 1 - log(q / p)`.
    K3,
}

impl KlEstimator {
    /// Token estimates `[M]`; gradients flow into `log_p_M`, and into `reference_M` if that is tracked.
    pub fn estimate(self, log_p_M: Tensor<1>, reference_M: Tensor<1>) -> Tensor<1> {
        match self {
            Self::K1 => log_p_M - reference_M,
            Self::K2 => (log_p_M - reference_M).square().mul_scalar(0.5),
            Self::K3 => {
                let back_M = reference_M - log_p_M;
                back_M.clone().exp() - back_M.add_scalar(1.0)
            }
        }
    }

    /// The estimate of one token, in double precision.
    pub fn of(self, log_p: f64, reference: f64) -> f64 {
        let d = log_p - reference;
        match self {
            Self::K1 => d,
            Self::K2 => 0.5 * d * d,
            Self::K3 => (-d).exp_m1() + d,
        }
    }
}

/// Rewards of the tokens of one answer: each pays `coefficient` times its divergence, the last gets the answer's score
/// (TRL, `ppo_trainer.py`; Ouyang et al., InstructGPT, 2022, equation 2). An answer without tokens has none.
pub fn shaped_rewards(estimator: KlEstimator, log_p: &[f32], reference: &[f32], score: f32, coefficient: f64) -> Vec<f32> {
    let pay = |(&p, &q): (&f32, &f32)| -coefficient * estimator.of(f64::from(p), f64::from(q));
    let mut rewards: Vec<f64> = log_p.iter().zip(reference).map(pay).collect();
    if let Some(last) = rewards.last_mut() {
        *last += f64::from(score);
    }
    rewards.into_iter().map(|r| r as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// If this fails, a penalty can be negative and pays the policy for leaving the reference.
        #[test]
        fn k2_and_k3_are_never_negative_and_zero_at_the_reference(p in -30f64..0.0, q in -30f64..0.0) {
            for estimator in [KlEstimator::K2, KlEstimator::K3] {
                prop_assert!(estimator.of(p, q) >= 0.0);
                prop_assert_eq!(estimator.of(p, p), 0.0);
            }
        }

        /// If this fails, k3 is biased: its mean over tokens drawn from p is not the divergence.
        #[test]
        fn k1_and_k3_have_the_divergence_as_their_mean(a in 0.01f64..0.99, b in 0.01f64..0.99) {
            let (p, q) = ([a, 1.0 - a], [b, 1.0 - b]);
            let exact: f64 = p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum();
            for estimator in [KlEstimator::K1, KlEstimator::K3] {
                let mean: f64 = p.iter().zip(q).map(|(p, q)| p * estimator.of(p.ln(), q.ln())).sum();
                prop_assert!((mean - exact).abs() < 1e-9, "{estimator:?}: {mean} is not {exact}");
            }
        }
    }

    #[test]
    fn the_score_is_paid_once_at_the_end() {
        let rewards = shaped_rewards(KlEstimator::K1, &[-1.0, -2.0], &[-1.5, -1.0], 3.0, 0.1);
        assert!((rewards[0] + 0.05).abs() < 1e-6 && (rewards[1] - 3.1).abs() < 1e-6, "{rewards:?}");
        assert!(shaped_rewards(KlEstimator::K1, &[], &[], 3.0, 0.1).is_empty());
    }
}
