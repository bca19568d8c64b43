//! The gradient norm and what it makes clipping multiply gradients by, computed once for all parameters.
//!
//! On a GPU nothing waits for the host: norm and factor stay there until [`Clip::norm`] reads the norm.

use super::Gradients;
use llm_tensor::burn::tensor::{DType, Tensor};
use llm_tensor::host;
use llm_tensor::ops::{self, SquareSum};

/// The norm of a step's gradients, and the factor that brings it to its limit.
#[derive(Debug, Clone)]
pub struct Clip(Place);

#[derive(Debug, Clone)]
enum Place {
    Host {
        norm: f64,
        factor: f64,
    },
    /// The factor, if there is one, stays on the device as well.
    Device(Box<(Tensor<1>, Option<Tensor<1>>)>),
}

impl Clip {
    /// Gradients are multiplied by `unscale` first (1, or the inverse of a loss scale), then clipped to the global norm `limit`; 0 is no limit.
    /// `torch.nn.utils.clip_grad_norm_` divides by norm + 1e-6.
    pub fn new(gradients: &Gradients, limit: f64, unscale: f64) -> Self {
        match ops::square_sum(gradients.values()) {
            SquareSum::Host(sum) => {
                let norm = sum.sqrt() * unscale;
                let factor = if limit > 0.0 && norm > limit { limit / (norm + 1e-6) } else { 1.0 };
                Self(Place::Host { norm, factor: factor * unscale })
            }
            SquareSum::Device(sum) => {
                let scaled = |x: Tensor<1>| if unscale == 1.0 { x } else { x.mul_scalar(unscale) };
                let norm = scaled(sum.sqrt());
                let clipped = (limit > 0.0).then(|| scaled(norm.clone().add_scalar(1e-6).recip().mul_scalar(limit).clamp_max(1.0)));
                let factor = clipped.or_else(|| (unscale != 1.0).then(|| Tensor::full([1], unscale, (&norm.device(), DType::F32))));
                Self(Place::Device(Box::new((norm, factor))))
            }
        }
    }

    /// The norm before clipping, after unscaling. Waits for a device to have done everything queued so far.
    pub fn norm(&self) -> f64 {
        match &self.0 {
            Place::Host { norm, .. } => *norm,
            Place::Device(device) => f64::from(host::scalar(device.0.clone())),
        }
    }

    /// The gradient in `f32`, and what the update multiplies it by.
    pub(super) fn apply(&self, gradient: Tensor<1>) -> (Tensor<1>, f32) {
        let gradient = if gradient.dtype() == DType::F32 { gradient } else { gradient.cast(DType::F32) };
        match &self.0 {
            Place::Host { factor, .. } => (gradient, *factor as f32),
            Place::Device(device) => match &device.1 {
                Some(factor) => (gradient * factor.clone(), 1.0),
                None => (gradient, 1.0),
            },
        }
    }
}
