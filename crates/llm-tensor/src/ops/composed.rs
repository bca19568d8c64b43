//! The same operations composed from Burn's differentiable ones: every backend, every float dtype, and the reference for
//! the fused kernels.

#![allow(non_snake_case)] // shape suffixes

pub mod optimizer;

use super::{AdamWStep, AttentionSpan, IGNORE, Indices};
use crate::kernels::activation::Activation;
use crate::kernels::attention::Score;
use crate::kernels::rope::Pairing;
use burn::tensor::{DType, Device, Int, Tensor, TensorData, activation};
use std::sync::{Arc, Mutex, PoisonError};

/// Logits that [`linear_cross_entropy`] turns into losses at a time: 256 MiB in `f32`.
const LOGITS_AT_ONCE: usize = 1 << 26;

/// Cosines and sines of the rotary angles, `[P, half]` each.
#[derive(Debug, Clone)]
pub struct RopeTable {
    /// cos(position * frequency).
    pub cos: Arc<[f32]>,
    /// sin(position * frequency).
    pub sin: Arc<[f32]>,
    /// Frequencies per position; half the rotated elements of a head.
    pub half: usize,
    /// Which elements are rotated together.
    pub pairing: Pairing,
    placed: Arc<Mutex<Option<Placed>>>,
}

/// The rows of a table that the tokens of a step need, on their device: the same for queries and keys of every layer.
#[derive(Debug)]
struct Placed {
    positions: Indices,
    device: Device,
    dtype: DType,
    cos_N1K: Tensor<3>,
    sin_N1K: Tensor<3>,
}

impl RopeTable {
    /// Table for positions `0..length` from inverse frequencies; `attention_factor` scales both (YaRN; 1 otherwise).
    pub fn new(inverse_frequencies: &[f32], length: usize, attention_factor: f32, pairing: Pairing) -> Self {
        Self::rows((0..length).map(|p| (p, inverse_frequencies)), inverse_frequencies.len(), attention_factor, pairing)
    }

    /// Table of given positions, each with frequencies of its own.
    pub fn rows<'a>(rows: impl Iterator<Item = (usize, &'a [f32])>, half: usize, attention_factor: f32, pairing: Pairing) -> Self {
        let angles = rows.flat_map(|(p, frequencies)| frequencies.iter().map(move |f| p as f32 * f));
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.map(|a| (a.cos() * attention_factor, a.sin() * attention_factor)).unzip();
        Self { cos: cos.into(), sin: sin.into(), half, pairing, placed: Arc::default() }
    }

    /// Cosines and sines `[N, 1, half]`; those of the last call are kept.
    fn place(&self, positions: &Indices, device: &Device, dtype: DType) -> (Tensor<3>, Tensor<3>) {
        let mut placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(p) = placed.as_ref()
            && Arc::ptr_eq(&p.positions, positions)
            && p.dtype == dtype
            && p.device == *device
            && p.device.is_autodiff() == device.is_autodiff()
        {
            return (p.cos_N1K.clone(), p.sin_N1K.clone());
        }
        let gather = |values: &[f32]| {
            let rows: Vec<f32> = positions.iter().flat_map(|&p| values[p as usize * self.half..][..self.half].iter().copied()).collect();
            Tensor::<3>::from_data(TensorData::new(rows, [positions.len(), 1, self.half]), device).cast(dtype)
        };
        let (cos_N1K, sin_N1K) = (gather(&self.cos), gather(&self.sin));
        *placed = Some(Placed { positions: positions.clone(), device: device.clone(), dtype, cos_N1K: cos_N1K.clone(), sin_N1K: sin_N1K.clone() });
        (cos_N1K, sin_N1K)
    }
}

pub(super) fn ints(values: &[u32], device: &Device) -> Tensor<1, Int> {
    let data: Vec<i32> = values.iter().map(|&v| v as i32).collect();
    Tensor::from_data(TensorData::new(data, [values.len()]), device)
}

/// See [`super::linear`].
pub fn linear(x: Tensor<2>, w: Tensor<2>) -> Tensor<2> {
    x.matmul(w.swap_dims(0, 1))
}

/// See [`super::grouped_linear`]: one product per group that has rows.
pub fn grouped_linear(x_MI: Tensor<2>, w_EOI: Tensor<3>, offsets: &[u32]) -> Tensor<2> {
    let [_, outputs, inputs] = w_EOI.dims();
    let groups = offsets.windows(2).enumerate().filter(|(_, pair)| pair[0] < pair[1]);
    let parts: Vec<_> = groups
        .map(|(e, pair)| {
            let w_OI = w_EOI.clone().slice([e..e + 1, 0..outputs, 0..inputs]).reshape([outputs, inputs]);
            linear(x_MI.clone().slice([pair[0] as usize..pair[1] as usize, 0..inputs]), w_OI)
        })
        .collect();
    if parts.is_empty() { Tensor::<2>::zeros([0, outputs], &x_MI.device()).cast(x_MI.dtype()) } else { Tensor::cat(parts, 0) }
}

