//! Next-token prediction over packed shards.
//!
//! A row of T+1 tokens gives T predictions. Documents packed into one row do not see each other, positions restart with each,
//! and the first token of a document is never a target. Which rows make up step s is a function of (seed, s).
//!
//! | module | noun | job |
//! |---|---|---|
//! | `config` | [`PretrainConfig`] | settings |
//! | [`rows`] | `TokenRows`, `Segment` | rows as a model eats them, and the documents in them |
//! | [`order`] | `Order` | which rows make up a step, also while annealing |
//! | [`weights`] | `LossWeights` | how much a domain or language counts |
//! | [`heldout`] | `Heldout` | validation, by domain and language too |
//! | [`samples`] | `Samples` | texts that the model writes |
//! | [`start`] | `Start` | fresh weights, or a model folder with its own or another tokenizer |

mod config;
pub mod heldout;
pub mod order;
pub mod rows;
pub mod samples;
pub mod start;
pub mod weights;

pub use config::{AnnealConfig, PretrainConfig};
pub use rows::TokenRows;
pub use samples::SamplesConfig;
pub use start::fit_to_tokenizer;

use crate::checkpoint::Identity;
use crate::evaluation::Evaluation;
use crate::freeze::is_frozen;
use crate::memory::{self, MemoryPlan, Saves, Workload};
use crate::mixture::Mixture;
use crate::trainer::{Loss, Objective, Outcome, Trainer, trouble};
use crate::{Error, Result};
use heldout::Heldout;
use llm_arch::Decoder;
use llm_data::shards::{Row, Shards};
use llm_run::Seed;
use llm_tensor::burn::tensor::Device;
use llm_tensor::device::is_cpu;
use llm_tensor::host;
use llm_tokenizer::Tokenizer;
use order::Order;
use samples::Samples;
use serde_json::{Map, Value, json};
use start::Start;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use weights::LossWeights;

/// Key of the [`MemoryPlan`] in the first record of metrics.
pub const MEMORY_PLAN: &str = "memory_plan";

/// The objective.
#[derive(Debug)]
pub struct Pretrain {
    train: Shards,
    anneal: Option<Shards>,
    order: Order,
    /// Of `train` and `anneal`.
    loss_weights: Option<Vec<LossWeights>>,
    heldout: Option<Heldout>,
    config: PretrainConfig,
    /// What the experts of the step were given; micro-batches may be computed at the same time.
    mixture: Mutex<Mixture>,
    evaluation: Option<Evaluation>,
    samples: Option<Samples>,
    start: Start,
    /// Share of annealing rows in the step that was asked for last.
    anneal_share: Option<f64>,
    /// Seconds that its batches took to put together.
    data_seconds: f64,
    plan: MemoryPlan,
    /// The plan is not yet in the metrics.
    unsaid: bool,
}

/// A thread that panicked while it counted leaves counts that are still counts.
fn locked(mixture: &Mutex<Mixture>) -> MutexGuard<'_, Mixture> {
    mixture.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One micro-batch and what its whole step is divided by.
#[derive(Debug)]
pub struct PretrainBatch {
    rows: TokenRows,
    /// One per target, if they differ.
    weights: Option<Vec<f32>>,
    /// Their sum, and that of the step.
    weight: f32,
    step_weight: f32,
    /// Different for every micro-batch of a run.
    number: u64,
}

impl Objective for Pretrain {
    type Model = Decoder;
    type Batch = PretrainBatch;

    fn batches(&mut self, step: u64, _: &Decoder) -> Result<Vec<PretrainBatch>> {
        let clock = Instant::now();
        let anneal_share = self.order.share(step);
        let rows: Vec<(usize, Row)> = self.places(step).map(|(folder, shards, row)| (folder, shards.row(row))).collect();
        let first = step * self.config.batch_size as u64;
        let mut batches: Vec<PretrainBatch> = Vec::new();
        for (chunk, number) in rows.chunks(if self.config.exact_micro_batches { 1 } else { self.config.micro_batch_size }).zip(first..) {
            let rows = TokenRows::new(&chunk.iter().map(|(_, row)| *row).collect::<Vec<_>>());
            let weights: Option<Vec<f32>> =
                self.loss_weights.as_ref().map(|weights| chunk.iter().flat_map(|(folder, row)| weights[*folder].targets(row)).collect());
            let weight = weights.as_ref().map_or(rows.counted as f32, |weights| weights.iter().map(|&w| f64::from(w)).sum::<f64>() as f32);
            batches.push(PretrainBatch { rows, weights, weight, step_weight: 0.0, number });
        }
        let sum = batches.iter().map(|batch| f64::from(batch.weight)).sum::<f64>() as f32;
        // A step without targets has the loss 0.
        let step_weight = if sum > 0.0 { sum } else { 1.0 };
        batches.iter_mut().for_each(|batch| batch.step_weight = step_weight);
        self.anneal_share = anneal_share;
        self.data_seconds = clock.elapsed().as_secs_f64();
        Ok(batches)
    }

