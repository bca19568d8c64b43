//! The weight of the KL penalty: fixed, or steered at a distance from the reference (Ziegler et al., Fine-Tuning Language Models from Human
//! Preferences, 2019, section 2.2; OpenRLHF, `kl_controller.py`).

/// Largest relative error that the adaptive controller answers to.
const MOST: f64 = 0.2;

/// A controller and its coefficient now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Controller {
    /// Always the same.
    Fixed {
        /// Weight of the penalty.
        coefficient: f64,
    },
    /// `coefficient *= 1 + clip(kl / target - 1, -0.2, 0.2) * answers / horizon` after every batch.
    Adaptive {
        /// Weight of the penalty now.
        coefficient: f64,
        /// Nats per answer.
        target: f64,
        /// Answers.
        horizon: f64,
    },
}

impl Controller {
    /// Weight of the penalty now.
    pub fn coefficient(&self) -> f64 {
        match *self {
            Self::Fixed { coefficient } | Self::Adaptive { coefficient, .. } => coefficient,
        }
    }

    /// The same with another weight: one that a checkpoint kept.
    pub fn with_coefficient(self, new: f64) -> Self {
        match self {
            Self::Fixed { .. } => self,
            Self::Adaptive { target, horizon, .. } => Self::Adaptive { coefficient: new, target, horizon },
        }
    }

    /// After a batch of `answers` with a mean of `kl` nats.
    pub fn update(&mut self, kl: f64, answers: usize) {
        if let Self::Adaptive { coefficient, target, horizon } = self {
            let error = (kl / *target - 1.0).clamp(-MOST, MOST);
            *coefficient *= 1.0 + error * answers as f64 / *horizon;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, the controller steers with another strength, or away from its target.
    #[test]
    fn too_far_costs_more_and_too_near_less() {
        let start = Controller::Adaptive { coefficient: 0.2, target: 6.0, horizon: 10_000.0 };
        let after = |kl: f64| {
            let mut c = start;
            c.update(kl, 256);
            c.coefficient()
        };
        assert!((after(7.5) - 0.201_024).abs() < 1e-12 && (after(1e9) - 0.201_024).abs() < 1e-12);
        assert!((after(0.0) - 0.2 * (1.0 - 0.2 * 0.0256)).abs() < 1e-12);
        assert!((after(6.0) - 0.2).abs() < 1e-15);
        let mut fixed = Controller::Fixed { coefficient: 0.05 };
        fixed.update(100.0, 1000);
        assert_eq!(fixed, Controller::Fixed { coefficient: 0.05 });
    }
}
