//! The learning rate as a pure function of the step: nothing to save, nothing to restore.

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
    /// Stay, then straight down over the last fifth (warm-up, stable, decay: Hu et al., MiniCPM, 2024).
    Wsd,
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
}

impl Default for Schedule {
    fn default() -> Self {
        Self { kind: ScheduleKind::Cosine, warmup_steps: 100, min_lr_ratio: 0.1 }
    }
}

impl Schedule {
    /// Factor on the peak rate at 0-based `step` of `max_steps`.
    pub fn factor(&self, step: u64, max_steps: u64) -> f64 {
        if step < self.warmup_steps {
            return step as f64 / self.warmup_steps as f64;
        }
        let length = max_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = ((step - self.warmup_steps) as f64 / length).min(1.0);
        let falling = match self.kind {
            ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
            ScheduleKind::Linear => 1.0 - progress,
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Wsd => ((1.0 - progress) / 0.2).min(1.0),
        };
        self.min_lr_ratio + (1.0 - self.min_lr_ratio) * falling
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_and_monotony() {
        for kind in [ScheduleKind::Cosine, ScheduleKind::Linear, ScheduleKind::Constant, ScheduleKind::Wsd] {
            let schedule = Schedule { kind, warmup_steps: 10, min_lr_ratio: 0.1 };
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
