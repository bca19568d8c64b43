//! Steps of the optimisers on flat `f32` tensors without gradients: fused on the CPU, composed elsewhere ([`super::composed::optimizer`]).
//! What a step changes is updated in place where nothing else holds it. AdamW itself is [`super::adamw()`].

use super::optimizer_extension::OptimizerOps;
use super::{AdafactorStep, AdamWStep, LionStep, MuonStep, composed::optimizer as composed, fused};
use crate::kernels::dynamic_map::{BLOCK, Map, WORDS};
use burn::backend::Dispatch;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

/// Do numbers have signs?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// First moments.
    Signed,
    /// Second moments.
    Unsigned,
}

impl Sign {
    /// The values of the codes.
    pub fn map(self) -> &'static Map {
        match self {
            Self::Signed => Map::signed(),
            Self::Unsigned => Map::unsigned(),
        }
    }
}

/// A vector in 8 bits with one magnitude per 256 elements ([`crate::kernels::dynamic_map`]).
#[derive(Debug, Clone)]
pub struct Quantized {
    /// Four codes each, low byte first; the last block is filled up.
    pub words: Tensor<1, Int>,
    /// Largest magnitude of each block.
    pub absmax: Tensor<1>,
    /// Elements.
    pub len: usize,
}

impl Quantized {
    /// All zero.
    pub fn zeros(len: usize, device: &Device) -> Self {
        let blocks = Self::blocks(len);
        let words = Tensor::zeros([blocks * WORDS], (device, DType::I32));
        Self { words, absmax: Tensor::zeros([blocks], (device, DType::F32)), len }
    }

    /// Blocks of so many elements.
    pub fn blocks(len: usize) -> usize {
        len.div_ceil(BLOCK)
    }

    /// From one code an element and one magnitude a block.
    pub fn from_codes(codes: &[u8], absmax: Tensor<1>) -> Self {
        let mut words: Vec<i32> = codes.chunks(4).map(|c| i32::from_le_bytes(std::array::from_fn(|i| c.get(i).copied().unwrap_or(0)))).collect();
        words.resize(codes.len().div_ceil(BLOCK) * WORDS, 0);
        let n = words.len();
        let words = Tensor::from_data(TensorData::new(words, [n]), (&absmax.device(), DType::I32));
        Self { words, absmax, len: codes.len() }
    }

    /// One code an element.
    pub fn codes(&self) -> Vec<u8> {
        // The words are I32 on every backend, so the conversion cannot fail.
        let words = self.words.clone().into_data().convert::<i32>().try_into_vec::<i32>().unwrap_or_default();
        let mut codes: Vec<u8> = words.into_iter().flat_map(i32::to_le_bytes).collect();
        codes.truncate(self.len);
        codes
    }
}

/// One Lion step; returns `(p, m)`.
pub fn lion(p: Tensor<1>, m: Tensor<1>, g: Tensor<1>, step: LionStep) -> (Tensor<1>, Tensor<1>) {
    if fused(&p) {
        let (p, m) = <Dispatch as OptimizerOps>::fused_lion(p.into_dispatch(), m.into_dispatch(), g.into_dispatch(), step);
        (Tensor::from_dispatch(p), Tensor::from_dispatch(m))
    } else {
        composed::lion(p, m, g, step)
    }
}

/// One Muon step on the matrices of a tensor; returns `(p, m)`. The products are `f32` on a CPU and bfloat16, as in PyTorch, on devices that
/// have it.
pub fn muon(p: Tensor<1>, m: Tensor<1>, g: Tensor<1>, step: &MuonStep) -> (Tensor<1>, Tensor<1>) {
    if fused(&p) {
        let (p, m) = <Dispatch as OptimizerOps>::fused_muon(p.into_dispatch(), m.into_dispatch(), g.into_dispatch(), step.clone());
        (Tensor::from_dispatch(p), Tensor::from_dispatch(m))
    } else {
        let dtype = if p.device().supports_dtype(DType::BF16) { DType::BF16 } else { DType::F32 };
        composed::muon(p, m, g, step, dtype)
    }
}

/// One Adafactor step on the matrices `shape` of a tensor with one factor per row and per column; returns `(p, row, column)`.
pub fn adafactor_matrices(
    p: Tensor<1>,
    row: Tensor<1>,
    column: Tensor<1>,
    g: Tensor<1>,
    shape: [usize; 2],
    step: AdafactorStep,
) -> (Tensor<1>, Tensor<1>, Tensor<1>) {
    if fused(&p) {
        let (p, row, column) = <Dispatch as OptimizerOps>::fused_adafactor_matrices(
            p.into_dispatch(),
            row.into_dispatch(),
            column.into_dispatch(),
            g.into_dispatch(),
            shape,
            step,
        );
        (Tensor::from_dispatch(p), Tensor::from_dispatch(row), Tensor::from_dispatch(column))
    } else {
        composed::adafactor_matrices(p, row, column, g, shape, step)
    }
}

/// One Adafactor step on a vector; returns `(p, variance)`.
pub fn adafactor_vector(p: Tensor<1>, variance: Tensor<1>, g: Tensor<1>, step: AdafactorStep) -> (Tensor<1>, Tensor<1>) {
    if fused(&p) {
        let (p, v) = <Dispatch as OptimizerOps>::fused_adafactor_vector(p.into_dispatch(), variance.into_dispatch(), g.into_dispatch(), step);
        (Tensor::from_dispatch(p), Tensor::from_dispatch(v))
    } else {
        composed::adafactor_vector(p, variance, g, step)
    }
}

/// One AdamW step with moments in 8 bits; returns `(p, m, v)`.
pub fn adamw_8bit(p: Tensor<1>, m: Quantized, v: Quantized, g: Tensor<1>, step: AdamWStep) -> (Tensor<1>, Quantized, Quantized) {
    if fused(&p) {
        let (m_len, v_len) = (m.len, v.len);
        let (p, m, m_max, v, v_max) = <Dispatch as OptimizerOps>::fused_adamw_8bit(
            p.into_dispatch(),
            m.words.into_dispatch(),
            m.absmax.into_dispatch(),
            v.words.into_dispatch(),
            v.absmax.into_dispatch(),
            g.into_dispatch(),
            step,
        );
        let quantized = |words, absmax, len| Quantized { words: Tensor::from_dispatch(words), absmax: Tensor::from_dispatch(absmax), len };
        (Tensor::from_dispatch(p), quantized(m, m_max, m_len), quantized(v, v_max, v_len))
    } else {
        composed::adamw_8bit(p, m, v, g, step)
    }
}
