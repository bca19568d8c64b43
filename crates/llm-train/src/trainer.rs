//! The loop. One step: ask the objective for micro-batches, sum their gradients, clip, update, log; now and then validate
//! and save.
//!
//! The checkpoint is written *before* the evaluation of the same step, so that a failing evaluation cannot lose it.

use crate::checkpoint::{self, State};
use crate::optimizer::{AdamW, Gradients, OptimizerConfig};
use crate::schedule::Schedule;
use crate::trainable::Trainable;
use crate::watch::{About, Kind, Watch, WatchConfig, peak};
use crate::{Error, Result, freeze};
use llm_run::atomic::AtomicDir;
use llm_run::run::memory_bytes;
use llm_run::{Metrics, program};
use llm_tensor::burn::module::Module;
use llm_tensor::burn::tensor::{DType, Tensor};
use llm_tensor::weights::SaveOptions;
use llm_tensor::{DeviceSpec, host, params, rayon};
use llm_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

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
    /// Checkpoints to keep.
    pub keep_checkpoints: usize,
    /// Patterns on the names of parameters that stay as they are ([`freeze`]), e.g. `vision_tower.*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub freeze: Vec<String>,
    /// What to show while training; no part of the run's identity, so it is not written with the other settings.
    #[serde(skip_serializing)]
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
            keep_checkpoints: 1,
            freeze: Vec::new(),
            watch: WatchConfig::default(),
        }
    }
}

/// The loss of one micro-batch.
#[derive(Debug)]
pub struct Loss {
    /// One element, already divided so that the micro-batches of a step *sum* to the step's loss.
    pub value: Tensor<1>,
    /// Tokens that went through the model.
    pub tokens: u64,
}

/// What is being learned. Everything must be a function of (objective, step, model).
pub trait Objective {
    /// What is trained.
    type Model: Trainable;
    /// One micro-batch.
    type Batch;

    /// The micro-batches of 0-based `step`; objectives that generate use the current `model`.
    fn batches(&mut self, step: u64, model: &Self::Model) -> Result<Vec<Self::Batch>>;

    /// Forward pass of one micro-batch.
    fn loss(&mut self, model: &Self::Model, batch: &Self::Batch) -> Result<Loss>;

    /// Changes to the model that are no gradient step, right after one.
    fn after_step(&mut self, _model: &mut Self::Model) {}

    /// Numbers of the step to log besides loss and rates.
    fn metrics(&mut self) -> Map<String, Value> {
        Map::new()
    }

    /// Held-out numbers, e.g. `val_loss`. Empty when there is nothing to validate on.
    fn validate(&mut self, _model: &Self::Model) -> Result<Map<String, Value>> {
        Ok(Map::new())
    }

    /// A few words for the progress line.
    fn describe(&self, loss: f32) -> String {
        format!("loss {loss:.3}")
    }

    /// State to keep in checkpoints.
    fn save(&self) -> Map<String, Value> {
        Map::new()
    }

    /// State from a checkpoint.
    fn restore(&mut self, _state: &Map<String, Value>) {}

    /// Tokens that go through the model in a step, about, and the length of the texts they come in; none if that is not known.
    fn tokens(&self) -> Option<(f64, usize)> {
        None
    }

    /// All settings, for the report.
    fn settings(&self) -> Value {
        Value::Null
    }

    /// Write what belongs into the model's folder beside weights and tokenizer.
    fn finish(&self, _dir: &Path) -> Result<()> {
        Ok(())
    }
}

/// A training run in a folder.
#[derive(Debug)]
pub struct Trainer {
    /// Settings.
    pub config: TrainerConfig,
    /// Output folder: `checkpoints/`, `metrics.jsonl`, `model/`.
    pub out: PathBuf,
    /// Name on the progress line.
    pub name: String,
    /// Identity of configuration and inputs; a checkpoint with another one is refused.
    pub fingerprint: String,
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
}

