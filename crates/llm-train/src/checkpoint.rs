//! Checkpoints: a folder that appears whole or not at all, with checksums and the identity of the run it belongs to.
//!
//! `checkpoints/step-00000200/` holds a Hugging Face model folder, `optimizer.safetensors` and `trainer.json`. The newest is
//! used on a restart; a damaged one is an error that says which file, never a silent fresh start.
//!
//! The model is saved in `f32` whatever it computes in: that loses nothing, and buffers keep their own format.

use crate::optimizer::{AdamW, OptimizerConfig};
use crate::trainable::Trainable;
use crate::{Error, Result};
use llm_run::atomic::AtomicDir;
use llm_tensor::params;
use llm_tensor::weights::SaveOptions;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What `trainer.json` holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Steps taken.
    pub step: u64,
    /// Tokens trained on.
    pub tokens: u64,
    /// Seconds of training so far, over all restarts.
    pub elapsed_seconds: f64,
    /// Hash of configuration and inputs: a checkpoint of another run is refused.
    pub fingerprint: String,
    /// Whatever the objective wants back.
    pub objective: Map<String, Value>,
    /// File name -> BLAKE3.
    pub checksums: BTreeMap<String, String>,
}

const FILES: [&str; 3] = ["config.json", "model.safetensors", "optimizer.safetensors"];

fn folder(dir: &Path, step: u64) -> PathBuf {
    dir.join(format!("step-{step:08}"))
}

/// Steps that have a checkpoint, ascending.
pub fn steps(dir: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut steps: Vec<u64> = entries.filter_map(|e| e.file_name().to_str()?.strip_prefix("step-")?.parse().ok()).collect();
    steps.sort_unstable();
    steps
}

/// Save, then delete all but the newest `keep`.
pub fn save<M: Trainable>(dir: &Path, model: &M, optimizer: &AdamW, mut state: State, keep: usize) -> Result<()> {
    let target = folder(dir, state.step);
    let new = AtomicDir::create(&target)?;
    model.save(new.path(), SaveOptions::default())?;
    optimizer.save(&new.path().join("optimizer.safetensors"))?;
    for file in FILES {
        state.checksums.insert(file.to_string(), llm_run::hash::path(new.path().join(file))?);
    }
    let text = serde_json::to_string_pretty(&state).unwrap_or_default();
    llm_run::atomic::write(new.path().join("trainer.json"), text)?;
    new.commit()?;
    let steps = steps(dir);
    for &old in &steps[..steps.len().saturating_sub(keep.max(1))] {
        // A leftover only costs disk space.
        let _ = llm_run::atomic::remove_dir(&folder(dir, old));
    }
    Ok(())
}

/// Load the newest checkpoint, if there is one, after checking that it is whole and belongs to this run. `like` is the model at the
/// start of the run ([`Trainable::restore`]); there is no optimiser state of its parameters called `frozen`.
pub fn load_latest<M: Trainable>(
    dir: &Path,
    fingerprint: &str,
    optimizer: OptimizerConfig,
    like: &M,
    frozen: &BTreeSet<String>,
) -> Result<Option<(M, AdamW, State)>> {
    let Some(&step) = steps(dir).last() else { return Ok(None) };
    let path = folder(dir, step);
    let bad = |path: &Path, message: String| Error::Checkpoint { path: path.to_path_buf(), message };
    let retry = format!("delete {} to continue from the checkpoint before it", path.display());
    let file = path.join("trainer.json");
    let text = std::fs::read_to_string(&file).map_err(|e| bad(&file, format!("cannot read ({e}); {retry}")))?;
    let state: State = serde_json::from_str(&text).map_err(|e| bad(&file, format!("damaged ({e}); {retry}")))?;
    if state.fingerprint != fingerprint {
        return Err(bad(
            &path,
            "belongs to a run with another configuration, tokenizer or data; use another --out, or delete the checkpoints folder to start over"
                .into(),
        ));
    }
    for name in FILES {
        let file = path.join(name);
        let found = llm_run::hash::path(&file).map_err(|e| bad(&file, format!("{e}; {retry}")))?;
        if state.checksums.get(name) != Some(&found) {
            return Err(bad(&file, format!("checksum does not match trainer.json, the file is truncated or was changed; {retry}")));
        }
    }
    let model = like.restore(&path)?;
    let mut layouts = params::layouts(&model);
    // No gradient ever reaches a buffer, so it has no moments.
    let buffers = model.buffers();
    layouts.retain(|name, _| !buffers.contains(name) && !frozen.contains(name));
    let device = like.device();
    let device = if device.is_autodiff() { device.inner() } else { device };
    let optimizer = AdamW::load(optimizer, &path.join("optimizer.safetensors"), &layouts, &device)?;
    Ok(Some((model, optimizer, state)))
}
