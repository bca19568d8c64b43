//! Settings of `llm-align ppo`, with the names and defaults of TRL's PPO trainer where it has them.

use super::controller::Controller;
use crate::data::OnBadRow;
use crate::losses::kl::KlEstimator;
use crate::rollouts::SamplingConfig;
use crate::watchdog::WatchdogConfig;
use llm_arch::adapter::AdapterSpec;
use llm_tensor::DeviceSpec;
use llm_train::{Error, Recompute, Result, TrainerConfig};
use llm_verify::RewardSpec;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where the value function lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueKind {
    /// In a model of its own, which starts as the reward model, or as the policy with a head of zeros where there is none.
    #[default]
    Separate,
    /// In a head of zeros on the policy's own hidden states.
    Shared,
}

/// `llm-align ppo`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PpoConfig {
    /// Model folder to start from; also the reference of the KL penalty.
    pub model: PathBuf,
    /// Prompts.
    pub train: PathBuf,
    /// Held-out prompts, answered at validations with the likeliest tokens; empty shows answers to the first of `train`.
    pub heldout: PathBuf,
    /// Held-out prompts per validation.
    pub heldout_prompts: usize,
    /// Rows that cannot be used.
    pub on_bad_row: OnBadRow,
    /// Train an adapter in place of all weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterSpec>,
    /// Folder of a reward model; empty is none. It must have the policy's vocabulary.
    pub reward_model: PathBuf,
    /// Rewards that a program can check; what they give is added to the reward model's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rewards: Vec<RewardSpec>,
    /// A judge that is not trained on, for the watch-dog: rewards that a program can check, of the same answers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub judge: Vec<RewardSpec>,
    /// Where the value function lives.
    pub value: ValueKind,
    /// Answers per batch of rollouts, one for each prompt.
    pub batch_size: usize,
    /// How often each batch of rollouts is gone through.
    pub num_ppo_epochs: usize,
    /// Updates per epoch; divides `batch_size`.
    pub num_mini_batches: usize,
    /// How answers are drawn. The loss uses the unmodified distribution, so temperature 1 without cuts is on-policy.
    pub sampling: SamplingConfig,
    /// Weight of the KL penalty to the starting model in the reward of each token, and the first one of the adaptive controller.
    pub kl_coef: f64,
    /// Estimator of the penalty.
    pub kl_estimator: KlEstimator,
    /// Nats per answer that the adaptive controller steers at; none is a fixed `kl_coef`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kl_target: Option<f64>,
    /// Answers in which the adaptive controller follows a deviation.
    pub kl_horizon: f64,
    /// What an answer that was cut off loses of its score.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing_eos_penalty: Option<f64>,
    /// Divide the rewards of the batch by their standard deviation.
    pub whiten_rewards: bool,
    /// Give the advantages of the batch mean 0 and standard deviation 1.
    pub whiten_advantages: bool,
    /// How far the probability ratio counts.
    pub cliprange: f32,
    /// How far a value may move in an update.
    pub cliprange_value: f64,
    /// Weight of the value loss.
    pub vf_coef: f64,
    /// Discount per token.
    pub gamma: f64,
    /// Of generalised advantage estimation.
    pub lam: f64,
    /// Tokens per forward pass.
    pub micro_batch_tokens: usize,
    /// Seed of prompt order, sampling and mini-batches.
    pub seed: u64,
    /// Where to compute.
    pub device: DeviceSpec,
    /// `block` keeps of the policy's activations only what enters each block and computes the rest again.
    #[serde(skip_serializing_if = "Recompute::is_none")]
    pub recompute: Recompute,
    /// When to raise an alarm and when to end the run.
    pub watchdog: WatchdogConfig,
    /// The loop. A step is one update, so `max_steps` is batches of rollouts times `num_ppo_epochs` times `num_mini_batches`.
    pub trainer: TrainerConfig,
}

