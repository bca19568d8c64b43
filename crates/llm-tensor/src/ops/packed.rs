//! Products with quantised matrices: the CPU kernels on Flex, elsewhere codes kept on the device and decoded there.
//!
//! The CPU kernels multiply with inputs in floats or rounded to 8 bits, as the matrix says ([`crate::quant::Activations`]); the composed body
//! always uses floats. It keeps the codes in 32-bit words (every backend has those), decodes the whole matrix to `f32` with shifts and masks, and
//! multiplies in the input's format: memory at rest is that of the codes, one matrix at a time is whole.
//!
//! Gradients reach the input and nothing else. The CPU kernels decode again in the backward pass (QLoRA, Dettmers et al. 2023, section 3) and keep
//! neither inputs nor values; the composed body leaves the decoded matrix on the tape until the backward pass is through with it, which
//! recomputation block by block keeps to one block.
//!
//! Legend: N tokens, I/O features, G groups, M codes of a group, W words of a row.

#![allow(non_snake_case)] // shape suffixes

use super::extension::DecoderOps;
use super::{Indices, composed, cross_entropy, fused};
use crate::host;
use crate::kernels::{packed, packed_cross_entropy as blocks};
use crate::quant::{Activations, Packed};
use burn::backend::Dispatch;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use rayon::prelude::*;
use std::sync::{Arc, OnceLock};

/// Rows of a table that are worth a thread.
const LOOKUPS: usize = 16;

/// Most rows for which several products are worth being one job: beyond, each is long enough.
const TOGETHER: usize = 64;

/// A quantised matrix and the device it is used on. Clones share memory.
#[derive(Debug, Clone)]
pub struct PackedWeight {
    matrix: Arc<Packed>,
    device: Device,
    placed: Arc<OnceLock<Placed>>,
}

/// A matrix on a device.
#[expect(clippy::large_enum_variant, reason = "one for each matrix on a device")]
#[derive(Debug)]
enum Placed {
    Codes(Box<PlacedCodes>),
    /// `[O, I]` in bfloat16.
    Dense(Tensor<2>),
}

/// The codes on a device.
#[derive(Debug)]
struct PlacedCodes {
    words_OW: Tensor<2, Int>,
    scales_OG: Tensor<2>,
    /// `[O, G]`, or `[1, 1]` where all are the same.
    zeros: Tensor<2>,
    /// `[O, G]`, where there are any.
    mins: Option<Tensor<2>>,
    table: Option<Tensor<1>>,
    order_I: Option<Tensor<1, Int>>,
}

impl PackedWeight {
    /// A matrix for that device.
    pub fn new(matrix: Arc<Packed>, device: &Device) -> Self {
        Self { matrix, device: device.clone(), placed: Arc::default() }
    }

    /// The matrix.
    pub fn matrix(&self) -> &Packed {
        &self.matrix
    }

    /// The matrix, shared.
    pub(crate) fn shared(&self) -> Arc<Packed> {
        self.matrix.clone()
    }

    /// Where it is used.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The same matrix for another device.
    pub fn on(&self, device: &Device) -> Self {
        Self::new(self.matrix.clone(), device)
    }

    /// All values in `f32`, `[O, I]`.
    pub fn dequantize(&self) -> Tensor<2> {
        host::from_vec(self.matrix.dequantize(), [self.matrix.outputs(), self.matrix.inputs()], &self.device)
    }

    /// Multiply with inputs in that format from now on ([`Packed::with_activations`]). Where clones share the matrix, it is copied.
    pub fn set_activations(&mut self, activations: Activations) {
        if self.matrix.activations() != activations {
            Arc::make_mut(&mut self.matrix).set_activations(activations);
            self.placed = Arc::default();
        }
    }

