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

use crate::evaluation::Evaluation;
use crate::freeze::is_frozen;
use crate::mixture::Mixture;
use crate::trainer::{Loss, Objective, Outcome, Trainer};
use crate::{Error, Result};
use heldout::Heldout;
use llm_arch::Decoder;
use llm_data::shards::{Row, Shards};
use llm_run::Seed;
use llm_tensor::burn::tensor::Device;
use llm_tensor::host;
use llm_tokenizer::Tokenizer;
use order::Order;
use samples::Samples;
use serde_json::{Map, Value, json};
use start::Start;
use std::path::Path;
use weights::LossWeights;

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
    mixture: Mixture,
    evaluation: Option<Evaluation>,
    samples: Option<Samples>,
    start: Start,
    /// Share of annealing rows in the step that was asked for last.
    anneal_share: Option<f64>,
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
        self.anneal_share = self.order.share(step);
        let rows: Vec<(usize, Row)> = (0..self.config.batch_size as u64)
            .map(|slot| {
                let place = self.order.place(step, slot);
                match self.anneal.as_ref().filter(|_| place.anneal) {
                    Some(anneal) => (1, anneal.row(place.row)),
                    None => (0, self.train.row(place.row)),
                }
            })
            .collect();
        let first = step * self.config.batch_size as u64;
        let mut batches: Vec<PretrainBatch> = Vec::new();
        for (chunk, number) in rows.chunks(self.config.micro_batch_size).zip(first..) {
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
        Ok(batches)
    }

    fn loss(&mut self, model: &Decoder, batch: &PretrainBatch) -> Result<Loss> {
        let noise = Seed(self.config.seed).stream("routing").at(batch.number);
        let (hidden, balance) = self.mixture.hidden(model, &batch.rows.batch, noise, batch.weight / batch.step_weight);
        let mut nll = model.nll(hidden, batch.rows.targets.clone());
        if let Some(weights) = &batch.weights {
            let weights = host::from_vec(weights.clone(), [weights.len()], &nll.device()).cast(nll.dtype());
            nll = nll * weights;
        }
        let mut value = nll.sum() / batch.step_weight;
        if let Some(balance) = balance {
            value = value + balance;
        }
        Ok(Loss { value, tokens: batch.rows.batch.ids.len() as u64 })
    }

    fn after_step(&mut self, model: &mut Decoder) {
        let freeze = &self.config.trainer.freeze;
        self.mixture.after_step(model, |bias| !is_frozen(freeze, bias));
    }

    fn metrics(&mut self) -> Map<String, Value> {
        let mut metrics = self.mixture.metrics(self.experts_per_token());
        metrics.extend(self.anneal_share.map(|share| ("anneal_share".to_string(), json!(share))));
        metrics
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
        let heldout = if config.heldout.as_os_str().is_empty() { None } else { Some(Heldout::new(open(&config.heldout)?, &tokenizer)) };
        let evaluation = Evaluation::open(&config.evaluation, &tokenizer)?;
        let samples = Samples::open(&config.samples, &config.model, &tokenizer, config.seed)?;
        let order = Order::new(config, train.len(), anneal.as_ref().map_or(0, Shards::len));
        let mixture = Mixture::default();
        let config = config.clone();
        let objective = Self { train, anneal, order, loss_weights, heldout, config, mixture, evaluation, samples, start, anneal_share: None };
        Ok((objective, tokenizer))
    }

    /// The model of step 0.
    pub fn initial_model(&self, device: &Device) -> Result<Decoder> {
        self.start.model(&self.config, device)
    }

    /// What makes this run the run it is, besides what lies in `out`.
    fn identity(&self) -> Result<Value> {
        let config = &self.config;
        let mut identity = json!({"config": config, "train": self.train.hash()?, "tokenizer": llm_run::hash::path(&config.tokenizer)?});
        if let Some(anneal) = &self.anneal {
            identity["anneal"] = anneal.hash()?.into();
        }
        if !config.init.as_os_str().is_empty() {
            identity["init"] = llm_run::hash::path(&config.init)?.into();
        }
        Ok(identity)
    }
}

fn open_shards(dir: &Path, context: usize, tokenizer: &Tokenizer) -> Result<Shards> {
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
    let trainer = Trainer {
        config: config.trainer.clone(),
        out: out.to_path_buf(),
        name: name.to_string(),
        fingerprint: llm_run::hash::bytes(objective.identity()?.to_string().as_bytes()),
    };
    let device = config.device.open()?.autodiff();
    let start = std::mem::replace(&mut objective.start, Start::Fresh);
    trainer.run(&mut objective, || start.model(&config, &device), &tokenizer)
}
