//! The watch-dog: looks at every step of a training with rewards, says what goes wrong, and can end the run.
//!
//! | file | job |
//! |---|---|
//! | [`config`] | thresholds and what each kind of alarm does |
//! | `track` | a signal over the steps: start, average, noise |
//! | [`answers`] | repetition, diversity, form without content |
//! | `detectors` | what looks wrong in a step |
//! | [`general`] | held-out general text for the forgetting monitor |
//! | [`samples`] | answers to the same prompts at the start, during and at the end |
//! | [`watched`] | the forgetting monitor around objectives without rewards |
//!
//! The proxy that is optimised is not what is wanted (Gao et al., Scaling Laws for Reward Model Overoptimization, 2022): the signs are a
//! reward that goes on rising while a judge it is not trained on falls, while answers degenerate, or while divergence no longer buys any.
//! A sign must hold for `patience` steps, over a moving average, against the first steps of the same run, and outside of its noise.
//!
//! ```
//! use llm_align::watchdog::{Signals, Watchdog, WatchdogConfig};
//!
//! let mut watchdog = Watchdog::new(WatchdogConfig::default());
//! for step in 1..=60 {
//!     // A reward that a repeated word satisfies.
//!     let learned = (step as f64 / 30.0).min(1.0);
//!     watchdog.observe(Signals { step, reward: learned, repetition: 0.9 * learned, length: 40.0, ..Signals::default() });
//! }
//! assert!(watchdog.stopped().is_some_and(|reason| reason.contains("reward hacking")));
//! ```

pub mod answers;
pub mod config;
mod detectors;
pub mod general;
pub mod samples;
mod track;
pub mod watched;

pub use answers::{distinct, format_only, repetition};
pub use config::{Kind, OnAlarm, OnAlarms, WatchdogConfig};
use detectors::{short, symptoms};
pub use general::General;
pub use samples::Samples;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt;
use track::Track;
pub use watched::Watched;

/// Decay of the judge's average: it often speaks at validations only.
const HELDOUT_SMOOTHING: f64 = 0.8;
/// Its first values, which are its start.
const HELDOUT_WARMUP: u64 = 4;
/// Ratio of neighbouring levels of KL at which the reward is remembered.
const LEVEL: f64 = std::f64::consts::SQRT_2;
/// The lowest level, nats.
const FIRST_LEVEL: f64 = 0.1;

/// What is known of a step. Means are over the answers of the step.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Signals {
    /// Steps taken, this one included.
    pub step: u64,
    /// Mean reward, without penalties.
    pub reward: f64,
    /// Nats per answer from the reference.
    pub kl: Option<f64>,
    /// Nats per token.
    pub entropy: Option<f64>,
    /// Tokens per answer.
    pub length: f64,
    /// Share of answers that were cut off.
    pub truncated: f64,
    /// Mean [`repetition`].
    pub repetition: f64,
    /// Share of groups whose answers differ in reward.
    pub groups_with_signal: Option<f64>,
    /// Reward or preference agreement on held-out prompts by a judge that is not trained on, more is better; only in steps that have it.
    pub heldout: Option<f64>,
}

/// What is known of the answers of a step besides [`Signals`].
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Answers {
    /// [`distinct`] of one answer per prompt.
    pub distinct: Option<f64>,
    /// [`format_only`].
    pub format_only: Option<f64>,
}

/// Something is wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alarm {
    /// What kind.
    pub kind: Kind,
    /// What it does to the run.
    pub on_alarm: OnAlarm,
    /// First step at which it was seen.
    pub from: u64,
    /// The step of the alarm.
    pub step: u64,
    /// What was seen, with numbers.
    pub seen: String,
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, from, step, seen, .. } = self;
        let steps = if from == step { format!("step {step}") } else { format!("steps {from} to {step}") };
        write!(f, "{}, {steps}: {seen}. What to do: {}", kind.name(), kind.advice())
    }
}

/// The judge at its best.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Best {
    step: u64,
    heldout: f64,
    reward: f64,
}

/// A kind that looks wrong for some steps in a row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Streak {
    from: u64,
    steps: u64,
}

/// Everything that a checkpoint keeps.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Memory {
    steps: u64,
    reward: Track,
    kl: Track,
    entropy: Track,
    length: Track,
    truncated: Track,
    repetition: Track,
    groups_with_signal: Track,
    heldout: Track,
    distinct: Track,
    format_only: Track,
    best: Option<Best>,
    /// Reward at levels of the KL that were reached, ascending.
    levels: Vec<(f64, f64)>,
    last_reward: f64,
    /// Steps in a row with that very reward.
    same_reward: u64,
    /// Loss on general text at the start.
    general: Option<f64>,
    streaks: BTreeMap<Kind, Streak>,
}

/// Watches one run.
#[derive(Debug, Clone, Default)]
pub struct Watchdog {
    config: WatchdogConfig,
    memory: Memory,
    answers: Answers,
    /// Alarms that no record has had yet.
    untold: Vec<String>,
    stopped: Option<String>,
}

impl Watchdog {
    /// At the start of a run.
    pub fn new(config: WatchdogConfig) -> Self {
        Self { config, ..Self::default() }
    }

    /// What is known of the answers of the step that [`Watchdog::observe`] is told next.
    pub fn answers(&mut self, answers: Answers) {
        self.answers = answers;
    }

    /// Take a step in; the alarms that begin with it.
    pub fn observe(&mut self, signals: Signals) -> Vec<Alarm> {
        let answers = std::mem::take(&mut self.answers);
        if !self.config.enabled {
            return Vec::new();
        }
        let mut wrong = Vec::new();
        if let Some(name) = not_finite(&signals) {
            wrong.push((Kind::NotANumber, format!("the {name} is not a number")));
        }
        self.memory.take(&self.config, &signals, &answers);
        if self.memory.steps > self.config.warmup {
            wrong.extend(symptoms(&self.config, &self.memory));
        }
        self.judge(signals.step, wrong, |kind| kind != Kind::Forgetting)
    }

