//! `results.json`: the numbers, each with its sample size and interval, and a few samples to look at.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// File name inside a result folder.
pub const FILE: &str = "results.json";

/// How a task's value reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Sum of -log2 p over text tokens, per UTF-8 byte of text; lower is better.
    BitsPerByte,
    /// Share of items whose extracted answer is right; higher is better.
    ExactMatch,
    /// Share of items where the likeliest choice is right; of log-likelihood tasks, where the answer is the greedy one.
    Acc,
    /// [`Metric::Acc`] with log-likelihoods divided by the characters of the choice.
    AccNorm,
    /// [`Metric::Acc`] with log-likelihoods divided by the bytes of the choice.
    AccBytes,
    /// exp of the mean negative log-likelihood of the answers; lower is better.
    Perplexity,
    /// exp of the negative log-likelihood per word of text; lower is better.
    WordPerplexity,
    /// exp of the negative log-likelihood per byte of text; lower is better.
    BytePerplexity,
    /// Share of problems whose first program passes its tests.
    #[serde(rename = "pass@1")]
    PassAt1,
    /// Estimated share of problems that the best of 2 programs would pass.
    #[serde(rename = "pass@2")]
    PassAt2,
    /// ... of 8.
    #[serde(rename = "pass@8")]
    PassAt8,
    /// ... of 16.
    #[serde(rename = "pass@16")]
    PassAt16,
    /// ... of 32.
    #[serde(rename = "pass@32")]
    PassAt32,
    /// ... of 64.
    #[serde(rename = "pass@64")]
    PassAt64,
    /// [`Metric::ExactMatch`] with numbers within 5 %.
    RelaxedAccuracy,
}

impl Metric {
    /// Which way is better.
    pub fn higher_is_better(self) -> bool {
        !matches!(self, Self::BitsPerByte | Self::Perplexity | Self::WordPerplexity | Self::BytePerplexity)
    }

    /// Its name in `results.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::BitsPerByte => "bits_per_byte",
            Self::ExactMatch => "exact_match",
            Self::Acc => "acc",
            Self::AccNorm => "acc_norm",
            Self::AccBytes => "acc_bytes",
            Self::Perplexity => "perplexity",
            Self::WordPerplexity => "word_perplexity",
            Self::BytePerplexity => "byte_perplexity",
            Self::PassAt1 => "pass@1",
            Self::PassAt2 => "pass@2",
            Self::PassAt8 => "pass@8",
            Self::PassAt16 => "pass@16",
            Self::PassAt32 => "pass@32",
            Self::PassAt64 => "pass@64",
            Self::RelaxedAccuracy => "relaxed_accuracy",
        }
    }
}

/// Which slice of its parent a sub-task such as `exercises/de` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// One language.
    Language,
    /// One category.
    Category,
}

/// One number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    /// What `value` is.
    pub metric: Metric,
    /// The number.
    pub value: f64,
    /// Items behind it.
    pub n: u64,
    /// 95 % interval: Wilson for proportions, bootstrap over documents for bits per byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ci95: Option<[f64; 2]>,
    /// Set on slices of another task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<Group>,
    /// What else the task reports: bytes, breakdowns, lengths.
    #[serde(flatten)]
    pub details: Map<String, Value>,
}

/// The model that was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Folder as given.
    pub path: PathBuf,
    /// BLAKE3 of the weights.
    pub hash: String,
    /// Its name.
    pub id: String,
}

/// A sample to look at; everything about it is in `samples.parquet`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShownSample {
    /// Task it belongs to.
    pub task: String,
    /// Item id.
    pub id: String,
    /// Language.
    pub lang: String,
    /// Category.
    pub category: String,
    /// The user's last message.
    pub prompt: String,
    /// The model's answer.
    pub response: String,
    /// The model's reasoning, if it thought.
    pub reasoning: Option<String>,
    /// The expected answer.
    pub gold: String,
    /// The answer found in the response.
    pub extracted: Option<String>,
    /// Whether they agree.
    pub correct: bool,
}

/// The whole file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// What was measured.
    pub model: ModelInfo,
    /// Task name -> number.
    pub tasks: BTreeMap<String, TaskResult>,
    /// A few samples.
    pub samples: Vec<ShownSample>,
}

impl Results {
    /// Read `DIR/results.json`.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let text = std::fs::read_to_string(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        serde_json::from_str(&text).map_err(|e| Error::Results { path, message: format!("not a results file: {e}") })
    }

    /// Write `DIR/results.json` atomically.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let path = dir.join(FILE);
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::Results { path: path.clone(), message: e.to_string() })?;
        Ok(llm_run::atomic::write(path, text)?)
    }
}
