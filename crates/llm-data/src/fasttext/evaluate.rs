//! How well a score separates: area under the ROC curve, precision and recall at thresholds, and the threshold for a wish.

use serde::{Deserialize, Serialize};

/// What a threshold is chosen for; among several that fit, the one that keeps most (or, for recall, least).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// At least this share of what is kept is positive.
    Precision(f64),
    /// At least this share of the positives is kept.
    Recall(f64),
    /// About this share of everything is kept.
    Keep(f64),
    /// This threshold, whatever it does.
    Threshold(f32),
}

/// What a threshold does.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Operating {
    /// Scores at or above are kept.
    pub threshold: f32,
    /// Share of the kept that are positive.
    pub precision: f64,
    /// Share of the positives that are kept.
    pub recall: f64,
    /// Share of everything that is kept.
    pub kept: f64,
}

/// Scores in falling order, with what they should be.
#[derive(Debug, Clone)]
pub struct Curve {
    /// `(score, positive)`.
    points: Vec<(f32, bool)>,
    positives: usize,
}

impl Curve {
    /// From `(score, is positive)` of each document.
    pub fn new(mut points: Vec<(f32, bool)>) -> Self {
        points.sort_by(|a, b| b.0.total_cmp(&a.0));
        let positives = points.iter().filter(|p| p.1).count();
        Self { points, positives }
    }

    /// Probability that a positive scores higher than a negative, ties counting half; `None` without both kinds.
    pub fn auc(&self) -> Option<f64> {
        let negatives = self.points.len() - self.positives;
        if self.positives == 0 || negatives == 0 {
            return None;
        }
        let (mut wins, mut below) = (0f64, negatives as f64);
        for tied in self.points.chunk_by(|a, b| a.0 == b.0) {
            let positive = tied.iter().filter(|p| p.1).count() as f64;
            let negative = tied.len() as f64 - positive;
            below -= negative;
            wins += positive * (below + negative / 2.0);
        }
        Some(wins / (self.positives as f64 * negatives as f64))
    }

    fn operating(&self, threshold: f32, kept: usize, positive: usize) -> Operating {
        let share = |a: usize, b: usize| a as f64 / b.max(1) as f64;
        Operating { threshold, precision: share(positive, kept), recall: share(positive, self.positives), kept: share(kept, self.points.len()) }
    }

    /// What `threshold` does here.
    pub fn at(&self, threshold: f32) -> Operating {
        let kept = self.points.partition_point(|p| p.0 >= threshold);
        self.operating(threshold, kept, self.points[..kept].iter().filter(|p| p.1).count())
    }

    /// Every threshold that makes a difference, from the strictest.
    pub fn all(&self) -> Vec<Operating> {
        let (mut kept, mut positive, mut out) = (0, 0, Vec::new());
        for tied in self.points.chunk_by(|a, b| a.0 == b.0) {
            kept += tied.len();
            positive += tied.iter().filter(|p| p.1).count();
            out.push(self.operating(tied[0].0, kept, positive));
        }
        out
    }

    /// The threshold for `target`; `None` when nothing reaches it.
    pub fn threshold(&self, target: Target) -> Option<Operating> {
        let all = self.all();
        match target {
            Target::Precision(wanted) => all.into_iter().rev().find(|o| o.precision >= wanted),
            Target::Recall(wanted) => all.into_iter().find(|o| o.recall >= wanted),
            Target::Keep(wanted) => all.into_iter().min_by(|a, b| (a.kept - wanted).abs().total_cmp(&(b.kept - wanted).abs())),
            Target::Threshold(threshold) => (!self.points.is_empty()).then(|| self.at(threshold)),
        }
    }

    /// About `rows` thresholds, evenly spaced over the share that is kept.
    pub fn table(&self, rows: usize) -> Vec<Operating> {
        let all = self.all();
        let mut out: Vec<Operating> = Vec::new();
        for i in 1..=rows {
            let wanted = i as f64 / rows as f64;
            if let Some(best) = all.iter().min_by(|a, b| (a.kept - wanted).abs().total_cmp(&(b.kept - wanted).abs()))
                && out.last().is_none_or(|last| last.threshold != best.threshold)
            {
                out.push(*best);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn area_counts_ties_half() {
        assert_eq!(Curve::new(vec![(0.9, true), (0.1, false)]).auc(), Some(1.0));
        assert_eq!(Curve::new(vec![(0.5, true), (0.5, false)]).auc(), Some(0.5));
        assert_eq!(Curve::new(vec![(0.9, false), (0.5, true), (0.5, false), (0.1, true)]).auc(), Some(0.125));
        assert_eq!(Curve::new(vec![(0.9, true)]).auc(), None);
    }

    #[test]
    fn thresholds_reach_what_is_asked() {
        let curve = Curve::new(vec![(0.9, true), (0.8, true), (0.7, false), (0.6, true), (0.2, false)]);
        assert_eq!(curve.threshold(Target::Precision(1.0)).unwrap().threshold, 0.8);
        assert_eq!(curve.threshold(Target::Precision(0.75)).unwrap().threshold, 0.6, "the one that keeps most");
        assert_eq!(curve.threshold(Target::Recall(1.0)).unwrap().threshold, 0.6);
        assert_eq!(curve.threshold(Target::Keep(0.4)).unwrap().threshold, 0.8);
        assert_eq!(Curve::new(vec![(0.9, false)]).threshold(Target::Precision(0.5)), None);
    }
}
