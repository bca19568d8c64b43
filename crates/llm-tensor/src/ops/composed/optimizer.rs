//! Steps of the optimisers from Burn's own operations: every backend, and the reference for the fused kernels.
//!
//! Legend: B matrices, R rows, C columns, N elements, W words of four codes, K blocks of [`BLOCK`] elements.

use crate::kernels::dynamic_map::BLOCK;
use crate::ops::optimizer::{Quantized, Sign};
use crate::ops::{AdafactorStep, AdamWStep, Iteration, LionStep, MuonStep};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

/// See [`crate::ops::lion`].
pub fn lion(p: Tensor<1>, m: Tensor<1>, g: Tensor<1>, s: LionStep) -> (Tensor<1>, Tensor<1>) {
    let g = g.mul_scalar(s.grad_scale);
    let direction = (m.clone().mul_scalar(s.beta1) + g.clone().mul_scalar(1.0 - s.beta1)).sign();
    let p = p.mul_scalar(1.0 - s.lr * s.weight_decay) - direction.mul_scalar(s.lr);
    (p, m.mul_scalar(s.beta2) + g.mul_scalar(1.0 - s.beta2))
}

/// See [`crate::ops::muon`]; the products are computed in `dtype`.
pub fn muon(p: Tensor<1>, m: Tensor<1>, g: Tensor<1>, s: &MuonStep, dtype: DType) -> (Tensor<1>, Tensor<1>) {
    let n = p.dims()[0];
    let g = g.mul_scalar(s.grad_scale);
    let m = m.clone() + (g.clone() - m).mul_scalar(1.0 - s.momentum);
    let u = if s.nesterov { m.clone() - (m.clone() - g).mul_scalar(1.0 - s.momentum) } else { m.clone() };
    let [rows, columns] = s.shape;
    let u_BRC = u.reshape([n / (rows * columns), rows, columns]);
    let u = orthogonalize(u_BRC, &s.iteration, dtype).reshape([n]);
    (p.mul_scalar(s.keep) - u.mul_scalar(s.lr), m)
}

/// What the iteration makes of each matrix.
fn orthogonalize(x_BRC: Tensor<3>, iteration: &Iteration, dtype: DType) -> Tensor<3> {
    let [_, rows, columns] = x_BRC.dims();
    let norm_B11 = (x_BRC.clone() * x_BRC.clone()).sum_dim(2).sum_dim(1).sqrt();
    let mut x = (x_BRC / norm_B11.mul_scalar(iteration.slack).clamp_min(iteration.eps)).cast(dtype);
    if rows > columns {
        x = x.swap_dims(1, 2);
    }
    for &[a, b, c] in iteration.coefficients.iter() {
        let gram = x.clone().matmul(x.clone().swap_dims(1, 2));
        let polynomial = gram.clone().mul_scalar(b) + gram.clone().matmul(gram).mul_scalar(c);
        x = x.clone().mul_scalar(a) + polynomial.matmul(x);
    }
    let x = if rows > columns { x.swap_dims(1, 2) } else { x };
    x.cast(DType::F32)
}

fn lerp<const D: usize>(old: Tensor<D>, new: Tensor<D>, weight: f32) -> Tensor<D> {
    old.clone() + (new - old).mul_scalar(weight)
}

fn rms(x: Tensor<1>) -> Tensor<1> {
    (x.clone() * x).mean().sqrt()
}

/// The parameter after an update that is `g` over the root of `variance`.
fn adafactor(p: Tensor<1>, g: Tensor<1>, variance: Tensor<1>, s: AdafactorStep) -> Tensor<1> {
    let rate = rms(p.clone()).clamp_min(s.eps2).mul_scalar(s.relative);
    let update = g / variance.clamp_min(s.eps1 * s.eps1).sqrt();
    let denominator = rms(update.clone()).div_scalar(s.clip_threshold).clamp_min(1.0);
    p.mul_scalar(1.0 - s.lr * s.weight_decay) - update * (rate / denominator)
}

