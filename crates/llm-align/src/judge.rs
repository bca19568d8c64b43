//! What a model answers to held-out prompts, in numbers: how often it is right or keeps a rule, how long the answers are, and how far
//! the model has gone from the one it started from.
//!
//! An alignment run reports its own reward on the prompts it trains on, with the policy of each step. That is the number that training
//! pushes up, so it says least about whether the run has worked. Here the finished model is asked, several times per prompt, under the
//! sampling it was trained for; rewards are those of a training configuration, and every mean has an interval.
//!
//! The divergence is `KL(model || reference)` over whole answers, estimated by the mean of `log p(answer) - log p_ref(answer)` over the
//! model's own samples (Schulman's k1, 2020): without bias at temperature 1 and without truncation, in nats per answer. Answers to one
//! prompt are alike, so intervals resample prompts (percentile bootstrap, Efron 1979), not answers.

use crate::data::{self, OnBadRow, Skipped};
use crate::grpo::prompts::{Prompts, grade};
use crate::rollouts::{Rollout, Sampler, SamplingConfig, token_log_probs};
use crate::sft::require;
use crate::{Error, Result, model};
use llm_arch::Decoder;
use llm_eval::stats::{self, Item};
use llm_run::{Seed, atomic};
use llm_tensor::{DeviceSpec, host};
use llm_tokenizer::Tokenizer;
use llm_train::sequences::{Sequence, Sequences, groups};
use llm_verify::{RewardSpec, Rewards, Scored};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// `llm-align judge`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JudgeConfig {
    /// Model folder, or a PEFT folder.
    pub model: PathBuf,
    /// The model it started from, for the divergence; empty is none.
    pub reference: PathBuf,
    /// Rows of prompts that nothing was trained on.
    pub prompts: PathBuf,
    /// Only the first rows; 0 is all.
    pub limit: usize,
    /// Answers to each prompt.
    pub samples: usize,
    /// How answers are drawn.
    pub sampling: SamplingConfig,
    /// What is asked of an answer.
    pub rewards: Vec<RewardSpec>,
    /// What to do about rows that cannot be used.
    pub on_bad_row: OnBadRow,
    /// Tokens per forward pass.
    pub micro_batch_tokens: usize,
    /// Resamples of the bootstrap.
    pub resamples: usize,
    /// Seed of sampling and bootstrap.
    pub seed: u64,
    /// Where to compute.
    pub device: DeviceSpec,
}

impl Default for JudgeConfig {
    fn default() -> Self {
        Self {
            model: PathBuf::new(),
            reference: PathBuf::new(),
            prompts: PathBuf::new(),
            limit: 0,
            samples: 4,
            sampling: SamplingConfig::default(),
            rewards: RewardSpec::default_list(),
            on_bad_row: OnBadRow::default(),
            micro_batch_tokens: 2048,
            resamples: 2000,
            seed: 0,
            device: DeviceSpec::Auto,
        }
    }
}

/// A mean over answers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Measure {
    /// The mean.
    pub mean: f64,
    /// Its 95 % interval, by resampling prompts.
    pub ci95: [f64; 2],
    /// Answers in it.
    pub n: usize,
}

/// `judge.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judgement {
    /// Prompts asked.
    pub prompts: usize,
    /// Answers to each.
    pub samples: usize,
    /// The weighted sum of all rewards; none if no answer could be scored.
    pub reward: Option<Measure>,
    /// Each reward by its name; one that scored nothing is left out.
    pub rewards: BTreeMap<String, Measure>,
    /// Tokens of an answer, with the one that ended it.
    pub length: Measure,
    /// Share of answers that ended by themselves.
    pub ended: Measure,
    /// `-log p` of the drawn tokens, nats per token: an estimate of the entropy.
    pub entropy: Measure,
    /// Nats per answer to the reference.
    pub kl: Option<Measure>,
    /// Rows that were left out.
    pub skipped: Vec<Skipped>,
}

/// One line of `answers.jsonl`.
#[derive(Debug, Serialize)]
struct Answer<'a> {
    row: usize,
    id: &'a str,
    prompt: &'a str,
    response: String,
    reward: Option<f32>,
    rewards: &'a [Option<f32>],
    tokens: usize,
    ended: bool,
    log_prob: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    kl: Option<f64>,
}