impl Trainer {
    /// Train to the end, continuing from the newest checkpoint in `out`, and save `out/model` with the tokenizer.
    pub fn run<O: Objective>(&self, objective: &mut O, start: impl FnOnce() -> Result<O::Model>, tokenizer: &Tokenizer) -> Result<Outcome<O::Model>> {
        let checkpoints = self.out.join("checkpoints");
        let initial = start()?;
        let precision = initial.precision();
        let frozen = freeze::frozen(&initial, &self.config.freeze, &initial.buffers())?;
        let found = checkpoint::load_latest(&checkpoints, &self.fingerprint, self.config.optimizer, &initial, &frozen)?;
        let (model, mut optimizer, mut state) = match found {
            Some(found) => found,
            None => {
                let state = State {
                    step: 0,
                    tokens: 0,
                    elapsed_seconds: 0.0,
                    fingerprint: self.fingerprint.clone(),
                    objective: Map::new(),
                    checksums: Default::default(),
                };
                (initial, AdamW::new(self.config.optimizer), state)
            }
        };
        let mut model = params::track_where(model, |name| !frozen.contains(name));
        objective.restore(&state.objective);
        let mut metrics = Metrics::open(self.out.join("metrics.jsonl"), state.step)?;
        let max_steps = self.config.max_steps;
        let mut watch = Watch::start(self.config.watch.clone(), &self.out, self.about(objective, &model, state.step))?;
        if state.step == 0 && self.config.eval_every > 0 {
            self.validate(objective, &model, 0, &mut metrics, &mut watch)?;
        }
        program::catch_interrupts();
        let before = state.elapsed_seconds;
        let clock = Instant::now();
        let mut loss = f32::NAN;
        while state.step < max_steps {
            let started = Instant::now();
            let lr = self.config.optimizer.lr * self.config.schedule.factor(state.step, max_steps);
            let Accumulated { losses, tokens, gradients } = accumulate(objective, &model, state.step)?;
            let (updated, norm) = optimizer.step(model, gradients, lr, state.step + 1);
            model = updated;
            // Read after the update is queued, so that a GPU does not wait for the host in between.
            loss = read_loss(losses);
            if !loss.is_finite() {
                let error = Error::Diverged { step: state.step, loss, lr };
                watch.event(state.step, Kind::Failed, error.to_string());
                return Err(error);
            }
            state.step += 1;
            objective.after_step(&mut model);
            state.tokens += tokens;
            state.elapsed_seconds = before + clock.elapsed().as_secs_f64();
            let rate = tokens as f64 / started.elapsed().as_secs_f64();
            let mut record = Map::from_iter([
                ("step".to_string(), json!(state.step)),
                ("loss".to_string(), json!(loss)),
                ("lr".to_string(), json!(lr)),
                ("grad_norm".to_string(), json!(norm)),
                ("tokens".to_string(), json!(state.tokens)),
                ("tokens_per_second".to_string(), json!(rate.round())),
                ("elapsed_seconds".to_string(), json!((state.elapsed_seconds * 1e3).round() / 1e3)),
            ]);
            record.extend(memory_bytes().map(|bytes| ("memory_bytes".to_string(), json!(bytes))));
            record.extend(objective.metrics());
            watch.step(&record);
            metrics.log(&Value::Object(record))?;
            let stop = program::interrupted();
            let every = |n: u64| n > 0 && state.step.is_multiple_of(n);
            if watch.save_requested() || stop || every(self.config.checkpoint_every) {
                state.objective = objective.save();
                checkpoint::save(&checkpoints, &model, &optimizer, state.clone(), self.config.keep_checkpoints)?;
                watch.event(state.step, Kind::Checkpoint, "saved");
            }
            if stop && state.step < max_steps {
                watch.event(state.step, Kind::Interrupted, "start the same command again to continue from there");
                return Err(Error::Interrupted { step: state.step });
            }
            if every(self.config.eval_every) || (self.config.eval_every > 0 && state.step == max_steps) {
                self.validate(objective, &model, state.step, &mut metrics, &mut watch)?;
            }
        }
        let model = model.valid();
        let folder = AtomicDir::create(self.out.join("model"))?;
        model.save(folder.path(), SaveOptions { precision, ..SaveOptions::default() })?;
        tokenizer.save(folder.path())?;
        objective.finish(folder.path())?;
        folder.commit()?;
        // Everything a checkpoint could bring back is in `model` now; what is left is intermediate.
        let _ = std::fs::remove_dir_all(&checkpoints);
        let validations: Vec<_> = Metrics::read(self.out.join("metrics.jsonl"))?.into_iter().filter(|r| r.contains_key("val_loss")).collect();
        let ends = [validations.first(), validations.last()].into_iter().flatten().cloned().collect();
        if loss.is_nan() {
            loss = last_loss(&self.out)?;
        }
        watch.finish(format!("{} steps, {:.2}M tokens, {}", state.step, state.tokens as f64 / 1e6, objective.describe(loss)));
        Ok(Outcome { model, loss, tokens: state.tokens, elapsed_seconds: state.elapsed_seconds, validations: ends })
    }

    fn validate<O: Objective>(&self, objective: &mut O, model: &O::Model, step: u64, metrics: &mut Metrics, watch: &mut Watch) -> Result<()> {
        let mut record = objective.validate(&model.valid())?;
        if !record.is_empty() {
            record.insert("step".into(), json!(step));
            watch.validation(&record);
            metrics.log(&Value::Object(record))?;
        }
        Ok(())
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
            config: objective.settings(),
        }
    }
}

/// What the micro-batches of a step came to.
#[derive(Debug)]
pub struct Accumulated {
    /// Loss of each, still on its device ([`read_loss`]).
    pub losses: Vec<Tensor<1>>,
    /// Tokens that went through the model.
    pub tokens: u64,
    /// Summed gradients; in `f32` when there is more than one micro-batch, so that a short format does not round the sum.
    pub gradients: Gradients,
}

/// Forward and backward passes of a step.
pub fn accumulate<O: Objective>(objective: &mut O, model: &O::Model, step: u64) -> Result<Accumulated> {
    let batches = objective.batches(step, model)?;
    let mut sum = Accumulated { losses: Vec::new(), tokens: 0, gradients: Gradients::new() };
    for batch in &batches {
        let loss = objective.loss(model, batch)?;
        sum.tokens += loss.tokens;
        let grads = loss.value.backward();
        sum.losses.push(loss.value.inner());
        for (name, gradient) in params::gradients(model, &grads) {
            let gradient = if batches.len() > 1 && gradient.dtype() != DType::F32 { gradient.cast(DType::F32) } else { gradient };
            let gradient = match sum.gradients.remove(&name) {
                Some(so_far) => so_far + gradient,
                None => gradient,
            };
            sum.gradients.insert(name, gradient);
        }
    }
    Ok(sum)
}

/// The loss of a step: the sum of those of its micro-batches. Waits for the device.
pub fn read_loss(losses: Vec<Tensor<1>>) -> f32 {
    losses.into_iter().map(|loss| f64::from(host::scalar(loss))).sum::<f64>() as f32
}

fn last_loss(out: &Path) -> Result<f32> {
    let records = Metrics::read(out.join("metrics.jsonl"))?;
    Ok(records.iter().rev().find_map(|r| r.get("loss")?.as_f64()).map_or(f32::NAN, |l| l as f32))
}
