//! The learning rate as a pure function of the step: nothing to save, nothing to restore.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Shape after the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// Half a cosine down to the minimum (Loshchilov & Hutter, 2017).
    #[default]
    Cosine,
    /// Straight down to the minimum.
    Linear,
    /// Stay at the top.
    Constant,
    /// Stay, then go down over the last part (warm-up, stable, decay: Hu et al., MiniCPM, 2024); see `decay`.
    Wsd,
    /// `sqrt(warmup_steps / step)` (Vaswani et al. 2017), with 10 000 where there is no warm-up: it does not depend on the length of the run.
    InverseSqrt,
}

/// How the warm-up counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Warmup {
    /// `step / warmup_steps`: the first step has rate 0 (transformers).
    #[default]
    FromZero,
    /// `(step + 1) / warmup_steps`, and everything after it is one step earlier as well: the last step has the minimum (torchtitan).
    FromOne,
    /// From the minimum instead of 0 (`get_wsd_schedule` of transformers).
    FromMinimum,
}

/// How [`ScheduleKind::Wsd`] goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decay {
    /// Straight.
    #[default]
    Linear,
    /// `1 - sqrt(progress)`: fast, then slow (Hägele et al. 2024).
    Sqrt,
    /// Half a cosine.
    Cosine,
}

/// Warm-up and shape.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// Shape after the warm-up.
    pub kind: ScheduleKind,
    /// Steps of linear warm-up from 0.
    pub warmup_steps: u64,
    /// Last rate, as a fraction of the peak.
    pub min_lr_ratio: f64,
    /// How the warm-up counts.
    pub warmup: Warmup,
    /// Of [`ScheduleKind::Wsd`]: how to go down.
    pub decay: Decay,
    /// Of [`ScheduleKind::Wsd`]: over which part of the steps after the warm-up.
    pub decay_ratio: f64,
    /// Instead of `decay_ratio`: over so many last steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_steps: Option<u64>,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            kind: ScheduleKind::Cosine,
            warmup_steps: 100,
            min_lr_ratio: 0.1,
            warmup: Warmup::FromZero,
            decay: Decay::Linear,
            decay_ratio: 0.2,
            decay_steps: None,
        }
    }
}

impl Schedule {
    /// Refuse settings without meaning.
    pub fn check(&self) -> Result<()> {
        for (key, value) in [("min_lr_ratio", self.min_lr_ratio), ("decay_ratio", self.decay_ratio)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::Config(format!("schedule.{key} = {value}; it must be from 0 to 1")));
            }
        }
        Ok(())
    }

    /// Factor on the peak rate at 0-based `step` of `max_steps`.
    pub fn factor(&self, step: u64, max_steps: u64) -> f64 {
        let step = if self.warmup == Warmup::FromOne { step + 1 } else { step };
        let above_minimum = |share: f64| self.min_lr_ratio + (1.0 - self.min_lr_ratio) * share;
        if step < self.warmup_steps {
            let share = step as f64 / self.warmup_steps as f64;
            return if self.warmup == Warmup::FromMinimum { above_minimum(share) } else { share };
        }
        let length = max_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let done = (step - self.warmup_steps) as f64;
        let progress = (done / length).min(1.0);
        above_minimum(match self.kind {
            ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            ScheduleKind::Linear => 1.0 - progress,
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Wsd => self.decayed(done, length),
            ScheduleKind::InverseSqrt => {
                let scale = if self.warmup_steps == 0 { 10_000.0 } else { self.warmup_steps as f64 };
                (scale / (scale + done)).sqrt()
            }
        })
    }

    /// Share of the fall that is left when `done` of the `length` steps after the warm-up are done.
    fn decayed(&self, done: f64, length: f64) -> f64 {
        let (over, left) = match self.decay_steps {
            Some(steps) => ((steps as f64).min(length), length - done),
            None => (self.decay_ratio, 1.0 - (done / length).min(1.0)),
        };
        if left >= over {
            return if left > 0.0 { 1.0 } else { 0.0 };
        }
        let left = if over > 0.0 { left.max(0.0) / over } else { 0.0 };
        match self.decay {
            Decay::Linear => left,
            Decay::Sqrt => 1.0 - (1.0 - left).sqrt(),
            Decay::Cosine => 0.5 * (1.0 - (std::f64::consts::PI * left).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ends_and_monotony() {
        for kind in [ScheduleKind::Cosine, ScheduleKind::Linear, ScheduleKind::Constant, ScheduleKind::Wsd] {
            for decay in [Decay::Linear, Decay::Sqrt, Decay::Cosine] {
                let schedule = Schedule { kind, decay, warmup_steps: 10, min_lr_ratio: 0.1, ..Schedule::default() };
                assert_eq!(schedule.factor(0, 100), 0.0);
                assert_eq!(schedule.factor(10, 100), 1.0);
                let last = schedule.factor(100, 100);
                assert!((last - if kind == ScheduleKind::Constant { 1.0 } else { 0.1 }).abs() < 1e-12, "{kind:?} {last}");
                for step in 10..100 {
                    assert!(schedule.factor(step + 1, 100) <= schedule.factor(step, 100) + 1e-12, "{kind:?}");
                }
            }
        }
    }

    #[test]
    fn ratios_outside_0_to_1_are_refused() {
        let message = Schedule { decay_ratio: 2.0, ..Schedule::default() }.check().unwrap_err().to_string();
        assert!(message.contains("schedule.decay_ratio = 2"), "{message}");
    }

    proptest! {
        /// If this fails, some combination of settings gives a rate above the peak, below zero, or none at all.
        #[test]
        fn every_factor_is_between_0_and_1(
            kind in 0usize..5, warmup in 0usize..3, decay in 0usize..3, warmup_steps in 0u64..20, min in 0f64..=1.0,
            ratio in 0f64..=1.0, decay_steps in prop::option::of(0u64..40), max_steps in 0u64..40, step in 0u64..60,
        ) {
            let kinds = [ScheduleKind::Cosine, ScheduleKind::Linear, ScheduleKind::Constant, ScheduleKind::Wsd, ScheduleKind::InverseSqrt];
            let schedule = Schedule {
                kind: kinds[kind],
                warmup: [Warmup::FromZero, Warmup::FromOne, Warmup::FromMinimum][warmup],
                decay: [Decay::Linear, Decay::Sqrt, Decay::Cosine][decay],
                warmup_steps, min_lr_ratio: min, decay_ratio: ratio, decay_steps,
            };
            let factor = schedule.factor(step, max_steps);
            prop_assert!((-1e-12..=1.0 + 1e-12).contains(&factor), "{} of {:?}", factor, schedule);
        }
    }
}
