//! Settings of `llm-align dpo` and `llm-align kto`.

use super::reference::ReferenceLogProbs;
use crate::data::OnBadRow;
use crate::losses::kto::{self, UnpairedLoss};
use crate::losses::mix::LossMix;
use crate::losses::preference::{FDivergence, Parameters};
use crate::watchdog::WatchdogConfig;
use llm_arch::AdapterSpec;
use llm_tensor::DeviceSpec;
use llm_train::evaluation::EvaluationConfig;
use llm_train::recompute::Recompute;
use llm_train::{Error, Result, TrainerConfig};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `llm-align dpo`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DpoConfig {
    /// Model folder to start from.
    pub model: PathBuf,
    /// Model folder of the reference; empty is the start model.
    pub reference: PathBuf,
    /// Preference pairs to train on.
    pub train: PathBuf,
    /// Held-out pairs for validation; empty is none.
    pub heldout: PathBuf,
    /// A name ([`PreferenceLoss`](crate::losses::preference::PreferenceLoss)), or several with weights ([`LossMix`]).
    pub loss: LossMix,
    /// Inverse temperature of the implicit reward; IPO's tau, ORPO's lambda.
    pub beta: f64,
    /// Probability that a label is wrong, for losses that know one; EXO's epsilon.
    pub label_smoothing: f64,
    /// Weight of the chosen answers' negative log-likelihood beside the loss (RPO).
    #[serde(alias = "rpo_alpha")]
    pub sft_weight: f64,
    /// What turns a log-ratio into a score.
    pub f_divergence: FDivergence,
    /// Alpha of `f_divergence = "alpha_divergence"`.
    pub f_alpha_divergence_coef: f64,
    /// Temperature of `discopop`.
    pub discopop_tau: f64,
    /// Target margin of `simpo`.
    pub simpo_gamma: f64,
    /// Weight of the likelihood in `cpo`.
    pub cpo_alpha: f64,
    /// Weight pairs by how likely the policy is to give such answers (WPO). Costs the output projection once more.
    pub use_weighting: bool,
    /// When the reference model is asked.
    pub reference_log_probs: ReferenceLogProbs,
    /// Passes over the data; overrides `trainer.max_steps` when positive.
    pub epochs: f64,
    /// Pairs per step.
    pub batch_size: usize,
    /// Tokens per forward pass, both answers of a pair counted; losses that sort in the batch (`aot`) take a step at once.
    pub micro_batch_tokens: usize,
    /// Held-out pairs per validation.
    pub eval_rows: usize,
    /// What to do with a row that cannot be used.
    #[serde(skip_serializing_if = "OnBadRow::is_error")]
    pub on_bad_row: OnBadRow,
    /// Seed of the data order.
    pub seed: u64,
    /// Where to compute.
    pub device: DeviceSpec,
    /// `block` keeps of the activations only what enters each block and computes the rest again.
    #[serde(skip_serializing_if = "Recompute::is_none")]
    pub recompute: Recompute,
    /// Train an adapter and leave the weights alone; the reference is then the model without it, and takes no memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterSpec>,
    /// Benchmarks with every validation.
    pub evaluation: EvaluationConfig,
    /// Only its forgetting monitor, on `watchdog.general`.
    #[serde(skip_serializing_if = "unwatched")]
    pub watchdog: WatchdogConfig,
    /// The loop.
    pub trainer: TrainerConfig,
}

impl Default for DpoConfig {
    fn default() -> Self {
        let p = Parameters::default();
        Self {
            model: PathBuf::new(),
            reference: PathBuf::new(),
            train: PathBuf::new(),
            heldout: PathBuf::new(),
            loss: LossMix::default(),
            beta: p.beta,
            label_smoothing: p.label_smoothing,
            sft_weight: 0.0,
            f_divergence: p.f_divergence,
            f_alpha_divergence_coef: p.f_alpha_divergence_coef,
            discopop_tau: p.discopop_tau,
            simpo_gamma: p.simpo_gamma,
            cpo_alpha: p.cpo_alpha,
            use_weighting: false,
            reference_log_probs: ReferenceLogProbs::Cached,
            epochs: 0.0,
            batch_size: 32,
            micro_batch_tokens: 4096,
            eval_rows: 128,
            on_bad_row: OnBadRow::Error,
            seed: 0,
            device: DeviceSpec::Auto,
            recompute: Recompute::None,
            adapter: None,
            evaluation: EvaluationConfig::default(),
            watchdog: WatchdogConfig::default(),
            trainer: TrainerConfig::default(),
        }
    }
}

impl DpoConfig {
    /// Numbers in the losses.
    pub fn parameters(&self) -> Parameters {
        Parameters {
            beta: self.beta,
            label_smoothing: self.label_smoothing,
            discopop_tau: self.discopop_tau,
            simpo_gamma: self.simpo_gamma,
            cpo_alpha: self.cpo_alpha,
            f_divergence: self.f_divergence,
            f_alpha_divergence_coef: self.f_alpha_divergence_coef,
        }
    }

