//! Tensor operations of a decoder, each with one meaning and two bodies.
//!
//! On the CPU (Flex, `f32`) an operation is one fused kernel of [`crate::kernels`] with a hand-written backward pass
//! (`extension`). On every other backend and dtype it is composed from Burn's own differentiable operations (`composed`),
//! which is also the reference in the tests. Which body runs is decided by the tensor's device and dtype alone.
//!
//! Indices (token ids, positions, targets) come from the host and stay there as `Arc<[u32]>`.
//!
//! Legend: N = B*T tokens, B rows, T length, D hidden, H query heads, G key/value heads, K head size, U value head size, V vocabulary, I/O features.

pub mod composed;
mod extension;
mod optimizer;
mod optimizer_extension;
mod packed;
mod span;

use crate::kernels::{adamw, attention as attention_kernel};
use burn::backend::Dispatch;
use burn::tensor::{DType, Tensor};
use extension::DecoderOps;
use std::sync::Arc;

pub use crate::kernels::activation::Activation;
pub use crate::kernels::adamw::Step as AdamWStep;
pub use crate::kernels::attention::Score;
pub use crate::kernels::cross_entropy::IGNORE;
pub use crate::kernels::rope::Pairing;
pub use crate::kernels::{adafactor::Step as AdafactorStep, lion::Step as LionStep, muon::Iteration, muon::Step as MuonStep};
pub use composed::RopeTable;
pub use optimizer::{Quantized, Sign, adafactor_matrices, adafactor_vector, adamw_8bit, lion, muon};
pub use packed::{PackedWeight, packed_cross_entropy, packed_embedding, packed_linear, packed_linear_all, packed_linear_composed};
pub use span::AttentionSpan;

/// Host-side indices.
pub type Indices = Arc<[u32]>;

/// True when the fused CPU kernels apply.
fn fused<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && crate::device::is_cpu(&x.device())
}

/// `y = x w^T`: `x [N, I]`, `w [O, I]` -> `[N, O]`.
pub fn linear(x: Tensor<2>, w: Tensor<2>) -> Tensor<2> {
    if fused(&x) {
        Tensor::from_dispatch(<Dispatch as DecoderOps>::fused_linear(x.into_dispatch(), w.into_dispatch()))
    } else {
        composed::linear(x, w)
    }
}

/// Rows `offsets[e]..offsets[e + 1]` of `x [M, I]` with the matrix of their group, `w [E, O, I]`: `x w[e]^T`, together `[M, O]`.
///
/// # Panics
/// When `offsets` are not E + 1 ascending numbers from 0 to M: the caller's grouping is wrong.
pub fn grouped_linear(x: Tensor<2>, w: Tensor<3>, offsets: Indices) -> Tensor<2> {
    assert!(offsets.len() == w.dims()[0] + 1 && offsets.is_sorted(), "grouped_linear: one ascending offset more than groups");
    assert!(offsets[0] == 0 && offsets[offsets.len() - 1] as usize == x.dims()[0], "grouped_linear: groups must cover all rows");
    if fused(&x) {
        Tensor::from_dispatch(<Dispatch as DecoderOps>::fused_grouped_linear(x.into_dispatch(), w.into_dispatch(), offsets))
    } else {
        composed::grouped_linear(x, w, &offsets)
    }
}

/// Rows of `table [V, D]` -> `[N, D]`. Ids must be below V.
pub fn embedding(table: Tensor<2>, ids: Indices) -> Tensor<2> {
    if fused(&table) {
        Tensor::from_dispatch(<Dispatch as DecoderOps>::fused_embedding(table.into_dispatch(), ids))
    } else {
        composed::embedding(table, &ids)
    }
}

/// RMSNorm over the last dimension: `x [N, D]`, `w [D]`.
pub fn rms_norm(x: Tensor<2>, w: Tensor<1>, eps: f32) -> Tensor<2> {
    if fused(&x) {
        Tensor::from_dispatch(<Dispatch as DecoderOps>::fused_rms_norm(x.into_dispatch(), w.into_dispatch(), eps))
    } else {
        composed::rms_norm(x, w, eps)
    }
}

/// Rotary embedding of `x [N, H, K]`, one position per token.
pub fn rope(x: Tensor<3>, positions: Indices, table: &RopeTable) -> Tensor<3> {
    if fused(&x) {
        Tensor::from_dispatch(<Dispatch as DecoderOps>::fused_rope(x.into_dispatch(), positions, table.clone(), 1.0))
    } else {
        composed::rope(x, &positions, table)
    }
}

/// LayerNorm over the last dimension: `x [N, D]`, `w [D]`, `b [D]`.
pub fn layer_norm(x: Tensor<2>, w: Tensor<1>, b: Tensor<1>, eps: f32) -> Tensor<2> {
    if fused(&x) {
        Tensor::from_dispatch(<Dispatch as DecoderOps>::fused_layer_norm(x.into_dispatch(), w.into_dispatch(), b.into_dispatch(), eps))
    } else {
        composed::layer_norm(x, w, b, eps)
    }
}

