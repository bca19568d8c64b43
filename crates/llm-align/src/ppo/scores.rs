//! What an answer is worth: the reward model's number at its last token, and what programs say of it.

use crate::grpo::prompts::{Prompts, grade};
use crate::reward::{RewardModel, Texts};
use crate::rollouts::Rollout;
use llm_tensor::host;
use llm_tokenizer::Tokenizer;
use llm_train::{Error, Result};
use llm_verify::{RewardSpec, Rewards, Scored};
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
    pub judge: Option<f64>,
}

fn open(key: &str, specs: &[RewardSpec]) -> Result<Option<Rewards>> {
    if specs.is_empty() {
        return Ok(None);
    }
    Rewards::open(specs).map(Some).map_err(|e| Error::Config(format!("{key}: {e}")))
}

/// Mean of what there is.
pub fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, n) = values.fold((0f64, 0usize), |(sum, n), x| (sum + x, n + 1));
    (n > 0).then(|| sum / n as f64)
}

impl Judges {
    /// Open the programs.
    pub fn open(reward_model: Option<RewardModel>, rewards: &[RewardSpec], judge: &[RewardSpec], micro_batch_tokens: usize) -> Result<Self> {
        let (rewards, judge) = (open("rewards", rewards)?, open("judge", judge)?);
        let names = rewards.as_ref().map(Rewards::names).unwrap_or_default();
        Ok(Self { reward_model, rewards, names, judge, micro_batch_tokens })
    }

    /// Names of the parts of the checkable rewards.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Judge answers to the prompts of `file` with these indices. A number of the reward model that is none is an error that names the
    /// row.
    pub fn score(&self, file: &Path, prompts: &Prompts, answers: &[(usize, &Rollout)], tokenizer: &Tokenizer) -> Result<Scores> {
        let mut scores = vec![Some(0f32); answers.len()];
        if let Some(model) = &self.reward_model {
            scores = self.rewards_of(model, answers).into_iter().map(Some).collect();
        }
        if let Some(at) = scores.iter().position(|score| score.is_some_and(|s| !s.is_finite())) {
            let (prompt, rollout) = answers[at];
            let row = &prompts.rows[prompt];
            let message = format!(
                "{}: row {} (`{}`): the reward of the answer of {} tokens to it is {}, not a number; the reward model is damaged or diverged",
                file.display(),
                row.row,
                row.id,
                rollout.tokens.len(),
                scores[at].unwrap_or(f32::NAN)
            );
            return Err(Error::Objective(message));
        }
        let mut parts = Vec::new();
        if let Some(rewards) = &self.rewards {
            for (score, Scored { total, parts: own }) in scores.iter_mut().zip(grade(rewards, tokenizer, prompts, answers)?) {
                *score = score.zip(total).map(|(a, b)| a + b);
                parts.push(own);
            }
        }
        let judged = match &self.judge {
            Some(judge) => mean(grade(judge, tokenizer, prompts, answers)?.iter().filter_map(|g| g.total).map(f64::from)),
            None => None,
        };
        Ok(Scores { scores, parts, judge: judged })
    }

    /// The reward model's numbers, in order.
    fn rewards_of(&self, model: &RewardModel, answers: &[(usize, &Rollout)]) -> Vec<f32> {
        let texts: Vec<Vec<u32>> = answers.iter().map(|(_, rollout)| rollout.sequence().ids).collect();
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
    /// Means of the parts, as `reward/NAME`.
    pub fn part_means(&self, names: &[String]) -> Map<String, Value> {
        let of = |k: usize| mean(self.parts.iter().filter_map(|own| own.get(k).copied().flatten()).map(f64::from));
        names.iter().enumerate().filter_map(|(k, name)| Some((format!("reward/{name}"), json!(of(k)?)))).collect()
    }
}
