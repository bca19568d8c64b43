//! The loop. One step: ask the objective for micro-batches, sum their gradients, look whether they can be trusted, clip, update, log; now
//! and then save and validate.
//!
//! The checkpoint is written *before* the evaluation of the same step, so that a failing evaluation cannot lose it.
//!
//! | file | job |
//! |---|---|
//! | [`objective`] | `Objective`: what is learned |
//! | [`config`] | settings |
//! | [`mod@accumulate`] | forward and backward passes of a step, on one device or several |
//! | `training` | what changes from step to step: update, skip, rewind, save, validate |
//! | [`trouble`] | where numbers stopped being numbers |

pub mod accumulate;
pub mod config;
pub mod objective;
mod training;
pub mod trouble;

use crate::checkpoint::{Identity, Retention, retention::Best};
use crate::watch::{About, peak};
use crate::{Result, Trainable};
pub use accumulate::{Accumulated, accumulate, read_loss};
pub use config::{EarlyStopping, TrainerConfig};
use llm_run::atomic::AtomicDir;
use llm_run::{Metrics, program};
use llm_tensor::weights::SaveOptions;
use llm_tensor::{DeviceSpec, rayon};
use llm_tokenizer::Tokenizer;
pub use objective::{Loss, Objective};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use training::{After, Training};

/// A training run in a folder.
#[derive(Debug)]
pub struct Trainer {
    /// Settings.
    pub config: TrainerConfig,
    /// Output folder: `checkpoints/`, `metrics.jsonl`, `model/`.
    pub out: PathBuf,
    /// Name on the progress line.
    pub name: String,
    /// Configuration and hashes of inputs; a checkpoint of another run is refused.
    pub identity: Identity,
}

/// The end of a run.
#[derive(Debug)]
pub struct Outcome<M> {
    /// The trained model.
    pub model: M,
    /// Loss of the last step.
    pub loss: f32,
    /// Tokens trained on.
    pub tokens: u64,
    /// Seconds of training over all restarts.
    pub elapsed_seconds: f64,
    /// First and last validation.
    pub validations: Vec<Map<String, Value>>,
    /// Why the run ended before its last step, if its objective wanted that ([`Objective::halt`]).
    pub halted: Option<String>,
    /// Checkpoints that nothing needs once the run is written down.
    pub leftovers: Leftovers,
}

/// Checkpoints of a finished run. Everything they could bring back is in its model; until its manifest is written too, a killed process
/// goes on from them.
#[derive(Debug)]
pub struct Leftovers {
    dir: PathBuf,
    retention: Retention,
    halted: bool,
}

impl Leftovers {
    /// Delete all that is not kept for good. A halted run keeps its checkpoints: it may go on from the last one.
    pub fn remove(&self) {
        if !self.halted {
            self.retention.apply_at_end(&self.dir);
        }
    }
}

impl Trainer {
    /// Train to the end, continuing from the newest checkpoint in `out`, and save `out/model` with the tokenizer.
    pub fn run<O: Objective>(&self, objective: &mut O, start: impl FnOnce() -> Result<O::Model>, tokenizer: &Tokenizer) -> Result<Outcome<O::Model>> {
        self.config.validate()?;
        program::catch_interrupts();
        let mut training = Training::open(self, objective, start()?)?;
        while !training.over() {
            training.step(objective)?;
            match training.after_step(objective)? {
                After::GoOn => {}
                After::Stop => break,
            }
        }
        let (model, state) = training.end(objective)?;
        let folder = AtomicDir::create(self.out.join("model"))?;
        let precision = model.precision();
        model.save(folder.path(), SaveOptions { precision, ..SaveOptions::default() })?;
        tokenizer.save(folder.path())?;
        objective.finish(folder.path())?;
        folder.commit()?;
        let halted = state.halted.map(|halted| halted.reason);
        let leftovers = Leftovers { dir: self.checkpoints(), retention: self.retention(), halted: halted.is_some() };
        let records = Metrics::read(self.out.join("metrics.jsonl"))?;
        let loss = records.iter().rev().find_map(|r| r.get("loss")?.as_f64()).map_or(f32::NAN, |l| l as f32);
        let validations: Vec<_> = records.into_iter().filter(is_validation).collect();
        let ends = [validations.first(), validations.last()].into_iter().flatten().cloned().collect();
        Ok(Outcome { model, loss, tokens: state.tokens, elapsed_seconds: state.elapsed_seconds, validations: ends, halted, leftovers })
    }

    /// What is known before the first step of this process.
    fn about<O: Objective>(&self, objective: &O, model: &O::Model, start_step: u64) -> About {
        let device = if model.device().is_autodiff() { model.device().inner() } else { model.device() };
        let name = DeviceSpec::card(&device).unwrap_or_else(|| format!("CPU, {} threads", rayon::current_num_threads()));
        let tokens = objective.tokens();
        About {
            name: self.name.clone(),
            max_steps: self.config.max_steps,
            start_step,
            tokens_per_step: tokens.map(|t| t.0),
            flops_per_token: tokens.and_then(|(_, length)| model.flops_per_token(length)),
            peak_flops: peak::find(&self.config.watch, &device, model.precision().dtype(), &self.out, &name),
            parameters: model.num_parameters(),
            active_parameters: model.num_active_parameters(),
            device: name,
            schedule: self.config.schedule,
            eval_every: self.config.eval_every,
            checkpoint_every: self.config.checkpoint_every,
            forecasts_loss: objective.forecasts_loss(),
            config: objective.settings(),
        }
    }

    fn checkpoints(&self) -> PathBuf {
        self.out.join("checkpoints")
    }

    fn retention(&self) -> Retention {
        let TrainerConfig { keep_checkpoints, keep_best_checkpoints, keep_checkpoint_every, .. } = self.config;
        Retention { last: keep_checkpoints, best: keep_best_checkpoints, every: keep_checkpoint_every }
    }
}

/// Is this record of the metrics one of a validation? Not every objective has a `val_loss`.
fn is_validation(record: &Map<String, Value>) -> bool {
    record.keys().any(|key| key.starts_with("val_loss") || key.starts_with("eval/"))
}

/// The model of the best checkpoint in `dir`, read like `model`.
fn best<M: Trainable>(dir: &Path, model: &M) -> Result<Option<(u64, M)>> {
    let Some(step) = Best::step(dir) else { return Ok(None) };
    Ok(Some((step, model.restore(&crate::checkpoint::folder(dir, step))?.valid())))
}
