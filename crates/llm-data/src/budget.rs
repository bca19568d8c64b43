//! Token budgets: how many tokens a model wants, what they cost, how often the data must be repeated and what that is worth.
//!
//! - Compute: 6 N D floating-point operations (Kaplan et al. 2020).
//! - Chinchilla (Hoffmann et al. 2022): 20 tokens a parameter, and the parametric fit `L = E + A / N^alpha + B / D^beta` with the
//!   paper's constants (`hoffmann`) or those of the replication by Besiroglu et al. 2024 (`besiroglu`), whose optimum agrees
//!   with the paper's other two approaches.
//! - Repetition (Muennighoff et al. 2023): R further passes over U unique tokens are worth `U + U r (1 - exp(-R / r))` fresh ones
//!   with `r` = 15.39.

use serde::{Deserialize, Serialize};

/// Constants of the parametric fit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Fit {
    /// Whose.
    pub name: &'static str,
    /// Loss of text itself, in nats per token.
    pub e: f64,
    /// Coefficient of the parameters.
    pub a: f64,
    /// Coefficient of the tokens.
    pub b: f64,
    /// Exponent of the parameters.
    pub alpha: f64,
    /// Exponent of the tokens.
    pub beta: f64,
}

/// Hoffmann et al. 2022, approach 3.
pub const HOFFMANN: Fit = Fit { name: "hoffmann", e: 1.69, a: 406.4, b: 410.7, alpha: 0.34, beta: 0.28 };
/// Besiroglu et al. 2024.
pub const BESIROGLU: Fit = Fit { name: "besiroglu", e: 1.8172, a: 482.01, b: 2085.43, alpha: 0.3478, beta: 0.3658 };
/// Half-life of repetition, in passes.
pub const REPETITION: f64 = 15.39;

impl Fit {
    /// Loss of `n` parameters after `d` tokens.
    pub fn loss(&self, n: f64, d: f64) -> f64 {
        self.e + self.a / n.powf(self.alpha) + self.b / d.powf(self.beta)
    }

    /// Parameters and tokens of least loss for `c` operations: `N = G (C/6)^(beta / (alpha + beta))`.
    pub fn optimum(&self, c: f64) -> (f64, f64) {
        let sum = self.alpha + self.beta;
        let g = (self.alpha * self.a / (self.beta * self.b)).powf(1.0 / sum);
        let n = g * (c / 6.0).powf(self.beta / sum);
        (n, c / 6.0 / n)
    }
}

/// What `d` tokens drawn from `unique` ones are worth.
pub fn effective_tokens(unique: f64, d: f64) -> f64 {
    if d <= unique {
        return d;
    }
    let repetitions = d / unique - 1.0;
    unique + unique * REPETITION * (1.0 - (-repetitions / REPETITION).exp())
}

/// The answer to `llm-data budget`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Budget {
    /// Parameters.
    pub params: f64,
    /// Tokens trained on.
    pub tokens: f64,
    /// Tokens a parameter.
    pub tokens_per_param: f64,
    /// 20 tokens a parameter.
    pub chinchilla_tokens: f64,
    /// 6 N D.
    pub flops: f64,
    /// Different tokens there are.
    pub unique_tokens: Option<f64>,
    /// Passes over them.
    pub epochs: f64,
    /// What they are worth.
    pub effective_tokens: f64,
    /// Fresh tokens that all possible repetition could at most be worth.
    pub most_effective_tokens: Option<f64>,
    /// Per fit: loss expected, and parameters and tokens that would be best for the same compute.
    pub fits: Vec<FitAnswer>,
    /// Bytes of our shards: four a token and the row's own.
    pub shard_bytes: f64,
    /// Bytes with two a token (`export`, vocabulary of at most 2^16).
    pub u16_bytes: f64,
}

/// What one fit says.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FitAnswer {
    /// Whose.
    pub name: &'static str,
    /// Nats per token.
    pub loss: f64,
    /// Parameters of the best model for this compute.
    pub best_params: f64,
    /// Its tokens.
    pub best_tokens: f64,
    /// Its loss.
    pub best_loss: f64,
}

