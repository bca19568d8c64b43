//! `train`: learn a vocabulary.

use super::{BATCH_BYTES, PROGRAM, text_files};
use anyhow::{Context, Result, bail};
use llm_run::Run;
use llm_run::program::{catch_interrupts, interrupted};
use llm_tokenizer::sample::{Reader, Sample};
use llm_tokenizer::trainer::{self, ByteOrder, Model, Pretokenizer, Trainer, TrainerConfig, Weights};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Counts are put on disk at least so often, so that a killed run loses no more than this many bytes of text.
const CHECKPOINT_BYTES: u64 = 1 << 30;

/// Flags of `train`.
#[derive(Debug, clap::Args)]
pub struct Train {
    /// TOML configuration; what it leaves out has defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Override a configuration value, e.g. --set vocab_size=8192 (repeatable).
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Output folder.
    #[arg(long, value_name = "DIR", required_unless_present = "trace")]
    out: Option<PathBuf>,
    /// Show every step on a small text: pair counts, the chosen pair and why; without documents on a toy corpus
    #[arg(long)]
    trace: bool,
}

/// Configuration of `train`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    documents: Vec<PathBuf>,
    model: Model,
    vocab_size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pretokenizer: Option<Pretokenizer>,
    digits: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    byte_order: Option<ByteOrder>,
    min_frequency: Option<u64>,
    max_token_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    character_coverage: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    max_piece_chars: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    split_digits: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed_sentencepiece_size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    special_tokens: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bos_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    eos_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pad_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    weights: Option<Weights>,
    /// Most memory for word counts, e.g. "1GiB"; what is more goes to disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<String>,
    /// Stop reading after so many bytes of text; 0 reads everything.
    max_bytes: u64,
    /// Recorded in the manifest; training uses no randomness.
    seed: u64,
}

impl Config {
    fn trainer(&self) -> Result<TrainerConfig> {
        let default = TrainerConfig::of(self.model);
        self.check_model()?;
        if let (Some(pretokenizer), Some(digits)) = (self.pretokenizer, self.digits)
            && pretokenizer != (if digits == 3 { Pretokenizer::Llama3 } else { Pretokenizer::Qwen2 })
        {
            bail!(
                "pretokenizer and digits = {digits} contradict each other: `gpt2` takes numbers whole, `llama3`, `cl100k` and `o200k` have 3 digits, `qwen2` has 1; give one of them"
            );
        }
        Ok(TrainerConfig {
            model: self.model,
            vocab_size: self.vocab_size.unwrap_or(default.vocab_size),
            pretokenizer: self.pretokenizer,
            digits: self.digits.unwrap_or(default.digits),
            byte_order: self.byte_order.unwrap_or_default(),
            min_frequency: self.min_frequency.unwrap_or(default.min_frequency),
            max_token_bytes: self.max_token_bytes.unwrap_or(default.max_token_bytes),
            character_coverage: self.character_coverage.unwrap_or(default.character_coverage),
            max_piece_chars: self.max_piece_chars.unwrap_or(default.max_piece_chars),
            split_digits: self.split_digits.unwrap_or(default.split_digits),
            seed_sentencepiece_size: self.seed_sentencepiece_size.unwrap_or(default.seed_sentencepiece_size),
            special_tokens: self.special_tokens.clone().unwrap_or(default.special_tokens),
            bos_token: self.bos_token.clone().unwrap_or(default.bos_token),
            eos_token: self.eos_token.clone().unwrap_or(default.eos_token),
            pad_token: self.pad_token.clone().unwrap_or(default.pad_token),
            weights: self.weights.clone().unwrap_or_default(),
        })
    }