/// See [`crate::ops::adafactor_matrices`].
pub fn adafactor_matrices(
    p: Tensor<1>,
    row: Tensor<1>,
    column: Tensor<1>,
    g: Tensor<1>,
    shape: [usize; 2],
    s: AdafactorStep,
) -> (Tensor<1>, Tensor<1>, Tensor<1>) {
    let ([rows, columns], n) = (shape, p.dims()[0]);
    let batch = n / (rows * columns);
    let g = g.mul_scalar(s.grad_scale);
    let square_BRC = (g.clone() * g.clone()).reshape([batch, rows, columns]);
    let row_BR1 = lerp(row.reshape([batch, rows, 1]), square_BRC.clone().mean_dim(2), s.weight);
    let column_B1C = lerp(column.reshape([batch, 1, columns]), square_BRC.mean_dim(1), s.weight);
    let relative_BR1 = row_BR1.clone() / row_BR1.clone().mean_dim(1).clamp_min(s.eps1);
    let variance = (relative_BR1 * column_B1C.clone()).reshape([n]);
    (adafactor(p, g, variance, s), row_BR1.reshape([batch * rows]), column_B1C.reshape([batch * columns]))
}

/// See [`crate::ops::adafactor_vector`].
pub fn adafactor_vector(p: Tensor<1>, variance: Tensor<1>, g: Tensor<1>, s: AdafactorStep) -> (Tensor<1>, Tensor<1>) {
    let g = g.mul_scalar(s.grad_scale);
    let variance = lerp(variance, g.clone() * g.clone(), s.weight);
    (adafactor(p, g, variance.clone(), s), variance)
}

/// See [`crate::ops::adamw_8bit`].
pub fn adamw_8bit(p: Tensor<1>, m: Quantized, v: Quantized, g: Tensor<1>, s: AdamWStep) -> (Tensor<1>, Quantized, Quantized) {
    let (p, m, v) = super::adamw(p, decode(m, Sign::Signed), decode(v, Sign::Unsigned), g, s);
    (p, encode(m, Sign::Signed), encode(v, Sign::Unsigned))
}

fn table(values: &[f32; 256], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [256]), device)
}

/// Bits by which the codes of a word are moved, `[W, 4]`.
fn shifts(words: usize, device: &Device) -> Tensor<2, Int> {
    Tensor::<2, Int>::from_data(TensorData::new(vec![0i32, 8, 16, 24], [1, 4]), (device, DType::I32)).expand([words, 4])
}

/// The numbers in `f32`, `[N]`.
pub fn decode(x: Quantized, sign: Sign) -> Tensor<1> {
    let Quantized { words, absmax, len } = x;
    let (device, w, blocks) = (words.device(), words.dims()[0], absmax.dims()[0]);
    let words_W4 = words.reshape([w, 1]).expand([w, 4]);
    // The shift keeps the sign; the mask takes it away.
    let codes = words_W4.bitwise_right_shift(shifts(w, &device)).bitwise_and_scalar(255).reshape([4 * w]);
    let values_KN = table(&sign.map().values, &device).select(0, codes).reshape([blocks, BLOCK]);
    (values_KN * absmax.reshape([blocks, 1])).reshape([blocks * BLOCK]).narrow(0, 0, len)
}

/// Codes of the nearest values, by bisection of the borders between them.
pub fn encode(x: Tensor<1>, sign: Sign) -> Quantized {
    let (device, len) = (x.device(), x.dims()[0]);
    let blocks = len.div_ceil(BLOCK);
    let n = blocks * BLOCK;
    let x = if n > len { Tensor::cat(vec![x, Tensor::zeros([n - len], (&device, DType::F32))], 0) } else { x };
    let x_KN = x.clone().reshape([blocks, BLOCK]);
    let absmax_K1 = x_KN.clone().abs().max_dim(1);
    let divisor_K1 = absmax_K1.clone().mask_fill(absmax_K1.clone().equal_elem(0.0), 1.0);
    let scaled = (x_KN / divisor_K1).reshape([n]);
    let above = table(&sign.map().above, &device);
    let mut codes = Tensor::<1, Int>::zeros([n], (&device, DType::I32));
    for bit in [128, 64, 32, 16, 8, 4, 2, 1] {
        let border = above.clone().select(0, codes.clone().add_scalar(bit - 1));
        let larger = codes.clone().add_scalar(bit);
        codes = codes.mask_where(scaled.clone().greater(border), larger);
    }
    if sign == Sign::Unsigned {
        codes = codes.clone().mask_where(x.greater_elem(0.0), codes.clamp_min(1));
    }
    let w = n / 4;
    let words = codes.reshape([w, 4]).bitwise_left_shift(shifts(w, &device)).sum_dim(1).reshape([w]);
    Quantized { words, absmax: absmax_K1.reshape([blocks]), len }
}
