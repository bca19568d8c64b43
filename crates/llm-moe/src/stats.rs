//! Is the router collapsing? Numbers for the metrics, from how often each expert was chosen.
//!
//! A collapsed router feeds a few experts and starves the rest, and does not recover: who gets no tokens gets no gradient.
//!
//! Two entropies: that of the load ([`RoutingStats::entropy`]) says how evenly the experts are used, that of the router
//! ([`router_entropy`]) how undecided it is about a single token. A good mixture has the first high and the second low.
//!
//! Legend: N tokens, E experts, K experts per token.

use crate::{Scoring, balance};
use burn::tensor::Tensor;
use llm_tensor::burn;
use serde_json::{Map, Value, json};

/// Choices per expert on average from which a verdict is given: below, chance alone empties experts. Above, a balanced
/// router leaves a given expert without tokens with a probability of about e^-10.
const FEWEST_PER_EXPERT: u64 = 10;

/// The load of one layer over some tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct RoutingStats {
    /// Entropy of the load divided by ln E: 1 balanced, ln K / ln E when all tokens choose the same K experts.
    pub entropy: f64,
    /// Experts that no token chose.
    pub dead_experts: usize,
    /// Load of the busiest expert over the mean load: 1 balanced, at most E / K.
    pub max_over_mean: f64,
    /// Share of choices that the capacity dropped.
    pub dropped_share: f64,
    experts: usize,
    per_token: usize,
    choices: u64,
}

impl RoutingStats {
    /// From choices per expert (the dropped ones included), experts per token, and how many choices were dropped.
    pub fn new(counts: &[u64], num_experts_per_tok: usize, dropped: usize) -> Self {
        let choices: u64 = counts.iter().sum();
        let total = choices.max(1) as f64;
        let shares = counts.iter().map(|&c| c as f64 / total).filter(|&p| p > 0.0);
        let entropy = if counts.len() > 1 { -shares.map(|p| p * p.ln()).sum::<f64>() / (counts.len() as f64).ln() } else { 1.0 };
        Self {
            entropy: entropy.max(0.0),
            dead_experts: counts.iter().filter(|&&c| c == 0).count(),
            max_over_mean: counts.iter().max().copied().unwrap_or(0) as f64 * counts.len() as f64 / total,
            dropped_share: dropped as f64 / total,
            experts: counts.len(),
            per_token: num_experts_per_tok,
            choices,
        }
    }

    /// How many equally busy experts would have this entropy: from K (collapsed) to E (balanced).
    pub fn effective_experts(&self) -> f64 {
        (self.entropy * (self.experts as f64).ln()).exp()
    }

    /// Why the router counts as collapsed, if it does. Either more than half of the experts get no token, or the effective number of
    /// experts is below `sqrt(K * E)`, halfway (in logarithms) between the worst and the best. Never with fewer than ten choices per expert.
    pub fn collapsed(&self) -> Option<String> {
        if self.choices < FEWEST_PER_EXPERT * self.experts as u64 || self.experts <= self.per_token {
            return None;
        }
        if self.dead_experts * 2 > self.experts {
            return Some(format!("{} of {} experts get no token", self.dead_experts, self.experts));
        }
        let limit = (self.experts as f64 * self.per_token as f64).sqrt();
        let effective = self.effective_experts();
        (effective < limit).then(|| format!("the load is that of {effective:.1} of {} experts (below {limit:.1})", self.experts))
    }

    /// For the metrics: `moe_entropy`, `moe_dead_experts`, `moe_max_over_mean`, `moe_dropped_share`, `moe_collapsed`.
    pub fn to_json(&self) -> Map<String, Value> {
        [
            ("moe_entropy", json!(self.entropy)),
            ("moe_dead_experts", json!(self.dead_experts)),
            ("moe_max_over_mean", json!(self.max_over_mean)),
            ("moe_dropped_share", json!(self.dropped_share)),
            ("moe_collapsed", json!(self.collapsed().is_some())),
        ]
        .into_iter()
        .map(|(name, value)| (name.to_string(), value))
        .collect()
    }
}

/// The load of each expert over the mean load: 1 is balanced, 0 an expert without tokens. Rounded to thousandths for the metrics;
/// whoever has a token keeps at least one, so that 0 always means dead.
pub fn relative_load(counts: &[u64]) -> Vec<f64> {
    let mean = counts.iter().sum::<u64>() as f64 / counts.len().max(1) as f64;
    let relative = |count: u64| if count == 0 { 0.0 } else { (count as f64 / mean * 1e3).round().max(1.0) / 1e3 };
    counts.iter().map(|&count| relative(count)).collect()
}

