//! What the dial has to know of the world: vocabulary, rows, tokens at hand, speed.

use crate::pretrain::{PretrainConfig, fit_to_tokenizer};
use crate::{Error, Result};
use llm_data::shards::Shards;
use llm_run::Metrics;
use llm_tokenizer::Tokenizer;
use serde::Serialize;
use std::path::Path;

/// What the rules have to know of the data.
#[derive(Debug, Clone, PartialEq)]
pub struct Data {
    /// Rows of the embedding table.
    pub vocab_size: usize,
    /// Tokens of a row.
    pub sequence_length: usize,
    /// Tokens at hand.
    pub tokens: Option<u64>,
}

impl Data {
    /// Of the tokenizer and the shards that a configuration names.
    pub fn of(config: &PretrainConfig) -> Result<Self> {
        for (key, path) in [("train", &config.train), ("tokenizer", &config.tokenizer)] {
            if path.as_os_str().is_empty() {
                let message = format!("`{key}` is missing, and the dial needs it; set it in the configuration or with --set {key}=PATH");
                return Err(Error::Config(message));
            }
        }
        let shards = Shards::open(&config.train)?;
        let mut model = config.model.clone();
        fit_to_tokenizer(&mut model, &Tokenizer::load(&config.tokenizer)?);
        let sequence_length = shards.sequence_length();
        Ok(Self { vocab_size: model.vocab_size, sequence_length, tokens: Some((shards.len() * sequence_length) as u64) })
    }
}

/// Tokens per second, and how that is known.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rate {
    /// Tokens per second.
    pub tokens_per_second: f64,
    /// Where the number is from.
    pub source: String,
}

impl Rate {
    /// What an earlier start in the same output folder reached: the median of its last steps.
    pub fn of_earlier_start(out: &Path) -> Option<Self> {
        let records = Metrics::read(out.join("metrics.jsonl")).ok()?;
        let mut rates: Vec<f64> = records.iter().rev().filter_map(|r| r.get("tokens_per_second")?.as_f64()).take(50).collect();
        rates.sort_by(f64::total_cmp);
        Some(Self { tokens_per_second: *rates.get(rates.len() / 2).filter(|r| **r > 0.0)?, source: "as before".into() })
    }
}
