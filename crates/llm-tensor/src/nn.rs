//! Layers whose field names are the checkpoint's tensor names.
//!
//! [`Linear`] is the one door for projections: later variants (LoRA, 4-bit, 8-bit) live behind its `forward`.
//!
//! Legend: N tokens, I/O features, V vocabulary, D hidden.

use crate::{host, ops};
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use llm_run::Seed;

/// A trainable parameter of that shape, normal with standard deviation `std` from a named random stream.
fn normal<const D: usize>(shape: [usize; D], std: f64, seed: Seed, device: &Device) -> Param<Tensor<D>> {
    let mut rng = seed.rng();
    let values = (0..shape.iter().product()).map(|_| (rng.normal() * std) as f32).collect();
    parameter(host::from_vec(values, shape, device))
}

/// Wrap a tensor as a parameter, tracked when the device is an autodiff one.
pub fn parameter<const D: usize>(value: Tensor<D>) -> Param<Tensor<D>> {
    let tracked = value.device().is_autodiff();
    Param::from_tensor(value).set_require_grad(tracked)
}

/// `y = x W^T + b`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[O, I]`, the checkpoint's own layout.
    pub weight: Param<Tensor<2>>,
    /// `[O]`.
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// Random weights (normal, `std`), zero bias.
    pub fn new(inputs: usize, outputs: usize, bias: bool, std: f64, seed: Seed, device: &Device) -> Self {
        Self { weight: normal([outputs, inputs], std, seed, device), bias: bias.then(|| parameter(Tensor::zeros([outputs], device))) }
    }

    /// `[N, I]` -> `[N, O]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let y = ops::linear(x, self.weight.val());
        match &self.bias {
            Some(bias) => y + bias.val().unsqueeze::<2>(),
            None => y,
        }
    }
}

/// Token vectors.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[V, D]`.
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// Random vectors (normal, `std`).
    pub fn new(vocab: usize, hidden: usize, std: f64, seed: Seed, device: &Device) -> Self {
        Self { weight: normal([vocab, hidden], std, seed, device) }
    }

    /// Ids -> `[N, D]`.
    pub fn forward(&self, ids: ops::Indices) -> Tensor<2> {
        ops::embedding(self.weight.val(), ids)
    }
}

/// Root-mean-square normalisation with a learned scale.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[D]`.
    pub weight: Param<Tensor<1>>,
    /// Added to the mean square.
    pub eps: f64,
}

impl RmsNorm {
    /// Scale 1.
    pub fn new(size: usize, eps: f64, device: &Device) -> Self {
        Self { weight: parameter(Tensor::ones([size], device)), eps }
    }

    /// Over the last dimension of `[N, D]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        ops::rms_norm(x, self.weight.val(), self.eps as f32)
    }
}
