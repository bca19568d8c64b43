//! AdamW (Loshchilov & Hutter, 2019) with decoupled decay on matrices only and clipping by the global norm, computed once.
//!
//! State is kept by parameter name, so it can be saved as safetensors, inspected, and cannot silently belong to another
//! parameter. Burn's own clipping is per tensor and its state is keyed by random ids, which is why neither is used.
//!
//! Parameters in bfloat16 or float16 get a master copy in `f32` (Micikevicius et al. 2018, section 3.1): a step smaller than the spacing of
//! the short format would be lost without it. The master is updated, and what the model computes with is the master, rounded. There is no
//! loss scaling, which float16 needs when gradients are small; bfloat16 has the range of `f32` and needs none.
//!
//! On a GPU nothing of a step waits for the host: norm and clipping factor are computed there, and the norm is read once, after
//! all updates are queued.

use crate::{Error, Result};
use llm_tensor::burn::module::Module;
use llm_tensor::burn::tensor::{DType, Device, Tensor};
use llm_tensor::ops::{self, AdamWStep, SquareSum};
use llm_tensor::weights::{HostTensor, Weights};
use llm_tensor::{host, params, weights};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// Peak rate and coefficients.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimizerConfig {
    /// Peak learning rate.
    pub lr: f64,
    /// Decay rates of the moments.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// On parameters with two dimensions or more.
    pub weight_decay: f64,
    /// Largest global gradient norm; 0 is off.
    pub grad_clip: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self { lr: 1e-3, betas: (0.9, 0.95), eps: 1e-8, weight_decay: 0.1, grad_clip: 1.0 }
    }
}

/// Moments of every parameter, and master copies where parameters are not `f32`.
#[derive(Debug, Clone)]
pub struct AdamW {
    config: OptimizerConfig,
    state: BTreeMap<String, State>,
}

/// What is kept of one parameter, in `f32`.
#[derive(Debug, Clone)]
struct State {
    exp_avg: Tensor<1>,
    exp_avg_sq: Tensor<1>,
    master: Option<Tensor<1>>,
}

impl State {
    /// For a parameter that has taken no step.
    fn new(value: &Tensor<1>) -> Self {
        let zeros = || Tensor::zeros(value.dims(), (&value.device(), DType::F32));
        Self { exp_avg: zeros(), exp_avg_sq: zeros(), master: None }
    }
}

/// The gradient norm and what it makes clipping multiply gradients by.
#[derive(Debug)]
pub enum Clip {
    Host {
        norm: f64,
        factor: f64,
    },
    /// The factor, if there is clipping, stays on the device as well.
    Device(Box<(Tensor<1>, Option<Tensor<1>>)>),
}

impl Clip {
    /// `torch.nn.utils.clip_grad_norm_` divides by norm + 1e-6.
    pub fn new(gradients: &Gradients, limit: f64, unscale: f64) -> Self {
        match ops::square_sum(gradients.values()) {
            SquareSum::Host(sum) => {
                let norm = sum.sqrt() * unscale;
                Self::Host { norm, factor: unscale * if limit > 0.0 && norm > limit { limit / (norm + 1e-6) } else { 1.0 } }
            }
            SquareSum::Device(sum) => {
                let norm = sum.sqrt();
                let factor = (limit > 0.0).then(|| norm.clone().add_scalar(1e-6).recip().mul_scalar(limit).clamp_max(1.0));
                Self::Device(Box::new((norm, factor)))
            }
        }
    }

    /// The gradient in `f32`, and what the update multiplies it by.
    fn apply(&self, gradient: Tensor<1>) -> (Tensor<1>, f32) {
        let gradient = if gradient.dtype() == DType::F32 { gradient } else { gradient.cast(DType::F32) };
        match self {
            Self::Host { factor, .. } => (gradient, *factor as f32),
            Self::Device(device) => match &device.1 {
                Some(factor) => (gradient * factor.clone(), 1.0),
                None => (gradient, 1.0),
            },
        }
    }

