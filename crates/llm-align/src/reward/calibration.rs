//! Does the reward model know how sure it may be? `sigmoid(margin)` is the probability that it gives to the preferred answer; over many pairs
//! it should be right as often as it says.
//!
//! Expected calibration error as in Guo et al. (2017, On Calibration of Modern Neural Networks, equation 3): each pair has a confidence in the answer
//! that the model prefers, from 1/2 to 1; in bins of equal width it is compared with how often that answer was the chosen one. Brier (1950)
//! is the mean square of what was missing to certainty in the chosen answer.

use serde::Serialize;

/// Bins between a confidence of 1/2 and 1.
const BINS: usize = 10;

/// One bin of the reliability diagram.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bin {
    /// Lowest confidence in it.
    pub from: f64,
    /// Highest confidence in it.
    pub to: f64,
    /// Pairs.
    pub count: usize,
    /// Their mean confidence; 0 in an empty bin.
    pub confidence: f64,
    /// Share of them whose chosen answer has the higher reward; 0 in an empty bin.
    pub accuracy: f64,
}

/// A reward model's judgement of held-out pairs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Calibration {
    /// Pairs.
    pub pairs: usize,
    /// Share whose chosen answer has the higher reward; equal rewards count half.
    pub accuracy: f64,
    /// Mean of `chosen - rejected`.
    pub margin: f64,
    /// Mean of `-log sigmoid(chosen - rejected)`, nats.
    pub log_loss: f64,
    /// Mean of `(1 - sigmoid(chosen - rejected))^2`.
    pub brier: f64,
    /// Expected calibration error: mean distance between confidence and accuracy, weighted by the pairs of the bins.
    pub expected_calibration_error: f64,
    /// Reliability diagram.
    pub bins: Vec<Bin>,
}

/// `1 / (1 + exp(-x))`.
fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `-log sigmoid(x)`, without overflow.
pub(crate) fn surprise(x: f64) -> f64 {
    (-x).max(0.0) + (-x.abs()).exp().ln_1p()
}

/// 1 for the chosen answer, 0 for the rejected, 1/2 where they are equal.
pub(crate) fn right(margin: f64) -> f64 {
    if margin == 0.0 { 0.5 } else { f64::from(u8::from(margin > 0.0)) }
}

impl Calibration {
    /// From `chosen - rejected` of every pair; none without pairs.
    pub fn of(margins: &[f64]) -> Option<Self> {
        if margins.is_empty() {
            return None;
        }
        let n = margins.len() as f64;
        let mean = |of: &dyn Fn(f64) -> f64| margins.iter().map(|&m| of(m)).sum::<f64>() / n;
        let mut sums = [(0usize, 0f64, 0f64); BINS];
        for &margin in margins {
            let confidence = sigmoid(margin.abs());
            let bin = (((confidence - 0.5) * 2.0 * BINS as f64) as usize).min(BINS - 1);
            let (count, confidences, rights) = &mut sums[bin];
            *count += 1;
            *confidences += confidence;
            *rights += right(margin);
        }
        let edge = |i: usize| 0.5 + 0.5 * i as f64 / BINS as f64;
        let bin = |(i, (count, confidences, rights)): (usize, (usize, f64, f64))| {
            let of = |sum: f64| if count == 0 { 0.0 } else { sum / count as f64 };
            Bin { from: edge(i), to: edge(i + 1), count, confidence: of(confidences), accuracy: of(rights) }
        };
        let bins: Vec<Bin> = sums.into_iter().enumerate().map(bin).collect();
        Some(Self {
            pairs: margins.len(),
            accuracy: mean(&right),
            margin: mean(&|m| m),
            log_loss: mean(&surprise),
            brier: mean(&|m| (1.0 - sigmoid(m)).powi(2)),
            expected_calibration_error: bins.iter().map(|b| b.count as f64 / n * (b.confidence - b.accuracy).abs()).sum(),
            bins,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// If this fails, a model that is right as often as it says is called badly calibrated, or one that is not is called good.
    #[test]
    fn a_calibrated_model_has_no_error_and_an_overconfident_one_has() {
        // Confidence 3/4, three of four right.
        let m = 3f64.ln();
        let good = Calibration::of(&[m, m, m, -m]).unwrap();
        assert!(good.expected_calibration_error < 1e-12 && (good.accuracy - 0.75).abs() < 1e-12, "{good:?}");
        assert!((good.brier - (3.0 * 0.0625 + 0.5625) / 4.0).abs() < 1e-12, "{good:?}");
        let bad = Calibration::of(&[20.0, -20.0]).unwrap();
        assert!((bad.expected_calibration_error - 0.5).abs() < 1e-6, "{bad:?}");
        assert_eq!(Calibration::of(&[]), None);
        let even = Calibration::of(&[0.0]).unwrap();
        assert!((even.accuracy - 0.5).abs() < 1e-12 && (even.log_loss - 2f64.ln()).abs() < 1e-12, "{even:?}");
    }

    proptest! {
        #[test]
        fn every_pair_is_in_one_bin_and_all_numbers_are_in_range(margins in prop::collection::vec(-700f64..700.0, 1..60)) {
            let c = Calibration::of(&margins).unwrap();
            prop_assert_eq!(c.bins.iter().map(|b| b.count).sum::<usize>(), margins.len());
            for x in [c.accuracy, c.brier, c.expected_calibration_error] {
                prop_assert!((0.0..=1.0).contains(&x), "{:?}", c);
            }
            prop_assert!(c.log_loss.is_finite() && c.log_loss >= 0.0);
            for b in c.bins.iter().filter(|b| b.count > 0) {
                prop_assert!(b.from - 1e-12 <= b.confidence && b.confidence <= b.to + 1e-12);
            }
        }
    }
}
