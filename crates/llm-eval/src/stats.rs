//! How sure is a number: intervals for one score and for the difference of two.
//!
//! - Wilson's score interval for a proportion (Wilson 1927): unlike p ± 1.96·se it stays inside [0, 1] and means something
//!   at 0/n and n/n, which is where small models live.
//! - Percentile bootstrap (Efron 1979) of a ratio of sums over items, which covers means (weight 1) and bits per byte
//!   (bits over bytes) alike. Resample `i` draws from its own random stream, so the interval does not depend on threads.
//! - McNemar's exact test (McNemar 1947; binomial tail) for two models graded right or wrong on the same items.

use llm_run::Seed;
use rayon::prelude::*;
use serde::Serialize;

/// Two-sided 95 % quantile of the standard normal distribution.
const Z95: f64 = 1.959_963_984_540_054;

/// 95 % Wilson interval for `successes` out of `n`; `[0, 1]` when nothing was observed.
pub fn wilson95(successes: u64, n: u64) -> [f64; 2] {
    if n == 0 {
        return [0.0, 1.0];
    }
    let (total, p) = (n as f64, successes as f64 / n as f64);
    let z2 = Z95 * Z95;
    let center = p + z2 / (2.0 * total);
    let margin = Z95 * (p * (1.0 - p) / total + z2 / (4.0 * total * total)).sqrt();
    let scale = 1.0 + z2 / total;
    // At the ends the bound is exact; rounding must not leave 1e-17 there.
    let low = if successes == 0 { 0.0 } else { (center - margin) / scale };
    let high = if successes == n { 1.0 } else { (center + margin) / scale };
    [low, high]
}

/// One item's contribution to a ratio: the statistic is the sum of `score` over the sum of `weight`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Item {
    /// Numerator: 1 for a right answer, bits for a document.
    pub score: f64,
    /// Denominator: 1 for an answer, bytes for a document.
    pub weight: f64,
}

/// Sum of scores over sum of weights; `None` without weight.
pub fn ratio(items: &[Item]) -> Option<f64> {
    let (score, weight) = items.iter().fold((0.0, 0.0), |(s, w), item| (s + item.score, w + item.weight));
    (weight > 0.0).then(|| score / weight)
}

/// A bootstrap distribution, summarised.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Bootstrap {
    /// 2.5 % and 97.5 % percentiles.
    pub ci95: [f64; 2],
    /// Standard deviation of the resampled statistic.
    pub stderr: f64,
}

/// Percentile bootstrap of [`ratio`] over items drawn with replacement; `None` when there is nothing to draw.
pub fn bootstrap(items: &[Item], resamples: usize, seed: Seed) -> Option<Bootstrap> {
    if ratio(items).is_none() || resamples == 0 {
        return None;
    }
    let mut values: Vec<f64> = (0..resamples as u64)
        .into_par_iter()
        .map(|i| {
            let mut rng = seed.at(i).rng();
            let (mut score, mut weight) = (0.0, 0.0);
            for _ in 0..items.len() {
                let item = items[rng.below(items.len())];
                score += item.score;
                weight += item.weight;
            }
            // A resample without weight says nothing about the ratio.
            if weight > 0.0 { score / weight } else { f64::NAN }
        })
        .collect();
    values.retain(|v| !v.is_nan());
    values.sort_by(f64::total_cmp);
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    Some(Bootstrap { ci95: [quantile(&values, 0.025)?, quantile(&values, 0.975)?], stderr: variance.sqrt() })
}

/// Linear interpolation between the two nearest order statistics (numpy's default) of a sorted slice.
fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let place = q * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    Some(below + (above - below) * place.fract())
}