    fn loss(&self, model: &Decoder, batch: &PretrainBatch) -> Result<Loss> {
        let noise = Seed(self.config.seed).stream("routing").at(batch.number);
        let share = batch.weight / batch.step_weight;
        let mut seen = Mixture::default();
        let (forward, balance) = seen.forward(model, &batch.rows.batch, noise, share, self.config.recompute);
        let mut nll = model.nll(forward.hidden_ND, batch.rows.targets.clone());
        if let Some(weights) = &batch.weights {
            let weights = host::from_vec(weights.clone(), [weights.len()], &nll.device()).cast(nll.dtype());
            nll = nll * weights;
        }
        let mut value = nll.sum() / batch.step_weight;
        if let Some(balance) = balance {
            value = value + balance;
        }
        locked(&self.mixture).merge(seen);
        Ok(Loss { value, tokens: batch.rows.batch.ids.len() as u64, deferred: forward.deferred })
    }

    fn after_step(&mut self, model: &mut Decoder) {
        let freeze = &self.config.trainer.freeze;
        locked(&self.mixture).after_step(model, |bias| !is_frozen(freeze, bias));
    }

    fn metrics(&mut self) -> Map<String, Value> {
        let mut metrics = locked(&self.mixture).metrics(self.experts_per_token());
        metrics.extend(self.anneal_share.map(|share| ("anneal_share".to_string(), json!(share))));
        if std::mem::take(&mut self.unsaid) {
            metrics.insert(MEMORY_PLAN.into(), json!(self.plan));
        }
        metrics.insert("data_seconds".to_string(), json!((self.data_seconds * 1e6).round() / 1e6));
        metrics
    }

    fn tokens(&self) -> Option<(f64, usize)> {
        let length = self.train.sequence_length();
        Some(((self.config.batch_size * length) as f64, length))
    }

    fn forecasts_loss(&self) -> bool {
        true
    }

    fn settings(&self) -> Value {
        json!(self.config)
    }

    fn documents(&self, step: u64) -> Vec<String> {
        self.places(step).flat_map(|(_, shards, row)| shards.document_ids(row)).collect()
    }

    fn locate(&self, model: &Decoder, batch: &PretrainBatch) -> Option<String> {
        trouble::in_layers(model, &batch.rows.batch)
    }

    fn validate(&mut self, model: &Decoder) -> Result<Map<String, Value>> {
        let mut record = self.evaluation.as_ref().map_or_else(|| Ok(Map::new()), |evaluation| evaluation.run(model))?;
        if let Some(samples) = &self.samples {
            record.insert("samples".into(), samples.run(model)?);
        }
        if let Some(heldout) = &self.heldout {
            let mut mixture = Mixture::default();
            record.extend(heldout.validate(model, self.config.eval_rows, self.config.micro_batch_size, &mut mixture)?);
            record.extend(mixture.metrics(self.experts_per_token()).into_iter().map(|(name, value)| (format!("val_{name}"), value)));
        }
        Ok(record)
    }
}

impl Pretrain {
    /// The rows of a step: which folder, its shards, which row.
    fn places(&self, step: u64) -> impl Iterator<Item = (usize, &Shards, usize)> {
        (0..self.config.batch_size as u64).map(move |slot| {
            let place = self.order.place(step, slot);
            match self.anneal.as_ref().filter(|_| place.anneal) {
                Some(anneal) => (1, anneal, place.row),
                None => (0, &self.train, place.row),
            }
        })
    }

    fn experts_per_token(&self) -> usize {
        self.config.model.moe.as_ref().map_or(1, |moe| moe.num_experts_per_tok)
    }

    /// Open the shards and check that they, the tokenizer and the model belong together.
    pub fn open(config: &mut PretrainConfig) -> Result<(Self, Tokenizer)> {
        config.complete()?;
        let tokenizer = Tokenizer::load(&config.tokenizer)?;
        let start = Start::open(config, &tokenizer)?;
        let open = |dir: &Path| open_shards(dir, config.model.max_position_embeddings, &tokenizer);
        let train = open(&config.train)?;
        let anneal = config.anneal.as_ref().map(|anneal| open(&anneal.train)).transpose()?;
        if let (Some(shards), Some(anneal)) = (&anneal, &config.anneal)
            && shards.sequence_length() != train.sequence_length()
        {
            let (dir, ours, theirs) = (anneal.train.display(), train.sequence_length(), shards.sequence_length());
            return Err(Error::Config(format!("anneal.train = {dir}: its rows have {theirs} tokens, those of `train` {ours}; pack both alike")));
        }
        let labels: Vec<_> = [Some(&train), anneal.as_ref()].into_iter().flatten().map(Shards::labels).collect();
        let loss_weights = LossWeights::resolve(&config.loss_weights, &labels)?;
        let heldout = match config.heldout.as_os_str().is_empty() {
            true => None,
            false => {
                let shards = open(&config.heldout)?;
                shards.verify()?;
                Some(Heldout::new(shards, &tokenizer))
            }
        };
        let evaluation = Evaluation::open(&config.evaluation, &tokenizer)?;
        let samples = Samples::open(&config.samples, &config.model, &tokenizer, config.seed)?;
        let order = Order::new(config, train.len(), anneal.as_ref().map_or(0, Shards::len));
        let plan = planned(config, train.sequence_length())?;
        let mixture = Mutex::default();
        let config = config.clone();
        let objective = Self {
            train,
            anneal,
            order,
            loss_weights,
            heldout,
            config,
            mixture,
            evaluation,
            samples,
            start,
            anneal_share: None,
            data_seconds: 0.0,
            plan,
            unsaid: true,
        };
        Ok((objective, tokenizer))
    }

