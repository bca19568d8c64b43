//! `llm-quant compare`: what a smaller model costs against its original, on the same text.
//!
//! Documents are read by the rule of `llm_eval::bits_per_byte`: BOS (or EOS) in front, windows of the model's context, every text token scored
//! once. On each token both models' whole distributions are compared: KL(original || smaller) in nats, and whether the most likely token is
//! another one. Two models are in memory at a time.

use crate::error::check_interrupt;
use crate::{Error, Result};
use llm_arch::{Decoder, PackedBatch};
use llm_data::document::Document;
use llm_eval::documents::select;
use llm_eval::model::Local;
use llm_eval::{exercises, windows::windows};
use llm_infer::{Engine, EngineConfig, Model, Request, Sampling};
use llm_run::progress::thousands;
use llm_run::{Progress, Run, Seed};
use llm_tensor::kernels::divergence::{divergence, log_sum};
use llm_tensor::{DeviceSpec, host};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// File with the numbers.
pub const FILE: &str = "comparison.json";

/// Tokens of a forward pass.
const BATCH_TOKENS: usize = 4096;
/// Logits on the host at a time, for each model.
const LOGITS_AT_ONCE: usize = 1 << 24;

/// Configuration of `llm-quant compare`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CompareConfig {
    /// Model folders; the first one is the original.
    pub models: Vec<PathBuf>,
    /// Held-out documents (Parquet): bits per byte, KL, flips.
    pub documents: Option<PathBuf>,
    /// Read at most this many bytes of them, chosen by hash.
    pub limit_bytes: Option<u64>,
    /// Held-out exercises (JSON lines): exact match.
    pub exercises: Option<PathBuf>,
    /// Ask at most this many, chosen by hash.
    pub limit: Option<usize>,
    /// Longest answer in tokens.
    pub max_tokens: usize,
    /// Requests generated together.
    pub max_batch: usize,
    /// Tokens generated one by one to measure speed; 0 leaves it out.
    pub decode_tokens: usize,
    /// Where the models run.
    pub device: DeviceSpec,
    /// Chooses documents and exercises.
    pub seed: u64,
}

impl Default for CompareConfig {
    fn default() -> Self {
        Self {
            models: Vec::new(),
            documents: None,
            limit_bytes: None,
            exercises: None,
            limit: None,
            max_tokens: 256,
            max_batch: 64,
            decode_tokens: 128,
            device: DeviceSpec::Auto,
            seed: 0,
        }
    }
}

/// One model against the original.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Folder.
    pub model: PathBuf,
    /// How its projections are stored.
    pub storage: String,
    /// Bytes of its weight files.
    pub disk_bytes: u64,
    /// Bytes of its weights in memory.
    pub memory_bytes: u64,
    /// Of the held-out text.
    pub bits_per_byte: Option<f64>,
    /// Relative to the original's.
    pub bits_per_byte_change: Option<f64>,
    /// Mean of KL(original || this), nats a token.
    pub kl_mean: Option<f64>,
    /// Its 99th percentile.
    pub kl_p99: Option<f64>,
    /// Share of tokens whose most likely candidate is another one.
    pub top1_flips: Option<f64>,
    /// Exact match on exercises.
    pub exercises: Option<f64>,
    /// Tokens a second, one request, token by token.
    pub decode_tokens_per_second: Option<f64>,
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// The original first.
    pub rows: Vec<Row>,
    /// Bytes of text.
    pub text_bytes: u64,
    /// Tokens compared.
    pub tokens: u64,
    /// Exercises asked.
    pub exercises: usize,
}

