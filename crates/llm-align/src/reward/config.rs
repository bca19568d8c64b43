//! Settings of `llm-align reward`.

use crate::data::OnBadRow;
use llm_tensor::DeviceSpec;
use llm_train::{Error, Recompute, Result, TrainerConfig};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// `llm-align reward`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RewardConfig {
    /// Folder to start from: a language model, which gets a fresh head, or a reward model, which keeps its own.
    pub model: PathBuf,
    /// Preference pairs to train on.
    pub train: PathBuf,
    /// Held-out pairs for accuracy and calibration; empty is none.
    pub heldout: PathBuf,
    /// Rows that cannot be used.
    pub on_bad_row: OnBadRow,
    /// Passes over the data; overrides `trainer.max_steps` when positive.
    pub epochs: f64,
    /// Pairs per step.
    pub batch_size: usize,
    /// Tokens per forward pass.
    pub micro_batch_tokens: usize,
    /// Held-out pairs per validation.
    pub eval_pairs: usize,
    /// Weight of `(chosen + rejected)^2`, which keeps rewards near zero; 0 is off, 0.01 is usual.
    pub center_rewards_coefficient: f64,
    /// Subtract the margins that the data names; without it they are not read.
    pub use_margin: bool,
    /// Seed of the head and of the data order.
    pub seed: u64,
    /// Where to compute.
    pub device: DeviceSpec,
    /// `block` keeps of the activations only what enters each block and computes the rest again.
    #[serde(skip_serializing_if = "Recompute::is_none")]
    pub recompute: Recompute,
    /// The loop.
    pub trainer: TrainerConfig,
}

impl Default for RewardConfig {
    fn default() -> Self {
        Self {
            model: PathBuf::new(),
            train: PathBuf::new(),
            heldout: PathBuf::new(),
            on_bad_row: OnBadRow::default(),
            epochs: 0.0,
            batch_size: 64,
            micro_batch_tokens: 2048,
            eval_pairs: 512,
            center_rewards_coefficient: 0.0,
            use_margin: true,
            seed: 0,
            device: DeviceSpec::Auto,
            recompute: Recompute::None,
            trainer: TrainerConfig::default(),
        }
    }
}

impl RewardConfig {
    /// Settings that cannot work.
    pub(super) fn check(&self) -> Result<()> {
        if self.batch_size == 0 || self.micro_batch_tokens == 0 {
            return Err(Error::Config("batch_size and micro_batch_tokens must be positive".into()));
        }
        if !self.center_rewards_coefficient.is_finite() || self.center_rewards_coefficient < 0.0 {
            return Err(Error::Config(format!("center_rewards_coefficient = {}: expected 0 or more", self.center_rewards_coefficient)));
        }
        Ok(())
    }
}