/// Work it out. `tokens` of `None` means 20 a parameter.
pub fn budget(params: f64, tokens: Option<f64>, unique: Option<f64>, sequence_length: usize) -> Budget {
    let chinchilla = 20.0 * params;
    let d = tokens.unwrap_or(chinchilla);
    let effective = unique.map_or(d, |u| effective_tokens(u, d));
    let flops = 6.0 * params * d;
    let answer = |fit: &Fit| {
        let (best_params, best_tokens) = fit.optimum(flops);
        FitAnswer { name: fit.name, loss: fit.loss(params, effective), best_params, best_tokens, best_loss: fit.loss(best_params, best_tokens) }
    };
    // A row: L + 1 tokens of 4 bytes, offsets, about one document start with an id of 40 bytes.
    let row = 4.0 * (sequence_length as f64 + 1.0) + 12.0 + 4.0 + 8.0 + 40.0;
    Budget {
        params,
        tokens: d,
        tokens_per_param: d / params,
        chinchilla_tokens: chinchilla,
        flops,
        unique_tokens: unique,
        epochs: unique.map_or(1.0, |u| d / u),
        effective_tokens: effective,
        most_effective_tokens: unique.map(|u| u * (1.0 + REPETITION)),
        fits: [HOFFMANN, BESIROGLU].iter().map(answer).collect(),
        shard_bytes: d / sequence_length as f64 * row,
        u16_bytes: 2.0 * d,
    }
}

/// A number as people write it: `1.3B`, `125M`, `3e9`, `2_000_000`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Quantity(pub f64);

impl std::str::FromStr for Quantity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = text.trim().replace(['_', ','], "");
        let (digits, factor) = match plain.chars().last() {
            Some('k' | 'K') => (&plain[..plain.len() - 1], 1e3),
            Some('m' | 'M') => (&plain[..plain.len() - 1], 1e6),
            Some('b' | 'B' | 'g' | 'G') => (&plain[..plain.len() - 1], 1e9),
            Some('t' | 'T') => (&plain[..plain.len() - 1], 1e12),
            _ => (plain.as_str(), 1.0),
        };
        match digits.parse::<f64>() {
            Ok(value) if value.is_finite() && value > 0.0 => Ok(Self(value * factor)),
            _ => Err(format!("`{text}` is no positive number; write 1.3B, 125M, 300K, 2T or 3e9")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_the_papers() {
        // Chinchilla itself: 70 B parameters, 1.4 T tokens, 5.88e23 operations; loss by the paper's fit.
        let b = budget(70e9, None, None, 2048);
        assert_eq!((b.tokens, b.flops), (1.4e12, 5.88e23));
        // By hand: 406.4 / 70e9^0.34 = 0.0834, 410.7 / 1.4e12^0.28 = 0.1633.
        assert!((b.fits[0].loss - (1.69 + 0.0834 + 0.1633)).abs() < 2e-3, "{}", b.fits[0].loss);
        // The replication's point: its optimum for Chinchilla's compute is near 20 tokens a parameter, the paper's fit is not.
        let ratio = |f: &FitAnswer| f.best_tokens / f.best_params;
        assert!((15.0..26.0).contains(&ratio(&b.fits[1])), "{}", ratio(&b.fits[1]));
        assert!(ratio(&b.fits[0]) > 50.0, "{}", ratio(&b.fits[0]));
        assert!(b.fits.iter().all(|f| f.best_loss <= f.loss + 1e-12));
    }

    #[test]
    fn the_optimum_is_a_minimum() {
        for fit in [HOFFMANN, BESIROGLU] {
            let c = 1e21;
            let (n, d) = fit.optimum(c);
            assert!((6.0 * n * d / c - 1.0).abs() < 1e-9);
            for factor in [0.9, 1.1] {
                assert!(fit.loss(n * factor, c / 6.0 / (n * factor)) > fit.loss(n, d));
            }
        }
    }

    #[test]
    fn four_epochs_are_nearly_as_good_as_fresh_and_forty_are_not() {
        // R = 3: 1 + 15.39 (1 - exp(-3 / 15.39)) = 3.726; R = 39: 1 + 15.39 (1 - exp(-2.534)) = 15.17.
        assert!((effective_tokens(1.0, 4.0) - 3.726).abs() < 2e-3, "{}", effective_tokens(1.0, 4.0));
        assert!((effective_tokens(1.0, 40.0) - 15.17).abs() < 0.02, "{}", effective_tokens(1.0, 40.0));
        assert_eq!(effective_tokens(10.0, 7.0), 7.0);
    }

    #[test]
    fn quantities() {
        for (text, value) in [("1.3B", 1.3e9), ("125M", 125e6), ("2T", 2e12), ("3e9", 3e9), ("2_000_000", 2e6), ("300k", 3e5)] {
            assert_eq!(text.parse::<Quantity>().unwrap().0, value);
        }
        for text in ["", "B", "-1", "0", "much"] {
            assert!(text.parse::<Quantity>().unwrap_err().contains("1.3B"));
        }
    }
}
