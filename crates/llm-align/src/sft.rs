//! Supervised fine-tuning: imitate the assistant's turns.
//!
//! Conversations are rendered with the tokenizer's chat template; its mask says which tokens the assistant wrote, end of turn
//! included, and only those are trained (label -100 elsewhere, in Hugging Face's terms). The loss is the mean over the trained
//! tokens of the whole step, whatever the micro-batches.

use llm_arch::{Decoder, hf};
use llm_data::exercises;
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
    /// JSONL of conversations to train on.
    pub train: PathBuf,
    /// JSONL of held-out conversations for the validation loss; empty is none.
    pub heldout: PathBuf,
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
    /// Benchmarks with every validation.
    pub evaluation: EvaluationConfig,
    /// The loop.
    pub trainer: TrainerConfig,
}

impl Default for SftConfig {
    fn default() -> Self {
        Self {
            model: PathBuf::new(),
            train: PathBuf::new(),
            heldout: PathBuf::new(),
            epochs: 0.0,
            batch_size: 64,
            micro_batch_tokens: 2048,
            eval_conversations: 128,
            seed: 0,
            device: DeviceSpec::Auto,
            recompute: Recompute::None,
            evaluation: EvaluationConfig::default(),
            trainer: TrainerConfig::default(),
        }
    }
}

/// The objective.
#[derive(Debug)]
pub struct Sft {
    train: Vec<Sequence>,
    heldout: Vec<Sequence>,
    evaluation: Option<Evaluation>,
    config: SftConfig,
}

/// One micro-batch and the trained tokens of its whole step.
#[derive(Debug)]
pub struct SftBatch {
    sequences: Sequences,
    step_trained: usize,
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
        let micro: Vec<Sequences> = groups(&picked, self.config.micro_batch_tokens).into_iter().map(Sequences::pack).collect();
        let step_trained = micro.iter().map(Sequences::trained).sum();
        Ok(micro.into_iter().map(|sequences| SftBatch { sequences, step_trained }).collect())
    }

    fn loss(&self, model: &Decoder, batch: &SftBatch) -> Result<Loss> {
        let sequences = &batch.sequences;
        let Forward { hidden_ND, deferred, .. } = recompute::forward(model, &sequences.batch, None, self.config.recompute);
        let value = sequences.nll_of(model, hidden_ND).sum() / batch.step_trained.max(1) as f32;
        Ok(Loss { value, tokens: sequences.batch.ids.len() as u64, deferred })
    }

    fn tokens(&self) -> Option<(f64, usize)> {
        let length = self.train.iter().map(|s| s.ids.len()).sum::<usize>() / self.train.len().max(1);
        Some(((self.config.batch_size * length) as f64, length))
    }

    fn settings(&self) -> Value {
        json!(self.config)
    }

    fn validate(&mut self, model: &Decoder) -> Result<Map<String, Value>> {
        let mut record = self.evaluation.as_ref().map_or_else(|| Ok(Map::new()), |evaluation| evaluation.run(model))?;
        let (mut nll, mut trained) = (0f64, 0usize);
        for group in groups(&self.heldout, self.config.micro_batch_tokens) {
            let sequences = Sequences::pack(group);
            trained += sequences.trained();
            nll += host::to_vec(sequences.nll(model)).iter().map(|&x| f64::from(x)).sum::<f64>();
        }
        if trained > 0 {
            record.insert("val_loss".into(), json!(nll / trained as f64));
        }
        Ok(record)
    }
}

/// Render every conversation of a JSONL file and find its trained tokens.
pub fn load_conversations(path: &Path, tokenizer: &Tokenizer, context: usize) -> Result<Vec<Sequence>> {
    let rows = exercises::read(path)?;
    let mut out = Vec::with_capacity(rows.len());
    for (i, row) in rows.iter().enumerate() {
        let tokens = tokenizer.apply_chat_template(&row.messages, false)?;
        let place = || format!("{}: row {} (`{}`)", path.display(), i + 1, row.id);
        if tokens.ids.len() > context {
            return Err(Error::Objective(format!("{}: {} tokens do not fit the context of {context}", place(), tokens.ids.len())));
        }
        if !tokens.assistant_mask.contains(&true) {
            return Err(Error::Objective(format!("{}: no assistant tokens to train on; expected a message with role \"assistant\"", place())));
        }
        out.push(Sequence { ids: tokens.ids, loss_mask: tokens.assistant_mask });
    }
    if out.is_empty() {
        return Err(Error::Objective(format!("{}: no conversations in it", path.display())));
    }
    Ok(out)
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
    let context = hf::load_config(&config.model)?.max_position_embeddings;
    let train = load_conversations(&config.train, &tokenizer, context)?;
    let mut heldout = if config.heldout.as_os_str().is_empty() { Vec::new() } else { load_conversations(&config.heldout, &tokenizer, context)? };
    heldout.truncate(config.eval_conversations);
    if config.epochs > 0.0 {
        config.trainer.max_steps = (config.epochs * train.len() as f64 / config.batch_size as f64).ceil() as u64;
    }
    // Recomputation changes no result, so it may be switched on in the middle of a run.
    let same = SftConfig { recompute: Recompute::None, ..config.clone() };
    let identity = json!({"config": same, "model": llm_run::hash::path(&config.model)?, "train": llm_run::hash::path(&config.train)?});
    let trainer = Trainer { config: config.trainer.clone(), out: out.to_path_buf(), name: "sft".into(), identity: Identity::new(identity) };
    let device = config.device.open()?.autodiff();
    let start = config.model.clone();
    let evaluation = Evaluation::open(&config.evaluation, &tokenizer)?;
    trainer.run(&mut Sft { train, heldout, evaluation, config }, || Ok(hf::load(&start, &device)?), &tokenizer)
}
