//! Settings of pre-training.

use super::samples::SamplesConfig;
use crate::evaluation::EvaluationConfig;
use crate::recompute::Recompute;
use crate::trainer::TrainerConfig;
use crate::{Error, Result};
use llm_arch::DecoderConfig;
use llm_arch::tokens::Resize;
use llm_tensor::{DeviceSpec, Precision};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// `llm-train pretrain`.
///
/// Settings that most runs leave alone are not written where they have their defaults, so that checkpoints of older runs stay theirs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PretrainConfig {
    /// Folder of training shards.
    pub train: PathBuf,
    /// Folder of held-out shards; empty is no validation.
    pub heldout: PathBuf,
    /// Tokenizer folder; copied into the model. Empty is that of `init`.
    pub tokenizer: PathBuf,
    /// Model folder to continue from; empty is fresh weights. Its `config.json` says what the model is: `model` may only repeat it, and
    /// set what a mixture needs in training.
    #[serde(skip_serializing_if = "is_default")]
    pub init: PathBuf,
    /// Rows of tokens that the tokenizer of `init` does not have.
    #[serde(skip_serializing_if = "is_default")]
    pub resize: Resize,
    /// Sizes of the model; `vocab_size` and the special ids come from the tokenizer.
    pub model: DecoderConfig,
    /// Rows per step.
    pub batch_size: usize,
    /// Rows per forward pass. A run may be continued with another number: its losses then agree up to the rounding of sums.
    pub micro_batch_size: usize,
    /// Sum gradients row by row whatever `micro_batch_size` is, so that a run continued with another number is the same run to the bit.
    /// Costs what passes of one row cost.
    #[serde(skip_serializing_if = "is_default")]
    pub exact_micro_batches: bool,
    /// Weights of the loss by domain (`"domain=code" = 0.5`) and language (`"lang=de" = 2.0`); what is not named counts 1, and a
    /// document that two of them name has their product.
    #[serde(skip_serializing_if = "is_default")]
    pub loss_weights: BTreeMap<String, f64>,
    /// Other data in the last steps.
    #[serde(skip_serializing_if = "is_default")]
    pub anneal: Option<AnnealConfig>,
    /// Rows of held-out data per validation; 0 is all.
    pub eval_rows: usize,
    /// Seed of initial weights and data order.
    pub seed: u64,
    /// Where to compute.
    pub device: DeviceSpec,
    /// Number format of weights and activations; anything but float32 keeps f32 master copies of the weights.
    pub precision: Precision,
    /// `block` keeps of the activations only what enters each block and computes the rest again: less memory, a third more arithmetic.
    #[serde(skip_serializing_if = "is_default")]
    pub recompute: Recompute,
    /// Memory that training may take, e.g. `2GiB`: chooses `micro_batch_size`, and `recompute` where nothing else fits.
    #[serde(skip_serializing_if = "is_default")]
    pub memory_budget: Option<String>,
    /// Benchmarks with every validation.
    pub evaluation: EvaluationConfig,
    /// Texts that the model writes with every validation.
    #[serde(skip_serializing_if = "is_default")]
    pub samples: SamplesConfig,
    /// The loop.
    pub trainer: TrainerConfig,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Default for PretrainConfig {
    fn default() -> Self {
        Self {
            train: PathBuf::new(),
            heldout: PathBuf::new(),
            tokenizer: PathBuf::new(),
            init: PathBuf::new(),
            resize: Resize::default(),
            model: DecoderConfig::default(),
            batch_size: 16,
            micro_batch_size: 8,
            exact_micro_batches: false,
            loss_weights: BTreeMap::new(),
            anneal: None,
            eval_rows: 64,
            seed: 0,
            device: DeviceSpec::Auto,
            precision: Precision::F32,
            recompute: Recompute::None,
            memory_budget: None,
            evaluation: EvaluationConfig::default(),
            samples: SamplesConfig::default(),
            trainer: TrainerConfig::default(),
        }
    }
}

/// Other data in the last steps: a smaller, better set of documents while the learning rate falls (Hu et al., MiniCPM, 2024; Llama 3,
/// section 3.4.3).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnnealConfig {
    /// Folder of shards.
    pub train: PathBuf,
    /// Which part of the steps, at the end.
    pub fraction: f64,
    /// Share of the rows of these steps that come from `train` here.
    #[serde(default = "whole")]
    pub share: f64,
}

fn whole() -> f64 {
    1.0
}

impl PretrainConfig {
    /// Refuse settings that cannot work, naming them; the tokenizer of `init` stands in for one that is not given.
    pub(super) fn complete(&mut self) -> Result<()> {
        if self.tokenizer.as_os_str().is_empty() {
            self.tokenizer = self.init.clone();
        }
        for (key, path) in [("train", &self.train), ("tokenizer", &self.tokenizer)] {
            if path.as_os_str().is_empty() {
                return Err(Error::Config(format!("`{key}` is missing; set it in the configuration or with --set {key}=PATH")));
            }
        }
        if self.batch_size == 0 || self.micro_batch_size == 0 {
            return Err(Error::Config("batch_size and micro_batch_size must be positive".into()));
        }
        if let Some(AnnealConfig { fraction, share, .. }) = &self.anneal {
            for (key, value) in [("fraction", *fraction), ("share", *share)] {
                if !(value > 0.0 && value <= 1.0) {
                    return Err(Error::Config(format!("anneal.{key} = {value}: expected more than 0 and at most 1")));
                }
            }
        }
        if let Some((key, weight)) = self.loss_weights.iter().find(|(_, weight)| !(weight.is_finite() && **weight >= 0.0)) {
            return Err(Error::Config(format!("loss_weights.\"{key}\" = {weight}: expected 0 or a positive number")));
        }
        Ok(())
    }
}
