//! How long and how fast to train: tokens, batch size, learning rate, weight decay, warm-up.
//!
//! * **Tokens**: 20 for each parameter that multiplies (Hoffmann et al. 2022, tables 2 and 3; the count leaves out table lookups, which gives
//!   the cleanest law: nanochat `dev/LOG.md`, 2026-01-27). With Muon instead of AdamW nanochat measures an optimum near 10.5.
//! * **Batch size and learning rate**: `B = 0.2920 C^0.3271` tokens and `lr = 0.3118 C^-0.1250` with C the FLOPs of the run (DeepSeek LLM,
//!   Bi et al. 2024, equation 1, fitted on runs with AdamW from 1e17 FLOPs on). C is what they are functions of, so they fit runs that are
//!   shorter or longer than optimal as well. Bergsma et al. 2025 find that the batch size follows the tokens alone, `D^0.383`: half of
//!   what DeepSeek's rule gives from 10 to 1000 times the tokens; its constants are for another parametrisation, so it is not used.
//!   Along the dial C grows like the sixth power of the width, so the rate falls like `width^-0.75`: between nanochat's
//!   `1/sqrt(width / 768)` and muP's `1 / width`. At 1e15 FLOPs the rules say 23,000 tokens and 0.0042, which small models like.
//! * **Weight decay**: the time over which AdamW averages its weights is `1 / (lr * decay)` steps, and its best share of the run falls like
//!   `(D/N)^-0.527` (Bergsma et al. 2025, section 3: about 1.08 times that, 0.22 of the run at 20 tokens per parameter); kept between 0.01
//!   and 0.3 because that fit is for muP.
//! * **Warm-up**: a twentieth of the steps, at most 2000 (Bi et al. 2024 use 2000).

use serde::Serialize;

/// Compute-optimal with AdamW.
pub const TOKENS_PER_PARAMETER: f64 = 20.0;

const LONGEST_WARMUP: u64 = 2000;

/// Tokens of an optimiser step for a run of so many FLOPs.
pub fn batch_tokens(flops: f64) -> f64 {
    0.2920 * flops.powf(0.3271)
}

/// Peak learning rate for a run of so many FLOPs.
pub fn learning_rate(flops: f64) -> f64 {
    0.3118 * flops.powf(-0.1250)
}

/// Decoupled weight decay for a run of `steps`.
pub fn weight_decay(lr: f64, steps: u64, tokens_per_parameter: f64) -> f64 {
    let timescale = 1.084 * tokens_per_parameter.powf(-0.527);
    (1.0 / (lr * timescale * steps.max(1) as f64)).clamp(0.01, 0.3)
}

/// What the rules are functions of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Task {
    /// Parameters that multiply.
    pub parameters: f64,
    /// FLOPs of a token, forward and backward.
    pub flops_per_token: f64,
    /// Tokens of a row.
    pub sequence_length: usize,
    /// Wanted tokens for each parameter.
    pub tokens_per_parameter: f64,
    /// Rows of a forward pass; more rows than that are a multiple of it.
    pub micro_batch_size: usize,
    /// Rows of a step, if they are given.
    pub batch_size: Option<usize>,
    /// Steps, if they are given.
    pub steps: Option<u64>,
}

/// How to train.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Recipe {
    /// Rows of a step.
    pub batch_size: usize,
    /// Optimiser steps.
    pub steps: u64,
    /// What they read.
    pub tokens: f64,
    /// What they cost.
    pub flops: f64,
    /// Peak learning rate.
    pub lr: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// Steps of warm-up.
    pub warmup_steps: u64,
}