    /// Waits for a device to have done everything queued so far.
    pub fn norm(&self) -> f64 {
        match self {
            Self::Host { norm, .. } => *norm,
            Self::Device(device) => f64::from(host::scalar(device.0.clone())),
        }
    }
}

/// x
pub type Optimizer = AdamW;

/// Gradients by parameter name.
pub type Gradients = BTreeMap<String, Tensor<1>>;

impl AdamW {
    /// No steps taken yet.
    pub fn new<M: Module>(config: OptimizerConfig, _: &M) -> Result<Self> {
        Ok(Self { config, state: BTreeMap::new() })
    }

    /// Update the module; returns it and the gradient norm before clipping. `step` is 1-based.
    pub fn step<M: Module>(&mut self, module: M, mut gradients: Gradients, clip: &Clip, lr: f64, step: u64) -> M {
        let OptimizerConfig { betas, eps, weight_decay, .. } = self.config;
        let state = &mut self.state;
        params::map(module, |name, shape, value| {
            let Some(gradient) = gradients.remove(name) else { return value };
            let (gradient, grad_scale) = clip.apply(gradient);
            let State { exp_avg, exp_avg_sq, master } = state.remove(name).unwrap_or_else(|| State::new(&value));
            let decay = if shape.len() >= 2 { weight_decay } else { 0.0 };
            let coefficients = AdamWStep {
                lr: lr as f32,
                beta1: betas.0 as f32,
                beta2: betas.1 as f32,
                eps: eps as f32,
                weight_decay: decay as f32,
                step,
                grad_scale,
            };
            let dtype = value.dtype();
            let short = dtype != DType::F32;
            let value = if short { master.unwrap_or_else(|| value.cast(DType::F32)) } else { value };
            let (value, exp_avg, exp_avg_sq) = ops::adamw(value, exp_avg, exp_avg_sq, gradient, coefficients);
            let master = short.then(|| value.clone());
            state.insert(name.to_string(), State { exp_avg, exp_avg_sq, master });
            if short { value.cast(dtype) } else { value }
        })
    }

    /// Write moments and master copies as safetensors.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut tensors = BTreeMap::new();
        for (name, State { exp_avg, exp_avg_sq, master }) in &self.state {
            let parts = [("exp_avg", Some(exp_avg)), ("exp_avg_sq", Some(exp_avg_sq)), ("master", master.as_ref())];
            for (kind, tensor) in parts.into_iter().filter_map(|(kind, tensor)| Some((kind, tensor?))) {
                let values = host::to_vec(tensor.clone());
                tensors.insert(format!("{name}.{kind}"), HostTensor { shape: vec![values.len()], values });
            }
        }
        Ok(weights::save(path, &tensors)?)
    }

    /// Read the state back. Every parameter of `layouts` ([`params::layouts`]) must have both moments of the right size, and a
    /// master copy where it is not `f32`.
    pub fn load(config: OptimizerConfig, path: &Path, layouts: &BTreeMap<String, (Vec<usize>, DType)>, device: &Device) -> Result<Self> {
        let file = Weights::open(path)?;
        let mut state = BTreeMap::new();
        for (name, (shape, dtype)) in layouts {
            let read = |kind: &str| -> Result<Tensor<1>> {
                let tensor = file.get(&format!("{name}.{kind}"))?;
                let expected: usize = shape.iter().product();
                if tensor.values.len() != expected {
                    let message = format!("`{name}.{kind}` has {} elements, expected {expected}", tensor.values.len());
                    return Err(Error::Checkpoint { path: path.to_path_buf(), message });
                }
                Ok(host::from_vec(tensor.values, [expected], device))
            };
            let master = if *dtype == DType::F32 { None } else { Some(read("master")?) };
            state.insert(name.clone(), State { exp_avg: read("exp_avg")?, exp_avg_sq: read("exp_avg_sq")?, master });
        }
        Ok(Self { config, state })
    }
}
