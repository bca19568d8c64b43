//! Arithmetic of a token.
//!
//! A multiply and an add are two operations, so a matrix costs `2` per element and token (Kaplan et al. 2020, section 2.1). The backward
//! pass multiplies twice as much, for the gradients of inputs and of weights: training is three times the forward pass, the `6 N` of
//! Hoffmann et al. 2022 (appendix F). To that come scores and their products with the values,
//! `2 * heads * (head_dim + v_head_dim)` per visible key and layer. PaLM (Chowdhery et al. 2022, appendix B) counts them for all T keys
//! of a context; here only visible ones count, `(T + 1) / 2` on average under a causal mask and fewer in a window, because a kernel that
//! skips the masked half does not do that work. Norms, activations, softmax and rotary angles are left out, as in those papers.

use crate::DecoderConfig;
use crate::budget::Parts;
use serde::Serialize;

/// Training multiplies three times as much as the forward pass.
pub const TRAINING_FACTOR: f64 = 3.0;

/// Floating-point operations per token, averaged over a text of `context` tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Flops {
    /// Length of the text.
    pub context: usize,
    /// Forward: matrices of the active parameters and the output projection.
    pub matrices: f64,
    /// Forward: scores and their products with the values, causal half.
    pub attention: f64,
    /// Forward: both.
    pub forward: f64,
    /// Forward and backward.
    pub training: f64,
    /// Forward of one token that follows `context` others: what generation costs at that point.
    pub decoding: f64,
}

impl Flops {
    /// Count a configuration.
    pub fn of(config: &DecoderConfig, context: usize) -> Self {
        let matrices = 2.0 * Parts::of(config).matmul_active as f64;
        let per_key = (2 * config.num_attention_heads * (config.head_size() + config.value_head_size())) as f64;
        let layers = 0..config.num_hidden_layers;
        let attention: f64 = layers.clone().map(|i| per_key * mean_visible_keys(context, config.window(i))).sum();
        let last: f64 = layers.map(|i| per_key * config.window(i).map_or(context + 1, |w| w.min(context + 1)) as f64).sum();
        let forward = matrices + attention;
        Self { context, matrices, attention, forward, training: TRAINING_FACTOR * forward, decoding: matrices + last }
    }
}

/// Keys that a query sees on average in a text of `context` tokens; it always sees itself.
pub fn mean_visible_keys(context: usize, window: Option<usize>) -> f64 {
    let t = context.max(1) as f64;
    match window {
        // The first w queries see 1, 2, ... w keys, all others w.
        Some(w) if w < context => w as f64 - (w as f64) * (w as f64 - 1.0) / (2.0 * t),
        _ => (t + 1.0) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::presets::{PRESETS, preset};

    #[test]
    fn visible_keys_are_those_of_the_mask() {
        for (context, window) in [(1, None), (7, None), (7, Some(3)), (7, Some(7)), (7, Some(9)), (1000, Some(1))] {
            let seen: usize = (0..context).map(|t| window.map_or(t + 1, |w: usize| w.min(t + 1))).sum();
            let mean = mean_visible_keys(context, window);
            assert!((mean - seen as f64 / context as f64).abs() < 1e-9, "{context} {window:?}: {mean}");
        }
    }

    /// If this fails, training costs are not what every paper calls 6 N D.
    #[test]
    fn training_is_six_n_plus_attention() {
        for p in PRESETS {
            let config = p.config();
            let flops = Flops::of(&config, 2048);
            let six_n = 6.0 * Parts::of(&config).matmul_active as f64;
            assert!((flops.training - six_n - 3.0 * flops.attention).abs() <= 1e-9 * flops.training, "{}", p.name);
            // N counted without lookups differs from all active parameters by the embedding tables only.
            let parts = Parts::of(&config);
            let untied_table = if config.tie_word_embeddings { 0 } else { config.vocab_size * config.hidden_size };
            let positions = parts.embedding - untied_table - config.vocab_size * config.hidden_size;
            let counted = parts.matmul_active + untied_table + positions;
            assert!((counted as f64 / parts.active as f64 - 1.0).abs() < 2e-3, "{}: {counted} of {}", p.name, parts.active);
        }
    }

    /// GPT-2 124M by hand: 12 layers of 768 x (4 + 8) x 768, a head of 50257 x 768, and 4 x 768 per key and layer.
    #[test]
    fn gpt2_by_hand() {
        let flops = Flops::of(&preset("gpt2").unwrap(), 1024);
        assert_eq!(flops.matrices, 2.0 * (12 * 12 * 768 * 768 + 50257 * 768) as f64);
        assert_eq!(flops.attention, 12.0 * 4.0 * 768.0 * 512.5);
        assert_eq!(flops.decoding - flops.matrices, 12.0 * 4.0 * 768.0 * 1025.0);
    }

    #[test]
    fn a_window_bounds_the_cost_of_long_texts() {
        let mistral = preset("mistral-7b").unwrap();
        let (short, long) = (Flops::of(&mistral, 65_536), Flops::of(&mistral, 131_072));
        assert!(long.attention < short.attention * 1.04);
        assert_eq!(long.decoding, short.decoding);
    }
}
