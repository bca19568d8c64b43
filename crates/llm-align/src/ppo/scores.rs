//! What an answer is worth: the reward model's number at its last token, and what programs say of it.

use super::prompts::Asked;
use crate::reward::{RewardModel, Texts};
use crate::rollouts::Rollout;
use llm_tensor::host;
use llm_tokenizer::Tokenizer;
use llm_train::{Error, Result};
use llm_verify::{RewardSpec, Rewards, Scored, Task};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Everything that judges answers.
#[derive(Debug)]
pub struct Judges {
    /// A reward model without tape.
    pub reward_model: Option<RewardModel>,
    /// Rewards that a program can check.
    rewards: Option<Rewards>,
    /// Names of their parts.
    names: Vec<String>,
    /// A judge that is not trained on.
    judge: Option<Rewards>,
    /// Tokens per forward pass of the reward model.
    micro_batch_tokens: usize,
}

/// The worth of the answers of a batch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scores {
    /// Of each answer; none where it cannot be scored.
    pub scores: Vec<Option<f32>>,
    /// The parts of the checkable rewards, by answer.
    pub parts: Vec<Vec<Option<f32>>>,
    /// Mean of the judge that is not trained on.
    pub heldout: Option<f64>,
}

fn open(specs: &[RewardSpec]) -> Result<Option<Rewards>> {
    if specs.is_empty() {
        return Ok(None);
    }
    Rewards::open(specs).map(Some).map_err(|e| Error::Config(e.to_string()))
}

/// Mean of what there is.
pub fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0f64, 0usize), |(sum, n), x| (sum + x, n + 1));
    (n > 0).then(|| sum / n as f64)
}

impl Judges {
    /// Open the programs.
    pub fn open(reward_model: Option<RewardModel>, rewards: &[RewardSpec], judge: &[RewardSpec], micro_batch_tokens: usize) -> Result<Self> {
        let (rewards, judge) = (open(rewards)?, open(judge)?);
        let names = rewards.as_ref().map(Rewards::names).unwrap_or_default();
        Ok(Self { reward_model, rewards, names, judge, micro_batch_tokens })
    }

    /// Names of the parts of the checkable rewards.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Judge answers to `asked`, prompts of `file`. A reward that is no number is an error that names the row.
    pub fn score(&self, file: &Path, asked: &[&Asked], rollouts: &[Rollout], tokenizer: &Tokenizer) -> Result<Scores> {
        let mut scores = vec![Some(0f32); rollouts.len()];
        if let Some(model) = &self.reward_model {
            for (score, reward) in scores.iter_mut().zip(self.rewards_of(model, rollouts)) {
                *score = Some(reward);
            }
        }
        let graded = |rewards: &Rewards| {
            // Control tokens are kept, so that thinking can be told from an answer; the end of the turn is none of its words.
            let said = |r: &Rollout| tokenizer.decode(&r.tokens[..r.tokens.len() - usize::from(r.ended)], false);
            let responses: Vec<String> = rollouts.iter().map(said).collect();
            let both = asked.iter().zip(&responses);
            let tasks: Vec<Task> = both
                .map(|(asked, response)| Task { prompt: &asked.text, response, answer: asked.answer.as_deref(), columns: &asked.columns })
                .collect();
            rewards.grade(&tasks)
        };
        let mut parts = Vec::new();
        if let Some(rewards) = &self.rewards {
            for (score, Scored { total, parts: own }) in scores.iter_mut().zip(graded(rewards)) {
                *score = score.zip(total).map(|(a, b)| a + b);
                parts.push(own);
            }
        }
        for ((score, asked), rollout) in scores.iter().zip(asked).zip(rollouts) {
            if let Some(bad) = score.filter(|score| !score.is_finite()) {
                let message = format!(
                    "{}: row {} (`{}`): the reward of the answer of {} tokens to it is {bad}, not a number; mend the reward",
                    file.display(),
                    asked.row,
                    asked.id,
                    rollout.tokens.len()
                );
                return Err(Error::Objective(message));
            }
        }
        let heldout = self.judge.as_ref().and_then(|judge| mean(graded(judge).into_iter().filter_map(|s| s.total).map(f64::from)));
        Ok(Scores { scores, parts, heldout })
    }

    /// The reward model's numbers, in order.
    fn rewards_of(&self, model: &RewardModel, rollouts: &[Rollout]) -> Vec<f32> {
        let texts: Vec<Vec<u32>> = rollouts.iter().map(|r| r.sequence().ids).collect();
        let (mut out, mut from) = (Vec::with_capacity(texts.len()), 0);
        while from < texts.len() {
            let (mut to, mut tokens) = (from + 1, texts[from].len());
            while to < texts.len() && tokens + texts[to].len() <= self.micro_batch_tokens {
                tokens += texts[to].len();
                to += 1;
            }
            out.extend(host::to_vec(model.rewards(&Texts::pack(texts[from..to].iter().map(Vec::as_slice)))));
            from = to;
        }
        out
    }
}

impl Scores {
    /// Means of the parts, as `rewards/NAME`.
    pub fn part_means(&self, names: &[String]) -> Map<String, Value> {
        let of = |k: usize| mean(self.parts.iter().filter_map(|own| own.get(k).copied().flatten()).map(f64::from));
        names.iter().enumerate().filter_map(|(k, name)| Some((format!("rewards/{name}"), json!(of(k)?)))).collect()
    }
}