    /// Weight of the chosen answers' negative log-likelihood in all.
    pub fn nll_weight(&self) -> f64 {
        self.sft_weight + self.loss.nll_weight(&self.parameters())
    }

    /// Settings that cannot work, or that would do nothing.
    pub fn check(&self) -> Result<()> {
        self.loss.check(&self.parameters()).map_err(Error::Config)?;
        if !(self.sft_weight.is_finite() && self.sft_weight >= 0.0) {
            return Err(Error::Config(format!("sft_weight is {}; expected 0 or more", self.sft_weight)));
        }
        if !self.loss.needs_reference() && !self.reference.as_os_str().is_empty() {
            return Err(Error::Config("`reference` is set, but none of the losses compares with a reference; remove it".into()));
        }
        positive(self.batch_size, self.micro_batch_tokens)
    }
}

/// `llm-align kto`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KtoConfig {
    /// Model folder to start from.
    pub model: PathBuf,
    /// Model folder of the reference; empty is the start model.
    pub reference: PathBuf,
    /// Labelled answers to train on; pairs count as one good and one bad answer.
    pub train: PathBuf,
    /// Held-out answers for validation; empty is none.
    pub heldout: PathBuf,
    /// Which loss.
    pub loss: UnpairedLoss,
    /// Inverse temperature of the implicit reward.
    pub beta: f64,
    /// Weight of good answers.
    pub desirable_weight: f64,
    /// Weight of bad answers.
    pub undesirable_weight: f64,
    /// When the reference model is asked. `kto` always asks it for the mismatched answers of its KL estimate, which are new with every step.
    pub reference_log_probs: ReferenceLogProbs,
    /// Passes over the data; overrides `trainer.max_steps` when positive.
    pub epochs: f64,
    /// Answers per step; the KL estimate is over these.
    pub batch_size: usize,
    /// Tokens per forward pass.
    pub micro_batch_tokens: usize,
    /// Held-out answers per validation.
    pub eval_rows: usize,
    /// What to do with a row that cannot be used.
    #[serde(skip_serializing_if = "OnBadRow::is_error")]
    pub on_bad_row: OnBadRow,
    /// Seed of the data order.
    pub seed: u64,
    /// Where to compute.
    pub device: DeviceSpec,
    /// `block` keeps of the activations only what enters each block and computes the rest again.
    #[serde(skip_serializing_if = "Recompute::is_none")]
    pub recompute: Recompute,
    /// Train an adapter and leave the weights alone; the reference is then the model without it, and takes no memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterSpec>,
    /// Benchmarks with every validation.
    pub evaluation: EvaluationConfig,
    /// Only its forgetting monitor, on `watchdog.general`.
    #[serde(skip_serializing_if = "unwatched")]
    pub watchdog: WatchdogConfig,
    /// The loop.
    pub trainer: TrainerConfig,
}

impl Default for KtoConfig {
    fn default() -> Self {
        Self {
            model: PathBuf::new(),
            reference: PathBuf::new(),
            train: PathBuf::new(),
            heldout: PathBuf::new(),
            loss: UnpairedLoss::Kto,
            beta: 0.1,
            desirable_weight: 1.0,
            undesirable_weight: 1.0,
            reference_log_probs: ReferenceLogProbs::Cached,
            epochs: 0.0,
            batch_size: 32,
            micro_batch_tokens: 4096,
            eval_rows: 128,
            on_bad_row: OnBadRow::Error,
            seed: 0,
            device: DeviceSpec::Auto,
            recompute: Recompute::None,
            adapter: None,
            evaluation: EvaluationConfig::default(),
            watchdog: WatchdogConfig::default(),
            trainer: TrainerConfig::default(),
        }
    }
}

impl KtoConfig {
    /// Numbers in the loss.
    pub fn parameters(&self) -> kto::Parameters {
        kto::Parameters { beta: self.beta, desirable_weight: self.desirable_weight, undesirable_weight: self.undesirable_weight }
    }

    /// Settings that cannot work.
    pub fn check(&self) -> Result<()> {
        if !(self.beta.is_finite() && self.beta > 0.0) {
            return Err(Error::Config(format!("beta is {}; expected a positive number", self.beta)));
        }
        for (key, weight) in [("desirable_weight", self.desirable_weight), ("undesirable_weight", self.undesirable_weight)] {
            if !(weight.is_finite() && weight >= 0.0) {
                return Err(Error::Config(format!("{key} is {weight}; expected 0 or more")));
            }
        }
        if self.loss == UnpairedLoss::Kto && self.batch_size == 1 {
            return Err(Error::Config(
                "batch_size is 1; kto estimates a KL divergence from the prompts of a step with each other's answers, so it needs at least 2".into(),
            ));
        }
        positive(self.batch_size, self.micro_batch_tokens)
    }
}

fn unwatched(config: &WatchdogConfig) -> bool {
    *config == WatchdogConfig::default()
}

fn positive(batch_size: usize, micro_batch_tokens: usize) -> Result<()> {
    if batch_size == 0 || micro_batch_tokens == 0 {
        return Err(Error::Config("batch_size and micro_batch_tokens must be positive".into()));
    }
    Ok(())
}
