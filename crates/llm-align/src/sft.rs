//! Supervised fine-tuning: imitate the assistant's turns.
//!
//! Conversations are rendered with the tokenizer's chat template; its mask says which tokens the assistant wrote, end of turn
//! included, and only those are trained (label -100 elsewhere, in Hugging Face's terms). The loss is the mean over the trained
//! tokens of the whole step, whatever the micro-batches.
//!
//! Against forgetting, rows of pre-training shards may be mixed into every step ([`ReplayConfig`]); how much is forgotten is measured with
//! every validation, the one before the first step included.

use crate::data::{self, Conversation, Encoder, OnBadRow, Rows};
use crate::model;
use crate::replay::{Replay, ReplayConfig};
use crate::watchdog::{WatchdogConfig, Watched};
use llm_arch::Decoder;
use llm_arch::adapter::AdapterSpec;
use llm_run::Seed;
use llm_run::seed::permuted;
use llm_tensor::{DeviceSpec, host};
use llm_tokenizer::Tokenizer;
use llm_train::checkpoint::Identity;
use llm_train::evaluation::{Evaluation, EvaluationConfig};
use llm_train::recompute::{self, Forward, Recompute};
use llm_train::sequences::{Sequence, Sequences, groups};
use llm_train::trainer::Outcome;
use llm_train::{Error, Loss, Objective, Result, Trainer, TrainerConfig};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// `llm-align sft`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SftConfig {
    /// Model folder to start from.
    pub model: PathBuf,
    /// Conversations to train on: OpenAI messages, ShareGPT, Alpaca, prompt and completion; JSONL, JSON or Parquet ([`crate::data`]).
    pub train: PathBuf,
    /// Held-out conversations for the validation loss; empty is none.
    pub heldout: PathBuf,
    /// What to do with rows that cannot be used.
    #[serde(skip_serializing_if = "OnBadRow::is_error")]
    pub on_bad_row: OnBadRow,
    /// Passes over the data; overrides `trainer.max_steps` when positive.
    pub epochs: f64,
    /// Conversations per step.
    pub batch_size: usize,
    /// Tokens per forward pass.
    pub micro_batch_tokens: usize,
    /// Held-out conversations per validation.
    pub eval_conversations: usize,
    /// Seed of the data order.
    pub seed: u64,
    /// Where to compute.
    pub device: DeviceSpec,
    /// `block` keeps of the activations only what enters each block and computes the rest again: less memory, a third more arithmetic.
    #[serde(skip_serializing_if = "Recompute::is_none")]
    pub recompute: Recompute,
    /// Train an adapter of this kind instead of the weights; `OUT/model` is then its folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterSpec>,
    /// General data in every step, against forgetting.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay: Option<ReplayConfig>,
    /// Benchmarks with every validation.
    pub evaluation: EvaluationConfig,
    /// Only its forgetting monitor: on `watchdog.general`, or on the held-out rows of `replay`.
    #[serde(skip_serializing_if = "is_default")]
    pub watchdog: WatchdogConfig,
    /// The loop.
    pub trainer: TrainerConfig,
}

fn is_default(config: &WatchdogConfig) -> bool {
    *config == WatchdogConfig::default()
}

impl Default for SftConfig {
    fn default() -> Self {
        Self {
            model: PathBuf::new(),
            train: PathBuf::new(),
            heldout: PathBuf::new(),
            on_bad_row: OnBadRow::Error,
            epochs: 0.0,
            batch_size: 64,
            micro_batch_tokens: 2048,
            eval_conversations: 128,
            seed: 0,
            device: DeviceSpec::Auto,
            recompute: Recompute::None,
            adapter: None,
            replay: None,
            evaluation: EvaluationConfig::default(),
            watchdog: WatchdogConfig::default(),
            trainer: TrainerConfig::default(),
        }
    }
}