    fn placed(&self, device: &Device) -> &Placed {
        self.placed.get_or_init(|| match self.matrix.bits() {
            16 => Placed::Dense(self.dequantize().to_device(device).cast(DType::BF16)),
            _ => Placed::Codes(Box::new(PlacedCodes::new(&self.matrix, device))),
        })
    }
}

fn ints<const D: usize>(values: Vec<i32>, shape: [usize; D], device: &Device) -> Tensor<D, Int> {
    Tensor::from_data(TensorData::new(values, shape), (device, DType::I32))
}

impl PlacedCodes {
    fn new(w: &Packed, device: &Device) -> Self {
        let (outputs, groups, bits) = (w.outputs(), w.groups(), w.bits());
        let n = 32 / bits;
        let words = (groups * w.group()).div_ceil(n);
        let mut codes = vec![0u32; outputs * words];
        for (row, codes) in codes.chunks_exact_mut(words.max(1)).enumerate() {
            for k in 0..w.inputs() {
                codes[k / n] |= u32::from(w.raw_code(row, k)) << (bits * (k % n));
            }
        }
        let scaling: Vec<[f32; 3]> = (0..outputs).flat_map(|o| (0..groups).map(move |g| w.scaling(o, g))).collect();
        let all = |i: usize| scaling.iter().map(|s| s[i]).collect::<Vec<f32>>();
        let zeros = all(1);
        let zeros = match zeros.first() {
            Some(first) if zeros.iter().any(|z| z != first) => host::from_vec(zeros, [outputs, groups], device),
            first => host::from_vec(vec![first.copied().unwrap_or(0.0)], [1, 1], device),
        };
        let mins = all(2);
        Self {
            words_OW: ints(codes.into_iter().map(u32::cast_signed).collect(), [outputs, words], device),
            scales_OG: host::from_vec(all(0), [outputs, groups], device),
            zeros,
            mins: mins.iter().any(|m| *m != 0.0).then(|| host::from_vec(mins, [outputs, groups], device)),
            table: w.table().map(|table| host::from_vec(table.to_vec(), [16], device)),
            order_I: w.order().map(|order| ints(order.iter().map(|&i| i as i32).collect(), [order.len()], device)),
        }
    }

    /// The values in the order of the codes, `[O, I]`.
    fn decode(&self, w: &Packed) -> Tensor<2> {
        let device = self.words_OW.device();
        let (outputs, groups, group, bits) = (w.outputs(), w.groups(), w.group(), w.bits());
        let (n, words) = (32 / bits, self.words_OW.dims()[1]);
        let shifts = ints((0..n).map(|j| (bits * j) as i32).collect(), [1, 1, n], &device).expand([outputs, words, n]);
        let words_OWn = self.words_OW.clone().reshape([outputs, words, 1]).expand([outputs, words, n]);
        // The shift keeps the sign; the mask takes it away.
        let codes = words_OWn.bitwise_right_shift(shifts).bitwise_and_scalar((1 << bits) - 1);
        let values = match &self.table {
            Some(table) => table.clone().select(0, codes.reshape([outputs * words * n])).reshape([outputs, words * n]),
            None => codes.float().cast(DType::F32).reshape([outputs, words * n]),
        };
        let values_OGM = values.slice([0..outputs, 0..groups * group]).reshape([outputs, groups, group]);
        let [zero_rows, zero_groups] = self.zeros.dims();
        let zeros = self.zeros.clone().reshape([zero_rows, zero_groups, 1]);
        let scaled = (values_OGM - zeros) * self.scales_OG.clone().reshape([outputs, groups, 1]);
        let scaled = match &self.mins {
            Some(mins) => scaled - mins.clone().reshape([outputs, groups, 1]),
            None => scaled,
        };
        scaled.reshape([outputs, groups * group]).slice([0..outputs, 0..w.inputs()])
    }
}

