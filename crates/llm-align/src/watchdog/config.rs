//! Settings of the watch-dog, with the reason for every default.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What an alarm does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnAlarm {
    /// It is told and written down; the run goes on.
    Log,
    /// The run saves, writes its model and ends.
    Stop,
}

/// What a watch-dog barks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The reward rises, and with it what nobody asked for.
    RewardHacking,
    /// The policy is further from the reference than `max_kl`.
    Kl,
    /// More divergence no longer buys reward.
    RewardPerNat,
    /// Answers became much longer or much shorter.
    LengthDrift,
    /// Answers repeat themselves.
    Repetition,
    /// Answers no longer end.
    Truncated,
    /// Answers have the asked form and nothing in it.
    FormatOnly,
    /// Different prompts get the same answer.
    Diversity,
    /// The policy has become deterministic.
    EntropyCollapse,
    /// General text is predicted worse than before.
    Forgetting,
    /// All answers get the same reward: there is nothing to learn from.
    NoSignal,
    /// A signal is no number.
    NotANumber,
}

impl Kind {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::RewardHacking => "reward hacking",
            Self::Kl => "KL beyond the budget",
            Self::RewardPerNat => "KL without reward",
            Self::LengthDrift => "length drift",
            Self::Repetition => "repetition",
            Self::Truncated => "answers without an end",
            Self::FormatOnly => "form without content",
            Self::Diversity => "one answer to everything",
            Self::EntropyCollapse => "entropy collapse",
            Self::Forgetting => "forgetting",
            Self::NoSignal => "no signal",
            Self::NotANumber => "not a number",
        }
    }

    /// What to do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::RewardHacking => {
                "read the newest answers in samples.jsonl; mend the reward, raise the KL penalty, or take an earlier checkpoint as the result"
            }
            Self::Kl => "raise the KL penalty, lower optimizer.lr, or set watchdog.max_kl higher if this distance is wanted",
            Self::RewardPerNat => "the run has earned what it can: stop here, or raise the KL penalty so that further steps must pay for themselves",
            Self::LengthDrift => "add a length reward, or normalise the loss by max_tokens (loss_type = \"dr_grpo\")",
            Self::Repetition => "raise the KL penalty, or add a reward that a repeated answer does not get",
            Self::Truncated => "raise max_tokens, or add a length reward that punishes answers without an end",
            Self::FormatOnly => "lower the weight of the format reward, or give it only to right answers",
            Self::Diversity => "raise the KL penalty or temperature; check that the reward depends on the prompt",
            Self::EntropyCollapse => "raise the KL penalty or eps_high, lower optimizer.lr, or sample at a higher temperature",
            Self::Forgetting => "mix in general data, lower optimizer.lr, train an adapter, or raise the KL penalty",
            Self::NoSignal => "choose prompts that the model sometimes gets right; if the reward is at its highest, the run is done",
            Self::NotANumber => "look at the rewards of this step; lower optimizer.lr if the loss is no number either",
        }
    }
}

/// `[watchdog.on_alarm]`: what each kind does. Those that are wrong in any run stop it; the others are a matter of taste and are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OnAlarms {
    /// [`Kind::RewardHacking`].
    pub reward_hacking: OnAlarm,
    /// [`Kind::Kl`].
    pub kl: OnAlarm,
    /// [`Kind::RewardPerNat`].
    pub reward_per_nat: OnAlarm,
    /// [`Kind::LengthDrift`].
    pub length_drift: OnAlarm,
    /// [`Kind::Repetition`].
    pub repetition: OnAlarm,
    /// [`Kind::Truncated`].
    pub truncated: OnAlarm,
    /// [`Kind::FormatOnly`].
    pub format_only: OnAlarm,
    /// [`Kind::Diversity`].
    pub diversity: OnAlarm,
    /// [`Kind::EntropyCollapse`].
    pub entropy_collapse: OnAlarm,
    /// [`Kind::Forgetting`].
    pub forgetting: OnAlarm,
    /// [`Kind::NoSignal`].
    pub no_signal: OnAlarm,
    /// [`Kind::NotANumber`].
    pub not_a_number: OnAlarm,
}

impl Default for OnAlarms {
    fn default() -> Self {
        Self {
            reward_hacking: OnAlarm::Stop,
            kl: OnAlarm::Log,
            reward_per_nat: OnAlarm::Log,
            length_drift: OnAlarm::Log,
            repetition: OnAlarm::Log,
            truncated: OnAlarm::Log,
            format_only: OnAlarm::Log,
            diversity: OnAlarm::Log,
            entropy_collapse: OnAlarm::Log,
            forgetting: OnAlarm::Log,
            no_signal: OnAlarm::Log,
            not_a_number: OnAlarm::Stop,
        }
    }
}