/// The objective.
#[derive(Debug)]
pub struct Sft {
    train: Vec<Sequence>,
    heldout: Vec<Sequence>,
    replay: Option<Replay>,
    evaluation: Option<Evaluation>,
    config: SftConfig,
    /// Tokens of general data in the step that was asked for last.
    replayed: usize,
}

/// One micro-batch.
#[derive(Debug)]
pub struct SftBatch {
    sequences: Sequences,
    /// What the sum of its losses is divided by: the trained tokens of its kind in the whole step, over the weight of the kind.
    divisor: f32,
}

/// Micro-batches of sequences whose mean loss has this weight in the step.
fn batches_of(sequences: &[Sequence], budget: usize, weight: f32) -> Vec<SftBatch> {
    let micro: Vec<Sequences> = groups(sequences, budget).into_iter().map(Sequences::pack).collect();
    let trained: usize = micro.iter().map(Sequences::trained).sum();
    let divisor = trained.max(1) as f32 / weight;
    micro.into_iter().map(|sequences| SftBatch { sequences, divisor }).collect()
}

/// Sum of the losses of the trained tokens in nats, and their number.
pub(crate) fn summed(model: &Decoder, sequences: &[Sequence], budget: usize) -> (f64, usize) {
    let (mut nll, mut trained) = (0f64, 0usize);
    for group in groups(sequences, budget) {
        let sequences = Sequences::pack(group);
        if sequences.trained() > 0 {
            trained += sequences.trained();
            nll += host::to_vec(sequences.nll(model)).iter().map(|&x| f64::from(x)).sum::<f64>();
        }
    }
    (nll, trained)
}

impl Objective for Sft {
    type Model = Decoder;
    type Batch = SftBatch;

    fn batches(&mut self, step: u64, _: &Decoder) -> Result<Vec<SftBatch>> {
        let n = self.train.len() as u64;
        let order = Seed(self.config.seed).stream("conversation order");
        let picked: Vec<Sequence> = (0..self.config.batch_size as u64)
            .map(|j| {
                let i = step * self.config.batch_size as u64 + j;
                self.train[permuted(order.at(i / n), i % n, n) as usize].clone()
            })
            .collect();
        let budget = self.config.micro_batch_tokens;
        let Some(replay) = &self.replay else { return Ok(batches_of(&picked, budget, 1.0)) };
        let general = replay.sequences(step);
        self.replayed = general.iter().map(|sequence| sequence.ids.len()).sum();
        let share = replay.share() as f32;
        let mut batches = batches_of(&picked, budget, 1.0 - share);
        batches.extend(batches_of(&general, budget, share));
        Ok(batches)
    }

    fn loss(&self, model: &Decoder, batch: &SftBatch) -> Result<Loss> {
        let sequences = &batch.sequences;
        let Forward { hidden_ND, deferred, .. } = recompute::forward(model, &sequences.batch, None, self.config.recompute);
        let value = sequences.nll_of(model, hidden_ND).sum() / batch.divisor;
        Ok(Loss { value, tokens: sequences.batch.ids.len() as u64, deferred })
    }

    fn tokens(&self) -> Option<(f64, usize)> {
        let length = self.train.iter().map(|s| s.ids.len()).sum::<usize>() / self.train.len().max(1);
        let replayed = self.replay.as_ref().map_or(0.0, Replay::tokens_per_step);
        Some(((self.config.batch_size * length) as f64 + replayed, length))
    }

    fn metrics(&mut self) -> Map<String, Value> {
        let replayed = self.replay.as_ref().map(|_| ("replay_tokens".to_string(), json!(self.replayed)));
        replayed.into_iter().collect()
    }

    fn settings(&self) -> Value {
        json!(self.config)
    }

    fn validate(&mut self, model: &Decoder) -> Result<Map<String, Value>> {
        let mut record = self.evaluation.as_ref().map_or_else(|| Ok(Map::new()), |evaluation| evaluation.run(model))?;
        let (nll, trained) = summed(model, &self.heldout, self.config.micro_batch_tokens);
        if trained > 0 {
            record.insert("val_loss".into(), json!(nll / trained as f64));
        }
        if let Some(replay) = &self.replay {
            record.extend(replay.validate(model, self.config.micro_batch_tokens));
        }
        Ok(record)
    }
}