/// Measure, and write [`FILE`] into `out`.
pub fn compare(config: &CompareConfig, out: &Path) -> Result<Comparison> {
    let Some((first, others)) = config.models.split_first() else {
        return Err(Error::Config("`models` is empty; give the original first, then the models to compare with it".into()));
    };
    let seed = Seed(config.seed);
    let documents = config.documents.as_deref().map(|path| select(path, config.limit_bytes, seed.stream("documents"))).transpose()?;
    let asked = config.exercises.as_deref().map(|path| exercises::read(path, config.limit, seed.stream("exercises"))).transpose()?;
    let mut run = Run::start(out, "llm-quant", "compare", config)?;
    run.manifest.seed = Some(config.seed);
    for input in config.models.iter().chain(&config.documents).chain(&config.exercises) {
        run.input(input)?;
    }
    let original = Model::load(first, &config.device)?;
    let mut comparison = Comparison { exercises: asked.as_ref().map_or(0, Vec::len), ..Comparison::default() };
    comparison.text_bytes = documents.iter().flatten().map(|d| d.text.len() as u64).sum();
    for path in std::iter::once(first).chain(others) {
        let other = if path == first { None } else { Some(Model::load(path, &config.device)?) };
        let model = other.as_ref().unwrap_or(&original);
        let mut row = measure_size(path, model)?;
        if let Some(documents) = &documents {
            let text = compare_text(&original, other.as_ref(), documents, &row.name())?;
            comparison.tokens = text.tokens;
            row.bits_per_byte = Some(text.bits / comparison.text_bytes.max(1) as f64);
            if other.is_some() {
                (row.kl_mean, row.kl_p99, row.top1_flips) = (Some(text.kl_mean()), Some(text.kl_quantile(0.99)), Some(text.flips()));
                let base = comparison.rows.first().and_then(|r| r.bits_per_byte);
                row.bits_per_byte_change = row.bits_per_byte.zip(base).map(|(a, b)| a / b - 1.0);
            }
        }
        if config.decode_tokens > 0 {
            row.decode_tokens_per_second = Some(decode_speed(model, config.decode_tokens)?);
        }
        if let Some(asked) = &asked {
            let local = Local::load(path, config.device, config.max_batch)?;
            let samples = exercises::ask(&local, asked, config.max_tokens)?;
            row.exercises = exercises::summarise(&samples).get(exercises::TASK).map(|task| task.value);
        }
        comparison.rows.push(row);
    }
    let text = serde_json::to_string_pretty(&comparison).unwrap_or_default() + "\n";
    llm_run::atomic::write(run.path(FILE), text)?;
    run.finish(json!({"models": comparison.rows.len(), "tokens": comparison.tokens}))?;
    Ok(comparison)
}

fn measure_size(path: &Path, model: &Model) -> Result<Row> {
    let files = if path.is_file() { vec![path.to_path_buf()] } else { llm_run::atomic::walk(path)? };
    let weights = files.iter().filter(|f| f.extension().is_some_and(|e| e == "safetensors" || e == "gguf"));
    let disk_bytes = weights.filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum();
    let (memory_bytes, storage) = memory(&model.decoder);
    Ok(Row { model: path.to_path_buf(), storage, disk_bytes, memory_bytes, ..Row::default() })
}

/// Bytes of the weights in memory, and how the projections are stored.
pub fn memory(decoder: &Decoder) -> (u64, String) {
    let mut decoder = decoder.clone();
    let dense = decoder.precision().bytes();
    let all = llm_arch::parameters::parameters(decoder.config()).iter().map(|p| p.size()).sum::<usize>() * dense;
    let (mut packed, mut replaced, mut storage) = (0, 0, format!("{} bits", 8 * dense));
    for (_, linear) in decoder.linears_mut() {
        if let Some(matrix) = linear.weight.as_packed() {
            packed += matrix.bytes();
            replaced += matrix.outputs() * matrix.inputs() * dense;
            storage = matrix.describe();
        }
    }
    ((all - replaced + packed) as u64, storage)
}

/// Sums over the tokens of all documents.
#[derive(Debug, Default)]
struct Text {
    bits: f64,
    tokens: u64,
    flipped: u64,
    kl: Vec<f32>,
}

impl Text {
    fn kl_mean(&self) -> f64 {
        self.kl.iter().map(|&k| f64::from(k)).sum::<f64>() / self.kl.len().max(1) as f64
    }
    fn kl_quantile(&self, share: f64) -> f64 {
        let mut sorted = self.kl.clone();
        sorted.sort_by(f32::total_cmp);
        sorted.get(((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1))).map_or(0.0, |&k| f64::from(k))
    }
    fn flips(&self) -> f64 {
        self.flipped as f64 / self.tokens.max(1) as f64
    }
}