/// Ask `config.model` and write `judge.json` and `answers.jsonl` into `out`.
pub fn judge(config: &JudgeConfig, out: &Path) -> Result<Judgement> {
    require("model", &config.model)?;
    require("prompts", &config.prompts)?;
    if config.samples == 0 || config.micro_batch_tokens == 0 || config.resamples == 0 {
        return Err(Error::Config("samples, micro_batch_tokens and resamples must be positive".into()));
    }
    config.sampling.check()?;
    let rewards = Rewards::open(&config.rewards).map_err(|e| Error::Config(e.to_string()))?;
    let device = config.device.open()?;
    let tokenizer = Tokenizer::load(&config.model)?;
    let model = model::open(&config.model, &None, config.seed, &device)?.untracked();
    let reference = reference(config, &model, &device)?;

    let (context, max_tokens) = (model.config().max_position_embeddings, config.sampling.max_tokens);
    let mut prompts = Prompts::load(&config.prompts, config.on_bad_row, &tokenizer, max_tokens, context)?;
    if config.limit > 0 {
        prompts.rows.truncate(config.limit);
        prompts.ids.truncate(config.limit);
    }
    data::report(out, &[(config.prompts.as_path(), prompts.skipped.as_slice())])?;

    let asked: Vec<&[u32]> = prompts.ids.iter().flat_map(|ids| std::iter::repeat_n(ids.as_slice(), config.samples)).collect();
    let mut sampler = Sampler::new(&model, &tokenizer, config.sampling, Seed(config.seed).stream("judge"))?;
    let rollouts = sampler.sample(&model, 0, &asked)?;
    drop(sampler);
    let answers: Vec<(usize, &Rollout)> = rollouts.iter().enumerate().map(|(i, rollout)| (i / config.samples, rollout)).collect();
    let scored = grade(&rewards, &tokenizer, &prompts, &answers)?;
    let log_probs = sums(&model, &rollouts, config.micro_batch_tokens);
    let kl: Option<Vec<f64>> =
        reference.map(|reference| sums(&reference, &rollouts, config.micro_batch_tokens).iter().zip(&log_probs).map(|(r, p)| p - r).collect());

    let mut lines = String::new();
    for (i, (prompt, rollout)) in answers.iter().enumerate() {
        let row = &prompts.rows[*prompt];
        let answer = Answer {
            row: row.row,
            id: &row.id,
            prompt: row.text(),
            response: tokenizer.decode(rollout.answer(), false),
            reward: scored[i].total,
            rewards: &scored[i].parts,
            tokens: rollout.tokens.len(),
            ended: rollout.ended,
            log_prob: log_probs[i],
            kl: kl.as_ref().map(|kl| kl[i]),
        };
        lines.push_str(&json!(answer).to_string());
        lines.push('\n');
    }
    let judgement = measure(config, &rewards.names(), &scored, &rollouts, &log_probs, kl.as_deref(), prompts.skipped.clone());
    atomic::write(out.join("answers.jsonl"), lines)?;
    atomic::write(out.join("judge.json"), format!("{:#}\n", json!(judgement)))?;
    Ok(judgement)
}

/// The reference, if there is one; it must have the model's vocabulary.
fn reference(config: &JudgeConfig, model: &Decoder, device: &llm_tensor::burn::tensor::Device) -> Result<Option<Decoder>> {
    if config.reference.as_os_str().is_empty() {
        return Ok(None);
    }
    let reference = model::open(&config.reference, &None, config.seed, device)?.untracked();
    let (ours, theirs) = (model.config().vocab_size, reference.config().vocab_size);
    if ours != theirs {
        let message = format!(
            "reference {} has a vocabulary of {theirs} tokens, the model {} one of {ours}; expected the model that it was trained from",
            config.reference.display(),
            config.model.display()
        );
        return Err(Error::Config(message));
    }
    Ok(Some(reference))
}

/// Log-probability of each answer in nats.
fn sums(model: &Decoder, rollouts: &[Rollout], budget: usize) -> Vec<f64> {
    let sequences: Vec<Sequence> = rollouts.iter().map(Rollout::sequence).collect();
    let mut out = Vec::with_capacity(sequences.len());
    for group in groups(&sequences, budget) {
        let packed = Sequences::pack(group);
        let first = out.len();
        out.resize(first + group.len(), 0.0);
        if packed.trained() > 0 {
            for (owner, log_p) in packed.owner.iter().zip(host::to_vec(token_log_probs(model, &packed))) {
                out[first + owner] += f64::from(log_p);
            }
        }
    }
    out
}