/// Render every conversation of a file and find its trained tokens; a row that cannot be used is an error.
pub fn load_conversations(path: &Path, tokenizer: &Tokenizer, context: usize) -> Result<Vec<Sequence>> {
    let encoder = Encoder::new(tokenizer, context);
    let rows = data::conversations(path, OnBadRow::Error)?;
    Ok(data::keep(path, rows, OnBadRow::Error, |row| encoder.conversation(row))?.0)
}

/// Refuse an unset path with advice.
pub(crate) fn require(key: &str, path: &Path) -> Result<()> {
    if path.as_os_str().is_empty() {
        return Err(Error::Config(format!("`{key}` is missing; set it in the configuration or with --set {key}=PATH")));
    }
    Ok(())
}

/// Fine-tune into `out`.
pub fn sft(mut config: SftConfig, out: &Path) -> Result<Outcome<Decoder>> {
    require("model", &config.model)?;
    require("train", &config.train)?;
    if config.batch_size == 0 || config.micro_batch_tokens == 0 {
        return Err(Error::Config("batch_size and micro_batch_tokens must be positive".into()));
    }
    let tokenizer = Tokenizer::load(&config.model)?;
    // Damaged rows are told before a large model is read.
    let rows = data::conversations(&config.train, config.on_bad_row)?;
    let heldout_rows = if config.heldout.as_os_str().is_empty() { None } else { Some(data::conversations(&config.heldout, config.on_bad_row)?) };
    let device = config.device.open()?.autodiff();
    let model = model::open(&config.model, &config.adapter, config.seed, &device)?;
    let context = model.config().max_position_embeddings;
    let encoder = Encoder::new(&tokenizer, context);
    let keep = |path: &Path, rows: Rows<Conversation>| data::keep(path, rows, config.on_bad_row, |row| encoder.conversation(row));
    let (train, skipped) = keep(&config.train, rows)?;
    let (mut heldout, skipped_heldout) = match heldout_rows {
        Some(rows) => keep(&config.heldout, rows)?,
        None => (Vec::new(), Vec::new()),
    };
    data::report(out, &[(config.train.as_path(), skipped.as_slice()), (config.heldout.as_path(), skipped_heldout.as_slice())])?;
    heldout.truncate(config.eval_conversations);
    if config.epochs > 0.0 {
        config.trainer.max_steps = (config.epochs * train.len() as f64 / config.batch_size as f64).ceil() as u64;
    }
    // Recomputation and watching change no result, so they may be set anew in the middle of a run.
    let same = SftConfig { recompute: Recompute::None, watchdog: WatchdogConfig::default(), ..config.clone() };
    let mut identity = json!({"config": same, "model": llm_run::hash::path(&config.model)?, "train": llm_run::hash::path(&config.train)?});
    let tokens_per_step = config.batch_size as f64 * train.iter().map(|s| s.ids.len()).sum::<usize>() as f64 / train.len() as f64;
    let mut replay = match &config.replay {
        Some(settings) => Some(Replay::open(settings, &tokenizer, context, tokens_per_step, Seed(config.seed))?),
        None => None,
    };
    let evaluation = Evaluation::open(&config.evaluation, &tokenizer)?;
    if let Some(replay) = &mut replay {
        identity["replay"] = replay.hash()?.into();
        if config.trainer.eval_every > 0 {
            replay.begin(&model.untracked(), config.micro_batch_tokens);
        }
    }
    let trainer = Trainer { config: config.trainer.clone(), out: out.to_path_buf(), name: "sft".into(), identity: Identity::new(identity) };
    let watchdog = config.watchdog.clone();
    let objective = Sft { train, heldout, replay, evaluation, config, replayed: 0 };
    trainer.run(&mut Watched::new(objective, &watchdog, &tokenizer, context)?, || Ok(model), &tokenizer)
}