impl Default for PpoConfig {
    fn default() -> Self {
        Self {
            model: PathBuf::new(),
            train: PathBuf::new(),
            heldout: PathBuf::new(),
            heldout_prompts: 64,
            on_bad_row: OnBadRow::default(),
            adapter: None,
            reward_model: PathBuf::new(),
            rewards: Vec::new(),
            judge: Vec::new(),
            value: ValueKind::default(),
            batch_size: 64,
            num_ppo_epochs: 4,
            num_mini_batches: 1,
            sampling: SamplingConfig::default(),
            kl_coef: 0.05,
            kl_estimator: KlEstimator::K1,
            kl_target: None,
            kl_horizon: 10_000.0,
            missing_eos_penalty: None,
            whiten_rewards: false,
            whiten_advantages: true,
            cliprange: 0.2,
            cliprange_value: 0.2,
            vf_coef: 0.1,
            gamma: 1.0,
            lam: 0.95,
            micro_batch_tokens: 2048,
            seed: 0,
            device: DeviceSpec::Auto,
            recompute: Recompute::None,
            watchdog: WatchdogConfig::default(),
            trainer: TrainerConfig::default(),
        }
    }
}

impl PpoConfig {
    /// Updates that a batch of rollouts is used for.
    pub fn updates(&self) -> u64 {
        (self.num_ppo_epochs * self.num_mini_batches) as u64
    }

    /// The controller of the KL penalty at the start.
    pub(super) fn controller(&self) -> Controller {
        match self.kl_target {
            None => Controller::Fixed { coefficient: self.kl_coef },
            Some(target) => Controller::Adaptive { coefficient: self.kl_coef, target, horizon: self.kl_horizon },
        }
    }

    /// Settings that cannot work.
    pub(super) fn check(&self) -> Result<()> {
        let bad = |message: String| Err(Error::Config(message));
        let counts = [
            ("batch_size", self.batch_size),
            ("num_ppo_epochs", self.num_ppo_epochs),
            ("num_mini_batches", self.num_mini_batches),
            ("micro_batch_tokens", self.micro_batch_tokens),
        ];
        if let Some((key, _)) = counts.into_iter().find(|(_, n)| *n == 0) {
            return bad(format!("{key} must be positive"));
        }
        if !self.batch_size.is_multiple_of(self.num_mini_batches) {
            return bad(format!("num_mini_batches = {} must divide batch_size = {}", self.num_mini_batches, self.batch_size));
        }
        let numbers = [
            ("kl_coef", self.kl_coef, 0.0, f64::MAX),
            ("vf_coef", self.vf_coef, 0.0, f64::MAX),
            ("gamma", self.gamma, 0.0, 1.0),
            ("lam", self.lam, 0.0, 1.0),
            ("cliprange", f64::from(self.cliprange), 0.0, 1.0),
            ("cliprange_value", self.cliprange_value, 0.0, f64::MAX),
            ("missing_eos_penalty", self.missing_eos_penalty.unwrap_or(0.0), 0.0, f64::MAX),
        ];
        if let Some((key, value, low, high)) = numbers.into_iter().find(|(_, value, low, high)| !(*low..=*high).contains(value)) {
            let range = if high == f64::MAX { format!("{low} or more") } else { format!("{low} to {high}") };
            return bad(format!("{key} = {value}: expected {range}"));
        }
        if self.kl_target.is_some_and(|target| !target.is_finite() || target <= 0.0) || !self.kl_horizon.is_finite() || self.kl_horizon <= 0.0 {
            return bad("kl_target and kl_horizon must be positive".into());
        }
        if self.reward_model.as_os_str().is_empty() && self.rewards.is_empty() {
            return bad("nothing rewards the answers: set `reward_model` to a folder of `llm-align reward`, or `rewards`".into());
        }
        self.sampling.check()?;
        self.watchdog.check().map_err(Error::Config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, a setting that cannot work is found out after hours, or not at all.
    #[test]
    fn settings_that_cannot_work_are_named() {
        let good = PpoConfig { reward_model: "rm".into(), ..PpoConfig::default() };
        good.check().unwrap();
        for (config, word) in [
            (PpoConfig { num_mini_batches: 7, ..good.clone() }, "num_mini_batches"),
            (PpoConfig { num_ppo_epochs: 0, ..good.clone() }, "num_ppo_epochs"),
            (PpoConfig { lam: f64::NAN, ..good.clone() }, "lam"),
            (PpoConfig { kl_target: Some(0.0), ..good.clone() }, "kl_target"),
            (PpoConfig { reward_model: PathBuf::new(), ..good.clone() }, "reward_model"),
        ] {
            let message = config.check().unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
    }
}
