//! Layers of a decoder, made from tensors that already have their values.
//!
//! [`Linear`] is the one door for projections: its [`Weight`] is dense or quantised, with or without adapters of single rows ([`lora`]) or one that is
//! being trained ([`trained`]), and nobody above needs to know. The table of an
//! [`Embedding`] is a [`Weight`] too, so that it can stay quantised where it is also the output projection.
//!
//! Legend: N tokens, I/O features, V vocabulary, D hidden.

pub mod lora;
pub mod trained;
mod weight;

pub use lora::LoraBank;
pub use trained::Lora;
pub use weight::{Watcher, Weight};

use crate::{Precision, host, ops};
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// Wrap a tensor as a parameter, tracked when the device is an autodiff one.
pub fn parameter<const D: usize>(value: Tensor<D>) -> Param<Tensor<D>> {
    let tracked = value.device().is_autodiff();
    Param::from_tensor(value).set_require_grad(tracked)
}

/// A parameter of that shape in that number format.
pub fn parameter_from<const D: usize>(values: Vec<f32>, shape: [usize; D], precision: Precision, device: &Device) -> Param<Tensor<D>> {
    let value = host::from_vec(values, shape, device);
    parameter(if precision == Precision::F32 { value } else { value.cast(precision.dtype()) })
}

/// `y = x W^T + b`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[O, I]`, the checkpoint's own layout.
    pub weight: Weight,
    /// `[O]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// From a dense matrix `[O, I]` and a bias `[O]`.
    pub fn dense(weight: Param<Tensor<2>>, bias: Option<Param<Tensor<1>>>) -> Self {
        Self { weight: Weight::Dense(weight), bias }
    }

    /// `[N, I]` -> `[N, O]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let y = self.weight.forward(x);
        self.biased(y)
    }

    /// [`Linear::forward`] of several on the same input: the same bits, in less time where few rows meet quantised matrices.
    pub fn forward_all<const K: usize>(all: [&Self; K], x: Tensor<2>) -> [Tensor<2>; K] {
        let packed: Option<Vec<_>> = all.iter().map(|linear| if let Weight::Packed(packed) = &linear.weight { Some(packed) } else { None }).collect();
        let mut together = packed.and_then(|packed| ops::packed_linear_all(&x, &packed)).unwrap_or_default().into_iter();
        all.map(|linear| match together.next() {
            Some(y) => linear.biased(y),
            None => linear.forward(x.clone()),
        })
    }

    fn biased(&self, y: Tensor<2>) -> Tensor<2> {
        match &self.bias {
            Some(bias) => y + bias.val().unsqueeze::<2>(),
            None => y,
        }
    }
}

/// Token or position vectors.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[V, D]`.
    pub weight: Weight,
}

impl Embedding {
    /// Ids -> `[N, D]`; of a quantised table in `f32`.
    pub fn forward(&self, ids: ops::Indices) -> Tensor<2> {
        self.weight.lookup(ids)
    }
}

/// How activations are normalised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormKind {
    /// `x / rms(x)`, cast, times `w` (Llama).
    #[default]
    RmsNorm,
    /// `x / rms(x) * (1 + w)`, cast at the end; `w` starts at 0 (Gemma).
    GemmaRmsNorm,
    /// Mean and variance, scale and bias.
    LayerNorm,
}

/// Normalisation with a learned scale, and a bias for layer norms.
#[derive(Module, Debug)]
pub struct Norm {
    /// `[D]`.
    pub weight: Param<Tensor<1>>,
    /// `[D]`; layer norms only.
    pub bias: Option<Param<Tensor<1>>>,
    /// Formula.
    #[module(skip)]
    pub kind: NormKind,
    /// Added to the mean square or variance.
    pub eps: f64,
}

impl Norm {
    /// Over the last dimension of `[N, D]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let (w, eps) = (self.weight.val(), self.eps as f32);
        match (self.kind, &self.bias) {
            (NormKind::LayerNorm, Some(bias)) => ops::layer_norm(x, w, bias.val(), eps),
            (NormKind::LayerNorm, None) => {
                let zero = w.zeros_like();
                ops::layer_norm(x, w, zero, eps)
            }
            (NormKind::RmsNorm, _) => ops::rms_norm(x, w, eps),
            (NormKind::GemmaRmsNorm, _) => ops::gemma_rms_norm(x, w, eps),
        }
    }
}
