//! `train`: learn a vocabulary.

use super::{PROGRAM, for_each_batch};
use anyhow::{Result, bail};
use llm_run::Run;
use llm_run::program::catch_interrupts;
use llm_tokenizer::trainer::{Trainer, TrainerConfig};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Configuration of `train`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Train {
    documents: Vec<PathBuf>,
    vocab_size: Option<usize>,
    digits: Option<usize>,
    min_frequency: Option<u64>,
    max_token_bytes: Option<usize>,
    /// Stop reading after so many bytes of text; 0 reads everything.
    max_bytes: u64,
    /// Recorded in the manifest; training uses no randomness.
    seed: u64,
}

impl Train {
    fn trainer(&self) -> TrainerConfig {
        let default = TrainerConfig::default();
        TrainerConfig {
            vocab_size: self.vocab_size.unwrap_or(default.vocab_size),
            digits: self.digits.unwrap_or(default.digits),
            min_frequency: self.min_frequency.unwrap_or(default.min_frequency),
            max_token_bytes: self.max_token_bytes.unwrap_or(default.max_token_bytes),
        }
    }
}

/// `train --config FILE --out DIR`.
pub fn train(args: &llm_run::Args) -> Result<()> {
    catch_interrupts();
    let config: Train = args.load()?;
    if config.documents.is_empty() {
        bail!("`documents` is empty: give text files, e.g. --set documents='[\"sample.jsonl\"]'");
    }
    let mut trainer = Trainer::new(config.trainer())?;
    let mut run = Run::start(&args.out, PROGRAM, "train", &config)?;
    let limit = if config.max_bytes == 0 { u64::MAX } else { config.max_bytes };
    for_each_batch(&mut run, "count words", &config.documents, limit, |batch| {
        let texts: Vec<&str> = batch.iter().map(|s| s.text.as_str()).collect();
        trainer.feed(&texts);
    })?;
    let (tokenizer, summary) = trainer.finish()?;
    tokenizer.save(run.dir())?;
    if summary.vocab_size < config.trainer().vocab_size {
        eprintln!("note: the text has only {} pairs worth a merge, so the vocabulary has {} tokens", summary.merges, summary.vocab_size);
    }
    println!("{} tokens from {} bytes, {} different words", summary.vocab_size, summary.bytes, summary.unique_words);
    run.finish(serde_json::to_value(summary)?)?;
    Ok(())
}
