//! Settings, and what each algorithm of the family sets when they are silent.
//!
//! | `algorithm` | averaging | advantage | ratio | bounds | besides |
//! |---|---|---|---|---|---|
//! | `grpo_trl` (default) | `dapo` | group mean, group std | token | 0.2 / 0.2 | TRL's `GRPOTrainer` as it comes |
//! | `grpo` | `grpo` | group mean, group std | token | 0.2 / 0.2 | DeepSeekMath (2024) |
//! | `dr_grpo` | `dr_grpo` | group mean | token | 0.2 / 0.2 | Liu et al. (2025) |
//! | `dapo` | `dapo` | group mean, group std | token | 0.2 / 0.28 | dynamic sampling, overlong buffer; Yu et al. (2025) |
//! | `gspo` | `grpo` | group mean, group std | sequence | 3e-4 / 4e-4 | Zheng et al. (2025) |
//! | `rloo` | `grpo` | mean of the others | whole answer | 0.2 / 0.2 | Ahmadian et al. (2024); TRL's `RLOOTrainer` |
//! | `cispo` | `dapo` | group mean, group std | token | at most 5 | MiniMax-M1 (2025), ScaleRL (2025) |
//! | `sapo` | `grpo` | group mean, group std | token | soft | Gao et al. (2025) |
//!
//! Every one of these can be set by itself too. Bounds matter only with several updates per batch of rollouts.

use crate::data::OnBadRow;
use crate::losses::advantages::{Baseline, ScaleRewards};
use crate::losses::policy::{ClipRange, ImportanceLevel, LossType};
use crate::rollouts::SamplingConfig;
use crate::watchdog::WatchdogConfig;
use llm_arch::adapter::AdapterSpec;
use llm_tensor::DeviceSpec;
use llm_train::recompute::Recompute;
use llm_train::{Error, Result, TrainerConfig};
use llm_verify::RewardSpec;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A set of defaults with the name of its paper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// The defaults of TRL's `GRPOTrainer`.
    #[default]
    GrpoTrl,
    /// DeepSeekMath.
    Grpo,
    /// GRPO done right: no division by lengths or deviations.
    DrGrpo,
    /// Decoupled clip and dynamic sampling.
    Dapo,
    /// Group sequence policy optimisation.
    Gspo,
    /// REINFORCE with leave-one-out baselines.
    Rloo,
    /// Clipped importance sampling weights.
    Cispo,
    /// Soft adaptive policy optimisation.
    Sapo,
}

/// Which loss a token has ([`crate::losses::policy`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Surrogate {
    /// PPO's minimum of free and bounded.
    #[default]
    Clip,
    /// The bounded ratio as a weight.
    Cispo,
    /// A soft gate.
    Sapo,
}

/// How several rewards become one advantage (TRL: `multi_objective_aggregation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Combine {
    /// The weighted sum is compared within the group.
    #[default]
    SumThenNormalize,
    /// Each is normalised within the group, their sum within the batch (GDPO).
    NormalizeThenSum,
}