/// `y = x W^T`: `x [N, I]` -> `[N, O]`.
pub fn packed_linear(x: Tensor<2>, weight: &PackedWeight) -> Tensor<2> {
    if fused(&x) {
        return Tensor::from_dispatch(<Dispatch as DecoderOps>::fused_packed_linear(x.into_dispatch(), weight.matrix.clone()));
    }
    packed_linear_composed(x, weight)
}

/// [`packed_linear`] with several matrices of the same inputs, where the processor does them as one job: in decoding, threads then meet less
/// often. None where they have to be done one after the other.
pub fn packed_linear_all(x: &Tensor<2>, weights: &[&PackedWeight]) -> Option<Vec<Tensor<2>>> {
    let (device, [n, _]) = (x.device(), x.dims());
    if device.is_autodiff() || n > TOGETHER || !fused(x) {
        return None;
    }
    let matrices: Vec<&Packed> = weights.iter().map(|weight| weight.matrix()).collect();
    let ys = packed::linear_all(&host::to_vec(x.clone()), &matrices)?;
    Some(ys.into_iter().zip(matrices).map(|(y, w)| host::from_vec(y, [n, w.outputs()], &device)).collect())
}

/// [`packed_linear`] from Burn's own operations: every backend and float type.
pub fn packed_linear_composed(x: Tensor<2>, weight: &PackedWeight) -> Tensor<2> {
    let (device, dtype) = (x.device(), x.dtype());
    let tracked = device.is_autodiff();
    let place = if tracked { device.inner() } else { device };
    let constant = |w_OI: Tensor<2>| if tracked { Tensor::from_inner(w_OI) } else { w_OI };
    let placed = match weight.placed(&place) {
        Placed::Codes(placed) => placed,
        Placed::Dense(w_OI) => return composed::linear(x, constant(w_OI.clone().cast(dtype))),
    };
    let w_OI = constant(placed.decode(&weight.matrix).cast(dtype));
    let x = match &placed.order_I {
        Some(order) => x.select(1, order.clone()),
        None => x,
    };
    composed::linear(x, w_OI)
}

/// Negative log-likelihood per row of a quantised output projection: `hidden [N, D]`, the table `[V, D]`, targets `[N]` ([`super::IGNORE`] gives 0)
/// -> `[N]`, in nats. With a soft cap, logits become `cap * tanh(logit / cap)` first. On the CPU neither logits nor table are ever whole.
pub fn packed_cross_entropy(hidden: Tensor<2>, table: &PackedWeight, targets: Indices, softcap: Option<f32>) -> Tensor<1> {
    if targets.is_empty() {
        return Tensor::zeros([0], &hidden.device());
    }
    if fused(&hidden) {
        let (hidden, table) = (hidden.into_dispatch(), table.matrix.clone());
        return Tensor::from_dispatch(<Dispatch as DecoderOps>::fused_packed_cross_entropy(hidden, table, targets, softcap));
    }
    let (n, d) = (targets.len(), hidden.dims()[1]);
    let parts = (0..n).step_by(blocks::ROWS).map(|first| {
        let last = n.min(first + blocks::ROWS);
        let logits = packed_linear(hidden.clone().slice([first..last, 0..d]), table);
        let logits = match softcap {
            Some(cap) => logits.div_scalar(cap).tanh().mul_scalar(cap),
            None => logits,
        };
        cross_entropy(logits, Indices::from(&targets[first..last]))
    });
    Tensor::cat(parts.collect(), 0)
}

/// Rows of a quantised table `[V, D]`, decoded: `[N, D]` in `f32`. Ids must be below V.
pub fn packed_embedding(table: &PackedWeight, ids: &Indices) -> Tensor<2> {
    let width = table.matrix.inputs();
    let mut rows = vec![0f32; ids.len() * width];
    let each = rows.par_chunks_exact_mut(width.max(1)).zip(ids.par_iter()).with_min_len(LOOKUPS);
    each.for_each(|(out, &id)| packed::row(&table.matrix, id as usize, out));
    host::from_vec(rows, [ids.len(), width], &table.device)
}
