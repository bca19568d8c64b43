//! Mixing: so much of each source, in an order that is a function of (seed, epoch, position).
//!
//! Sources are named by rules over the documents' fields. Each gets a share of the budget, by weight or by temperature
//! (`size^alpha`, Conneau et al. 2020), up to so many passes over it; what a capped source cannot give goes to the others.
//! Within a source every pass is another pseudo-random permutation (a Feistel network, nothing stored), and sources are
//! interleaved so evenly that any prefix of the stream has each source within one document of its share.

mod order;
mod plan;
mod rules;
mod stage;

pub use order::{Draw, Order};
pub use plan::{Shares, Supply, plan};
pub use rules::{Rule, glob};
pub use stage::{MixReport, SourceReport, mix};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Configuration of `llm-data mix`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MixConfig {
    /// Folders of documents.
    pub inputs: Vec<PathBuf>,
    /// The sources by name. A document belongs to the first whose rule it fits (in the order of the names); one that fits
    /// none is left out and counted.
    pub sources: BTreeMap<String, Source>,
    /// Order, and which documents of a source that is not used up.
    pub seed: u64,
    /// Another pass over the whole mixture: another order and other documents.
    pub epoch: u64,
    /// What shares and the budget are counted in.
    pub unit: Unit,
    /// How much in all; 0: as much as the shares allow with no source beyond its cap.
    pub budget: u64,
    /// Shares are `weight * size^alpha`: 1 as large as the sources are, 0 all the same. None: the weights alone.
    pub alpha: Option<f64>,
    /// Passes over a source at most, if it says nothing itself.
    pub max_epochs: f64,
    /// Counts tokens exactly; none: by `bytes_per_token`.
    pub tokenizer: Option<PathBuf>,
    /// For the estimate.
    pub bytes_per_token: f64,
    /// Text held in memory while the order is made.
    pub bucket_bytes: u64,
}

impl Default for MixConfig {
    fn default() -> Self {
        Self {
            inputs: Vec::new(),
            sources: BTreeMap::new(),
            seed: 42,
            epoch: 0,
            unit: Unit::Tokens,
            budget: 0,
            alpha: None,
            max_epochs: 4.0,
            tokenizer: None,
            bytes_per_token: 4.0,
            bucket_bytes: 256 << 20,
        }
    }
}

/// One source of a mixture.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Source {
    /// Which documents.
    pub rule: Rule,
    /// Share, relative to the other sources'. Zero leaves it out.
    pub weight: f64,
    /// Passes over it at most.
    pub max_epochs: Option<f64>,
}

impl Default for Source {
    fn default() -> Self {
        Self { rule: Rule::default(), weight: 1.0, max_epochs: None }
    }
}

/// What is counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Tokens, counted or estimated.
    #[default]
    Tokens,
    /// UTF-8 bytes of text.
    Bytes,
    /// Documents.
    Documents,
}

impl Unit {
    /// As in tables.
    pub fn name(self) -> &'static str {
        match self {
            Unit::Tokens => "tokens",
            Unit::Bytes => "bytes",
            Unit::Documents => "documents",
        }
    }
}