/// `llm-align grpo`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrpoConfig {
    /// Model folder to start from; also the reference of the KL penalty.
    pub model: PathBuf,
    /// Prompts, with gold answers where a reward needs them: JSONL, JSON or Parquet.
    pub train: PathBuf,
    /// What to do with rows that cannot be used.
    pub on_bad_row: OnBadRow,
    /// Train an adapter of this kind instead of the weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<AdapterSpec>,
    /// Defaults of the settings below that are not given.
    pub algorithm: Algorithm,
    /// Prompts per batch of rollouts.
    pub prompts_per_step: usize,
    /// Answers per prompt.
    pub group_size: usize,
    /// Most tokens of an answer.
    pub max_tokens: usize,
    /// Sampling temperature of rollouts. The loss uses the unmodified distribution, so 1 is on-policy.
    pub temperature: f32,
    /// Rollouts come from the likeliest tokens with this much probability; 1 is on-policy.
    pub top_p: f32,
    /// Rollouts come from so many of the likeliest tokens; 0 is all.
    pub top_k: usize,
    /// Passes over a batch of rollouts (TRL: `num_iterations`).
    pub updates_per_rollout: u64,
    /// Updates per pass: a batch of rollouts is cut into so many.
    pub minibatches: u64,
    /// Averaging.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss_type: Option<LossType>,
    /// Scaling of advantages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scale_rewards: Option<ScaleRewards>,
    /// What a reward is compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<Baseline>,
    /// Loss of a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub surrogate: Option<Surrogate>,
    /// Whose probability the ratio compares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub importance_sampling_level: Option<ImportanceLevel>,
    /// How far below 1 the ratio counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eps_low: Option<f32>,
    /// How far above 1 the ratio counts; with CISPO the largest ratio itself, as in TRL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eps_high: Option<f32>,
    /// Largest ratio of a bad token, above 1 + eps_high: two-sided clipping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<f32>,
    /// Largest loss of a bad token as a multiple of its -advantage, above 1: dual clipping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dual_clip: Option<f32>,
    /// SAPO's gate of good answers.
    pub sapo_temperature_pos: f32,
    /// SAPO's gate of bad answers.
    pub sapo_temperature_neg: f32,
    /// Weight of the KL penalty (k3) to the starting model; 0 is none.
    pub kl_beta: f64,
    /// Measure the KL to the starting model without a penalty too: one more forward pass.
    pub track_kl: bool,
    /// What answers are rewarded for.
    pub rewards: Vec<RewardSpec>,
    /// How several rewards become one advantage.
    pub combine: Combine,
    /// Dynamic sampling: how often groups that all got the same reward are replaced by groups of other prompts; 0 is never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_resamples: Option<u64>,
    /// The last so many of `max_tokens` cost reward, up to 1 (DAPO's soft overlong punishment); 0 is off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlong_buffer: Option<usize>,
    /// Answers that were cut off are not trained on (DAPO's overlong filter; TRL: `mask_truncated_completions`).
    pub mask_truncated: bool,
    /// Weight of a reward for shortness within the group (Kimi k1.5); 0 is none.
    pub length_penalty: f32,
    /// Tokens of thinking beyond these cost reward in proportion, up to 1 at twice as many; 0 is no bound.
    pub max_thinking_tokens: usize,
    /// Held-out prompts with gold answers, answered at every validation; empty is none.
    pub heldout: PathBuf,
    /// The first so many of them.
    pub heldout_prompts: usize,
    /// Sampled answers per held-out prompt, for pass@k; 0 is the likeliest answer only.
    pub heldout_samples: usize,
    /// Tokens per forward pass.
    pub micro_batch_tokens: usize,
    /// Answers generated at the same time.
    pub max_batch: usize,
    /// `block` keeps of the activations only what enters each block and computes the rest again.
    #[serde(skip_serializing_if = "Recompute::is_none")]
    pub recompute: Recompute,
    /// Alarms, and when they end the run.
    pub watchdog: WatchdogConfig,
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
            on_bad_row: OnBadRow::default(),
            adapter: None,
            algorithm: Algorithm::default(),
            prompts_per_step: 32,
            group_size: 8,
            max_tokens: 96,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            updates_per_rollout: 1,
            minibatches: 1,
            loss_type: None,
            scale_rewards: None,
            baseline: None,
            surrogate: None,
            importance_sampling_level: None,
            eps_low: None,
            eps_high: None,
            delta: None,
            dual_clip: None,
            sapo_temperature_pos: 1.0,
            sapo_temperature_neg: 1.05,
            kl_beta: 0.0,
            track_kl: false,
            rewards: RewardSpec::default_list(),
            combine: Combine::default(),
            max_resamples: None,
            overlong_buffer: None,
            mask_truncated: false,
            length_penalty: 0.0,
            max_thinking_tokens: 0,
            heldout: PathBuf::new(),
            heldout_prompts: 128,
            heldout_samples: 0,
            micro_batch_tokens: 2048,
            max_batch: 256,
            recompute: Recompute::None,
            watchdog: WatchdogConfig::default(),
            seed: 0,
            device: DeviceSpec::Auto,
            trainer: TrainerConfig::default(),
        }
    }
}

/// What is left to decide when algorithm and settings have spoken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Averaging.
    pub loss_type: LossType,
    /// Scaling of advantages.
    pub scale_rewards: ScaleRewards,
    /// What a reward is compared with.
    pub baseline: Baseline,
    /// Loss of a token.
    pub surrogate: Surrogate,
    /// Whose probability the ratio compares.
    pub level: ImportanceLevel,
    /// Bounds of the ratio.
    pub range: ClipRange,
    /// Replacements of groups without signal.
    pub max_resamples: u64,
    /// Last tokens that cost reward.
    pub overlong_buffer: usize,
}