impl Recipe {
    /// Apply the rules.
    pub fn of(task: &Task) -> Self {
        let wanted = task.tokens_per_parameter * task.parameters;
        let length = task.sequence_length as f64;
        let batch = match task.steps {
            None => batch_tokens(task.flops_per_token * wanted),
            // B = c (f S B)^p solved for B.
            Some(steps) => batch_tokens(task.flops_per_token * steps as f64).powf(1.0 / (1.0 - 0.3271)),
        };
        let batch_size = task.batch_size.unwrap_or_else(|| rows(batch / length, task.micro_batch_size)).max(1);
        let steps = task.steps.unwrap_or_else(|| (wanted / (batch_size as f64 * length)).round().max(1.0) as u64);
        let tokens = steps as f64 * batch_size as f64 * length;
        let flops = task.flops_per_token * tokens;
        let lr = crate::quantity::rounded(learning_rate(flops), 3);
        let weight_decay = crate::quantity::rounded(weight_decay(lr, steps, tokens / task.parameters), 2);
        Self { batch_size, steps, tokens, flops, lr, weight_decay, warmup_steps: (steps / 20).min(LONGEST_WARMUP) }
    }
}

/// Whole rows, in whole micro-batches when there is more than one.
fn rows(wanted: f64, micro_batch_size: usize) -> usize {
    let micro = micro_batch_size.max(1);
    let rows = wanted.round().max(1.0) as usize;
    if rows <= micro { rows } else { (wanted / micro as f64).round().max(1.0) as usize * micro }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(parameters: f64) -> Task {
        Task {
            parameters,
            flops_per_token: 6.0 * parameters,
            sequence_length: 1024,
            tokens_per_parameter: 20.0,
            micro_batch_size: 8,
            batch_size: None,
            steps: None,
        }
    }

    /// DeepSeek LLM 7B: 2 T tokens at a batch of 2304 rows of 4096 tokens and a rate of 4.2e-4 (table 2); the rules are theirs, so this says
    /// that C was meant as it is used here.
    #[test]
    fn the_rules_give_what_their_authors_chose() {
        let flops = 6.0 * 6.5e9 * 2e12;
        assert!((learning_rate(flops) / 4.2e-4 - 1.0).abs() < 0.1, "{}", learning_rate(flops));
        assert!((batch_tokens(flops) / (2304.0 * 4096.0) - 1.0).abs() < 0.15, "{}", batch_tokens(flops));
    }

    #[test]
    fn larger_models_train_longer_in_larger_batches_at_lower_rates() {
        let all: Vec<Recipe> = [1e6, 1e7, 1e8, 1e9, 1e10].map(|n| Recipe::of(&task(n))).to_vec();
        for pair in all.windows(2) {
            assert!(pair[1].tokens > pair[0].tokens && pair[1].batch_size > pair[0].batch_size && pair[1].lr < pair[0].lr, "{pair:?}");
        }
        for (recipe, n) in all.iter().zip([1e6, 1e7, 1e8, 1e9, 1e10]) {
            assert!((recipe.tokens / n / 20.0 - 1.0).abs() < 0.01, "{recipe:?}");
            assert!((300..200_000).contains(&recipe.steps) && (0.01..=0.3).contains(&recipe.weight_decay), "{recipe:?}");
        }
    }

    /// If this fails, a given number of steps or rows silently changes how much is trained.
    #[test]
    fn given_steps_and_rows_are_kept_and_the_rest_follows() {
        let free = Recipe::of(&task(1e8));
        let rows = Recipe::of(&Task { batch_size: Some(2 * free.batch_size), ..task(1e8) });
        assert_eq!(rows.batch_size, 2 * free.batch_size);
        assert!((rows.tokens / free.tokens - 1.0).abs() < 1e-3, "twice the rows, half the steps: {rows:?}");
        let steps = Recipe::of(&Task { steps: Some(free.steps), ..task(1e8) });
        assert!((steps.batch_size as f64 / free.batch_size as f64 - 1.0).abs() < 0.1, "the steps of the optimum lead to its batch: {steps:?}");
        let both = Recipe::of(&Task { steps: Some(7), batch_size: Some(3), ..task(1e8) });
        assert_eq!(both.tokens, 7.0 * 3.0 * 1024.0);
    }
}
