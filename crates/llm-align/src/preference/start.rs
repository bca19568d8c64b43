//! What both objectives open: model, tokenizer, reference; and steps from epochs.

use crate::model;
use crate::{Error, Result};
use llm_arch::{AdapterSpec, Decoder};
use llm_run::hash;
use llm_tensor::burn::tensor::Device;
use llm_tokenizer::Tokenizer;
use serde_json::{Value, json};
use std::path::Path;

/// Name of the cache in the output folder.
pub(super) const CACHE: &str = "reference_log_probs.json";

/// A model to start from.
pub(super) struct Start {
    pub policy: Decoder,
    pub tokenizer: Tokenizer,
    pub device: Device,
    seed: u64,
}

impl Start {
    pub fn open(folder: &Path, adapter: &Option<AdapterSpec>, seed: u64, device: Device) -> Result<Self> {
        let tokenizer = Tokenizer::load(folder)?;
        let policy = model::open(folder, adapter, seed, &device)?;
        Ok(Self { policy, tokenizer, device, seed })
    }

    /// Longest sequence.
    pub fn context(&self) -> usize {
        self.policy.config().max_position_embeddings
    }

    /// The reference: another folder, or the model itself as it is before training.
    pub fn reference(&self, folder: &Path) -> Result<Decoder> {
        if folder.as_os_str().is_empty() {
            return Ok(model::reference(&self.policy));
        }
        let reference = model::open(folder, &None, self.seed, &self.device)?.untracked();
        let (theirs, ours) = (reference.config(), self.policy.config());
        if theirs.vocab_size != ours.vocab_size {
            let message = format!("reference {}: its vocabulary has {} ids, the model's {}", folder.display(), theirs.vocab_size, ours.vocab_size);
            return Err(Error::Objective(format!("{message}; both must read the same tokens")));
        }
        if theirs.max_position_embeddings < ours.max_position_embeddings {
            let (short, long) = (theirs.max_position_embeddings, ours.max_position_embeddings);
            return Err(Error::Objective(format!("reference {}: its context of {short} is shorter than the model's {long}", folder.display())));
        }
        Ok(reference)
    }
}

/// Steps of so many passes over the data.
pub(super) fn steps(epochs: f64, rows: usize, batch_size: usize) -> u64 {
    (epochs * rows as f64 / batch_size as f64).ceil() as u64
}

/// What a run and its reference's log-probabilities depend on, by content.
pub(super) fn inputs(model: &Path, reference: &Path, train: &Path) -> Result<Value> {
    let model = hash::path(model)?;
    let reference = if reference.as_os_str().is_empty() { model.clone() } else { hash::path(reference)? };
    Ok(json!({"model": model, "reference": reference, "train": hash::path(train)?}))
}
