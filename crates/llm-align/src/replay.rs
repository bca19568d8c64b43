//! General data while fine-tuning: rows of packed pre-training shards in every step, with the loss of every token, against forgetting
//! (rehearsal; Scialom et al. 2022, "Fine-tuned language models are continual learners", find that a percent helps; 10 to 20 are usual).
//!
//! `share` is the share of the tokens of a step and of its loss: the loss is `(1 - share)` times the mean over the conversations' trained tokens
//! plus `share` times the mean over the replayed ones, so that long rows do not outvote short answers. A step has at least one row.
//!
//! | key of a validation | what |
//! |---|---|
//! | `val_loss/replay` | nats per token of held-out rows |
//! | `forgetting` | that minus the same of the model that training began with; above 0 something was forgotten |

use crate::sft::summed;
use crate::{Error, Result};
use llm_arch::Decoder;
use llm_data::shards::Shards;
use llm_run::Seed;
use llm_run::seed::permuted;
use llm_tokenizer::Tokenizer;
use llm_train::pretrain::open_shards;
use llm_train::pretrain::rows::segments;
use llm_train::sequences::Sequence;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// `replay`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplayConfig {
    /// Folder of shards (`llm-data pack`), packed with the model's tokenizer.
    pub shards: PathBuf,
    /// Share of a step's tokens and loss; 0 replays nothing and only measures.
    pub share: f64,
    /// Folder of held-out shards; empty keeps the last rows of `shards` for it.
    pub heldout: PathBuf,
    /// Held-out rows per validation.
    pub eval_rows: usize,
}

impl Default for ReplayConfig {
    fn default() -> Self {
        Self { shards: PathBuf::new(), share: 0.1, heldout: PathBuf::new(), eval_rows: 32 }
    }
}

/// Shards to replay, and held-out ones.
#[derive(Debug)]
pub struct Replay {
    shards: Shards,
    /// Rows to replay; those behind them are held out where there is no folder for it.
    rows: usize,
    /// Documents of held-out rows.
    heldout: Vec<Sequence>,
    heldout_hash: Option<String>,
    order: Seed,
    share: f64,
    rows_per_step: f64,
    /// Loss of the model that training began with.
    before: Option<f64>,
}

impl Replay {
    /// Open the shards. The conversations of a step have about `tokens_per_step` tokens.
    pub fn open(config: &ReplayConfig, tokenizer: &Tokenizer, context: usize, tokens_per_step: f64, seed: Seed) -> Result<Self> {
        let ReplayConfig { shards: dir, share, heldout, eval_rows } = config;
        if dir.as_os_str().is_empty() {
            return Err(Error::Config("replay.shards is missing; set it to a folder that `llm-data pack` wrote".into()));
        }
        if !(0.0..1.0).contains(share) {
            return Err(Error::Config(format!("replay.share = {share}: expected 0 or more and less than 1, usually 0.1 to 0.2")));
        }
        if *eval_rows == 0 {
            return Err(Error::Config("replay.eval_rows must be positive: without held-out rows nobody knows what is forgotten".into()));
        }
        let shards = open_shards(dir, context, tokenizer)?;
        let (rows, heldout, heldout_hash) = if heldout.as_os_str().is_empty() {
            let held = (*eval_rows).min(shards.len().div_ceil(10));
            if shards.len() < 2 {
                let message = format!("{}: one row cannot be replayed and held out; set replay.heldout, or pack more text", dir.display());
                return Err(Error::Config(message));
            }
            let rows = shards.len() - held;
            (rows, documents(&shards, rows..shards.len()), None)
        } else {
            let other = open_shards(heldout, context, tokenizer)?;
            let n = (*eval_rows).min(other.len());
            // Evenly spread, so that all its domains count.
            let sequences = (0..n).flat_map(|i| documents(&other, std::iter::once(i * other.len() / n))).collect();
            (shards.len(), sequences, Some(other.hash()?))
        };
        let rows_per_step = (share / (1.0 - share) * tokens_per_step / shards.sequence_length() as f64).max(1.0);
        let order = seed.stream("replay order");
        Ok(Self { shards, rows, heldout, heldout_hash, order, share: *share, rows_per_step, before: None })
    }

    /// Share of the loss of a step.
    pub fn share(&self) -> f64 {
        self.share
    }

    /// Replayed tokens of a step, on average.
    pub fn tokens_per_step(&self) -> f64 {
        if self.share > 0.0 { self.rows_per_step * self.shards.sequence_length() as f64 } else { 0.0 }
    }

    /// The identity of the data.
    pub fn hash(&self) -> Result<String> {
        Ok(format!("{} {}", self.shards.hash()?, self.heldout_hash.as_deref().unwrap_or_default()))
    }

    /// The documents that 0-based `step` replays. The rows are taken in an order of their own, anew in each pass over them.
    pub fn sequences(&self, step: u64) -> Vec<Sequence> {
        if self.share == 0.0 {
            return Vec::new();
        }
        let n = self.rows as u64;
        documents(&self.shards, places(step, self.rows_per_step).map(|i| permuted(self.order.at(i / n), i % n, n) as usize))
    }

    /// Remember how well the model that training begins with does on the held-out rows. It is measured anew when a run goes on: the same
    /// model gives the same number.
    pub fn begin(&mut self, model: &Decoder, micro_batch_tokens: usize) {
        self.before = Some(self.loss(model, micro_batch_tokens));
    }

    /// The numbers of the module's table.
    pub fn validate(&self, model: &Decoder, micro_batch_tokens: usize) -> Map<String, Value> {
        let loss = self.loss(model, micro_batch_tokens);
        let forgetting = self.before.map(|before| ("forgetting".to_string(), json!(loss - before)));
        [("val_loss/replay".to_string(), json!(loss))].into_iter().chain(forgetting).collect()
    }

    fn loss(&self, model: &Decoder, micro_batch_tokens: usize) -> f64 {
        let (nll, trained) = summed(model, &self.heldout, micro_batch_tokens);
        nll / trained.max(1) as f64
    }
}

/// Numbers of the rows of a step, counted through all steps.
fn places(step: u64, rows_per_step: f64) -> std::ops::Range<u64> {
    let until = |step: u64| (step as f64 * rows_per_step) as u64;
    until(step)..until(step + 1)
}

/// Documents of these rows. Their first token is not a target, and padding has none.
fn documents(shards: &Shards, rows: impl Iterator<Item = usize>) -> Vec<Sequence> {
    let of_row = |row: usize| {
        let row = shards.row(row);
        segments(&row).filter(|segment| segment.tokens.len() > 1).map(move |segment| {
            let ids = row.tokens[segment.tokens].to_vec();
            Sequence { loss_mask: (0..ids.len()).map(|at| at > 0).collect(), ids }
        })
    };
    rows.flat_map(of_row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_row_is_passed_over_and_every_step_has_one(rows_per_step in 1.0f64..9.0, steps in 1u64..50) {
            let all: Vec<u64> = (0..steps).flat_map(|step| places(step, rows_per_step)).collect();
            prop_assert_eq!(&all, &(0..all.len() as u64).collect::<Vec<_>>());
            prop_assert!((0..steps).all(|step| !places(step, rows_per_step).is_empty()));
            prop_assert!((all.len() as f64 - steps as f64 * rows_per_step).abs() <= 1.0);
        }
    }
}
