//! Checkpoints: a folder that appears whole or not at all, with checksums and the identity of the run it belongs to.
//!
//! `checkpoints/step-00000200/` holds a Hugging Face model folder (a PEFT folder, where an adapter is trained), `optimizer.safetensors` and
//! `trainer.json`. On a restart the newest
//! that is whole is used: a damaged one is passed over with a word, and when none is left that is an error, never a silent fresh start.
//! One of a run with another configuration, tokenizer or data is refused with what differs ([`identity`]).
//!
//! The model is saved in `f32` whatever it computes in: that loses nothing, and buffers keep their own format.
//!
//! | file | job |
//! |---|---|
//! | [`identity`] | what makes two runs the same run |
//! | [`mod@write`] | saving, on a thread of its own |
//! | [`retention`] | which checkpoints stay: the last, the best, every n-th |

pub mod identity;
pub mod retention;
pub mod write;

use crate::optimizer::{Optimizer, OptimizerConfig};
use crate::spikes::Monitor;
use crate::trainable::Trainable;
use crate::{Error, Result};
pub use identity::Identity;
pub use retention::Retention;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
pub use write::{Snapshot, Writer};

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
    /// What the run is.
    pub identity: Identity,
    /// Losses and gradient norms that the spike detector compares with.
    pub monitor: Monitor,
    /// Loss scale of float16, and steps since it last changed.
    pub loss_scale: Option<(f64, u64)>,
    /// The objective wanted the run to end here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halted: Option<Halted>,
    /// Whatever the objective wants back.
    pub objective: Map<String, Value>,
    /// File name -> BLAKE3.
    pub checksums: BTreeMap<String, String>,
}

/// A run that its objective has ended ([`Objective::halt`](crate::Objective::halt)).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Halted {
    /// In words.
    pub reason: String,
    /// The settings under `watchdog` that decided so.
    pub watchdog: Value,
}

impl State {
    /// Before the first step.
    pub fn start(identity: Identity) -> Self {
        Self {
            step: 0,
            tokens: 0,
            elapsed_seconds: 0.0,
            identity,
            monitor: Monitor::default(),
            loss_scale: None,
            halted: None,
            objective: Map::new(),
            checksums: BTreeMap::new(),
        }
    }
}

/// Moments and master copies.
const OPTIMIZER: &str = "optimizer.safetensors";

/// Files with checksums, beside `trainer.json` itself.
fn files<M: Trainable>(model: &M) -> impl Iterator<Item = &'static str> {
    model.files().into_iter().chain([OPTIMIZER])
}

/// The folder of the checkpoint of a step.
pub fn folder(dir: &Path, step: u64) -> PathBuf {
    dir.join(format!("step-{step:08}"))
}

/// Steps that have a checkpoint, ascending.
pub fn steps(dir: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut steps: Vec<u64> = entries.filter_map(|e| e.file_name().to_str()?.strip_prefix("step-")?.parse().ok()).collect();
    steps.sort_unstable();
    steps
}

/// A checkpoint that was read.
#[derive(Debug)]
pub struct Loaded<M> {
    /// The model, as saved.
    pub model: M,
    /// Moments of its parameters.
    pub optimizer: Optimizer,
    /// The rest.
    pub state: State,
    /// Newer checkpoints that were damaged: what is wrong with each.
    pub passed_over: Vec<String>,
}

/// How to read a checkpoint.
#[derive(Debug)]
pub struct Loading<'a, M> {
    /// `OUT/checkpoints`.
    pub dir: &'a Path,
    /// What the run must be.
    pub identity: &'a Identity,
    /// Settings of the optimiser.
    pub optimizer: &'a OptimizerConfig,
    /// The model at the start of the run ([`Trainable::restore`]).
    pub like: &'a M,
    /// Parameters without optimiser state.
    pub frozen: &'a BTreeSet<String>,
}

impl<M: Trainable> Loading<'_, M> {
    /// The newest whole checkpoint of at most `step`, if there is any checkpoint at all.
    pub fn newest(&self, step: u64) -> Result<Option<Loaded<M>>> {
        let mut passed_over = Vec::new();
        for step in steps(self.dir).into_iter().rev().filter(|s| *s <= step) {
            match self.read(&folder(self.dir, step)) {
                Ok((model, optimizer, state)) => return Ok(Some(Loaded { model, optimizer, state, passed_over })),
                // Damage is passed over; a run that is another one is not.
                Err(Error::Checkpoint { path, message }) => passed_over.push(format!("{}: {message}", path.display())),
                Err(other) => return Err(other),
            }
        }
        match passed_over.first() {
            None => Ok(None),
            Some(first) => {
                let advice = "no other checkpoint is left; delete the checkpoints folder to start over";
                Err(Error::Checkpoint { path: self.dir.to_path_buf(), message: format!("{first}; {advice}") })
            }
        }
    }

    fn read(&self, path: &Path) -> Result<(M, Optimizer, State)> {
        let bad = |path: &Path, message: String| Error::Checkpoint { path: path.to_path_buf(), message };
        let file = path.join("trainer.json");
        let text = std::fs::read_to_string(&file).map_err(|e| bad(&file, format!("cannot read ({e})")))?;
        let state: State = serde_json::from_str(&text).map_err(|e| bad(&file, format!("damaged ({e})")))?;
        if let Some(differences) = state.identity.differences(self.identity) {
            return Err(Error::AnotherRun { path: path.to_path_buf(), differences });
        }
        for name in files(self.like) {
            let file = path.join(name);
            let found = llm_run::hash::path(&file).map_err(|e| bad(&file, e.to_string()))?;
            if state.checksums.get(name) != Some(&found) {
                return Err(bad(&file, "checksum does not match trainer.json, the file is truncated or was changed".into()));
            }
        }
        let model = self.like.restore(path)?;
        // No gradient ever reaches a buffer, so it has no moments.
        let layouts = model.trained(self.frozen);
        let device = self.like.device();
        let device = if device.is_autodiff() { device.inner() } else { device };
        let optimizer = Optimizer::load(self.optimizer.clone(), &path.join(OPTIMIZER), &layouts, &device)?;
        Ok((model, optimizer, state))
    }
}
