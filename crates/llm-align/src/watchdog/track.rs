//! One signal over the steps: where it started, where it is, how much it jitters.

use serde::{Deserialize, Serialize};

/// A noisy number, one per step.
///
/// The start is the mean of the first values. The jitter is taken from differences of neighbours (von Neumann et al. 1941), so that a
/// trend, which is what training makes, does not count as noise.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Track {
    n: u64,
    first_sum: f64,
    first_n: u64,
    square_sum: f64,
    last: f64,
    average: f64,
    weight: f64,
}

impl Track {
    /// Take a finite value in.
    pub fn push(&mut self, value: f64, warmup: u64, decay: f64) {
        if self.n > 0 {
            self.square_sum += (value - self.last).powi(2);
        }
        if self.first_n < warmup {
            self.first_sum += value;
            self.first_n += 1;
        }
        (self.n, self.last) = (self.n + 1, value);
        self.average = decay * self.average + (1.0 - decay) * value;
        self.weight = decay * self.weight + 1.0 - decay;
    }

    /// Values so far.
    pub fn n(&self) -> u64 {
        self.n
    }

    /// Mean of the first values.
    pub fn start(&self) -> f64 {
        self.first_sum / self.first_n.max(1) as f64
    }

    /// Moving average without a bias towards 0.
    pub fn now(&self) -> f64 {
        if self.weight > 0.0 { self.average / self.weight } else { 0.0 }
    }

    /// Standard deviation of a single value.
    pub fn noise(&self) -> f64 {
        (self.square_sum / (2.0 * self.n.saturating_sub(1).max(1) as f64)).sqrt()
    }

    /// Standard deviation of [`Track::now`], for values that are independent.
    pub fn noise_of_now(&self, decay: f64) -> f64 {
        self.noise() * ((1.0 - decay) / (1.0 + decay)).sqrt()
    }

    /// How far the average is from the start, in standard deviations of that difference.
    pub fn score(&self, decay: f64) -> f64 {
        let variance = (1.0 - decay) / (1.0 + decay) + 1.0 / self.first_n.max(1) as f64;
        let difference = self.now() - self.start();
        // Averages of equal numbers are equal only up to rounding; a step of something without jitter counts whole.
        let least = 1e-9 * self.start().abs().max(1.0);
        difference / (self.noise() * variance.sqrt()).max(least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If this fails, a healthy trend counts as noise and hides the drift that an alarm is about, or noise counts as drift.
    #[test]
    fn a_trend_is_no_noise_and_noise_is_no_trend() {
        let (mut rising, mut flat) = (Track::default(), Track::default());
        for i in 0..100u32 {
            let jitter = if i % 2 == 0 { 0.1 } else { -0.1 };
            rising.push(0.05 * f64::from(i) + jitter, 10, 0.9);
            flat.push(jitter, 10, 0.9);
        }
        assert!((rising.noise() - 0.14).abs() < 0.01 && (flat.noise() - 0.14).abs() < 0.01, "{} {}", rising.noise(), flat.noise());
        assert!(rising.score(0.9) > 10.0 && flat.score(0.9).abs() < 1.0, "{} {}", rising.score(0.9), flat.score(0.9));
        assert!((rising.start() - 0.225).abs() < 1e-9);
    }

    #[test]
    fn a_constant_has_no_score() {
        let mut track = Track::default();
        assert_eq!((track.now(), track.score(0.9)), (0.0, 0.0));
        for _ in 0..20 {
            track.push(0.3, 10, 0.9);
        }
        assert!((track.now() - 0.3).abs() < 1e-12 && track.noise() == 0.0 && track.score(0.9).abs() < 1e-3);
    }
}
