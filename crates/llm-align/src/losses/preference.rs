//! Losses on pairs of answers with a reference model: DPO (Rafailov et al. 2023) and its variants, by explicit name.
//!
//! The formulas are those of TRL's `dpo_trainer.py`, and of OpenRLHF's `loss.py` where the name says so or TRL has none (`cdpo`). All take
//! sums of log-probabilities over the tokens of an answer. Most see a pair only through `d`, the difference of the two scores; a score is the
//! log-ratio `log pi - log ref`, or what an f-divergence other than the reverse KL makes of it (Wang et al. 2024, Beyond Reverse KL).
//!
//! Two things differ between implementations and are spelled out:
//! - IPO: `ipo_trl` averages each log-ratio over its answer, `ipo_openrlhf` (and the paper) does not.
//! - Label smoothing: TRL's `sigmoid` ignores it; the smoothed loss is `cdpo`.
//!
//! Legend: B pairs.

use super::reference_free;
use llm_tensor::burn::tensor::activation::{log_sigmoid, relu, sigmoid};
use llm_tensor::burn::tensor::{Int, Tensor, TensorData};
use llm_tensor::host;
use serde::{Deserialize, Serialize};

/// Losses on pairs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PreferenceLoss {
    /// DPO: `-log sigmoid(beta d)`.
    #[default]
    Sigmoid,
    /// Conservative DPO (Mitchell 2023): labels are wrong with probability `label_smoothing`.
    Cdpo,
    /// Robust DPO (Chowdhury et al. 2024): the same noise, unbiased.
    Robust,
    /// SLiC (Zhao et al. 2023): `max(0, 1 - beta d)`.
    Hinge,
    /// IPO (Azar et al. 2023) with log-ratios per token, as TRL.
    IpoTrl,
    /// IPO with log-ratios of whole answers, as OpenRLHF.
    IpoOpenrlhf,
    /// SPPO with hard labels (Wu et al. 2024).
    SppoHard,
    /// NCA for pairs (Chen et al. 2024).
    NcaPair,
    /// BCO without its shift (Jung et al. 2024).
    BcoPair,
    /// APO-zero (D'Oosterlinck et al. 2024, equation 7): chosen up, rejected down.
    ApoZero,
    /// APO-down (equation 8): chosen down, rejected further down.
    ApoDown,
    /// EXO (Ji et al. 2024, equation 16); `label_smoothing` is its epsilon.
    ExoPair,
    /// DiscoPOP (Lu et al. 2024, equation 5).
    Discopop,
    /// DPO with log-ratios per token (Tulu 3's `dpo_norm`).
    SigmoidNorm,
    /// AOT (Melnyk et al. 2024): log-ratios of policy and reference sorted in the batch.
    Aot,
    /// AOT for answers that do not belong together: those of chosen and rejected sorted in the batch.
    AotUnpaired,
    /// Likelihood of the chosen answer alone.
    Sft,
    /// ORPO: odds ratio and likelihood of the chosen answer; no reference.
    Orpo,
    /// SimPO: log-probabilities per token with a target margin; no reference.
    Simpo,
    /// CPO: DPO without reference, and `cpo_alpha` times the likelihood of the chosen answer.
    Cpo,
}

/// What turns a log-ratio into a score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FDivergence {
    /// The log-ratio itself.
    #[default]
    ReverseKl,
    /// `-exp(-r)`.
    ForwardKl,
    /// `log sigmoid(r)`.
    #[serde(alias = "js")]
    JsDivergence,
    /// `exp((a - 1) r) / (a - 1)` with a = `f_alpha_divergence_coef`.
    #[serde(alias = "alpha")]
    AlphaDivergence,
}

/// Numbers in the losses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Parameters {
    /// Inverse temperature; IPO's tau, ORPO's lambda.
    pub beta: f64,
    /// Probability that a label is wrong; EXO's epsilon.
    pub label_smoothing: f64,
    /// Temperature of DiscoPOP's modulation.
    pub discopop_tau: f64,
    /// SimPO's target margin, in units of `beta` times log-probability per token.
    pub simpo_gamma: f64,
    /// Weight of the likelihood in CPO.
    pub cpo_alpha: f64,
    /// Scores.
    pub f_divergence: FDivergence,
    /// Alpha of [`FDivergence::AlphaDivergence`].
    pub f_alpha_divergence_coef: f64,
}