/// Gemma's RMSNorm: the scale is `1 + w`, and everything is `f32` until the end.
pub fn gemma_rms_norm(x: Tensor<2>, w: Tensor<1>, eps: f32) -> Tensor<2> {
    if fused(&x) { rms_norm(x, w.add_scalar(1.0), eps) } else { composed::gemma_rms_norm(x, w, eps) }
}

/// `silu(gate) * up`, any shape `[N, F]`.
pub fn swiglu(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    gated(gate, up, Activation::Silu)
}

/// `act(gate) * up`, any shape `[N, F]`.
pub fn gated(gate: Tensor<2>, up: Tensor<2>, act: Activation) -> Tensor<2> {
    if fused(&gate) {
        Tensor::from_dispatch(<Dispatch as DecoderOps>::fused_gated(gate.into_dispatch(), up.into_dispatch(), act))
    } else {
        composed::gated(gate, up, act)
    }
}

/// `act(x)`, any shape `[N, F]`.
pub fn activate(x: Tensor<2>, act: Activation) -> Tensor<2> {
    if fused(&x) { Tensor::from_dispatch(<Dispatch as DecoderOps>::fused_activate(x.into_dispatch(), act)) } else { composed::activate(x, act) }
}

/// Attention inside the spans: `q [N, H, K]`, `k [N, G, K]`, `v [N, G, U]` -> `[N, H, U]`.
pub fn attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, span: &AttentionSpan, score: Score) -> Tensor<3> {
    if fused(&q) {
        Tensor::from_dispatch(<Dispatch as DecoderOps>::fused_attention(q.into_dispatch(), k.into_dispatch(), v.into_dispatch(), span.clone(), score))
    } else {
        composed::attention(q, k, v, span, score)
    }
}

/// Negative log-likelihood per row: `logits [N, V]`, targets `[N]` ([`IGNORE`] gives 0) -> `[N]`, in nats.
pub fn cross_entropy(logits: Tensor<2>, targets: Indices) -> Tensor<1> {
    if fused(&logits) {
        Tensor::from_dispatch(<Dispatch as DecoderOps>::fused_cross_entropy(logits.into_dispatch(), targets))
    } else {
        composed::cross_entropy(logits, &targets)
    }
}

/// Negative log-likelihood per row of the output projection: [`cross_entropy`] of `hidden weight^T`, which is never stored
/// whole. `hidden [N, D]`, `weight [V, D]`, targets `[N]` ([`IGNORE`] gives 0) -> `[N]`, in nats. With a soft cap, logits
/// become `cap * tanh(logit / cap)` first.
pub fn linear_cross_entropy(hidden: Tensor<2>, weight: Tensor<2>, targets: Indices, softcap: Option<f32>) -> Tensor<1> {
    if fused(&hidden) {
        Tensor::from_dispatch(<Dispatch as DecoderOps>::fused_linear_cross_entropy(hidden.into_dispatch(), weight.into_dispatch(), targets, softcap))
    } else {
        composed::linear_cross_entropy(hidden, weight, &targets, softcap)
    }
}

/// One AdamW step on flat tensors without gradients; returns `(p, m, v)`, updated in place where nothing else holds them.
pub fn adamw(p: Tensor<1>, m: Tensor<1>, v: Tensor<1>, g: Tensor<1>, step: adamw::Step) -> (Tensor<1>, Tensor<1>, Tensor<1>) {
    if fused(&p) {
        let (p, m, v) = <Dispatch as DecoderOps>::fused_adamw(p.into_dispatch(), m.into_dispatch(), v.into_dispatch(), g.into_dispatch(), step);
        (Tensor::from_dispatch(p), Tensor::from_dispatch(m), Tensor::from_dispatch(v))
    } else {
        composed::adamw(p, m, v, g, step)
    }
}

/// A sum of squares, wherever it was computed.
#[derive(Debug, Clone)]
pub enum SquareSum {
    /// From the fused CPU kernel: double precision, one order for any thread count.
    Host(f64),
    /// `[1]` in `f32`, on the tensors' device; reading it waits for everything that was queued there before.
    Device(Box<Tensor<1>>),
}

/// Sum of squares of all tensors together, none with gradients. Nothing is copied from a GPU.
pub fn square_sum<'a>(tensors: impl IntoIterator<Item = &'a Tensor<1>> + Clone) -> SquareSum {
    if tensors.clone().into_iter().all(fused) {
        let sum = |x: &Tensor<1>| -> f64 {
            let parts = Tensor::<1>::from_dispatch(<Dispatch as DecoderOps>::fused_square_sum(x.clone().into_dispatch()));
            crate::host::to_vec(parts).into_iter().map(f64::from).sum()
        };
        return SquareSum::Host(tensors.into_iter().map(sum).sum());
    }
    let sums = tensors.into_iter().map(|x| composed::square_sum(x.clone()));
    sums.reduce(|a, b| a + b).map_or(SquareSum::Host(0.0), |sum| SquareSum::Device(Box::new(sum)))
}

pub(crate) fn attention_shape(span: &AttentionSpan, q: [usize; 3], k: [usize; 3], v: [usize; 3]) -> attention_kernel::Shape {
    attention_kernel::Shape { batch: span.batch, length: span.length, heads: q[1], kv_heads: k[1], head_dim: q[2], value_dim: v[2] }
}