/// Bits of the documents under `other`, or under `original` where there is none, and how far the two are apart.
fn compare_text(original: &Model, other: Option<&Model>, documents: &[Document], name: &str) -> Result<Text> {
    let tokenizer = &original.tokenizer;
    let context = original.decoder.config().max_position_embeddings;
    if let Some(other) = other
        && other.decoder.config().vocab_size != original.decoder.config().vocab_size
    {
        return Err(Error::Config(format!("{name} has another vocabulary than the original; only models with the same tokens can be compared")));
    }
    let prefix = tokenizer.bos_id().or(tokenizer.eos_id());
    let prefix = prefix.ok_or_else(|| Error::Config("the tokenizer has neither a begin-of-text nor an end-of-text token".into()))?;
    let mut all: Vec<Vec<u32>> = Vec::new();
    for document in documents {
        let ids: Vec<u32> = std::iter::once(prefix).chain(tokenizer.encode(&document.text)).collect();
        all.extend(windows(ids.len(), context).map(|w| ids[w].to_vec()));
    }
    let mut progress = Progress::new(name, all.iter().map(|w| w.len() as u64).sum(), "tokens");
    let mut text = Text::default();
    let mut rest = all.as_slice();
    while !rest.is_empty() {
        check_interrupt()?;
        let mut size = 0;
        let fits = |w: &&Vec<u32>| {
            size += w.len();
            size <= BATCH_TOKENS
        };
        let (batch, tail) = rest.split_at(rest.iter().take_while(fits).count().max(1));
        rest = tail;
        compare_batch(original, other, batch, &mut text);
        progress.inc(batch.iter().map(|w| w.len() as u64).sum());
    }
    if !text.bits.is_finite() {
        return Err(Error::Config(format!("{name} gives tokens no finite probability; is the folder damaged?")));
    }
    progress.finish(format!("{} tokens, {:.4} bits a token", thousands(text.tokens), text.bits / text.tokens.max(1) as f64));
    Ok(text)
}

fn compare_batch(original: &Model, other: Option<&Model>, windows: &[Vec<u32>], text: &mut Text) {
    let (mut starts, mut targets, mut at) = (Vec::new(), Vec::new(), 0);
    for window in windows {
        starts.push(at as u32);
        // The last token of a window predicts nothing.
        targets.extend(window[1..].iter().map(|&id| Some(id)).chain([None]));
        at += window.len();
    }
    let batch = PackedBatch::documents(windows.concat(), &[&starts], at);
    let vocab = original.decoder.config().vocab_size;
    let width = original.decoder.config().hidden_size;
    let hidden: Vec<_> = std::iter::once(original).chain(other).map(|model| (&model.decoder, model.decoder.hidden(&batch))).collect();
    let rows = (LOGITS_AT_ONCE / vocab).max(1);
    for first in (0..at).step_by(rows) {
        let last = (first + rows).min(at);
        let logits: Vec<Vec<f32>> =
            hidden.iter().map(|(decoder, hidden)| host::to_vec(decoder.logits(hidden.clone().slice([first..last, 0..width])))).collect();
        let scored: Vec<(usize, u32)> = (first..last).filter_map(|i| targets[i].map(|id| (i - first, id))).collect();
        let numbers: Vec<Difference> = scored
            .par_iter()
            .map(|&(i, target)| {
                let row = |which: usize| &logits[which][i * vocab..][..vocab];
                if logits.len() == 1 { Difference::alone(row(0), target) } else { Difference::of(row(0), row(1), target) }
            })
            .collect();
        for number in numbers {
            text.bits += number.bits;
            text.tokens += 1;
            text.flipped += u64::from(number.flipped);
            text.kl.push(number.kl);
        }
    }
}

/// Two distributions on one token.
struct Difference {
    bits: f64,
    kl: f32,
    flipped: bool,
}

impl Difference {
    fn alone(p: &[f32], target: u32) -> Self {
        Self { bits: bits(p, target, log_sum(p)), kl: 0.0, flipped: false }
    }