    /// The model of step 0.
    pub fn initial_model(&self, device: &Device) -> Result<Decoder> {
        self.start.model(&self.config, device)
    }

    /// What training will need.
    pub fn memory_plan(&self) -> &MemoryPlan {
        &self.plan
    }

    /// What makes this run the run it is, besides what lies in `out`.
    fn identity(&self) -> Result<Identity> {
        let config = &self.config;
        let mut identity = json!({"config": config, "train": self.train.hash()?, "tokenizer": llm_run::hash::path(&config.tokenizer)?});
        if let Some(anneal) = &self.anneal {
            identity["anneal"] = anneal.hash()?.into();
        }
        if !config.init.as_os_str().is_empty() {
            identity["init"] = llm_run::hash::path(&config.init)?.into();
        }
        Ok(Identity::new(identity))
    }
}

/// The memory plan for rows of `length` tokens. A budget decides about micro-batch and recomputation first, and has checkpoints written in
/// the way of the training, which takes less.
fn planned(config: &mut PretrainConfig, length: usize) -> Result<MemoryPlan> {
    let device = config.device.open()?;
    // The memory of a card holds tensors and no program; what it has left is not known.
    let (program, available) = if is_cpu(&device) { (memory::resident().unwrap_or(0.0), memory::available()) } else { (0.0, None) };
    if config.memory_budget.is_some() {
        config.trainer.async_checkpoints = false;
    }
    let rows = if config.exact_micro_batches { 1 } else { config.micro_batch_size.min(config.batch_size) };
    let workload = Workload {
        model: &config.model,
        precision: config.precision,
        rows,
        length,
        micro_batches: config.batch_size.div_ceil(rows),
        recompute: config.recompute,
        fused: memory::is_fused(&device, config.precision),
        workers: config.trainer.workers,
        optimizer: &config.trainer.optimizer,
        freeze: &config.trainer.freeze,
        adapter: None,
        saves: match (config.trainer.checkpoint_every, config.trainer.async_checkpoints) {
            (0, _) => Saves::Model,
            (_, false) => Saves::Checkpoints,
            (_, true) => Saves::Beside,
        },
    };
    let Some(budget) = &config.memory_budget else { return Ok(MemoryPlan { available, ..MemoryPlan::of(&workload, program) }) };
    let budget = llm_run::config::parse_bytes(budget).map_err(|e| Error::Config(format!("memory_budget: {e}")))?;
    let choice = memory::fit(&workload, config.batch_size, budget as f64, program)?;
    (config.micro_batch_size, config.recompute) = (choice.micro_batch_size, choice.recompute);
    Ok(MemoryPlan { available, ..choice.plan })
}

/// Shards whose rows fit the context and were packed with this tokenizer.
pub fn open_shards(dir: &Path, context: usize, tokenizer: &Tokenizer) -> Result<Shards> {
    let shards = Shards::open(dir)?;
    if shards.is_empty() {
        return Err(Error::Config(format!("{}: holds no rows; pack more text or lower sequence_length", dir.display())));
    }
    if shards.sequence_length() > context {
        let message = format!("{}: rows of {} tokens do not fit model.max_position_embeddings = {context}", dir.display(), shards.sequence_length());
        return Err(Error::Config(message));
    }
    let (packed, tokens) = (shards.info().vocab_size, tokenizer.vocab_size());
    if packed != tokens {
        let message = format!("{}: packed with a tokenizer of {packed} tokens, not with this one, which has {tokens}; pack again", dir.display());
        return Err(Error::Config(message));
    }
    Ok(shards)
}

/// Pre-train a model into `out`.
pub fn pretrain(mut config: PretrainConfig, out: &Path, name: &str) -> Result<Outcome<Decoder>> {
    let (mut objective, tokenizer) = Pretrain::open(&mut config)?;
    if let Some(counts) = objective.start.report() {
        let text = serde_json::to_string_pretty(counts).unwrap_or_default();
        llm_run::atomic::write(out.join("vocabulary.json"), text + "\n")?;
        eprintln!("{counts}");
    }
    let trainer = Trainer { config: config.trainer.clone(), out: out.to_path_buf(), name: name.to_string(), identity: objective.identity()? };
    let device = config.device.open()?.autodiff();
    let start = std::mem::replace(&mut objective.start, Start::Fresh);
    eprintln!("{}", objective.plan);
    let outcome = trainer.run(&mut objective, || start.model(&config, &device), &tokenizer)?;
    if let (true, Some(peak)) = (is_cpu(&device), memory::measured_peak(&[&config.train, &config.heldout])) {
        eprintln!("{}", objective.plan.compared(peak));
    }
    Ok(outcome)
}
