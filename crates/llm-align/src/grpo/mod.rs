//! Group-relative policy optimisation (Shao et al., DeepSeekMath, 2024) with rewards that can be verified.
//!
//! Each step samples `group_size` answers to `prompts_per_step` prompts with the weights of that step, rewards them, and
//! raises the probability of the answers that beat their own group. There is one update per batch of rollouts, made by the
//! same weights that produced it, so the probability ratio of the paper is exactly one and nothing is clipped: its gradient
//! is that of `-advantage * log p`. The penalty towards the starting model is Schulman's k3 estimator.
//!
//! How token losses are averaged differs between implementations and is named: [`LossType`].

use crate::sft::require;
use crate::verifier::{ExerciseVerifier, Verifier};
use llm_arch::{Decoder, hf};
use llm_data::exercises::{self, Exercise};
use llm_infer::{Completion, Engine, EngineConfig, Model, Request, Sampling};
use llm_run::Seed;
use llm_run::seed::permuted;
use llm_tensor::burn::tensor::Tensor;
use llm_tensor::{DeviceSpec, host};
use llm_tokenizer::Tokenizer;
use llm_train::checkpoint::Identity;
use llm_train::sequences::{Sequence, Sequences, groups};
use llm_train::trainer::Outcome;
use llm_train::{Error, Loss, Objective, Result, Trainer, TrainerConfig};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// How the losses of tokens become one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossType {
    /// Mean over answers of each answer's token mean (DeepSeekMath, equation 3).
    Grpo,
    /// Mean over all tokens of the step (Yu et al., DAPO, 2025).
    #[default]
    Dapo,
    /// Sum over tokens / (answers * max_tokens) (Liu et al., Dr. GRPO, 2025).
    DrGrpo,
}

/// What an advantage is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScaleRewards {
    /// The group's standard deviation (n - 1) + 1e-4, as TRL does.
    #[default]
    Group,
    /// Nothing (Dr. GRPO).
    None,
}

/// `llm-align grpo`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrpoConfig {
    /// Model folder to start from; also the reference of the KL penalty.
    pub model: PathBuf,
    /// JSONL of exercises with gold answers.
    pub train: PathBuf,
    /// Prompts per step.
    pub prompts_per_step: usize,
    /// Answers per prompt.
    pub group_size: usize,
    /// Most tokens of an answer.
    pub max_tokens: usize,
    /// Sampling temperature of rollouts. The loss uses the unmodified distribution, so 1 is on-policy.
    pub temperature: f32,
    /// Weight of the KL penalty to the starting model; 0 is none.
    pub kl_beta: f64,
    /// Averaging.
    pub loss_type: LossType,
    /// Scaling of advantages.
    pub scale_rewards: ScaleRewards,
    /// Tokens per forward pass.
    pub micro_batch_tokens: usize,
    /// Answers generated at the same time.
    pub max_batch: usize,
    /// Seed of prompt order and sampling.
    pub seed: u64,
    /// Where to compute.
    pub device: DeviceSpec,
    /// The loop.
    pub trainer: TrainerConfig,
}

impl Default for GrpoConfig {
    fn default() -> Self {
        Self {
            model: PathBuf::new(),
            train: PathBuf::new(),
            prompts_per_step: 32,
            group_size: 8,
            max_tokens: 96,
            temperature: 1.0,
            kl_beta: 0.0,
            loss_type: LossType::Dapo,
            scale_rewards: ScaleRewards::Group,
            micro_batch_tokens: 2048,
            max_batch: 256,
            seed: 0,
            device: DeviceSpec::Auto,
            trainer: TrainerConfig::default(),
        }
    }
}