/// McNemar's exact two-sided p-value: `only_a` and `only_b` count the items that exactly one of the two got right.
///
/// Under the null hypothesis a discordant item falls on either side with probability one half.
pub fn mcnemar_exact(only_a: u64, only_b: u64) -> f64 {
    let n = only_a + only_b;
    let mut ln_choose = 0.0;
    let mut tail = 0.0;
    for i in 0..=only_a.min(only_b) {
        tail += (ln_choose - n as f64 * std::f64::consts::LN_2).exp();
        ln_choose += ((n - i) as f64).ln() - ((i + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn close(got: f64, want: f64) {
        assert!((got - want).abs() < 5e-5, "{got} is not {want}");
    }

    /// Reference values: statsmodels `proportion_confint(method="wilson")`.
    #[test]
    fn wilson_against_known_values() {
        for (k, n, low, high) in [(8, 10, 0.49016, 0.94332), (0, 10, 0.0, 0.27753), (10, 10, 0.72247, 1.0), (81, 263, 0.25527, 0.36620)] {
            let [l, h] = wilson95(k, n);
            close(l, low);
            close(h, high);
        }
        assert_eq!(wilson95(0, 0), [0.0, 1.0]);
    }

    /// Reference values: twice the lower binomial tail at one half, by hand: 2 * (1 + 12 + 66) / 4096 and 2 * 1 / 32.
    #[test]
    fn mcnemar_against_known_values() {
        close(mcnemar_exact(10, 2), 158.0 / 4096.0);
        close(mcnemar_exact(0, 5), 0.0625);
        assert_eq!(mcnemar_exact(0, 0), 1.0);
        assert_eq!(mcnemar_exact(7, 7), 1.0);
        assert!(mcnemar_exact(0, 5000) < 1e-300);
        close(mcnemar_exact(4900, 5100), 0.0466);
    }

    proptest! {
        #[test]
        fn mcnemar_is_a_symmetric_probability(a in 0u64..300, b in 0u64..300) {
            let p = mcnemar_exact(a, b);
            prop_assert!((0.0..=1.0).contains(&p));
            prop_assert_eq!(p, mcnemar_exact(b, a));
        }

        #[test]
        fn wilson_holds_the_proportion(n in 1u64..1000, share in 0.0f64..=1.0) {
            let k = (share * n as f64) as u64;
            let [low, high] = wilson95(k, n);
            let p = k as f64 / n as f64;
            prop_assert!(0.0 <= low && low <= p && p <= high && high <= 1.0);
        }
    }

    fn coin(n: usize, rights: usize) -> Vec<Item> {
        (0..n).map(|i| Item { score: f64::from(u8::from(i < rights)), weight: 1.0 }).collect()
    }

    #[test]
    fn the_bootstrap_is_the_same_for_any_thread_count() {
        let items = coin(200, 60);
        let with = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| bootstrap(&items, 500, Seed(3)).unwrap())
        };
        assert_eq!(with(1), with(4));
        assert_ne!(with(1), bootstrap(&items, 500, Seed(4)).unwrap());
    }

    #[test]
    fn the_bootstrap_of_a_mean_agrees_with_theory() {
        let items = coin(400, 120);
        let got = bootstrap(&items, 4000, Seed(1)).unwrap();
        let stderr = (0.3f64 * 0.7 / 400.0).sqrt();
        assert!((got.stderr - stderr).abs() < 0.1 * stderr, "{got:?}");
        assert!((got.ci95[0] - (0.3 - Z95 * stderr)).abs() < 0.01 && (got.ci95[1] - (0.3 + Z95 * stderr)).abs() < 0.01, "{got:?}");
        assert_eq!(bootstrap(&[], 100, Seed(1)), None);
        assert_eq!(bootstrap(&coin(1, 1), 100, Seed(1)).unwrap().ci95, [1.0, 1.0]);
    }

    #[test]
    fn quantiles_interpolate_as_numpy_does() {
        assert_eq!(quantile(&[1.0, 2.0, 4.0, 8.0], 0.5), Some(3.0));
        assert_eq!(quantile(&[1.0, 2.0, 4.0, 8.0], 0.25), Some(1.75));
        assert_eq!(quantile(&[], 0.5), None);
    }
}
