//! Shares to amounts: what each source gives of a budget, with caps.

use super::{MixConfig, Source};
use crate::error::{Error, Result};

/// What a source has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Supply {
    /// In the unit of the budget.
    pub size: f64,
    /// Relative share.
    pub weight: f64,
    /// Passes at most.
    pub max_epochs: f64,
}

/// What each source should give, and what it will.
#[derive(Debug, Clone, PartialEq)]
pub struct Shares {
    /// Share asked for, summing to 1.
    pub target: Vec<f64>,
    /// Amount planned, caps kept.
    pub amount: Vec<f64>,
    /// The budget, given or derived; more than the sum of `amount` when all are capped.
    pub budget: f64,
}

/// Supplies of a configuration, with the temperature applied to the weights.
pub(super) fn supplies(config: &MixConfig, sizes: &[f64]) -> Result<Vec<Supply>> {
    let refuse = |message: String| Err(Error::Config(message));
    let mut supplies = Vec::new();
    for ((name, source), size) in config.sources.iter().zip(sizes) {
        let Source { weight, max_epochs, .. } = source;
        let max_epochs = max_epochs.unwrap_or(config.max_epochs);
        if !(weight.is_finite() && *weight >= 0.0 && max_epochs.is_finite() && max_epochs > 0.0) {
            return refuse(format!("mix.sources.{name}: weight {weight} must be 0 or more and max_epochs {max_epochs} above 0"));
        }
        if *weight > 0.0 && *size == 0.0 {
            return refuse(format!("mix.sources.{name}: no document fits its rule; correct the rule or set weight = 0"));
        }
        let weight = weight * config.alpha.map_or(1.0, |alpha| size.powf(alpha));
        supplies.push(Supply { size: *size, weight: if *size > 0.0 { weight } else { 0.0 }, max_epochs });
    }
    if supplies.iter().all(|s| s.weight == 0.0) {
        return refuse("mix: every source has weight 0 or none is named; name some in `sources`".into());
    }
    Ok(supplies)
}

/// Amounts by weight within `budget` (0: the largest with which no source passes its cap). What capped sources leave goes to the
/// others by their weights.
pub fn plan(supplies: &[Supply], budget: u64) -> Shares {
    let total: f64 = supplies.iter().map(|s| s.weight).sum();
    let target: Vec<f64> = supplies.iter().map(|s| if total > 0.0 { s.weight / total } else { 0.0 }).collect();
    let cap = |s: &Supply| s.size * s.max_epochs;
    let most = supplies.iter().zip(&target).filter(|(_, t)| **t > 0.0).map(|(s, t)| cap(s) / t).fold(f64::INFINITY, f64::min);
    let budget = if budget == 0 { most.min(1e18) } else { budget as f64 };
    let mut amount = vec![0.0; supplies.len()];
    let mut open: Vec<usize> = (0..supplies.len()).filter(|i| target[*i] > 0.0).collect();
    let mut left = budget;
    loop {
        let weight: f64 = open.iter().map(|i| target[*i]).sum();
        let (full, rest): (Vec<usize>, Vec<usize>) = open.iter().partition(|i| left * target[**i] / weight > cap(&supplies[**i]) * (1.0 + 1e-12));
        if full.is_empty() {
            rest.iter().for_each(|i| amount[*i] = left * target[*i] / weight);
            return Shares { target, amount, budget };
        }
        for i in &full {
            amount[*i] = cap(&supplies[*i]);
            left -= amount[*i];
        }
        open = rest;
        if open.is_empty() {
            return Shares { target, amount, budget };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn supply(size: f64, weight: f64, max_epochs: f64) -> Supply {
        Supply { size, weight, max_epochs }
    }

    #[test]
    fn by_hand() {
        // 100 of shares 1:3; the second has 50 once, so the first takes the other 50 (its cap is 400).
        let shares = plan(&[supply(100.0, 1.0, 4.0), supply(50.0, 3.0, 1.0)], 100);
        assert_eq!((shares.target, shares.amount), (vec![0.25, 0.75], vec![50.0, 50.0]));
        // No budget: the second is used up once, 50 / 0.75 = 66.7 in all.
        let shares = plan(&[supply(100.0, 1.0, 4.0), supply(50.0, 3.0, 1.0)], 0);
        assert!((shares.budget - 66.666).abs() < 0.01 && (shares.amount[0] - 16.666).abs() < 0.01 && shares.amount[1] == 50.0);
        // Everything capped: less than asked for.
        assert_eq!(plan(&[supply(10.0, 1.0, 2.0), supply(5.0, 1.0, 1.0)], 1000).amount, [20.0, 5.0]);
    }

    #[test]
    fn temperature_lifts_the_small() {
        let config = |alpha| MixConfig {
            sources: [("a".to_string(), Source::default()), ("b".to_string(), Source::default())].into(),
            alpha,
            ..MixConfig::default()
        };
        let share = |alpha| plan(&supplies(&config(alpha), &[1_000_000.0, 10_000.0]).unwrap(), 1000).target[1];
        // 1/101; with 0.5 the ratio 100 becomes 10, with 0 it becomes 1.
        assert!((share(Some(1.0)) - 1.0 / 101.0).abs() < 1e-9);
        assert!((share(Some(0.5)) - 1.0 / 11.0).abs() < 1e-9);
        assert!((share(Some(0.0)) - 0.5).abs() < 1e-9 && (share(None) - 0.5).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn caps_hold_and_the_budget_is_met_when_it_can_be(s in prop::collection::vec((1.0..1e6f64, 0.01..10.0f64, 0.5..5.0f64), 1..8), budget in 1u64..10_000_000) {
            let supplies: Vec<Supply> = s.iter().map(|(a, b, c)| supply(*a, *b, *c)).collect();
            let shares = plan(&supplies, budget);
            let most: f64 = supplies.iter().map(|s| s.size * s.max_epochs).sum();
            let sum: f64 = shares.amount.iter().sum();
            prop_assert!(supplies.iter().zip(&shares.amount).all(|(s, a)| *a <= s.size * s.max_epochs * (1.0 + 1e-9)));
            prop_assert!((sum - most.min(budget as f64)).abs() <= 1e-6 * sum, "{} {} {}", sum, most, budget);
        }
    }
}