/// See [`super::embedding`].
pub fn embedding(table: Tensor<2>, ids: &[u32]) -> Tensor<2> {
    let ids = ints(ids, &table.device());
    table.select(0, ids)
}

/// See [`super::rms_norm`]; statistics in f32, the weight is applied after the cast back (Hugging Face's order).
pub fn rms_norm(x_ND: Tensor<2>, w: Tensor<1>, eps: f32) -> Tensor<2> {
    let dtype = x_ND.dtype();
    let x = x_ND.cast(DType::F32);
    let inverse = (x.clone() * x.clone()).mean_dim(1).add_scalar(eps).sqrt().recip();
    (x * inverse).cast(dtype) * w.unsqueeze::<2>()
}

/// See [`super::gemma_rms_norm`]; all in f32, cast at the end.
pub fn gemma_rms_norm(x_ND: Tensor<2>, w: Tensor<1>, eps: f32) -> Tensor<2> {
    let dtype = x_ND.dtype();
    let x = x_ND.cast(DType::F32);
    let inverse = (x.clone() * x.clone()).mean_dim(1).add_scalar(eps).sqrt().recip();
    (x * inverse * w.cast(DType::F32).add_scalar(1.0).unsqueeze::<2>()).cast(dtype)
}

/// See [`super::rope`].
pub fn rope(x_NHK: Tensor<3>, positions: &Indices, table: &RopeTable) -> Tensor<3> {
    let [n, h, k] = x_NHK.dims();
    let half = table.half;
    let (cos, sin) = table.place(positions, &x_NHK.device(), x_NHK.dtype());
    let (a, b) = match table.pairing {
        Pairing::Halves => (x_NHK.clone().slice([0..n, 0..h, 0..half]), x_NHK.clone().slice([0..n, 0..h, half..2 * half])),
        Pairing::Neighbours => {
            let pairs = x_NHK.clone().slice([0..n, 0..h, 0..2 * half]).reshape([n, h, half, 2]);
            let side = |i: usize| pairs.clone().slice([0..n, 0..h, 0..half, i..i + 1]).reshape([n, h, half]);
            (side(0), side(1))
        }
    };
    let mut parts = vec![a.clone() * cos.clone() - b.clone() * sin.clone(), b * cos + a * sin];
    if 2 * half < k {
        parts.push(x_NHK.slice([0..n, 0..h, 2 * half..k]));
    }
    Tensor::cat(parts, 2)
}

/// See [`super::gated`].
pub fn gated(gate: Tensor<2>, up: Tensor<2>, act: Activation) -> Tensor<2> {
    activate(gate, act) * up
}

/// See [`super::activate`].
pub fn activate(x: Tensor<2>, act: Activation) -> Tensor<2> {
    match act {
        Activation::Silu => activation::silu(x),
        Activation::Gelu => activation::gelu(x),
        Activation::GeluTanh => activation::gelu_approximate(x),
    }
}

/// See [`super::layer_norm`]; statistics in f32.
pub fn layer_norm(x_ND: Tensor<2>, w: Tensor<1>, b: Tensor<1>, eps: f32) -> Tensor<2> {
    let dtype = x_ND.dtype();
    let x = x_ND.cast(DType::F32);
    let centred = x.clone() - x.mean_dim(1);
    let inverse = (centred.clone() * centred.clone()).mean_dim(1).add_scalar(eps).sqrt().recip();
    let y = centred * inverse * w.cast(DType::F32).unsqueeze::<2>() + b.cast(DType::F32).unsqueeze::<2>();
    y.cast(dtype)
}

/// See [`super::attention`]: scores of all pairs, masked, softmax in f32. Memory grows with T squared.
pub fn attention(q_NHK: Tensor<3>, k_NGK: Tensor<3>, v_NGU: Tensor<3>, span: &AttentionSpan, score: Score) -> Tensor<3> {
    let AttentionSpan { batch, length, .. } = *span;
    let [n, heads, size] = q_NHK.dims();
    let kv_heads = k_NGK.dims()[1];
    let device = q_NHK.device();
    let dtype = q_NHK.dtype();
    let value_size = v_NGU.dims()[2];
    let repeat = |x: Tensor<3>| {
        let size = x.dims()[2];
        x.reshape([batch, length, kv_heads, 1, size])
            .expand([batch, length, kv_heads, heads / kv_heads, size])
            .reshape([batch, length, heads, size])
            .swap_dims(1, 2)
    };
    let q_BHTK = q_NHK.reshape([batch, length, heads, size]).swap_dims(1, 2);
    let (k_BHSK, v_BHSU) = (repeat(k_NGK), repeat(v_NGU));
    let mask = span.mask(&device).expand([batch, heads, length, length]);
    let scores = q_BHTK.mul_scalar(score.scale).matmul(k_BHSK.swap_dims(2, 3));
    let scores = match score.softcap {
        Some(cap) => scores.div_scalar(cap).tanh().mul_scalar(cap),
        None => scores,
    };
    let p = activation::softmax(scores.cast(DType::F32).mask_fill(mask, f32::NEG_INFINITY), 3).cast(dtype);
    p.matmul(v_BHSU).swap_dims(1, 2).reshape([n, heads, value_size])
}

