//! Next-token prediction over packed shards.
//!
//! A row of T+1 tokens gives T predictions. Documents packed into one row do not see each other, positions restart with each,
//! and the first token of a document is never a target. Which rows make up step s is a function of (seed, s).

use crate::evaluation::{Evaluation, EvaluationConfig};
use crate::freeze::is_frozen;
use crate::memory::{self, MemoryPlan, Saves, Workload};
use crate::mixture::Mixture;
use crate::recompute::Recompute;
use crate::trainer::{Loss, Objective, Outcome, Trainer, TrainerConfig};
use crate::{Error, Result};
use llm_arch::{Decoder, DecoderConfig, PackedBatch};
use llm_data::shards::{Row, Shards};
use llm_run::Seed;
use llm_run::seed::permuted;
use llm_tensor::device::is_cpu;
use llm_tensor::{DeviceSpec, Precision, host, ops};
use llm_tokenizer::Tokenizer;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Key of the [`MemoryPlan`] in the first record of metrics.
pub const MEMORY_PLAN: &str = "memory_plan";

/// `llm-train pretrain`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PretrainConfig {
    /// Folder of training shards.
    pub train: PathBuf,
    /// Folder of held-out shards; empty is no validation.
    pub heldout: PathBuf,
    /// Tokenizer folder; copied into the model.
    pub tokenizer: PathBuf,
    /// Sizes of the model; `vocab_size` and the special ids come from the tokenizer.
    pub model: DecoderConfig,
    /// Rows per step.
    pub batch_size: usize,
    /// Rows per forward pass.
    pub micro_batch_size: usize,
    /// Rows of held-out data per validation; 0 is all.
    pub eval_rows: usize,
    /// Seed of initial weights and data order.
    pub seed: u64,
    /// Where to compute.
    pub device: DeviceSpec,
    /// Number format of weights and activations; anything but float32 keeps f32 master copies of the weights.
    pub precision: Precision,
    /// `block` keeps of the activations only what enters each block and computes the rest again: less memory, a third more arithmetic.
    #[serde(skip_serializing_if = "Recompute::is_none")]
    pub recompute: Recompute,
    /// Memory that training may take, e.g. `2GiB`: chooses `micro_batch_size`, and `recompute` where nothing else fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_budget: Option<String>,
    /// Benchmarks with every validation.
    pub evaluation: EvaluationConfig,
    /// The loop.
    pub trainer: TrainerConfig,
}

impl Default for PretrainConfig {
    fn default() -> Self {
        Self {
            train: PathBuf::new(),
            heldout: PathBuf::new(),
            tokenizer: PathBuf::new(),
            model: DecoderConfig::default(),
            batch_size: 16,
            micro_batch_size: 8,
            eval_rows: 64,
            seed: 0,
            device: DeviceSpec::Auto,
            precision: Precision::F32,
            recompute: Recompute::None,
            memory_budget: None,
            evaluation: EvaluationConfig::default(),
            trainer: TrainerConfig::default(),
        }
    }
}

/// Rows as the model eats them.
#[derive(Debug)]
pub struct TokenRows {
    batch: PackedBatch,
    targets: ops::Indices,
    counted: usize,
}

impl TokenRows {
    /// Shift rows of T+1 tokens into inputs and targets.
    pub fn new(rows: &[Row]) -> Self {
        let length = rows.first().map_or(0, |r| r.tokens.len() - 1);
        let mut ids = Vec::with_capacity(rows.len() * length);
        let mut targets = Vec::with_capacity(rows.len() * length);
        for row in rows {
            ids.extend_from_slice(&row.tokens[..length]);
            let at = targets.len();
            targets.extend_from_slice(&row.tokens[1..]);
            for &start in row.document_starts.iter().filter(|&&s| s > 0) {
                targets[at + start as usize - 1] = ops::IGNORE;
            }
        }
        let starts: Vec<&[u32]> = rows.iter().map(|r| r.document_starts).collect();
        let counted = targets.iter().filter(|&&t| t != ops::IGNORE).count();
        Self { batch: PackedBatch::documents(ids, &starts, length), targets: targets.into(), counted }
    }
}

/// The objective.
#[derive(Debug)]
pub struct Pretrain {
    train: Shards,
    heldout: Option<Shards>,
    config: PretrainConfig,
    mixture: Mixture,
    evaluation: Option<Evaluation>,
    plan: MemoryPlan,
    /// Not yet in the metrics.
    unsaid: bool,
}

/// One micro-batch and the targets of its whole step.
#[derive(Debug)]
pub struct PretrainBatch {
    rows: TokenRows,
    step_targets: usize,
    /// Different for every micro-batch of a run.
    number: u64,
}