/// Mean over the tokens of the entropy of the router's probabilities, divided by ln E: 1 undecided, 0 sure. `[N, E]` -> `[1]`.
pub fn router_entropy(scoring: Scoring, logits_NE: Tensor<2>) -> Tensor<1> {
    let [n, e] = logits_NE.dims();
    let p_NE = balance::probabilities(scoring, logits_NE);
    // p ln p is 0 where p is 0.
    (p_NE.clone() * (p_NE + f32::MIN_POSITIVE).log()).sum() * (-1.0 / ((n.max(1) as f64) * (e.max(2) as f64).ln()))
}

#[cfg(test)]
mod tests {
    use super::{RoutingStats, relative_load, router_entropy};
    use crate::Scoring;
    use llm_tensor::burn::tensor::Device;
    use llm_tensor::host;

    #[test]
    fn balanced_and_collapsed_loads_have_the_documented_numbers() {
        let balanced = RoutingStats::new(&[100; 8], 2, 40);
        assert!((balanced.entropy - 1.0).abs() < 1e-12 && (balanced.effective_experts() - 8.0).abs() < 1e-9);
        assert_eq!((balanced.dead_experts, balanced.max_over_mean, balanced.dropped_share, balanced.collapsed()), (0, 1.0, 0.05, None));
        let two = RoutingStats::new(&[400, 400, 0, 0, 0, 0, 0, 0], 2, 0);
        assert!((two.entropy - 1.0 / 3.0).abs() < 1e-12 && (two.effective_experts() - 2.0).abs() < 1e-9);
        assert_eq!((two.dead_experts, two.max_over_mean), (6, 4.0));
        assert!(two.collapsed().unwrap().contains("6 of 8 experts"));
        assert_eq!(two.to_json()["moe_collapsed"], true);
    }

    #[test]
    fn starving_experts_are_a_collapse_before_they_are_dead() {
        let starving = RoutingStats::new(&[400, 380, 5, 5, 3, 3, 2, 2], 2, 0);
        assert_eq!(starving.dead_experts, 0);
        assert!(starving.collapsed().unwrap().contains("of 8 experts"));
        let uneven = RoutingStats::new(&[200, 150, 100, 100, 80, 70, 60, 40], 2, 0);
        assert_eq!(uneven.collapsed(), None, "uneven is not collapsed");
    }

    #[test]
    fn zero_load_means_dead_and_nothing_else_does() {
        assert_eq!(relative_load(&[30, 10, 0, 40]), [1.5, 0.5, 0.0, 2.0]);
        assert_eq!(relative_load(&[1, 9_999_999]), [0.001, 2.0], "a single token among millions is not dead");
        assert_eq!(relative_load(&[0, 0]), [0.0, 0.0]);
        assert!(relative_load(&[]).is_empty());
    }

    #[test]
    fn an_undecided_router_has_entropy_one_and_a_sure_one_zero() {
        let entropy = |scoring, rows: &[f32]| {
            let logits_NE = host::from_vec::<2>(rows.to_vec(), [rows.len() / 4, 4], &Device::flex());
            host::scalar(router_entropy(scoring, logits_NE))
        };
        for scoring in [Scoring::Softmax, Scoring::Sigmoid] {
            assert!((entropy(scoring, &[0.3; 8]) - 1.0).abs() < 1e-6);
            assert!(entropy(scoring, &[90.0, -90.0, -90.0, -90.0]).abs() < 1e-6);
        }
        let two = entropy(Scoring::Softmax, &[50.0, 50.0, -50.0, -50.0, 1.0, 1.0, 1.0, 1.0]);
        assert!((two - 0.75).abs() < 1e-6, "the mean of half (two of four) and one: {two}");
    }

    #[test]
    fn few_tokens_and_dense_mixtures_give_no_verdict() {
        assert_eq!(RoutingStats::new(&[1, 1, 0, 0, 0, 0, 0, 0], 2, 0).collapsed(), None);
        assert_eq!(RoutingStats::new(&[50, 0], 2, 0).collapsed(), None);
        let none = RoutingStats::new(&[0; 4], 2, 0);
        assert!(none.entropy == 0.0 && none.max_over_mean == 0.0 && none.collapsed().is_none());
        assert_eq!(RoutingStats::new(&[90], 1, 0).entropy, 1.0);
    }
}