/// Means and intervals.
fn measure(
    config: &JudgeConfig,
    names: &[String],
    scored: &[Scored],
    rollouts: &[Rollout],
    log_probs: &[f64],
    kl: Option<&[f64]>,
    skipped: Vec<Skipped>,
) -> Judgement {
    let seed = Seed(config.seed).stream("bootstrap");
    // `value` of an answer over its weight; none for one that does not count.
    let mean = |value: &dyn Fn(usize) -> Option<(f64, f64)>| -> Option<Measure> {
        let values: Vec<Option<(f64, f64)>> = (0..rollouts.len()).map(value).collect();
        let items: Vec<Item> = values
            .chunks(config.samples)
            .map(|answers| {
                answers.iter().flatten().fold(Item { score: 0.0, weight: 0.0 }, |i, (s, w)| Item { score: i.score + s, weight: i.weight + w })
            })
            .collect();
        let mean = stats::ratio(&items)?;
        let ci95 = stats::bootstrap(&items, config.resamples, seed).map_or([mean; 2], |b| b.ci95);
        Some(Measure { mean, ci95, n: values.iter().flatten().count() })
    };
    let all = |value: &dyn Fn(usize) -> f64| mean(&|i| Some((value(i), 1.0))).unwrap_or(Measure { mean: f64::NAN, ci95: [f64::NAN; 2], n: 0 });
    let mut rewards = BTreeMap::new();
    for (at, name) in names.iter().enumerate() {
        let part = |i: usize| scored[i].parts.get(at).copied().flatten().map(|r| (f64::from(r), 1.0));
        if let Some(measured) = mean(&part) {
            rewards.insert(name.clone(), measured);
        }
    }
    Judgement {
        prompts: rollouts.len() / config.samples,
        samples: config.samples,
        reward: mean(&|i| scored[i].total.map(|r| (f64::from(r), 1.0))),
        rewards,
        length: all(&|i| rollouts[i].tokens.len() as f64),
        ended: all(&|i| f64::from(u8::from(rollouts[i].ended))),
        entropy: mean(&|i| Some((-log_probs[i], rollouts[i].tokens.len() as f64))).unwrap_or(Measure { mean: 0.0, ci95: [0.0; 2], n: 0 }),
        kl: kl.map(|kl| all(&|i| kl[i])),
        skipped,
    }
}

impl Judgement {
    /// A table for people.
    pub fn table(&self) -> String {
        let mut text = format!("{} prompts, {} answers to each\n", self.prompts, self.samples);
        let mut line = |name: &str, m: &Measure| {
            text.push_str(&format!("{name:<24} {:>9.4}  95 % [{:.4}, {:.4}]  n {}\n", m.mean, m.ci95[0], m.ci95[1], m.n));
        };
        if let Some(reward) = &self.reward {
            line("reward", reward);
        }
        if self.rewards.len() > 1 {
            self.rewards.iter().for_each(|(name, m)| line(name, m));
        }
        line("tokens of an answer", &self.length);
        line("ended by themselves", &self.ended);
        line("entropy, nats a token", &self.entropy);
        if let Some(kl) = &self.kl {
            line("KL, nats an answer", kl);
        }
        if !self.skipped.is_empty() {
            text.push_str(&format!("{} rows left out; the first: row {}: {}\n", self.skipped.len(), self.skipped[0].row, self.skipped[0].reason));
        }
        text
    }

    /// For the manifest.
    pub fn summary(&self) -> Value {
        json!(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rollout(tokens: usize, ended: bool) -> Rollout {
        Rollout { prompt: vec![1], tokens: vec![2; tokens], ended }
    }

    fn scored(total: Option<f32>) -> Scored {
        Scored { total, parts: vec![total] }
    }

    /// If this fails, an answer that nobody could score counts as wrong, or a mean is taken over the wrong answers.
    #[test]
    fn means_are_over_the_answers_that_count() {
        let config = JudgeConfig { samples: 2, resamples: 200, ..JudgeConfig::default() };
        let answers = [rollout(2, true), rollout(4, true), rollout(6, false), rollout(8, true)];
        let grades = [scored(Some(1.0)), scored(Some(0.0)), scored(None), scored(Some(1.0))];
        let got = measure(&config, &["rule".into()], &grades, &answers, &[-1.0, -2.0, -3.0, -4.0], Some(&[0.5, 0.5, 1.0, 2.0]), Vec::new());
        assert_eq!((got.prompts, got.samples), (2, 2));
        let reward = got.reward.unwrap();
        assert_eq!((reward.mean, reward.n), (2.0 / 3.0, 3));
        assert_eq!(got.rewards["rule"], reward);
        assert_eq!((got.length.mean, got.ended.mean, got.kl.unwrap().mean), (5.0, 0.75, 1.0));
        // Tokens weigh alike, not answers: 10 nats over 20 tokens.
        assert_eq!(got.entropy.mean, 0.5);
        assert!(reward.ci95[0] <= reward.mean && reward.mean <= reward.ci95[1]);
        assert!(got.table().contains("KL, nats an answer"));
    }

    #[test]
    fn nothing_scored_is_no_reward() {
        let config = JudgeConfig { samples: 1, resamples: 10, ..JudgeConfig::default() };
        let got = measure(&config, &["a".into()], &[scored(None)], &[rollout(1, true)], &[-1.0], None, Vec::new());
        assert_eq!((got.reward, got.rewards.len(), got.kl), (None, 0, None));
    }
}
