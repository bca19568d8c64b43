//! AdamW (Loshchilov & Hutter, 2019) with decoupled decay on matrices only and clipping by the global norm, computed once.
//!
//! State is kept by parameter name, so it can be saved as safetensors, inspected, and cannot silently belong to another
//! parameter. Burn's own clipping is per tensor and its state is keyed by random ids, which is why neither is used.

use crate::{Error, Result};
use llm_tensor::burn::module::Module;
use llm_tensor::burn::tensor::{Device, Tensor};
use llm_tensor::ops::{self, AdamWStep};
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

/// Moments of every parameter.
#[derive(Debug)]
pub struct AdamW {
    config: OptimizerConfig,
    moments: BTreeMap<String, (Tensor<1>, Tensor<1>)>,
}

/// Gradients by parameter name.
pub type Gradients = BTreeMap<String, Tensor<1>>;

impl AdamW {
    /// No steps taken yet.
    pub fn new(config: OptimizerConfig) -> Self {
        Self { config, moments: BTreeMap::new() }
    }

    /// Update the module; returns it and the gradient norm before clipping. `step` is 1-based.
    pub fn step<M: Module>(&mut self, module: M, mut gradients: Gradients, lr: f64, step: u64) -> (M, f64) {
        let norm = gradients.values().map(|g| ops::square_sum(g.clone())).sum::<f64>().sqrt();
        let OptimizerConfig { betas, eps, weight_decay, grad_clip, .. } = self.config;
        // torch.nn.utils.clip_grad_norm_ divides by norm + 1e-6.
        let scale = if grad_clip > 0.0 && norm > grad_clip { grad_clip / (norm + 1e-6) } else { 1.0 };
        let moments = &mut self.moments;
        let module = params::map(module, |name, shape, value| {
            let Some(gradient) = gradients.remove(name) else { return value };
            let zeros = || Tensor::<1>::zeros(value.dims(), &value.device());
            let (m, v) = moments.remove(name).unwrap_or_else(|| (zeros(), zeros()));
            let decay = if shape.len() >= 2 { weight_decay } else { 0.0 };
            let coefficients = AdamWStep {
                lr: lr as f32,
                beta1: betas.0 as f32,
                beta2: betas.1 as f32,
                eps: eps as f32,
                weight_decay: decay as f32,
                step,
                grad_scale: scale as f32,
            };
            let (value, m, v) = ops::adamw(value, m, v, gradient, coefficients);
            moments.insert(name.to_string(), (m, v));
            value
        });
        (module, norm)
    }

    /// Write the moments as safetensors.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut tensors = BTreeMap::new();
        for (name, (m, v)) in &self.moments {
            for (kind, tensor) in [("exp_avg", m), ("exp_avg_sq", v)] {
                let values = host::to_vec(tensor.clone());
                tensors.insert(format!("{name}.{kind}"), HostTensor { shape: vec![values.len()], values });
            }
        }
        Ok(weights::save(path, &tensors)?)
    }

    /// Read moments back; every parameter in `shapes` must have both, of the right size.
    pub fn load(config: OptimizerConfig, path: &Path, shapes: &BTreeMap<String, Vec<usize>>, device: &Device) -> Result<Self> {
        let file = Weights::open(path)?;
        let mut moments = BTreeMap::new();
        for (name, shape) in shapes {
            let read = |kind: &str| -> Result<Tensor<1>> {
                let tensor = file.get(&format!("{name}.{kind}"))?;
                let expected: usize = shape.iter().product();
                if tensor.values.len() != expected {
                    let message = format!("`{name}.{kind}` has {} elements, expected {expected}", tensor.values.len());
                    return Err(Error::Checkpoint { path: path.to_path_buf(), message });
                }
                Ok(host::from_vec(tensor.values, [expected], device))
            };
            moments.insert(name.clone(), (read("exp_avg")?, read("exp_avg_sq")?));
        }
        Ok(Self { config, moments })
    }
}