    /// Settings of another model would do nothing.
    fn check_model(&self) -> Result<()> {
        let byte_level =
            [("digits", self.digits.is_some()), ("pretokenizer", self.pretokenizer.is_some()), ("byte_order", self.byte_order.is_some())];
        let pieces = [
            ("character_coverage", self.character_coverage.is_some()),
            ("max_piece_chars", self.max_piece_chars.is_some()),
            ("split_digits", self.split_digits.is_some()),
        ];
        let seeds = ("seed_sentencepiece_size", self.seed_sentencepiece_size.is_some());
        let (foreign, model, theirs) = match self.model {
            Model::ByteLevelBpe => ([&pieces[..], &[seeds]].concat(), "byte_level_bpe", "sentencepiece_bpe or unigram"),
            Model::SentencepieceBpe => ([&byte_level[..], &[seeds]].concat(), "sentencepiece_bpe", "another model"),
            Model::Unigram => (byte_level.to_vec(), "unigram", "byte_level_bpe"),
        };
        if let Some((name, _)) = foreign.iter().find(|(_, given)| *given) {
            bail!("{name} does nothing with model = \"{model}\": remove it, or set model to {theirs}");
        }
        Ok(())
    }
}

/// What a killed run left: enough to go on.
#[derive(Debug, Serialize, Deserialize)]
struct Checkpoint {
    /// Settings and hashes of the inputs: another corpus or other settings begin anew.
    of: Value,
    /// Files wholly read, and rows of the next one.
    file: usize,
    row: u64,
    counts: trainer::Progress,
}

impl Train {
    /// `train --config FILE --out DIR`.
    pub fn run(&self) -> Result<()> {
        catch_interrupts();
        let config: Config = llm_run::config::load(self.config.as_deref(), &self.sets)?;
        let settings = config.trainer()?;
        if self.trace {
            return show_steps(&config, &settings);
        }
        let Some(out) = &self.out else { bail!("give an output folder: --out DIR") };
        if config.documents.is_empty() {
            bail!("`documents` is empty: give text files, e.g. --set documents='[\"sample.jsonl\"]'");
        }
        let mut trainer = Trainer::new(settings.clone())?;
        let memory = config.memory.as_deref().map_or(Ok(4 << 30), llm_run::config::parse_bytes)?;
        if memory < 1 << 20 {
            bail!("memory = {memory} bytes: at least 1MiB");
        }
        let mut run = Run::start(out, PROGRAM, "train", &config)?;
        let work = run.path(".counts");
        trainer.spill_to(&work, memory);
        count(&mut run, &mut trainer, &config, &settings, &work)?;
        let mut progress = llm_run::Progress::new("learn", settings.vocab_size as u64, "tokens");
        let (tokenizer, summary) = trainer.finish_with(|tokens, _| {
            progress.set(tokens as u64);
            !interrupted()
        })?;
        progress.finish(format!("{} tokens", summary.vocab_size));
        tokenizer.save(run.dir())?;
        if work.exists() {
            std::fs::remove_dir_all(&work).with_context(|| format!("{}: cannot remove", work.display()))?;
        }
        if summary.vocab_size < settings.vocab_size {
            eprintln!("note: the text has only {} pieces worth a token, so the vocabulary has {} tokens", summary.merges, summary.vocab_size);
        }
        for (name, share) in &summary.weights {
            println!("{name}: {} bytes, {:.2} % of the text, counted as {:.2} %", share.bytes, share.found * 100.0, share.given * 100.0);
        }
        println!("{} tokens from {} bytes, {} different words", summary.vocab_size, summary.bytes, summary.unique_words);
        run.finish(serde_json::to_value(summary)?)?;
        Ok(())
    }
}

/// Print the training of the toy corpus, or of the documents given, step by step.
fn show_steps(config: &Config, settings: &TrainerConfig) -> Result<()> {
    settings.check()?;
    if settings.model != Model::ByteLevelBpe {
        bail!("--trace shows byte-level BPE only: remove `model`");
    }
    let mut words: Vec<(String, u64)> = trainer::TOY_CORPUS.iter().map(|&(word, count)| (word.to_string(), count)).collect();
    if !config.documents.is_empty() {
        let mut counts = std::collections::BTreeMap::new();
        for file in llm_tokenizer::sample::files(&config.documents)? {
            for sample in Reader::open(&file)? {
                for word in settings.pattern().words(&sample?.text) {
                    *counts.entry(word.to_string()).or_insert(0) += 1;
                }
            }
        }
        words = counts.into_iter().collect();
    }
    let merges = config.vocab_size.map_or(usize::MAX, |_| settings.vocab_size - 256 - settings.special_tokens.len());
    let mut out = std::io::stdout().lock();
    let colour = out.is_terminal();
    trainer::trace(&words, settings, merges, colour, &mut out)?;
    Ok(())
}

