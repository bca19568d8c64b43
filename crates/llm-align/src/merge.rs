//! `llm-align merge`: adapters into the weights of their model, and a refusal to write a model that is not what base and adapters were.
//!
//! The merged weights are compared with the adapters beside the weights before anything is written: logits on sample text in `f32`, then, if asked
//! for, losses on a file of conversations and benchmarks, with the merged weights in the number format that is written. Several adapters are
//! combined first (`llm_arch::adapter::combine`).

use crate::{Error, Result};
use llm_arch::adapter::{self, Combination, combine};
use llm_arch::{Adapter, Decoder, PackedBatch, hf};
use llm_data::exercises;
use llm_run::atomic::AtomicDir;
use llm_run::{Seed, config};
use llm_tensor::burn::tensor::{DType, Device};
use llm_tensor::weights::SaveOptions;
use llm_tensor::{Precision, host, params};
use llm_tokenizer::Tokenizer;
use llm_train::evaluation::{Evaluation, EvaluationConfig};
use llm_train::sequences::{Sequence, Sequences, groups};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Text of the comparison: words, numbers, code, other scripts.
const SAMPLE: &str = "The quick brown fox jumps over the lazy dog. 12 * 7 = 84, and 3/4 of it is 63.\nfn main() { println!(\"{}\", 1 + 1); }\nÄpfel, \
     naïve, 漢字.";

/// Tokens of the comparison that are drawn from the vocabulary.
const DRAWN: usize = 64;

/// Tokens of a forward pass over the checked conversations.
const CHECK_TOKENS: usize = 2048;

/// Arguments of `merge`.
#[derive(Debug, clap::Args)]
pub struct Merge {
    /// PEFT folder, with its weight where that is not 1: DIR or DIR=0.5 (repeatable).
    #[arg(long = "adapter", value_name = "DIR[=WEIGHT]", required = true, value_parser = weighted)]
    adapters: Vec<(PathBuf, f64)>,
    /// Model folder [default: what the first adapter names].
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Folder to write; must not exist.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How several adapters become one: cat (the weighted sum of their updates), linear, ties, dare_linear, dare_ties, magnitude_prune.
    #[arg(long, default_value = "cat")]
    combination: Combination,
    /// Share of the numbers that ties, dare_* and magnitude_prune keep.
    #[arg(long, default_value_t = 0.5)]
    density: f64,
    /// Seed of what dare_* drops.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Number format to write: float32, bfloat16, float16.
    #[arg(long, default_value = "float32")]
    precision: Precision,
    /// Largest file, e.g. 500MB, 5GB.
    #[arg(long, default_value = "5GB", value_parser = bytes)]
    max_shard_size: usize,
    /// Largest difference of merged and unmerged logits in f32, as a share of the largest logit.
    #[arg(long, default_value_t = 1e-5)]
    tolerance: f64,
    /// JSONL of conversations whose loss must not rise by more than --max-drop nats a token.
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
    /// Benchmark that must not fall by more than --max-drop (llm-eval tasks lists them; repeatable).
    #[arg(long = "task", value_name = "NAME")]
    tasks: Vec<String>,
    /// Folder of the benchmark files.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Only the first documents of every benchmark.
    #[arg(long)]
    limit: Option<usize>,
    /// What --check and --task allow.
    #[arg(long, default_value_t = 0.01)]
    max_drop: f64,
}

fn weighted(text: &str) -> std::result::Result<(PathBuf, f64), String> {
    match text.rsplit_once('=') {
        Some((dir, weight)) if !Path::new(text).exists() => match weight.parse() {
            Ok(weight) => Ok((dir.into(), weight)),
            Err(_) => Err(format!("`{weight}` is no weight; expected DIR or DIR=NUMBER")),
        },
        _ => Ok((text.into(), 1.0)),
    }
}

fn bytes(text: &str) -> std::result::Result<usize, String> {
    config::parse_bytes(text).map_err(|e| e.to_string())
}

impl Merge {
    /// Compare, then write.
    pub fn run(&self) -> Result<()> {
        if self.out.exists() {
            return Err(Error::Config(format!("{} exists already; choose a new folder", self.out.display())));
        }
        let Some((first, _)) = self.adapters.first() else { return Err(Error::Config("no --adapter".into())) };
        let folder = self.model.clone().map_or_else(|| adapter::base_of(first), Ok)?;
        let model = hf::load_config(&folder)?;
        let mut loaded = Vec::new();
        for (dir, weight) in &self.adapters {
            loaded.push((Adapter::load(dir, &model)?, *weight));
        }
        let combined = match loaded.as_slice() {
            [(adapter, weight)] if *weight == 1.0 => adapter.clone(),
            _ => combine(&loaded, self.combination, self.density, Seed(self.seed).stream("dare"))?,
        };
        let tokenizer = [first, &folder].into_iter().find(|dir| dir.join("tokenizer.json").exists()).map(Tokenizer::load).transpose()?;
        let base = hf::load(&folder, &Device::flex())?;
        let unmerged = adapter::beside(base.clone(), &combined)?;
        let merged = adapter::merge(base, &combined)?;
        let off = difference(&unmerged, &merged, tokenizer.as_ref())?;
        eprintln!("merged and unmerged logits differ by {off:.1e} of the largest");
        if off.is_nan() || off > self.tolerance {
            return Err(refused(format!("merged and unmerged logits differ by {off:e} of the largest; --tolerance is {:e}", self.tolerance)));
        }
        let written = rounded(merged, self.precision);
        self.compare(&unmerged, &written, tokenizer.as_ref())?;
        let out = AtomicDir::create(&self.out)?;
        hf::save_as(out.path(), &written, SaveOptions { precision: self.precision, max_shard_bytes: self.max_shard_size })?;
        if let Some(tokenizer) = &tokenizer {
            tokenizer.save(out.path())?;
        }
        out.commit()?;
        eprintln!("{} changed parameters of {} adapters are in {}", combined.changes.len(), self.adapters.len(), self.out.display());
        Ok(())
    }