impl GrpoConfig {
    /// The settings, with those of the algorithm where the configuration is silent.
    pub fn settings(&self) -> Settings {
        use Algorithm::{Cispo, Dapo, DrGrpo, Grpo, GrpoTrl, Gspo, Rloo, Sapo};
        let algorithm = self.algorithm;
        let loss_type = match algorithm {
            GrpoTrl | Dapo | Cispo => LossType::Dapo,
            Grpo | Gspo | Rloo | Sapo => LossType::Grpo,
            DrGrpo => LossType::DrGrpo,
        };
        let scale_rewards = if matches!(algorithm, DrGrpo | Rloo) { ScaleRewards::None } else { ScaleRewards::Group };
        let level = match algorithm {
            Gspo => ImportanceLevel::Sequence,
            Rloo => ImportanceLevel::SequenceProduct,
            _ => ImportanceLevel::Token,
        };
        let surrogate = match algorithm {
            Cispo => Surrogate::Cispo,
            Sapo => Surrogate::Sapo,
            _ => Surrogate::Clip,
        };
        let (low, high) = match algorithm {
            Dapo => (0.2, 0.28),
            Gspo => (3e-4, 4e-4),
            Cispo => (0.2, 5.0),
            _ => (0.2, 0.2),
        };
        let dapo = |value: usize| if algorithm == Dapo { value } else { 0 };
        Settings {
            loss_type: self.loss_type.unwrap_or(loss_type),
            scale_rewards: self.scale_rewards.unwrap_or(scale_rewards),
            baseline: self.baseline.unwrap_or(if algorithm == Rloo { Baseline::LeaveOneOut } else { Baseline::GroupMean }),
            surrogate: self.surrogate.unwrap_or(surrogate),
            level: self.importance_sampling_level.unwrap_or(level),
            range: ClipRange { low: self.eps_low.unwrap_or(low), high: self.eps_high.unwrap_or(high), delta: self.delta, dual: self.dual_clip },
            max_resamples: self.max_resamples.unwrap_or(dapo(4) as u64),
            // The share of the answer that DAPO's own runs have as a buffer: 4096 of 20480.
            overlong_buffer: self.overlong_buffer.unwrap_or(dapo(self.max_tokens / 5)),
        }
    }

    /// How rollouts are drawn.
    pub fn sampling(&self) -> SamplingConfig {
        let Self { max_tokens, temperature, top_p, top_k, max_batch, .. } = *self;
        SamplingConfig { max_tokens, temperature, top_p, top_k, max_batch }
    }

    /// Optimiser steps per batch of rollouts.
    pub fn updates(&self) -> u64 {
        self.updates_per_rollout * self.minibatches
    }