/// Count the words of all documents, going on where a killed run stopped.
fn count(run: &mut Run, trainer: &mut Trainer, config: &Config, settings: &TrainerConfig, work: &Path) -> Result<()> {
    let files = text_files(run, &config.documents)?;
    let of = json!({"settings": settings, "max_bytes": config.max_bytes, "inputs": run.manifest.inputs});
    let state = work.join("state.json");
    let limit = if config.max_bytes == 0 { u64::MAX } else { config.max_bytes };
    let total = llm_tokenizer::sample::expected_bytes(&files);
    let mut progress = llm_run::Progress::new("count words", total.min(limit), "bytes");
    let (mut skip_files, mut skip_rows) = (0, 0);
    if let Some(left) = read_checkpoint(&state) {
        if left.of == of {
            trainer.resume(&left.counts);
            (skip_files, skip_rows) = (left.file, left.row);
            progress.note(format!("going on after {} bytes of text that a stopped run had counted", trainer.bytes()));
            progress.resume_at(trainer.bytes());
        } else {
            progress.note("starting anew: the counts left here are of other text or settings");
        }
    }
    let started = (Instant::now(), trainer.bytes());
    let mut saved = trainer.bytes();
    let mut batch: Vec<Sample> = Vec::new();
    let (mut bytes, mut seen) = (0, trainer.bytes());
    'files: for (f, file) in files.iter().enumerate().skip(skip_files) {
        let skip = std::mem::take(&mut skip_rows);
        for (row, sample) in (1u64..).zip(Reader::open(file)?) {
            let sample = sample?;
            if row <= skip {
                continue;
            }
            bytes += sample.text.len();
            batch.push(sample);
            let enough = seen + bytes as u64 >= limit;
            if bytes >= BATCH_BYTES || enough || interrupted() {
                feed(trainer, settings, &mut batch);
                seen += std::mem::take(&mut bytes) as u64;
                progress.set(seen);
                let rate = (seen - started.1) as f64 / 1e6 / started.0.elapsed().as_secs_f64().max(1e-3);
                progress.message(format!("{rate:.1} MB/s"));
                if interrupted() || seen - saved >= CHECKPOINT_BYTES || trainer.wants_to_spill() {
                    let checkpoint = Checkpoint { of: of.clone(), file: f, row, counts: trainer.save_counts()? };
                    llm_run::atomic::write(&state, serde_json::to_string(&checkpoint)?)?;
                    saved = seen;
                }
                if interrupted() {
                    llm_run::program::saved();
                    bail!("interrupted; counts are kept: the same command goes on from here");
                }
            }
            if enough {
                break 'files;
            }
        }
    }
    feed(trainer, settings, &mut batch);
    seen += bytes as u64;
    if saved > 0 {
        let checkpoint = Checkpoint { of, file: files.len(), row: 0, counts: trainer.save_counts()? };
        llm_run::atomic::write(&state, serde_json::to_string(&checkpoint)?)?;
    }
    progress.finish(format!("{seen} bytes of text from {} files", files.len()));
    Ok(())
}

fn read_checkpoint(path: &Path) -> Option<Checkpoint> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Hand a batch to the threads, group by group.
fn feed(trainer: &mut Trainer, settings: &TrainerConfig, batch: &mut Vec<Sample>) {
    let weights = &settings.weights;
    if weights.is_empty() {
        let texts: Vec<&str> = batch.iter().map(|s| s.text.as_str()).collect();
        trainer.feed(&texts);
    } else {
        for group in 0..weights.0.len() as u8 {
            let of_group = |s: &&Sample| weights.group(s.lang.as_deref(), s.domain.as_deref()) == Some(group);
            let texts: Vec<&str> = batch.iter().filter(of_group).map(|s| s.text.as_str()).collect();
            trainer.feed_group(&texts, Some(group));
        }
    }
    batch.clear();
}