    /// Take the loss on general text in; the first is what later ones are compared with.
    pub fn general_loss(&mut self, step: u64, loss: f64) -> Vec<Alarm> {
        if !self.config.enabled || self.config.max_forgetting == 0.0 {
            return Vec::new();
        }
        let mut wrong = Vec::new();
        if !loss.is_finite() {
            wrong.push((Kind::NotANumber, "the loss on general text is not a number".to_string()));
        } else {
            let start = *self.memory.general.get_or_insert(loss);
            if loss > start * (1.0 + self.config.max_forgetting) {
                let more = 100.0 * (loss / start - 1.0);
                wrong.push((
                    Kind::Forgetting,
                    format!("the loss on general text is {}, {} at the start: {more:.0} % more", short(loss), short(start)),
                ));
            }
        }
        // The text is always the same, so there is no noise to wait for.
        self.judge(step, wrong, |kind| kind == Kind::Forgetting)
    }

    /// Why the run should end, if it should.
    pub fn stopped(&self) -> Option<String> {
        self.stopped.clone()
    }

    /// `{"alarms": [text, ...]}` with what has not been taken before, for the record of a step or a validation; empty when all is well.
    pub fn take_record(&mut self) -> Map<String, Value> {
        let untold = std::mem::take(&mut self.untold);
        if untold.is_empty() { Map::new() } else { Map::from_iter([("alarms".to_string(), json!(untold))]) }
    }

    /// For a checkpoint.
    pub fn save(&self) -> Map<String, Value> {
        match serde_json::to_value(&self.memory) {
            Ok(Value::Object(map)) => map,
            _ => Map::new(),
        }
    }

    /// From a checkpoint. What has been stopped before may go on: whoever started it again has decided so.
    pub fn restore(&mut self, state: &Map<String, Value>) {
        self.memory = serde_json::from_value(Value::Object(state.clone())).unwrap_or_default();
        self.answers = Answers::default();
        self.untold.clear();
        self.stopped = None;
    }

    /// Count what looks wrong; what has looked so for long enough is an alarm, once until it looks well again. `concerns`: the kinds that
    /// were looked at.
    fn judge(&mut self, step: u64, wrong: Vec<(Kind, String)>, concerns: impl Fn(Kind) -> bool) -> Vec<Alarm> {
        self.memory.streaks.retain(|kind, _| !concerns(*kind) || wrong.iter().any(|(k, _)| k == kind));
        let mut alarms = Vec::new();
        for (kind, seen) in wrong {
            let streak = self.memory.streaks.entry(kind).or_insert(Streak { from: step, steps: 0 });
            streak.steps += 1;
            let patience = if matches!(kind, Kind::NotANumber | Kind::Forgetting) { 1 } else { self.config.patience };
            if streak.steps < patience {
                continue;
            }
            let on_alarm = self.config.on_alarm.of(kind);
            let alarm = Alarm { kind, on_alarm, from: streak.from, step, seen };
            if on_alarm == OnAlarm::Stop && self.stopped.is_none() {
                self.stopped = Some(alarm.to_string());
            }
            if streak.steps == patience {
                self.untold.push(alarm.to_string());
                alarms.push(alarm);
            }
        }
        alarms
    }
}

fn not_finite(signals: &Signals) -> Option<&'static str> {
    let Signals { reward, kl, entropy, length, truncated, repetition, heldout, .. } = *signals;
    let all = [
        ("reward", Some(reward)),
        ("KL", kl),
        ("entropy", entropy),
        ("length", Some(length)),
        ("truncated share", Some(truncated)),
        ("repetition", Some(repetition)),
        ("held-out judge", heldout),
    ];
    all.into_iter().find(|(_, value)| value.is_some_and(|v| !v.is_finite())).map(|(name, _)| name)
}

impl Memory {
    fn take(&mut self, config: &WatchdogConfig, signals: &Signals, answers: &Answers) {
        let push = |track: &mut Track, value: Option<f64>| {
            if let Some(value) = value.filter(|v| v.is_finite()) {
                track.push(value, config.warmup, config.smoothing);
            }
        };
        self.steps += 1;
        push(&mut self.reward, Some(signals.reward));
        push(&mut self.kl, signals.kl);
        push(&mut self.entropy, signals.entropy);
        push(&mut self.length, Some(signals.length));
        push(&mut self.truncated, Some(signals.truncated));
        push(&mut self.repetition, Some(signals.repetition));
        push(&mut self.groups_with_signal, signals.groups_with_signal);
        push(&mut self.distinct, answers.distinct);
        push(&mut self.format_only, answers.format_only);
        if signals.reward.is_finite() {
            self.same_reward = if self.same_reward > 0 && signals.reward == self.last_reward { self.same_reward + 1 } else { 1 };
            self.last_reward = signals.reward;
        }
        if let Some(judged) = signals.heldout.filter(|v| v.is_finite()) {
            self.heldout.push(judged, HELDOUT_WARMUP, HELDOUT_SMOOTHING);
            let now = self.heldout.now();
            // An average of one or two values is highest by luck.
            if self.heldout.n() >= 3 && self.best.is_none_or(|best| now > best.heldout) {
                self.best = Some(Best { step: signals.step, heldout: now, reward: self.reward.now() });
            }
        }
        let kl = self.kl.now();
        if kl >= self.levels.last().map_or(FIRST_LEVEL, |(level, _)| LEVEL * level) {
            self.levels.push((kl, self.reward.now()));
        }
    }
}

#[cfg(test)]
mod tests;