impl Objective for Pretrain {
    type Model = Decoder;
    type Batch = PretrainBatch;

    fn batches(&mut self, step: u64, _: &Decoder) -> Result<Vec<PretrainBatch>> {
        let n = self.train.len() as u64;
        let order = Seed(self.config.seed).stream("data order");
        let rows: Vec<Row> = (0..self.config.batch_size as u64)
            .map(|j| {
                let i = step * self.config.batch_size as u64 + j;
                self.train.row(permuted(order.at(i / n), i % n, n) as usize)
            })
            .collect();
        let micro: Vec<TokenRows> = rows.chunks(self.config.micro_batch_size).map(TokenRows::new).collect();
        let step_targets = micro.iter().map(|m| m.counted).sum();
        let first = step * self.config.batch_size as u64;
        Ok(micro.into_iter().zip(first..).map(|(rows, number)| PretrainBatch { rows, step_targets, number }).collect())
    }

    fn loss(&mut self, model: &Decoder, batch: &PretrainBatch) -> Result<Loss> {
        let noise = Seed(self.config.seed).stream("routing").at(batch.number);
        let targets = batch.step_targets.max(1) as f32;
        let share = batch.rows.counted as f32 / targets;
        let (forward, balance) = self.mixture.forward(model, &batch.rows.batch, noise, share, self.config.recompute);
        let mut value = model.nll(forward.hidden_ND, batch.rows.targets.clone()).sum() / targets;
        if let Some(balance) = balance {
            value = value + balance;
        }
        Ok(Loss { value, tokens: batch.rows.batch.ids.len() as u64, deferred: forward.deferred })
    }

    fn after_step(&mut self, model: &mut Decoder) {
        let freeze = &self.config.trainer.freeze;
        self.mixture.after_step(model, |bias| !is_frozen(freeze, bias));
    }

    fn metrics(&mut self) -> Map<String, Value> {
        let mut metrics = self.mixture.metrics(self.experts_per_token());
        if std::mem::take(&mut self.unsaid) {
            metrics.insert(MEMORY_PLAN.into(), json!(self.plan));
        }
        metrics
    }

    fn validate(&mut self, model: &Decoder) -> Result<Map<String, Value>> {
        let mut record = self.evaluation.as_ref().map_or_else(|| Ok(Map::new()), |evaluation| evaluation.run(model))?;
        let Some(heldout) = &self.heldout else { return Ok(record) };
        let rows = if self.config.eval_rows == 0 { heldout.len() } else { self.config.eval_rows.min(heldout.len()) };
        let (mut nll, mut bytes, mut targets) = (0f64, 0u64, 0usize);
        let mut mixture = Mixture::default();
        for chunk in (0..rows).collect::<Vec<_>>().chunks(self.config.micro_batch_size) {
            // Evenly spread over the held-out set, so that all its domains count.
            let rows: Vec<Row> = chunk.iter().map(|&i| heldout.row(i * heldout.len() / rows)).collect();
            bytes += rows.iter().map(|r| u64::from(r.target_bytes)).sum::<u64>();
            let rows = TokenRows::new(&rows);
            targets += rows.counted;
            let losses = host::to_vec(model.nll(mixture.watch(model, &rows.batch), rows.targets));
            nll += losses.iter().map(|&x| f64::from(x)).sum::<f64>();
        }
        let loss = nll / targets.max(1) as f64;
        record.extend([
            ("val_loss".to_string(), json!(loss)),
            ("val_perplexity".to_string(), json!(loss.exp())),
            ("val_bits_per_byte".to_string(), json!(nll / std::f64::consts::LN_2 / bytes.max(1) as f64)),
        ]);
        record.extend(mixture.metrics(self.experts_per_token()).into_iter().map(|(name, value)| (format!("val_{name}"), value)));
        Ok(record)
    }
}

impl Pretrain {
    fn experts_per_token(&self) -> usize {
        self.config.model.moe.as_ref().map_or(1, |moe| moe.num_experts_per_tok)
    }