/// TRL's defaults.
impl Default for Parameters {
    fn default() -> Self {
        Self {
            beta: 0.1,
            label_smoothing: 0.0,
            discopop_tau: 0.05,
            simpo_gamma: 0.5,
            cpo_alpha: 1.0,
            f_divergence: FDivergence::ReverseKl,
            f_alpha_divergence_coef: 0.5,
        }
    }
}

/// Sums of log-probabilities of a batch of pairs, each `[B]`, and the numbers of tokens summed.
#[derive(Debug, Clone)]
pub struct Pairs {
    /// Policy, chosen answer.
    pub chosen_B: Tensor<1>,
    /// Policy, rejected answer.
    pub rejected_B: Tensor<1>,
    /// Reference, chosen answer; not read by losses without reference.
    pub reference_chosen_B: Tensor<1>,
    /// Reference, rejected answer.
    pub reference_rejected_B: Tensor<1>,
    /// Tokens of the chosen answer.
    pub chosen_lengths_B: Tensor<1>,
    /// Tokens of the rejected answer.
    pub rejected_lengths_B: Tensor<1>,
}

impl Pairs {
    /// From interleaved numbers `[2 B]`: chosen, rejected, chosen, ... The last two carry no gradient.
    pub fn interleaved(policy: Tensor<1>, reference: Tensor<1>, lengths: Tensor<1>) -> Self {
        let [chosen_B, rejected_B] = halves(policy);
        let [reference_chosen_B, reference_rejected_B] = halves(reference);
        let [chosen_lengths_B, rejected_lengths_B] = halves(lengths);
        Self { chosen_B, rejected_B, reference_chosen_B, reference_rejected_B, chosen_lengths_B, rejected_lengths_B }
    }

    /// `log pi - log ref` of chosen and rejected.
    pub fn logratios(&self) -> [Tensor<1>; 2] {
        [self.chosen_B.clone() - self.reference_chosen_B.clone(), self.rejected_B.clone() - self.reference_rejected_B.clone()]
    }

    /// Each divided by the length of its answer.
    fn per_token(&self, chosen_B: Tensor<1>, rejected_B: Tensor<1>) -> [Tensor<1>; 2] {
        [chosen_B / self.chosen_lengths_B.clone(), rejected_B / self.rejected_lengths_B.clone()]
    }
}

/// Every other number `[B]` of `[2 B]`, from the first and from the second.
pub fn halves(x: Tensor<1>) -> [Tensor<1>; 2] {
    let n = x.dims()[0] / 2;
    let x_B2 = x.reshape([n, 2]);
    [0, 1].map(|i| x_B2.clone().slice([0..n, i..i + 1]).reshape([n]))
}

/// `-(1 - e) log sigmoid(x) - e log sigmoid(-x)`.
pub(super) fn smoothed(x_B: Tensor<1>, e: f64) -> Tensor<1> {
    if e == 0.0 {
        return log_sigmoid(x_B).neg();
    }
    log_sigmoid(x_B.clone()).mul_scalar(e - 1.0) - log_sigmoid(x_B.neg()).mul_scalar(e)
}

/// Exponents of the alpha divergence end here, so that `exp` stays a number.
const LARGEST_EXPONENT: f64 = 80.0;

/// Score of a log-ratio under the divergence, constants dropped.
fn score(r_B: Tensor<1>, p: &Parameters) -> Tensor<1> {
    match p.f_divergence {
        FDivergence::ReverseKl => r_B,
        FDivergence::ForwardKl => r_B.neg().exp().neg(),
        FDivergence::JsDivergence => log_sigmoid(r_B),
        FDivergence::AlphaDivergence => {
            let a = p.f_alpha_divergence_coef - 1.0;
            // The limit at alpha = 1 is the reverse KL.
            if a.abs() < 1e-6 { r_B } else { r_B.mul_scalar(a).clamp_max(LARGEST_EXPONENT).exp().div_scalar(a) }
        }
    }
}