/// See [`super::cross_entropy`].
pub fn cross_entropy(logits_NV: Tensor<2>, targets: &[u32]) -> Tensor<1> {
    let device = logits_NV.device();
    let n = targets.len();
    let safe: Vec<u32> = targets.iter().map(|&t| if t == IGNORE { 0 } else { t }).collect();
    let counts: Vec<f32> = targets.iter().map(|&t| f32::from(u8::from(t != IGNORE))).collect();
    let log_p = activation::log_softmax(logits_NV.cast(DType::F32), 1);
    let picked = log_p.gather(1, ints(&safe, &device).reshape([n, 1])).reshape([n]);
    picked.neg() * Tensor::<1>::from_data(TensorData::new(counts, [n]), &device)
}

/// See [`super::linear_cross_entropy`], over as many rows at a time as `LOGITS_AT_ONCE` allows.
pub fn linear_cross_entropy(hidden_ND: Tensor<2>, weight_VD: Tensor<2>, targets: &[u32], softcap: Option<f32>) -> Tensor<1> {
    let rows = (LOGITS_AT_ONCE / weight_VD.dims()[0]).max(1);
    // Matrix kernels like multiples of their tiles.
    let rows = if rows > 128 { rows / 128 * 128 } else { rows };
    linear_cross_entropy_by_rows(hidden_ND, weight_VD, targets, softcap, rows)
}

/// [`linear_cross_entropy`] over `rows` rows at a time.
///
/// Composed operations cannot recompute in the backward pass: of every part its exponentials, `rows x V` in `f32`, are kept
/// until then, so that a step's memory still grows with `N V` (1.6 GB for 8 x 1024 tokens of GPT-2's vocabulary). What is bounded are the
/// temporaries: without parts, logits in two formats, shifted logits and gradients would exist at full size at once.
pub fn linear_cross_entropy_by_rows(hidden_ND: Tensor<2>, weight_VD: Tensor<2>, targets: &[u32], softcap: Option<f32>, rows: usize) -> Tensor<1> {
    let d = hidden_ND.dims()[1];
    let part = |hidden_ND: Tensor<2>, targets: &[u32]| {
        let logits_NV = linear(hidden_ND, weight_VD.clone()).cast(DType::F32);
        let logits_NV = match softcap {
            Some(cap) => logits_NV.div_scalar(cap).tanh().mul_scalar(cap),
            None => logits_NV,
        };
        cross_entropy(logits_NV, targets)
    };
    if targets.len() <= rows {
        return part(hidden_ND, targets);
    }
    let parts = targets.chunks(rows).enumerate().map(|(i, targets)| {
        let from = i * rows;
        part(hidden_ND.clone().slice([from..from + targets.len(), 0..d]), targets)
    });
    Tensor::cat(parts.collect(), 0)
}

/// Sum of squares in `f32`, `[1]`, left on the device.
pub fn square_sum(x: Tensor<1>) -> Tensor<1> {
    let x = if x.dtype() == DType::F32 { x } else { x.cast(DType::F32) };
    (x.clone() * x).sum()
}

/// See [`super::adamw()`].
pub fn adamw(p: Tensor<1>, m: Tensor<1>, v: Tensor<1>, g: Tensor<1>, s: AdamWStep) -> (Tensor<1>, Tensor<1>, Tensor<1>) {
    let g = g.mul_scalar(s.grad_scale);
    let m = m.mul_scalar(s.beta1) + g.clone().mul_scalar(1.0 - s.beta1);
    let v = v.mul_scalar(s.beta2) + (g.clone() * g).mul_scalar(1.0 - s.beta2);
    let correction1 = 1.0 - f64::from(s.beta1).powf(s.step as f64);
    let correction2 = 1.0 - f64::from(s.beta2).powf(s.step as f64);
    let denominator = v.clone().sqrt().mul_scalar(1.0 / correction2.sqrt()).add_scalar(s.eps);
    let p = p.mul_scalar(1.0 - s.lr * s.weight_decay) - (m.clone() / denominator).mul_scalar(f64::from(s.lr) / correction1);
    (p, m, v)
}