/// Advantages of one group: reward minus the group's mean, scaled.
pub fn advantages(rewards: &[f32], scale: ScaleRewards) -> Vec<f32> {
    let n = rewards.len() as f64;
    let mean = rewards.iter().map(|&r| f64::from(r)).sum::<f64>() / n;
    let variance = rewards.iter().map(|&r| (f64::from(r) - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    let divisor = match scale {
        ScaleRewards::Group => variance.sqrt() + 1e-4,
        ScaleRewards::None => 1.0,
    };
    rewards.iter().map(|&r| ((f64::from(r) - mean) / divisor) as f32).collect()
}

/// The objective.
#[derive(Debug)]
pub struct Grpo {
    exercises: Vec<Exercise>,
    prompts: Vec<Vec<u32>>,
    engine: Engine,
    tokenizer: Tokenizer,
    reference: Option<Decoder>,
    config: GrpoConfig,
    metrics: Map<String, Value>,
}

/// One micro-batch of answers.
#[derive(Debug)]
pub struct GrpoBatch {
    sequences: Sequences,
    /// `[M]` advantage of the owner times the weight of the token.
    weighted_advantages: Vec<f32>,
    /// `[M]` weight of the token in the step's mean.
    weights: Vec<f32>,
}

impl Objective for Grpo {
    type Model = Decoder;
    type Batch = GrpoBatch;

    fn batches(&mut self, step: u64, model: &Decoder) -> Result<Vec<GrpoBatch>> {
        let GrpoConfig { prompts_per_step, group_size, max_tokens, temperature, .. } = self.config;
        let n = self.exercises.len() as u64;
        let seed = Seed(self.config.seed);
        let order = seed.stream("prompt order");
        let picked: Vec<usize> = (0..prompts_per_step as u64)
            .map(|j| {
                let i = step * prompts_per_step as u64 + j;
                permuted(order.at(i / n), i % n, n) as usize
            })
            .collect();
        let requests = picked.iter().enumerate().flat_map(|(j, &p)| {
            let prompt = &self.prompts[p];
            (0..group_size).map(move |k| {
                let seed = seed.stream("rollout").at(step).at((j * group_size + k) as u64).0;
                Request::new(prompt.clone(), Sampling { temperature, seed, max_tokens, ..Sampling::default() })
            })
        });
        let failed = |e: llm_infer::Error| Error::Objective(format!("rollouts of step {step}: {e}"));
        self.engine.set_decoder(model).map_err(failed)?;
        let completions = self.engine.generate(requests.collect()).map_err(failed)?;
        Ok(self.grade(&picked, &completions))
    }

    fn loss(&self, model: &Decoder, batch: &GrpoBatch) -> Result<Loss> {
        let sequences = &batch.sequences;
        let log_p_M = sequences.nll(model).neg();
        let n = sequences.trained();
        let device = log_p_M.device();
        let constant = |values: Vec<f32>| Tensor::from_inner(host::from_vec(values, [n], &device.clone().inner()));
        let mut value = (log_p_M.clone() * constant(batch.weighted_advantages.clone())).sum().neg();
        if let Some(reference) = &self.reference {
            let difference = constant(host::to_vec(sequences.nll(reference).neg())) - log_p_M;
            let k3 = difference.clone().exp() - difference.sub_scalar(1.0).add_scalar(2.0);
            value = value + (k3 * constant(batch.weights.clone())).sum().mul_scalar(self.config.kl_beta);
        }
        Ok(Loss { value, tokens: sequences.batch.ids.len() as u64, deferred: None })
    }

    fn settings(&self) -> Value {
        json!(self.config)
    }

    fn metrics(&mut self) -> Map<String, Value> {
        self.metrics.clone()
    }

    fn describe(&self, _: f32) -> String {
        let number = |key: &str| self.metrics.get(key).and_then(Value::as_f64).unwrap_or(0.0);
        format!("reward {:.3} length {:.1}", number("reward"), number("completion_length"))
    }
}

impl Grpo {
    /// Rewards, advantages, micro-batches.
    fn grade(&mut self, picked: &[usize], completions: &[Completion]) -> Vec<GrpoBatch> {
        let group_size = self.config.group_size;
        let rewards: Vec<f32> = completions
            .iter()
            .enumerate()
            .map(|(i, c)| ExerciseVerifier.reward(&self.exercises[picked[i / group_size]], &self.tokenizer.decode(&c.tokens, false)))
            .collect();
        let advantages: Vec<f32> = rewards.chunks(group_size).flat_map(|group| advantages(group, self.config.scale_rewards)).collect();
        let length = |c: &Completion| c.tokens.len() + usize::from(c.end_token.is_some());
        let total: usize = completions.iter().map(length).sum();
        let mixed = rewards.chunks(group_size).filter(|g| g.iter().any(|r| r != &g[0])).count();
        let mean = |values: &mut dyn Iterator<Item = f64>| values.sum::<f64>() / completions.len() as f64;
        self.metrics = Map::from_iter([
            ("reward".to_string(), json!(mean(&mut rewards.iter().map(|&r| f64::from(r))))),
            ("accuracy".to_string(), json!(mean(&mut rewards.iter().map(|&r| f64::from(u8::from(r > 0.5)))))),
            ("completion_length".to_string(), json!(total as f64 / completions.len() as f64)),
            ("cut_off".to_string(), json!(mean(&mut completions.iter().map(|c| f64::from(u8::from(c.end_token.is_none())))))),
            ("groups_with_signal".to_string(), json!(mixed as f64 / picked.len() as f64)),
        ]);
        // An answer whose group agrees has no advantage; without a KL penalty it has no gradient at all and is left out.
        let trains = |i: &usize| self.reference.is_some() || advantages[*i] != 0.0;
        let kept: Vec<usize> = (0..completions.len()).filter(trains).collect();
        let sequences: Vec<Sequence> = kept
            .iter()
            .map(|&i| {
                let prompt = &self.prompts[picked[i / group_size]];
                let answer = completions[i].tokens.iter().copied().chain(completions[i].end_token);
                let ids: Vec<u32> = prompt.iter().copied().chain(answer).collect();
                let loss_mask = (0..ids.len()).map(|at| at >= prompt.len()).collect();
                Sequence { ids, loss_mask }
            })
            .collect();
        let mut at = 0;
        groups(&sequences, self.config.micro_batch_tokens)
            .into_iter()
            .map(|group| {
                let owners = &kept[at..at + group.len()];
                at += group.len();
                let packed = Sequences::pack(group);
                let weight = |answer: usize| match self.config.loss_type {
                    LossType::Dapo => 1.0 / total as f32,
                    LossType::Grpo => 1.0 / (completions.len() * length(&completions[answer]).max(1)) as f32,
                    LossType::DrGrpo => 1.0 / (completions.len() * self.config.max_tokens) as f32,
                };
                let weights: Vec<f32> = packed.owner.iter().map(|&o| weight(owners[o])).collect();
                let weighted_advantages = weights.iter().zip(&packed.owner).map(|(w, &o)| w * advantages[owners[o]]).collect();
                GrpoBatch { sequences: packed, weighted_advantages, weights }
            })
            .collect()
    }
}

/// Train with verified rewards into `out`.
pub fn grpo(config: GrpoConfig, out: &Path) -> Result<Outcome<Decoder>> {
    require("model", &config.model)?;
    require("train", &config.train)?;
    if config.group_size < 2 || config.prompts_per_step == 0 || config.max_tokens == 0 || config.max_batch == 0 {
        return Err(Error::Config("group_size must be at least 2; prompts_per_step, max_tokens and max_batch positive".into()));
    }
    let device = config.device.open()?;
    let tokenizer = Tokenizer::load(&config.model)?;
    let policy = hf::load(&config.model, &device)?;
    let exercises = exercises::read(&config.train)?;
    if exercises.is_empty() {
        return Err(Error::Objective(format!("{}: no exercises in it", config.train.display())));
    }
    let context = policy.config().max_position_embeddings;
    let mut prompts = Vec::with_capacity(exercises.len());
    for (i, exercise) in exercises.iter().enumerate() {
        let question: Vec<_> = exercise.messages.iter().take_while(|m| m.role != "assistant").cloned().collect();
        let ids = tokenizer.chat_ids(&question, true)?;
        if ids.len() + config.max_tokens > context {
            let message = format!(
                "{}: row {}: {} prompt tokens and max_tokens = {} exceed the context of {context}",
                config.train.display(),
                i + 1,
                ids.len(),
                config.max_tokens
            );
            return Err(Error::Objective(message));
        }
        prompts.push(ids);
    }
    let model = Model::from_parts(policy.clone(), tokenizer.clone(), "policy");
    let engine_config = EngineConfig { max_batch: config.max_batch, max_step_tokens: config.max_batch.max(512), ..EngineConfig::default() };
    let engine = Engine::new(&model, engine_config).map_err(|e| Error::Objective(e.to_string()))?;
    let reference = (config.kl_beta > 0.0).then(|| policy.untracked());
    let identity = json!({"config": config, "model": llm_run::hash::path(&config.model)?, "train": llm_run::hash::path(&config.train)?});
    let trainer = Trainer { config: config.trainer.clone(), out: out.to_path_buf(), name: "grpo".into(), identity: Identity::new(identity) };
    let mut objective = Grpo { exercises, prompts, engine, tokenizer: tokenizer.clone(), reference, config, metrics: Map::new() };
    trainer.run(&mut objective, || Ok(policy), &tokenizer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advantages_are_those_of_trl() {
        // (r - mean) / (std with n - 1, + 1e-4): group [1, 0, 0, 1] has mean 0.5 and std 0.57735.
        let got = advantages(&[1.0, 0.0, 0.0, 1.0], ScaleRewards::Group);
        for (g, w) in got.iter().zip([0.865_875, -0.865_875, -0.865_875, 0.865_875]) {
            assert!((g - w).abs() < 1e-5, "{got:?}");
        }
        assert_eq!(advantages(&[1.0, 1.0], ScaleRewards::Group), [0.0, 0.0]);
        assert_eq!(advantages(&[3.0, 1.0], ScaleRewards::None), [1.0, -1.0]);
    }
}
