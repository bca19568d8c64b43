//! `llm-data train-ngram`: a model of a sample of documents, and the perplexities of others of them for the buckets.

use super::buckets::percentiles;
use super::{DESCRIPTION, Description, Scorer, TrainConfig, Units, train};
use crate::document::DocumentReader;
use crate::error::{Error, Result, check_interrupt};
use llm_run::Seed;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Settings of `llm-data train-ngram`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NgramConfig {
    /// Documents of a stage.
    pub input: PathBuf,
    /// Languages to use; empty: all. Code is never used.
    pub languages: Vec<String>,
    /// Seed of the sample.
    pub seed: u64,
    /// Text bytes to train on at most; memory is about ten times that for order 5.
    pub max_bytes: u64,
    /// Share of the documents that is not trained on and gives the percentiles.
    pub reference: f64,
    /// What a token is.
    pub units: Units,
    /// The model.
    pub model: TrainConfig,
    /// Also write `model.arpa`.
    pub arpa: bool,
}

impl Default for NgramConfig {
    fn default() -> Self {
        Self {
            input: PathBuf::new(),
            languages: Vec::new(),
            seed: 42,
            max_bytes: 100_000_000,
            reference: 0.1,
            units: Units { normalise: true, ..Units::default() },
            model: TrainConfig::default(),
            arpa: false,
        }
    }
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Documents trained on.
    pub training_documents: usize,
    /// Documents that give the percentiles.
    pub reference_documents: usize,
    /// Tokens trained on, ends of lines counted.
    pub tokens: u64,
    /// n-grams of each length.
    pub counts: Vec<u64>,
    /// Of all reference documents together; 0 without any.
    pub perplexity: f64,
    /// Share of the reference's tokens that the model does not know.
    pub unknown: f64,
    /// What the reader should know.
    pub notices: Vec<String>,
}

/// Run the stage: writes `model.kenlm` or `model.arpa` (both if asked) and `ngram.json`.
pub fn train_ngram(config: &NgramConfig, out: &Path) -> Result<Outcome> {
    if !(0.0..1.0).contains(&config.reference) {
        return Err(Error::Config(format!("reference is {}, expected a share below 1", config.reference)));
    }
    let seed = Seed(config.seed).stream("ngram");
    // A document is in the sample, and in the reference, by a number of its own: order and other documents do not matter.
    let mut training: Vec<(u64, String)> = Vec::new();
    let mut reference: Vec<String> = Vec::new();
    let (mut bytes, mut limit) = (0u64, u64::MAX);
    for batch in DocumentReader::open(&config.input)? {
        check_interrupt()?;
        for document in batch? {
            let lang = document.lang.as_deref().unwrap_or_default();
            if document.is_code() || !(config.languages.is_empty() || config.languages.iter().any(|l| l == lang)) {
                continue;
            }
            let own = seed.stream(&document.id);
            if own.rng().uniform() < config.reference {
                reference.push(document.text);
            } else if own.0 < limit {
                bytes += document.text.len() as u64;
                training.push((own.0, document.text));
                // Twice too many: drop those with the highest numbers, and take no such any more.
                if bytes > 2 * config.max_bytes {
                    limit = cut(&mut training, &mut bytes, config.max_bytes);
                }
            }
        }
    }
    cut(&mut training, &mut bytes, config.max_bytes);
    if training.is_empty() {
        return Err(Error::Empty(format!("{}: no document to train on; check `languages`", config.input.display())));
    }
    training.sort_by_key(|t| t.0);
    let texts: Vec<&str> = training.iter().map(|t| t.1.as_str()).collect();
    let estimate = train(&texts, &config.units, &config.model)?;
    let (training_documents, tokens, counts, notices) = (training.len(), estimate.tokens, estimate.counts(), estimate.notices.clone());
    drop(texts);
    drop(training);
    let model = estimate.model()?;
    let file = if model.has_gaps() { "model.arpa" } else { "model.kenlm" };
    if config.arpa || file == "model.arpa" {
        estimate.save_arpa(&out.join("model.arpa"))?;
    }
    drop(estimate);
    if file == "model.kenlm" {
        model.save_kenlm(&out.join(file))?;
    }
    let scorer = Scorer::new(model, config.units.clone())?;
    let scores: Vec<super::Score> = reference.par_iter().map(|text| scorer.score(text)).collect();
    let mut sum = super::Score::default();
    scores.iter().for_each(|score| sum += *score);
    let description = Description {
        model: file.into(),
        units: config.units.clone(),
        percentiles: percentiles(scores.iter().map(super::Score::perplexity).collect()),
    };
    llm_run::atomic::write(out.join(DESCRIPTION), serde_json::to_string_pretty(&description).unwrap_or_default() + "\n")?;
    Ok(Outcome {
        training_documents,
        reference_documents: reference.len(),
        tokens,
        counts,
        perplexity: if sum.tokens == 0 { 0.0 } else { sum.perplexity() },
        unknown: sum.unknown as f64 / sum.tokens.max(1) as f64,
        notices,
    })
}

/// Keep the documents with the lowest numbers up to `max_bytes`; the number from which on they are left out.
fn cut(training: &mut Vec<(u64, String)>, bytes: &mut u64, max_bytes: u64) -> u64 {
    training.sort_by_key(|t| t.0);
    let (mut sum, mut kept) = (0u64, 0);
    while kept < training.len() && (kept == 0 || sum + training[kept].1.len() as u64 <= max_bytes) {
        sum += training[kept].1.len() as u64;
        kept += 1;
    }
    let limit = training.get(kept).map_or(u64::MAX, |t| t.0);
    training.truncate(kept);
    *bytes = sum;
    limit
}