/// Ascending. The order comes from the host; gradients find their way back to where a number stood.
fn sorted(x_B: Tensor<1>) -> Tensor<1> {
    let values = host::to_vec(x_B.clone().inner());
    let mut order: Vec<i32> = (0..values.len() as i32).collect();
    order.sort_by(|&a, &b| values[a as usize].total_cmp(&values[b as usize]));
    let n = order.len();
    let order_B = Tensor::<1, Int>::from_data(TensorData::new(order, [n]), &x_B.device());
    x_B.select(0, order_B)
}

impl PreferenceLoss {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::Sigmoid,
        Self::Cdpo,
        Self::Robust,
        Self::Hinge,
        Self::IpoTrl,
        Self::IpoOpenrlhf,
        Self::SppoHard,
        Self::NcaPair,
        Self::BcoPair,
        Self::ApoZero,
        Self::ApoDown,
        Self::ExoPair,
        Self::Discopop,
        Self::SigmoidNorm,
        Self::Aot,
        Self::AotUnpaired,
        Self::Sft,
        Self::Orpo,
        Self::Simpo,
        Self::Cpo,
    ];

    /// The name in a configuration.
    pub fn name(self) -> String {
        serde_json::to_value(self).ok().and_then(|v| v.as_str().map(str::to_string)).unwrap_or_default()
    }

    /// Does it compare with a reference model?
    pub fn needs_reference(self) -> bool {
        !matches!(self, Self::Sft | Self::Orpo | Self::Simpo | Self::Cpo)
    }

    /// Does the loss of a pair depend on the other pairs of the batch? Then a step is one micro-batch.
    pub fn couples_pairs(self) -> bool {
        matches!(self, Self::Aot | Self::AotUnpaired)
    }

    /// Does `label_smoothing` change it?
    pub fn reads_label_smoothing(self) -> bool {
        matches!(self, Self::Cdpo | Self::Robust | Self::ExoPair | Self::Aot | Self::AotUnpaired | Self::Simpo | Self::Cpo)
    }

    /// Does the divergence change it?
    pub fn reads_f_divergence(self) -> bool {
        self.needs_reference() && !matches!(self, Self::Aot | Self::AotUnpaired | Self::ApoZero)
    }

    /// Are log-probabilities without reference compared per token?
    pub fn averages_log_probs(self) -> bool {
        matches!(self, Self::Orpo | Self::Simpo)
    }

    /// Weight of the negative log-likelihood of the chosen answers (mean over their tokens), which is part of some losses.
    pub fn nll_weight(self, p: &Parameters) -> f64 {
        match self {
            Self::Sft | Self::Orpo => 1.0,
            Self::Cpo => p.cpo_alpha,
            _ => 0.0,
        }
    }

    /// Loss of each pair `[B]`, without the likelihood of [`PreferenceLoss::nll_weight`].
    pub fn per_pair(self, pairs: &Pairs, p: &Parameters) -> Tensor<1> {
        let (beta, e) = (p.beta, p.label_smoothing);
        let [chosen_r_B, rejected_r_B] = pairs.logratios();
        let scores = || [score(chosen_r_B.clone(), p), score(rejected_r_B.clone(), p)];
        // beta d
        let logits = || {
            let [chosen_B, rejected_B] = scores();
            (chosen_B - rejected_B).mul_scalar(beta)
        };
        let rewards = || scores().map(|score_B| score_B.mul_scalar(beta));
        let per_token_difference = || {
            let [chosen_B, rejected_B] = scores();
            let [chosen_B, rejected_B] = pairs.per_token(chosen_B, rejected_B);
            chosen_B - rejected_B
        };
        let mean_log_probs = || pairs.per_token(pairs.chosen_B.clone(), pairs.rejected_B.clone());
        match self {
            Self::Sigmoid => log_sigmoid(logits()).neg(),
            Self::Cdpo => smoothed(logits(), e),
            Self::Robust => {
                let x_B = logits();
                let (right_B, wrong_B) = (log_sigmoid(x_B.clone()), log_sigmoid(x_B.neg()));
                (wrong_B.mul_scalar(e) - right_B.mul_scalar(1.0 - e)).div_scalar(1.0 - 2.0 * e)
            }
            Self::Hinge => relu(logits().neg().add_scalar(1.0)),
            Self::IpoTrl => per_token_difference().sub_scalar(0.5 / beta).square(),
            Self::IpoOpenrlhf => {
                let [chosen_B, rejected_B] = scores();
                (chosen_B - rejected_B).sub_scalar(0.5 / beta).square()
            }
            Self::SppoHard => {
                let [chosen_B, rejected_B] = scores();
                chosen_B.sub_scalar(0.5 / beta).square() + rejected_B.add_scalar(0.5 / beta).square()
            }
            Self::NcaPair => {
                let [chosen_B, rejected_B] = rewards();
                let pulled_B = log_sigmoid(chosen_B.clone().neg()) + log_sigmoid(rejected_B.neg());
                log_sigmoid(chosen_B).neg() - pulled_B.mul_scalar(0.5)
            }
            Self::BcoPair => {
                let [chosen_B, rejected_B] = rewards();
                (log_sigmoid(chosen_B) + log_sigmoid(rejected_B.neg())).neg()
            }
            Self::ApoZero => {
                let (chosen_B, rejected_B) = (chosen_r_B.clone().mul_scalar(beta), rejected_r_B.clone().mul_scalar(beta));
                (sigmoid(rejected_B) - sigmoid(chosen_B)).add_scalar(1.0)
            }
            Self::ApoDown => (sigmoid(chosen_r_B.clone().mul_scalar(beta)) - sigmoid(logits())).add_scalar(1.0),
            Self::ExoPair => {
                let x_B = logits();
                let (win_B, lose_B) = (log_sigmoid(x_B.clone()), log_sigmoid(x_B.neg()));
                let (log_win, log_lose) = ((-e).ln_1p(), e.ln());
                win_B.clone().exp() * win_B.sub_scalar(log_win) + lose_B.clone().exp() * lose_B.sub_scalar(log_lose)
            }
            Self::Discopop => {
                let x_B = logits();
                let modulation_B = sigmoid(x_B.clone().div_scalar(p.discopop_tau));
                let logistic_B = log_sigmoid(x_B.clone()).neg();
                logistic_B.clone() + (x_B.neg().exp() - logistic_B) * modulation_B
            }
            Self::SigmoidNorm => log_sigmoid(per_token_difference().mul_scalar(beta)).neg(),
            Self::Aot => {
                let policy_B = sorted(pairs.chosen_B.clone() - pairs.rejected_B.clone());
                let reference_B = sorted(pairs.reference_chosen_B.clone() - pairs.reference_rejected_B.clone());
                smoothed((policy_B - reference_B).mul_scalar(beta), e)
            }
            Self::AotUnpaired => {
                let (chosen_B, rejected_B) = (sorted(chosen_r_B.clone()), sorted(rejected_r_B.clone()));
                smoothed((chosen_B - rejected_B).mul_scalar(beta), e)
            }
            Self::Sft => pairs.chosen_B.zeros_like(),
            Self::Orpo => {
                let [chosen_B, rejected_B] = mean_log_probs();
                reference_free::orpo(chosen_B, rejected_B, beta)
            }
            Self::Simpo => {
                let [chosen_B, rejected_B] = mean_log_probs();
                reference_free::simpo(chosen_B, rejected_B, beta, p.simpo_gamma, e)
            }
            Self::Cpo => reference_free::cpo(pairs.chosen_B.clone(), pairs.rejected_B.clone(), beta, e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llm_tensor::burn::tensor::Device;
    use proptest::prelude::*;

    fn pairs(numbers: &[[f32; 4]]) -> Pairs {
        let column = |i: usize| host::from_vec(numbers.iter().map(|n| n[i]).collect(), [numbers.len()], &Device::flex());
        let lengths = || host::from_vec(vec![7.0; numbers.len()], [numbers.len()], &Device::flex());
        Pairs {
            chosen_B: column(0),
            rejected_B: column(1),
            reference_chosen_B: column(2),
            reference_rejected_B: column(3),
            chosen_lengths_B: lengths(),
            rejected_lengths_B: lengths(),
        }
    }

    fn values(loss: PreferenceLoss, numbers: &[[f32; 4]], p: &Parameters) -> Vec<f32> {
        host::to_vec(loss.per_pair(&pairs(numbers), p))
    }

    #[test]
    fn names_are_those_of_a_configuration() {
        let names: Vec<String> = PreferenceLoss::ALL.iter().map(|loss| loss.name()).collect();
        for name in ["sigmoid", "ipo_trl", "ipo_openrlhf", "exo_pair", "discopop", "sigmoid_norm", "aot_unpaired", "apo_zero", "simpo"] {
            assert!(names.iter().any(|n| n == name), "{name} is not in {names:?}");
        }
        assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), names.len());
        let js: FDivergence = serde_json::from_str("\"js\"").unwrap();
        assert_eq!((js, serde_json::to_string(&js).unwrap().as_str()), (FDivergence::JsDivergence, "\"js_divergence\""));
    }

    /// If this fails, a divergence that must fall back to standard DPO in a limit does not.
    #[test]
    fn alpha_divergence_at_one_is_the_reverse_kl() {
        let numbers = [[-4.0, -6.0, -5.0, -5.5], [-9.0, -3.0, -8.0, -3.5]];
        let reverse = values(PreferenceLoss::Sigmoid, &numbers, &Parameters::default());
        let near = |coef: f64| {
            let p = Parameters { f_divergence: FDivergence::AlphaDivergence, f_alpha_divergence_coef: coef, ..Parameters::default() };
            values(PreferenceLoss::Sigmoid, &numbers, &p)
        };
        assert_eq!(near(1.0), reverse);
        // exp((a - 1) r) / (a - 1) differs from r by a constant, which cancels, and by terms of order a - 1.
        for (a, b) in near(1.001).iter().zip(&reverse) {
            assert!((a - b).abs() < 1e-3, "{a} {b}");
        }
    }

    proptest! {
        /// With a single pair sorting does nothing: AOT is cDPO. If this fails, sorting mixes up the two models.
        #[test]
        fn aot_of_one_pair_is_cdpo(numbers in prop::array::uniform4(-40f32..-1.0), e in 0.0f64..0.4) {
            let p = Parameters { label_smoothing: e, ..Parameters::default() };
            let want = values(PreferenceLoss::Cdpo, &[numbers], &p)[0];
            for loss in [PreferenceLoss::Aot, PreferenceLoss::AotUnpaired] {
                let got = values(loss, &[numbers], &p)[0];
                prop_assert!((got - want).abs() < 1e-4 * want.abs().max(1.0), "{} {got} {want}", loss.name());
            }
        }

        /// Without noise the smoothed variants are DPO.
        #[test]
        fn without_noise_cdpo_and_robust_are_dpo(numbers in prop::collection::vec(prop::array::uniform4(-40f32..-1.0), 1..6)) {
            let p = Parameters::default();
            let want = values(PreferenceLoss::Sigmoid, &numbers, &p);
            prop_assert_eq!(&values(PreferenceLoss::Cdpo, &numbers, &p), &want);
            for (got, want) in values(PreferenceLoss::Robust, &numbers, &p).iter().zip(&want) {
                prop_assert!((got - want).abs() < 1e-5);
            }
        }

        /// AOT does not care which answer belongs to which prompt.
        #[test]
        fn unpaired_aot_sees_sets(numbers in prop::collection::vec(prop::array::uniform4(-40f32..-1.0), 2..6)) {
            let p = Parameters::default();
            let mut rotated = numbers.clone();
            let last = numbers.len() - 1;
            for (i, pair) in rotated.iter_mut().enumerate() {
                let other = numbers[if i == last { 0 } else { i + 1 }];
                (pair[1], pair[3]) = (other[1], other[3]);
            }
            let sum = |numbers: &[[f32; 4]]| values(PreferenceLoss::AotUnpaired, numbers, &p).iter().sum::<f32>();
            prop_assert!((sum(&numbers) - sum(&rotated)).abs() < 1e-3);
        }
    }
}
