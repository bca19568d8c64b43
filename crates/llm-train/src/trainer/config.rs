//! Settings of the loop.

use crate::optimizer::OptimizerConfig;
use crate::schedule::Schedule;
use crate::spikes::SpikeConfig;
use crate::watch::WatchConfig;
use crate::{Error, Result};
use llm_tensor::DeviceSpec;
use serde::{Deserialize, Serialize};

/// Settings of the loop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainerConfig {
    /// Optimiser steps.
    pub max_steps: u64,
    /// Optimiser.
    pub optimizer: OptimizerConfig,
    /// Learning-rate schedule.
    pub schedule: Schedule,
    /// Validate every so many steps (and before the first and after the last); 0 is never.
    pub eval_every: u64,
    /// Save every so many steps; 0 is only on interruption.
    pub checkpoint_every: u64,
    /// Newest checkpoints to keep.
    pub keep_checkpoints: usize,
    /// Checkpoints of lowest `val_loss` to keep, also after the run; with any, every validation saves first.
    pub keep_best_checkpoints: usize,
    /// Keep the checkpoint of every step that this divides, also after the run; 0 is none.
    pub keep_checkpoint_every: u64,
    /// Write checkpoints beside the training.
    pub async_checkpoints: bool,
    /// The model of the run is that of lowest `val_loss`; needs `keep_best_checkpoints`.
    pub load_best_model_at_end: bool,
    /// Stop when `val_loss` no longer falls.
    pub early_stopping: EarlyStopping,
    /// Steps that look wrong.
    pub spikes: SpikeConfig,
    /// Further devices that hold a copy of the model and take their share of the micro-batches, e.g. `["cuda:1", "cuda:2"]`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub replicas: Vec<DeviceSpec>,
    /// Micro-batches that the processor computes at the same time, each with its share of the threads. Two threads that never wait for
    /// each other do more than two that share every operation; each worker takes the memory of a micro-batch and of its gradients.
    pub workers: usize,
    /// Patterns on the names of parameters that stay as they are ([`freeze`](crate::freeze)), e.g. `vision_tower.*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<String>,
    /// What to show while training.
    pub watch: WatchConfig,
}

impl Default for TrainerConfig {
    fn default() -> Self {
        Self {
            max_steps: 1000,
            optimizer: OptimizerConfig::default(),
            schedule: Schedule::default(),
            eval_every: 100,
            checkpoint_every: 200,
            keep_checkpoints: 2,
            keep_best_checkpoints: 0,
            keep_checkpoint_every: 0,
            async_checkpoints: true,
            load_best_model_at_end: false,
            early_stopping: EarlyStopping::default(),
            spikes: SpikeConfig::default(),
            replicas: Vec::new(),
            workers: 1,
            freeze: Vec::new(),
            watch: WatchConfig::default(),
        }
    }
}

/// `[trainer.early_stopping]`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EarlyStopping {
    /// Validations in a row without a lower `val_loss`; 0 is off.
    pub patience: usize,
    /// How much lower counts.
    pub min_delta: f64,
}

impl EarlyStopping {
    /// Is it over, after validations with these losses?
    pub fn over(&self, losses: &[f64]) -> bool {
        let (mut best, mut waited) = (f64::INFINITY, 0);
        for &loss in losses {
            if loss < best - self.min_delta {
                (best, waited) = (loss, 0);
            } else {
                waited += 1;
            }
        }
        self.patience > 0 && waited >= self.patience
    }
}

impl TrainerConfig {
    /// Settings that contradict each other.
    pub fn validate(&self) -> Result<()> {
        let bad = |text: &str| Err(Error::Config(text.into()));
        if self.load_best_model_at_end && self.keep_best_checkpoints == 0 {
            return bad("trainer.load_best_model_at_end needs trainer.keep_best_checkpoints = 1 or more");
        }
        if self.keep_best_checkpoints > 0 && self.eval_every == 0 {
            return bad("trainer.keep_best_checkpoints needs validations; set trainer.eval_every");
        }
        if self.early_stopping.patience > 0 && self.eval_every == 0 {
            return bad("trainer.early_stopping needs validations; set trainer.eval_every");
        }
        self.schedule.check()?;
        if self.workers == 0 || self.workers > 1 && !self.replicas.is_empty() {
            return bad("trainer.workers must be at least 1, and 1 beside trainer.replicas");
        }
        let spikes = &self.spikes;
        if spikes.window < 4 || spikes.max_spikes == 0 || spikes.sigma.is_nan() || spikes.sigma <= 0.0 {
            return bad("trainer.spikes: expected window of at least 4, max_spikes of at least 1 and a positive sigma");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, training stops while the loss still falls, or never.
    #[test]
    fn patience_counts_validations_without_progress() {
        let stop = EarlyStopping { patience: 2, min_delta: 0.01 };
        assert!(!stop.over(&[]));
        assert!(!stop.over(&[3.0, 2.0, 2.0]));
        assert!(stop.over(&[3.0, 2.0, 1.995, 2.0]));
        assert!(!stop.over(&[3.0, 2.0, 2.0, 1.9, 1.95]));
        assert!(!EarlyStopping::default().over(&[1.0, 2.0, 3.0]));
    }
}