    /// Losses and benchmarks before and after.
    fn compare(&self, before: &Decoder, after: &Decoder, tokenizer: Option<&Tokenizer>) -> Result<()> {
        if self.check.is_none() && self.tasks.is_empty() {
            return Ok(());
        }
        let Some(tokenizer) = tokenizer else {
            return Err(Error::Config("--check and --task need a tokenizer.json in the model's folder or the adapter's".into()));
        };
        if let Some(file) = &self.check {
            let sequences = conversations(file, tokenizer, before.config().max_position_embeddings)?;
            let (was, is) = (mean_loss(before, &sequences), mean_loss(after, &sequences));
            eprintln!("loss on {}: {was:.4} before, {is:.4} after", file.display());
            if is.is_nan() || is - was > self.max_drop {
                return Err(refused(format!("the loss on {} rises from {was:.4} to {is:.4}; --max-drop is {}", file.display(), self.max_drop)));
            }
        }
        let settings = EvaluationConfig {
            tasks: self.tasks.clone(),
            data: self.data.clone().unwrap_or_default(),
            limit: self.limit,
            ..EvaluationConfig::default()
        };
        let Some(evaluation) = Evaluation::open(&settings, tokenizer)? else { return Ok(()) };
        let (was, is) = (evaluation.run(before)?, evaluation.run(after)?);
        for (name, was) in &was {
            let (Some(was), Some(is)) = (was.as_f64(), is.get(name).and_then(Value::as_f64)) else { continue };
            eprintln!("{name}: {was:.4} before, {is:.4} after");
            let lower_is_better = ["perplexity", "bits_per", "loss"].iter().any(|part| name.contains(part));
            let drop = if lower_is_better { is - was } else { was - is };
            if drop.is_nan() || drop > self.max_drop {
                return Err(refused(format!("{name} goes from {was:.4} to {is:.4}; --max-drop is {}", self.max_drop)));
            }
        }
        Ok(())
    }
}

fn refused(reason: String) -> Error {
    Error::Objective(format!("the merged model is not written: {reason}"))
}

/// Largest difference of the logits as a share of the largest, on the sample text and on ids from all over the vocabulary.
fn difference(a: &Decoder, b: &Decoder, tokenizer: Option<&Tokenizer>) -> Result<f64> {
    let config = a.config();
    let mut texts = Vec::new();
    if let Some(tokenizer) = tokenizer {
        texts.push(tokenizer.encode(SAMPLE));
    }
    let mut rng = Seed(0).stream("merge").rng();
    texts.push((0..DRAWN).map(|_| rng.below(config.vocab_size) as u32).collect());
    let (mut largest, mut off) = (0f64, 0f64);
    for mut ids in texts {
        ids.retain(|id| (*id as usize) < config.vocab_size);
        ids.truncate(config.max_position_embeddings);
        let batch = PackedBatch::sequence(&ids);
        let logits = |model: &Decoder| host::to_vec(model.logits(model.hidden(&batch)));
        for (x, y) in logits(a).into_iter().zip(logits(b)) {
            let (x, y) = (f64::from(x), f64::from(y));
            largest = largest.max(x.abs());
            let d = (x - y).abs();
            off = if d > off || d.is_nan() { d } else { off };
        }
    }
    Ok(if off == 0.0 { 0.0 } else { off / largest })
}

/// The weights as a file of that format holds them.
fn rounded(model: Decoder, precision: Precision) -> Decoder {
    if precision == Precision::F32 {
        return model;
    }
    params::map(model, |_, _, value| value.cast(precision.dtype()).cast(DType::F32))
}

fn conversations(path: &Path, tokenizer: &Tokenizer, context: usize) -> Result<Vec<Sequence>> {
    let mut out = Vec::new();
    for (i, row) in exercises::read(path)?.iter().enumerate() {
        let tokens = tokenizer.apply_chat_template(&row.messages, false)?;
        if tokens.ids.len() > context {
            let message = format!("{}: row {}: {} tokens do not fit the context of {context}", path.display(), i + 1, tokens.ids.len());
            return Err(Error::Objective(message));
        }
        out.push(Sequence { ids: tokens.ids, loss_mask: tokens.assistant_mask });
    }
    if !out.iter().any(|sequence| sequence.loss_mask.contains(&true)) {
        return Err(Error::Objective(format!("{}: no assistant tokens to compare", path.display())));
    }
    Ok(out)
}

/// Nats per token of the assistant.
fn mean_loss(model: &Decoder, sequences: &[Sequence]) -> f64 {
    let (mut sum, mut trained) = (0f64, 0usize);
    for group in groups(sequences, CHECK_TOKENS) {
        let packed = Sequences::pack(group);
        trained += packed.trained();
        sum += host::to_vec(packed.nll(model)).iter().map(|x| f64::from(*x)).sum::<f64>();
    }
    sum / trained as f64
}
