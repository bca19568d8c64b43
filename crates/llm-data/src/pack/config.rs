//! Settings of packing.

use crate::error::{Error, Result};
use crate::fim;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Settings of `llm-data pack`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PackConfig {
    /// Tokenizer folder or `tokenizer.json`.
    pub tokenizer: PathBuf,
    /// Parquet documents for training.
    pub train: PathBuf,
    /// Parquet documents for validation.
    pub heldout: Option<PathBuf>,
    /// Exercises mixed into the training rows.
    pub extra: Vec<Extra>,
    /// Targets per row.
    pub sequence_length: usize,
    /// How documents become rows.
    pub packing: Packing,
    /// Share of code chunks transformed to fill-in-the-middle (training only).
    pub fim_rate: f64,
    /// Share of these in the order suffix, prefix, middle.
    pub fim_spm_rate: f64,
    /// What is transformed: chunks of about a row (`context`) or whole documents.
    pub fim_level: fim::Level,
    /// Control token whose text stands between the parts of a document, e.g. the files of a repository; empty is none. Parts of code are
    /// transformed one by one, and the text becomes the token.
    pub fim_separator: String,
    /// Share of the parts that are transformed, in the share `fim_rate` of documents that have parts.
    pub fim_fragment_rate: f64,
    /// What names the domain of a document in the shards.
    pub label_by: LabelBy,
    /// Order of documents and fill-in-the-middle cuts follow from it.
    pub seed: u64,
    /// Most training tokens, taken from the head of the shuffled order; 0 takes all.
    pub max_tokens: u64,
    /// Rows per shard file.
    pub rows_per_shard: usize,
}

impl Default for PackConfig {
    fn default() -> Self {
        Self {
            tokenizer: PathBuf::new(),
            train: PathBuf::new(),
            heldout: None,
            extra: Vec::new(),
            sequence_length: 256,
            packing: Packing::Concatenate,
            fim_rate: 0.5,
            fim_spm_rate: 0.5,
            fim_level: fim::Level::Context,
            fim_separator: String::new(),
            fim_fragment_rate: 0.5,
            label_by: LabelBy::Domain,
            seed: 0,
            max_tokens: 0,
            rows_per_shard: 8192,
        }
    }
}

impl PackConfig {
    /// Refuse settings that cannot work, naming the setting.
    pub fn validate(&self) -> Result<()> {
        let refuse = |message: String| Err(Error::Config(message));
        for (name, path) in [("tokenizer", &self.tokenizer), ("train", &self.train)] {
            if path.as_os_str().is_empty() {
                return refuse(format!("`{name}` is not set; give its folder, for example --set {name}=DIR"));
            }
        }
        if !(1..1 << 24).contains(&self.sequence_length) {
            return refuse(format!("sequence_length = {} must lie between 1 and 2^24", self.sequence_length));
        }
        for (name, rate) in [("fim_rate", self.fim_rate), ("fim_spm_rate", self.fim_spm_rate), ("fim_fragment_rate", self.fim_fragment_rate)] {
            if !(0.0..=1.0).contains(&rate) {
                return refuse(format!("{name} = {rate} must lie between 0 and 1"));
            }
        }
        let shares: f64 = self.extra.iter().map(|e| e.share).sum();
        if self.extra.iter().any(|e| !(0.0..1.0).contains(&e.share)) || shares >= 1.0 {
            return refuse("every `extra.share` must be 0 or more, and their sum below 1".into());
        }
        Ok(())
    }
}

/// How documents become rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// One after the other, cut where a row ends.
    #[default]
    Concatenate,
    /// Whole documents, padded.
    BestFit,
}

impl Packing {
    /// As in the metadata of shards.
    pub fn name(self) -> &'static str {
        match self {
            Packing::Concatenate => "concatenate",
            Packing::BestFit => "best_fit",
        }
    }
}

/// A field of documents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelBy {
    /// `domain`: a few kinds of text.
    #[default]
    Domain,
    /// `source`: the reader and collection.
    Source,
}

/// An exercise file to mix in.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extra {
    /// A `train.jsonl` of `llm-data exercises`.
    pub path: PathBuf,
    /// Share of all training tokens, 0 to 1. The file is repeated, newly shuffled, as often as that takes.
    pub share: f64,
    /// How a row becomes a document.
    #[serde(default)]
    pub form: Form,
}

/// How an exercise is written in pre-training.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Plain text: prompt, reasoning and answer on a line each.
    #[default]
    Text,
    /// The tokenizer's chat template.
    Chat,
}