impl OnAlarms {
    /// What this kind does.
    pub fn of(&self, kind: Kind) -> OnAlarm {
        match kind {
            Kind::RewardHacking => self.reward_hacking,
            Kind::Kl => self.kl,
            Kind::RewardPerNat => self.reward_per_nat,
            Kind::LengthDrift => self.length_drift,
            Kind::Repetition => self.repetition,
            Kind::Truncated => self.truncated,
            Kind::FormatOnly => self.format_only,
            Kind::Diversity => self.diversity,
            Kind::EntropyCollapse => self.entropy_collapse,
            Kind::Forgetting => self.forgetting,
            Kind::NoSignal => self.no_signal,
            Kind::NotANumber => self.not_a_number,
        }
    }
}

/// `[watchdog]`. A threshold of 0 switches its detector off. Nothing here changes what is trained, only when it ends, so it is no part of
/// a run's identity: a halted run goes on when it is changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WatchdogConfig {
    /// Look at all.
    pub enabled: bool,
    /// First steps, whose means everything later is compared with; nothing but a number that is none is an alarm during them.
    pub warmup: u64,
    /// Steps in a row that must look wrong.
    pub patience: u64,
    /// Decay of the moving averages, per step: at 0.9 a value of 10 steps ago counts a third.
    pub smoothing: f64,
    /// Nats per answer from the reference. 25 is past the top of the true reward for most reward models of Gao et al. 2022 (figure 1), and
    /// well above what small models need to learn a rule.
    pub max_kl: f64,
    /// Reward per nat of the second half of the KL over that of the first, at least. If the reward grows like the root of the KL, as in
    /// Gao et al. 2022, it is 0.41 at any KL.
    pub min_reward_per_nat: f64,
    /// Mean length over that of the start, at most, and at least its inverse.
    pub max_length_ratio: f64,
    /// Share of repeated 4-grams in an answer, on average ([`repetition`](super::repetition)). Text of people has under 0.1.
    pub max_repetition: f64,
    /// Share of answers that were cut off, if there were fewer at the start.
    pub max_truncated: f64,
    /// Share of answers with the asked form and no content, if there were fewer at the start.
    pub max_format_only: f64,
    /// Different answers to different prompts over those of the start, at least.
    pub min_distinct: f64,
    /// Nats per token, at least, if there were twice as many at the start.
    pub min_entropy: f64,
    /// Entropy over that of the start, at least.
    pub min_entropy_ratio: f64,
    /// How far the held-out judge may fall below its best while the reward stays up, in the judge's units, on top of its noise.
    pub max_heldout_drop: f64,
    /// How much worse general text may be predicted than at the start, as a share of that loss.
    pub max_forgetting: f64,
    /// Held-out general text for the forgetting monitor: JSONL with `text` or `messages` per line. Empty is none. It is read at every
    /// validation (`trainer.eval_every`).
    pub general: PathBuf,
    /// Rows of it.
    pub general_rows: usize,
    /// What each kind does.
    pub on_alarm: OnAlarms,
}

impl Default for WatchdogConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            warmup: 10,
            patience: 5,
            smoothing: 0.9,
            max_kl: 25.0,
            min_reward_per_nat: 0.1,
            max_length_ratio: 2.0,
            max_repetition: 0.5,
            max_truncated: 0.5,
            max_format_only: 0.5,
            min_distinct: 0.3,
            min_entropy: 0.01,
            min_entropy_ratio: 0.1,
            max_heldout_drop: 0.05,
            max_forgetting: 0.1,
            general: PathBuf::new(),
            general_rows: 64,
            on_alarm: OnAlarms::default(),
        }
    }
}

impl WatchdogConfig {
    /// Settings that cannot work, in words.
    pub fn check(&self) -> Result<(), String> {
        let thresholds = [
            ("max_kl", self.max_kl),
            ("min_reward_per_nat", self.min_reward_per_nat),
            ("max_length_ratio", self.max_length_ratio),
            ("max_repetition", self.max_repetition),
            ("max_truncated", self.max_truncated),
            ("max_format_only", self.max_format_only),
            ("min_distinct", self.min_distinct),
            ("min_entropy", self.min_entropy),
            ("min_entropy_ratio", self.min_entropy_ratio),
            ("max_heldout_drop", self.max_heldout_drop),
            ("max_forgetting", self.max_forgetting),
        ];
        if let Some((key, value)) = thresholds.into_iter().find(|(_, value)| !(value.is_finite() && *value >= 0.0)) {
            return Err(format!("watchdog.{key} is {value}; expected a number of at least 0, 0 for off"));
        }
        if self.warmup < 2 || self.patience == 0 {
            return Err(format!("watchdog.warmup is {} and patience {}; expected at least 2 and 1", self.warmup, self.patience));
        }
        if !(0.0..1.0).contains(&self.smoothing) {
            return Err(format!("watchdog.smoothing is {}; expected at least 0 and less than 1", self.smoothing));
        }
        if self.max_length_ratio > 0.0 && self.max_length_ratio <= 1.0 {
            return Err(format!("watchdog.max_length_ratio is {}; expected more than 1, or 0 for off", self.max_length_ratio));
        }
        Ok(())
    }
}
