//! What operations that are composed of Burn's own keep and need: those of GPUs, and of every format but `f32` on the CPU
//! (`llm_tensor::ops::composed`). Burn keeps the operands of a product and the inputs of an exponential, and nothing of sums, casts, slices
//! and concatenations.
//!
//! The bulk are the scores of attention, `T H` a token: shifted and exponentiated in `f32`, as probabilities in the model's format. And of the
//! loss all shifted logits in `f32`.

use super::Workload;
use llm_arch::config::{DecoderConfig, QkNorm};
use llm_tensor::nn::NormKind;
use llm_tensor::ops::Activation;

/// Bytes of a number in `f32`.
const WIDE: f64 = 4.0;

/// Logits that the composed output projection turns into losses at a time.
const LOGITS_AT_ONCE: usize = 1 << 26;

/// Bytes per token that a norm over `d` numbers keeps, its output included.
fn norm(kind: NormKind, d: f64, e: f64) -> f64 {
    match kind {
        // The input in f32, and normalised in the model's format.
        NormKind::RmsNorm => WIDE * d + 2.0 * e * d,
        // Centred or plain, and normalised, both in f32.
        NormKind::GemmaRmsNorm | NormKind::LayerNorm => 2.0 * WIDE * d + e * d,
    }
}

/// Bytes per token of the scores of attention over rows of `length` tokens, a byte each.
fn scores(c: &DecoderConfig, length: usize) -> f64 {
    (length * c.num_attention_heads) as f64
}

/// Bytes per token that one layer keeps, `e` bytes a number.
pub(super) fn kept_by_layer(w: &Workload, layer: usize) -> f64 {
    let (c, e) = (w.model, w.precision.bytes() as f64);
    let (d, h) = (c.hidden_size as f64, c.num_attention_heads as f64);
    let norms = llm_arch::parameters::block_norms(c.layout).len() as f64 * norm(c.norm, d, e);
    // Keys and values are repeated for every head that reads them.
    let (q, u) = (h * c.head_size() as f64, h * c.value_head_size() as f64);
    let qk_norms = if c.qk_norm == QkNorm::None { 0.0 } else { norm(NormKind::RmsNorm, 2.0 * q, e) };
    let capped = if c.attn_logit_softcapping.is_some() { e } else { 0.0 };
    let attention = qk_norms + e * (2.0 * q + 2.0 * u) + scores(c, w.length) * (2.0 * WIDE + e + capped);
    let act = match c.hidden_act {
        Activation::Silu => 2.0,
        Activation::Gelu => 1.0,
        Activation::GeluTanh => 5.0,
    };
    let feed_forward = match &c.moe {
        Some(moe) if c.is_moe(layer) => {
            let width = (moe.num_experts_per_tok * moe.moe_intermediate_size + moe.shared_expert_intermediate_size) as f64;
            e * ((act + 3.0) * width + 3.0 * moe.num_experts_per_tok as f64 * d) + 3.0 * WIDE * moe.num_experts as f64
        }
        _ if c.gated_mlp => e * (act + 3.0) * c.intermediate_size as f64,
        _ => e * (act + 1.0) * c.intermediate_size as f64,
    };
    norms + attention + feed_forward
}

/// Bytes per token that exist besides in the backward pass of a layer: gradients of scores, or of the feed-forward.
pub(super) fn widest(w: &Workload, _layer: usize) -> f64 {
    let (c, e) = (w.model, w.precision.bytes() as f64);
    let d = c.hidden_size as f64;
    (e * d + 3.0 * WIDE * scores(c, w.length)).max(e * (d + 3.0 * c.intermediate_size as f64))
}

/// Bytes of shifted logits that the loss keeps, and of those that one part of it needs for a while.
pub(super) fn logits(w: &Workload) -> (f64, f64) {
    let (c, n) = (w.model, w.tokens());
    let of = |rows: usize| WIDE * (rows * c.vocab_size) as f64;
    let capped = if c.final_logit_softcapping.is_some() { 2.0 } else { 1.0 };
    (capped * of(n), 3.0 * of(n.min(LOGITS_AT_ONCE / c.vocab_size)))
}