    fn of(p: &[f32], q: &[f32], target: u32) -> Self {
        let difference = divergence(p, q);
        Self { bits: bits(q, target, difference.log_sum_q), kl: difference.kl as f32, flipped: best(p) != best(q) }
    }
}

fn bits(logits: &[f32], target: u32, log_sum: f64) -> f64 {
    (log_sum - f64::from(logits[target as usize])) / std::f64::consts::LN_2
}

/// The first of the largest.
fn best(x: &[f32]) -> usize {
    x.iter().enumerate().fold((0, f32::NEG_INFINITY), |best, (i, &v)| if v > best.1 { (i, v) } else { best }).0
}

/// Tokens a second of one request, token by token, ends ignored; the best of three.
fn decode_speed(model: &Model, tokens: usize) -> Result<f64> {
    let context = model.decoder.config().max_position_embeddings;
    let start = model.tokenizer.bos_id().or(model.tokenizer.eos_id()).unwrap_or(0);
    let tokens = tokens.min(context.saturating_sub(2)).max(1);
    let mut model = model.clone();
    model.eos_token_ids.clear();
    let mut engine = Engine::new(&model, EngineConfig { max_batch: 1, ..EngineConfig::default() })?;
    let mut best = 0f64;
    for _ in 0..3 {
        check_interrupt()?;
        let sampling = Sampling { max_tokens: tokens, ..Sampling::default() };
        let began = Instant::now();
        let made: usize = engine.generate(vec![Request::new(vec![start], sampling)])?.iter().map(|c| c.tokens.len()).sum();
        best = best.max(made as f64 / began.elapsed().as_secs_f64());
    }
    Ok(best)
}

impl Row {
    /// The folder's own name, with its parent's where it says nothing.
    pub fn name(&self) -> String {
        let parts: Vec<_> = self.model.iter().map(|p| p.to_string_lossy()).collect();
        match parts.as_slice() {
            [.., parent, last] if last == "model" => format!("{parent}/{last}"),
            [.., last] => last.to_string(),
            [] => String::new(),
        }
    }
}

impl Comparison {
    /// For a terminal.
    pub fn table(&self) -> String {
        let number = |value: Option<f64>, digits: usize| value.map_or("-".to_string(), |v| format!("{v:.digits$}"));
        let percent = |value: Option<f64>, digits: usize, sign: bool| match value {
            None => "-".to_string(),
            Some(v) if sign => format!("{:+.digits$} %", 100.0 * v),
            Some(v) => format!("{:.digits$} %", 100.0 * v),
        };
        let megabytes = |bytes: u64| format!("{:.2}", bytes as f64 / 1e6);
        let mut lines = vec![
            ["model", "storage", "disk MB", "memory MB", "bits/byte", "change", "KL mean", "KL p99", "flips", "exercises", "tokens/s"]
                .map(String::from),
        ];
        lines.extend(self.rows.iter().map(|row| {
            [
                row.name(),
                row.storage.clone(),
                megabytes(row.disk_bytes),
                megabytes(row.memory_bytes),
                number(row.bits_per_byte, 4),
                percent(row.bits_per_byte_change, 2, true),
                number(row.kl_mean, 5),
                number(row.kl_p99, 4),
                percent(row.top1_flips, 2, false),
                percent(row.exercises, 1, false),
                number(row.decode_tokens_per_second, 0),
            ]
        }));
        let width: Vec<usize> = (0..lines[0].len()).map(|c| lines.iter().map(|l| l[c].chars().count()).max().unwrap_or(0)).collect();
        let mut out = String::new();
        for line in &lines {
            let cells = line.iter().zip(&width).enumerate().map(|(i, (cell, &w))| if i < 2 { format!("{cell:<w$}") } else { format!("{cell:>w$}") });
            out += cells.collect::<Vec<_>>().join("  ").trim_end();
            out.push('\n');
        }
        out += &format!("{} bytes of text, {} tokens; {} exercises\n", thousands(self.text_bytes), thousands(self.tokens), self.exercises);
        out
    }
}
