//! Questions, and what the answers to them are worth.

use crate::data::{self, Encoder, OnBadRow, Prompt, Skipped};
use crate::rollouts::Rollout;
use llm_run::Seed;
use llm_run::seed::permuted;
use llm_tokenizer::Tokenizer;
use llm_train::{Error, Result};
use llm_verify::{Rewards, Scored, Task};
use std::path::{Path, PathBuf};

/// Prompts with their ids.
#[derive(Debug)]
pub struct Prompts {
    /// The file they are from.
    pub path: PathBuf,
    /// Rows of the data.
    pub rows: Vec<Prompt>,
    /// Ids of each, up to where the answer begins.
    pub ids: Vec<Vec<u32>>,
    /// Rows that cannot be used.
    pub skipped: Vec<Skipped>,
}

impl Prompts {
    /// Read a file of prompts that leave room for `max_tokens` of an answer in `context`.
    pub fn load(path: &Path, on_bad_row: OnBadRow, tokenizer: &Tokenizer, max_tokens: usize, context: usize) -> Result<Self> {
        let encoder = Encoder::new(tokenizer, context);
        let encode = |prompt: &Prompt| {
            let ids = encoder.prompt(&prompt.messages)?;
            if ids.len() + max_tokens > context {
                return Err(format!("{} prompt tokens and max_tokens = {max_tokens} exceed the context of {context}", ids.len()));
            }
            Ok((prompt.clone(), ids))
        };
        let (kept, skipped) = data::keep(path, data::prompts(path, on_bad_row)?, on_bad_row, encode)?;
        let (rows, ids) = kept.into_iter().unzip();
        Ok(Self { path: path.to_path_buf(), rows, ids, skipped })
    }

    /// The prompts of batch `index` of `n`, in the order of the seed: every prompt once per pass.
    pub fn in_order(&self, seed: Seed, index: u64, n: usize) -> Vec<usize> {
        let (order, all) = (seed.stream("prompt order"), self.rows.len() as u64);
        let pick = |j: u64| {
            let i = index * n as u64 + j;
            permuted(order.at(i / all), i % all, all) as usize
        };
        (0..n as u64).map(pick).collect()
    }

    /// `n` other prompts for batch `index`, for the `attempt`-th time.
    pub fn others(&self, seed: Seed, index: u64, attempt: u64, n: usize) -> Vec<usize> {
        let (order, all) = (seed.stream("resampled prompts").at(index).at(attempt), self.rows.len() as u64);
        (0..n as u64).map(|j| permuted(order, j % all, all) as usize).collect()
    }
}

/// Grade answers to the prompts of these indices. A row that cannot be graded at all is an error that names it.
pub fn grade(rewards: &Rewards, tokenizer: &Tokenizer, prompts: &Prompts, answers: &[(usize, &Rollout)]) -> Result<Vec<Scored>> {
    // Control tokens stay, so that unfinished thinking can be told from an answer.
    let texts: Vec<String> = answers.iter().map(|(_, rollout)| tokenizer.decode(rollout.answer(), false)).collect();
    let mut tasks = Vec::with_capacity(answers.len());
    for (&(prompt, _), response) in answers.iter().zip(&texts) {
        let row = &prompts.rows[prompt];
        tasks.push(Task { prompt: row.text(), response, answer: row.answer.as_deref(), columns: &row.columns });
    }
    rewards.grade(&tasks).map_err(|error| {
        let place = match &error {
            llm_verify::Error::Row { row, .. } => answers.get(row.saturating_sub(1)).map(|(prompt, _)| prompts.rows[*prompt].row),
            _ => None,
        };
        let message = match (place, error) {
            (Some(row), llm_verify::Error::Row { name, message, .. }) => {
                format!("{}: row {row}: reward {name}: {message}", prompts.path.display())
            }
            (_, other) => other.to_string(),
        };
        Error::Objective(message)
    })
}