    /// Settings that cannot work are errors that name the key.
    pub fn check(&self) -> Result<()> {
        let bad = |text: String| Err(Error::Config(text));
        if self.group_size < 2 || self.prompts_per_step == 0 || self.max_tokens == 0 || self.max_batch == 0 {
            return bad("group_size must be at least 2; prompts_per_step, max_tokens and max_batch positive".into());
        }
        self.sampling().check()?;
        if self.temperature == 0.0 {
            return bad("temperature must be positive: at 0 all answers of a group are the same and there is nothing to learn from".into());
        }
        if self.micro_batch_tokens == 0 {
            return bad("micro_batch_tokens must be positive".into());
        }
        let answers = (self.prompts_per_step * self.group_size) as u64;
        if self.updates_per_rollout == 0 || self.minibatches == 0 || self.minibatches > answers {
            return bad(format!("updates_per_rollout and minibatches must be positive, and minibatches at most the {answers} answers of a batch"));
        }
        let Settings { surrogate, level, range: ClipRange { low, high, delta, dual }, overlong_buffer, loss_type, .. } = self.settings();
        if !((0.0..=1.0).contains(&low) && high >= 0.0 && high.is_finite()) {
            return bad(format!("eps_low must be between 0 and 1 and eps_high at least 0, not {low} and {high}"));
        }
        if surrogate == Surrogate::Cispo && high < 1.0 {
            return bad(format!("eps_high is the largest ratio itself with CISPO and must be at least 1, not {high}; 5 is usual"));
        }
        if delta.is_some_and(|delta| delta.is_nan() || delta <= 1.0 + high) {
            return bad(format!("delta must be above 1 + eps_high = {}", 1.0 + high));
        }
        if dual.is_some_and(|dual| dual.is_nan() || dual <= 1.0) {
            return bad("dual_clip must be above 1; 3 is usual".into());
        }
        if surrogate != Surrogate::Clip && (delta.is_some() || dual.is_some()) {
            return bad("delta and dual_clip bound the clipped surrogate; set surrogate = \"clip\" or leave them out".into());
        }
        if level == ImportanceLevel::SequenceProduct && loss_type != LossType::Grpo {
            return bad("the ratio of whole answers needs loss_type = \"grpo\": every token of an answer carries the loss of all of it".into());
        }
        if !(self.sapo_temperature_pos > 0.0 && self.sapo_temperature_neg > 0.0) {
            return bad("sapo_temperature_pos and sapo_temperature_neg must be positive".into());
        }
        if overlong_buffer > self.max_tokens {
            return bad(format!("overlong_buffer must be at most max_tokens = {}, not {overlong_buffer}", self.max_tokens));
        }
        if !(self.kl_beta >= 0.0 && self.kl_beta.is_finite() && self.length_penalty >= 0.0 && self.length_penalty.is_finite()) {
            return bad("kl_beta and length_penalty must be at least 0".into());
        }
        if self.rewards.is_empty() {
            return bad("rewards is empty: there is nothing to learn; for example rewards = [{ kind = \"math\" }]".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> GrpoConfig {
        llm_run::config::load(None, &text.split(' ').filter(|s| !s.is_empty()).map(String::from).collect::<Vec<_>>()).unwrap()
    }

    /// If this fails, a name of a paper trains something else than the paper's algorithm.
    #[test]
    fn an_algorithm_sets_what_is_not_given() {
        let settings = |text: &str| read(text).settings();
        let grpo = settings("");
        assert_eq!((grpo.loss_type, grpo.scale_rewards, grpo.level), (LossType::Dapo, ScaleRewards::Group, ImportanceLevel::Token));
        assert_eq!((grpo.max_resamples, grpo.overlong_buffer), (0, 0));
        assert_eq!(settings("algorithm=grpo").loss_type, LossType::Grpo);
        let dr = settings("algorithm=dr_grpo");
        assert_eq!((dr.loss_type, dr.scale_rewards), (LossType::DrGrpo, ScaleRewards::None));
        let dapo = settings("algorithm=dapo max_tokens=100");
        assert_eq!((dapo.range.low, dapo.range.high, dapo.max_resamples, dapo.overlong_buffer), (0.2, 0.28, 4, 20));
        let gspo = settings("algorithm=gspo");
        assert_eq!((gspo.level, gspo.loss_type, gspo.range.high), (ImportanceLevel::Sequence, LossType::Grpo, 4e-4));
        let rloo = settings("algorithm=rloo");
        assert_eq!((rloo.baseline, rloo.scale_rewards, rloo.level), (Baseline::LeaveOneOut, ScaleRewards::None, ImportanceLevel::SequenceProduct));
        assert_eq!(settings("algorithm=cispo").surrogate, Surrogate::Cispo);
        let own = settings("algorithm=dapo eps_high=0.5 scale_rewards=none max_resamples=0 loss_type=bnpo");
        assert_eq!((own.range.high, own.scale_rewards, own.max_resamples, own.loss_type), (0.5, ScaleRewards::None, 0, LossType::Bnpo));
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        read("").check().unwrap();
        for algorithm in ["grpo_trl", "grpo", "dr_grpo", "dapo", "gspo", "rloo", "cispo", "sapo"] {
            read(&format!("algorithm={algorithm}")).check().unwrap();
        }
        for (text, key) in [
            ("group_size=1", "group_size"),
            ("temperature=0.0", "temperature"),
            ("top_p=0.0", "top_p"),
            ("updates_per_rollout=0", "updates_per_rollout"),
            ("minibatches=1000", "minibatches"),
            ("eps_low=1.5", "eps_low"),
            ("algorithm=cispo eps_high=0.2", "eps_high"),
            ("delta=1.1", "delta"),
            ("dual_clip=0.5", "dual_clip"),
            ("algorithm=sapo delta=4.0", "delta"),
            ("algorithm=rloo loss_type=dapo", "loss_type"),
            ("overlong_buffer=97", "overlong_buffer"),
            ("rewards=[]", "rewards"),
        ] {
            let message = read(text).check().unwrap_err().to_string();
            assert!(message.contains(key), "{text}: {message}");
        }
    }
}