    /// Open the shards and check that they, the tokenizer and the model belong together.
    pub fn open(config: &mut PretrainConfig) -> Result<(Self, Tokenizer)> {
        for (key, path) in [("train", &config.train), ("tokenizer", &config.tokenizer)] {
            if path.as_os_str().is_empty() {
                return Err(Error::Config(format!("`{key}` is missing; set it in the configuration or with --set {key}=PATH")));
            }
        }
        if config.batch_size == 0 || config.micro_batch_size == 0 {
            return Err(Error::Config("batch_size and micro_batch_size must be positive".into()));
        }
        let tokenizer = Tokenizer::load(&config.tokenizer)?;
        fit_to_tokenizer(&mut config.model, &tokenizer);
        config.model.validate()?;
        let train = open_shards(&config.train, config.model.max_position_embeddings)?;
        let heldout =
            if config.heldout.as_os_str().is_empty() { None } else { Some(open_shards(&config.heldout, config.model.max_position_embeddings)?) };
        let evaluation = Evaluation::open(&config.evaluation, &tokenizer)?;
        let plan = planned(config, train.sequence_length())?;
        Ok((Self { train, heldout, config: config.clone(), mixture: Mixture::default(), evaluation, plan, unsaid: true }, tokenizer))
    }

    /// What training will need.
    pub fn memory_plan(&self) -> &MemoryPlan {
        &self.plan
    }
}

/// The memory plan for rows of `length` tokens. A budget decides about micro-batch and recomputation first.
fn planned(config: &mut PretrainConfig, length: usize) -> Result<MemoryPlan> {
    let device = config.device.open()?;
    // The memory of a card holds tensors and no program; what it has left is not known.
    let (program, available) = if is_cpu(&device) { (memory::resident().unwrap_or(0.0), memory::available()) } else { (0.0, None) };
    let workload = Workload {
        model: &config.model,
        precision: config.precision,
        rows: config.micro_batch_size.min(config.batch_size),
        length,
        micro_batches: config.batch_size.div_ceil(config.micro_batch_size),
        recompute: config.recompute,
        fused: memory::is_fused(&device, config.precision),
        freeze: &config.trainer.freeze,
        saves: if config.trainer.checkpoint_every > 0 { Saves::Checkpoints } else { Saves::Model },
    };
    let Some(budget) = &config.memory_budget else { return Ok(MemoryPlan { available, ..MemoryPlan::of(&workload, program) }) };
    let budget = llm_run::config::parse_bytes(budget).map_err(|e| Error::Config(format!("memory_budget: {e}")))?;
    let choice = memory::fit(&workload, config.batch_size, budget as f64, program)?;
    (config.micro_batch_size, config.recompute) = (choice.micro_batch_size, choice.recompute);
    Ok(MemoryPlan { available, ..choice.plan })
}

/// Vocabulary size (rounded up to a multiple of 64, as matrix kernels like it) and special ids.
pub fn fit_to_tokenizer(model: &mut DecoderConfig, tokenizer: &Tokenizer) {
    model.vocab_size = tokenizer.vocab_size().next_multiple_of(64);
    model.bos_token_id = tokenizer.bos_id();
    model.pad_token_id = tokenizer.pad_id();
    model.eos_token_id = [tokenizer.eos_id(), tokenizer.special_id("<|eot_id|>")].into_iter().flatten().collect();
    model.eos_token_id.dedup();
}

fn open_shards(dir: &Path, context: usize) -> Result<Shards> {
    let shards = Shards::open(dir)?;
    if shards.is_empty() {
        return Err(Error::Config(format!("{}: holds no rows; pack more text or lower sequence_length", dir.display())));
    }
    if shards.sequence_length() > context {
        let message = format!("{}: rows of {} tokens do not fit model.max_position_embeddings = {context}", dir.display(), shards.sequence_length());
        return Err(Error::Config(message));
    }
    Ok(shards)
}

/// Pre-train a model into `out`.
pub fn pretrain(mut config: PretrainConfig, out: &Path, name: &str) -> Result<Outcome<Decoder>> {
    let (mut objective, tokenizer) = Pretrain::open(&mut config)?;
    // Neither changes a result: recomputation may be switched on in the middle of a run, and the budget has become a micro-batch.
    let same = PretrainConfig { recompute: Recompute::None, memory_budget: None, ..config.clone() };
    let identity = json!({"config": same, "train": objective.train.hash()?, "tokenizer": llm_run::hash::path(&config.tokenizer)?});
    let trainer = Trainer {
        config: config.trainer.clone(),
        out: out.to_path_buf(),
        name: name.to_string(),
        fingerprint: llm_run::hash::bytes(identity.to_string().as_bytes()),
    };
    let device = config.device.open()?.autodiff();
    let seed = Seed(config.seed).stream("initial weights");
    eprintln!("{}", objective.plan);
    let outcome = trainer.run(&mut objective, || Ok(Decoder::new_as(&config.model, seed, config.precision, &device)?), &tokenizer)?;
    if let (true, Some(peak)) = (is_cpu(&device), memory::measured_peak(&[&config.train, &config.heldout])) {
        eprintln!("{}", objective.plan.compared(peak));
    }
    Ok(outcome)
}
